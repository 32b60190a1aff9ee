# SPDX-License-Identifier: Apache-2.0
"""Detection, and whatever else gives tensors: labels of any shape, a loss and metrics of the user's own.

What boxes mean differs from network to network; here outputs are tensors. Where the labels have the shape of the
outputs (targets already encoded), their error is measured; anything else is a `package.module:function`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.kinds.kind import Kind, Metric, squared_distance


def _check(labels: np.ndarray, classes: tuple[str, ...], where: str) -> np.ndarray:
    if labels.dtype.kind not in "fiub":
        raise UsageError(f"{where}: labels must be numbers [N, ...], not {labels.dtype}")
    if not np.isfinite(labels).all():
        raise UsageError(f"{where}: labels hold values that are not finite")
    return labels.astype(np.float32)


def _rows(outputs: np.ndarray, labels: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """[B, 2]: mean absolute and mean square error of a sample; NaN where labels are of another shape."""
    made, wanted = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (outputs, labels))
    if made.shape != wanted.shape:
        return np.full((len(made), 2), np.nan)
    return np.stack([np.abs(made - wanted).mean(1), ((made - wanted) ** 2).mean(1)], 1)


def _figures(rows: np.ndarray) -> dict[str, float]:
    return {"mae": float(rows[:, 0].mean()), "rmse": float(np.sqrt(rows[:, 1].mean()))}


def _loss(outputs: Any, labels: Any, inputs: Any, smoothing: float) -> Any:
    if outputs.shape != labels.shape:
        raise UsageError(
            f"outputs of shape {tuple(outputs.shape)} have no loss with labels of shape {tuple(labels.shape)}: set "
            'train.loss = "package.module:function", called with (outputs, labels)'
        )
    return (outputs - labels).square().flatten(1).mean(1)


KIND = Kind(
    "detection",
    "tensors; labels are numbers [N, ...] of any shape, measured by a metric of your own",
    (
        Metric("mae", "mean absolute error of the outputs, where labels have their shape", higher=False),
        Metric("rmse", "root of their mean square error", higher=False),
    ),
    _check,
    lambda classes, labels, inputs: None,
    _rows,
    _figures,
    _loss,
    squared_distance,
    tempered=False,
    all_outputs=True,
    classes_needed=0,
)
