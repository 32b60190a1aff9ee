# SPDX-License-Identifier: Apache-2.0
"""Anomalies: a network learns what is normal; how well its score tells the rest apart.

The score of a sample is the mean square error of its reconstruction where the output has the shape of the input, else
the output itself. Where samples are parts of recordings, a recording's score is the mean over its parts, as in DCASE
Task 2 and MLPerf Tiny.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.models.tasks.kinds.kind import Kind, Metric, Samples, finite, squared_distance, whole_labels

#: Share of false alarms up to which the partial area counts (DCASE Task 2).
PARTIAL = 0.1
#: Share of normal recordings that may raise a false alarm: what the threshold is set for (DCASE Task 2, 2020 baseline).
FALSE_ALARMS = 0.1


def area_under_curve(scores: np.ndarray, truth: np.ndarray) -> float:
    """AUC of ROC: how often an anomalous score is above a normal one, ties counting half; NaN without both.

    Args:
        scores: [N].
        truth: [N], 1 for anomalous, 0 for normal.
    """
    positive = truth > 0
    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return float("nan")
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]  # of equal scores their mean
    return float((ranks[positive].sum() - many * (many + 1) / 2) / (many * few))


def partial_area(scores: np.ndarray, truth: np.ndarray, share: float = PARTIAL) -> float:
    """AUC of false alarms from 0 to `share`, scaled so that chance is 0.5 and the best 1 (McClish 1989).

    As scikit-learn's `roc_auc_score(max_fpr=share)`; DCASE Task 2 says pAUC to it. NaN without both.
    """
    positive = truth > 0
    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.append(0.0, np.cumsum(positive[order])[last] / many)
    alarms = np.append(0.0, np.cumsum(~positive[order])[last] / few)
    inside = alarms <= share
    edge = np.interp(share, alarms, hits)
    area = np.trapezoid(np.append(hits[inside], edge), np.append(alarms[inside], share))
    least = share**2 / 2
    return float(0.5 * (1 + (area - least) / (share - least)))


def scores_of(outputs: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """[B] the reconstruction's mean square error, or the network's own score."""
    flat = outputs.reshape(len(outputs), -1).astype(np.float64)
    if flat.shape[1] == 1:
        return flat[:, 0]
    return ((flat - inputs.reshape(len(inputs), -1)) ** 2).mean(1)


def _rows(outputs: np.ndarray, labels: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    return np.stack([scores_of(outputs, inputs), labels.astype(np.float64)], 1)


def _figures(rows: np.ndarray) -> dict[str, float]:
    scores, truth = rows[:, 0], rows[:, 1]
    return {"auc": area_under_curve(scores, truth), "pauc": partial_area(scores, truth)}


def _details(rows: np.ndarray, samples: Samples, normal: np.ndarray | None) -> dict[str, Any]:
    made: dict[str, Any] = {"normal": int((rows[:, 1] == 0).sum()), "anomalous": int((rows[:, 1] > 0).sum())}
    if samples.groups is not None:
        where = np.asarray(samples.groups)
        made["by_machine"] = {
            str(name): {
                "total": int((where == name).sum()),
                **{metric: finite(value) for metric, value in _figures(rows[where == name]).items()},
            }
            for name in np.unique(where)
        }
    if normal is not None and len(normal):
        threshold = float(np.quantile(normal[:, 0], 1 - FALSE_ALARMS))
        alarm, truth = rows[:, 0] > threshold, rows[:, 1] > 0
        made["threshold"] = {
            "score": threshold,
            "from": f"the {100 * (1 - FALSE_ALARMS):.0f} % quantile of {len(normal)} normal recordings",
            "found": finite(alarm[truth].mean()) if truth.any() else None,
            "false_alarms": finite(alarm[~truth].mean()) if (~truth).any() else None,
        }
    return made


def _output_shape(classes: tuple[str, ...], labels: tuple[int, ...], inputs: tuple[int, ...]) -> tuple[int, ...] | None:
    return None  # a reconstruction, or one score; `check_output` of the task says which


def _loss(outputs: Any, labels: Any, inputs: Any, smoothing: float) -> Any:
    import torch.nn.functional as F

    flat = outputs.flatten(1)
    if flat.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(flat[:, 0], labels.float(), reduction="none")
    return (flat - inputs.flatten(1)).square().mean(1)


KIND = Kind(
    "anomaly",
    "normal samples to learn from, anomalous ones in the test; labels are 0 (normal) and 1 [N]",
    (
        Metric("auc", "area under the ROC curve"),
        Metric("pauc", f"partial area up to {PARTIAL:g} false alarms, 0.5 by chance"),
    ),
    whole_labels,
    _output_shape,
    _rows,
    _figures,
    _loss,
    squared_distance,
    tempered=False,
    details=_details,
    by_recording=True,
    threshold_split="validation",
)
