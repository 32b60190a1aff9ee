# SPDX-License-Identifier: Apache-2.0
"""Multi-label: any number of classes for each sample; mean average precision, F1."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.kinds.kind import Kind, Metric, Samples, finite, table_of


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Sum of (R_n - R_{n-1}) P_n over the thresholds that occur, equal scores as one; NaN without a positive.

    As torchmetrics' and scikit-learn's: no interpolation.

    Args:
        scores: [N].
        truth: [N], 1 or 0.
    """
    positives = float(truth.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # the last of each run of equal scores
    hits = np.cumsum(truth[order])[last]
    precision = hits / (last + 1)
    return float(np.sum(np.diff(hits / positives, prepend=0.0) * precision))


def threshold_of(scores: np.ndarray) -> float:
    """From which score on a label is taken: 0.5 of probabilities, 0 of logits, told apart by their range."""
    return 0.5 if scores.size and scores.min() >= 0 and scores.max() <= 1 else 0.0


def _check(labels: np.ndarray, classes: tuple[str, ...], where: str) -> np.ndarray:
    table = table_of(labels, len(classes), where, "0 and 1,")
    if not np.isin(table, (0, 1)).all():
        raise UsageError(f"{where}: labels of a multi-label task are 0 and 1, one column for each class")
    return table.astype(np.float32)


def _rows(outputs: np.ndarray, labels: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    return np.concatenate([outputs.reshape(len(outputs), -1), labels], 1).astype(np.float64)


def f1_of(hits: np.ndarray, chosen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """2 TP / (chosen + true) for each class; NaN where a class neither occurs nor is chosen."""
    with np.errstate(invalid="ignore"):
        return 2 * hits / (chosen + truth)


def _parts(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, truth = np.split(rows, 2, axis=1)
    return scores, truth


def _by_class(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(average precision, F1) of each class."""
    scores, truth = _parts(rows)
    chosen = scores > threshold_of(scores)
    precision = np.array([average_precision(scores[:, k], truth[:, k]) for k in range(scores.shape[1])])
    return precision, f1_of((chosen * truth).sum(0), chosen.sum(0), truth.sum(0))


def _mean(values: np.ndarray) -> float:
    """Over the classes for which it is defined."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _figures(rows: np.ndarray) -> dict[str, float]:
    precision, f1 = _by_class(rows)
    scores, truth = _parts(rows)
    chosen = scores > threshold_of(scores)
    total = chosen.sum() + truth.sum()
    return {
        "map": _mean(precision),
        "f1": _mean(f1),
        "f1_micro": float(2 * (chosen * truth).sum() / total) if total else float("nan"),
    }


def _details(rows: np.ndarray, samples: Samples, normal: np.ndarray | None) -> dict[str, Any]:
    precision, f1 = _by_class(rows)
    count = _parts(rows)[1].sum(0)
    return {
        "by_class": {
            name: {"total": int(count[k]), "map": finite(precision[k]), "f1": finite(f1[k])}
            for k, name in enumerate(samples.classes)
        }
    }


def _loss(outputs: Any, labels: Any, inputs: Any, smoothing: float) -> Any:
    import torch.nn.functional as F

    targets = labels * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(outputs.flatten(1), targets, reduction="none").mean(1)


def _follow(student: Any, teacher: Any, temperature: float) -> Any:
    import torch.nn.functional as F

    soft = (teacher / temperature).sigmoid()
    return F.binary_cross_entropy_with_logits(student / temperature, soft)


KIND = Kind(
    "multi-label",
    "any number of classes for each sample; labels are 0 and 1 [N, K]; outputs are logits",
    (
        Metric("map", "mean of the average precision of each class that occurs"),
        Metric("f1", "mean of the F1 of each class, at probability 0.5"),
        Metric("f1_micro", "F1 over all pairs of sample and class, at probability 0.5"),
    ),
    _check,
    lambda classes, labels, inputs: (len(classes),),
    _rows,
    _figures,
    _loss,
    _follow,
    details=_details,
    classes_needed=1,
)
