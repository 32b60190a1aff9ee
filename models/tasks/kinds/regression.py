# SPDX-License-Identifier: Apache-2.0
"""Regression: numbers for each sample; mean absolute error, root mean square error, R2."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.models.tasks.kinds.kind import Kind, Metric, Samples, finite, squared_distance, table_of


def _check(labels: np.ndarray, classes: tuple[str, ...], where: str) -> np.ndarray:
    return table_of(labels, len(classes) or None, where, "numbers").astype(np.float32)


def _rows(outputs: np.ndarray, labels: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    return np.concatenate([outputs.reshape(len(outputs), -1), labels], 1).astype(np.float64)


def _of_each(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean absolute error, mean square error, R2) of each output."""
    made, truth = np.split(rows, 2, axis=1)
    square = (made - truth) ** 2
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 0, 1 - square.sum(0) / spread, np.nan)
    return np.abs(made - truth).mean(0), square.mean(0), r2


def _figures(rows: np.ndarray) -> dict[str, float]:
    absolute, square, r2 = _of_each(rows)
    return {"mae": float(absolute.mean()), "rmse": float(np.sqrt(square.mean())), "r2": float(r2.mean())}


def _details(rows: np.ndarray, samples: Samples, normal: np.ndarray | None) -> dict[str, Any]:
    absolute, square, r2 = _of_each(rows)
    if len(absolute) == 1:
        return {}
    names = samples.classes or tuple(map(str, range(len(absolute))))
    return {
        "by_output": {
            name: {"mae": float(absolute[k]), "rmse": float(square[k] ** 0.5), "r2": finite(r2[k])}
            for k, name in enumerate(names)
        }
    }


def _loss(outputs: Any, labels: Any, inputs: Any, smoothing: float) -> Any:
    return (outputs.flatten(1) - labels).square().mean(1)


KIND = Kind(
    "regression",
    "numbers for each sample; labels are numbers [N] or [N, K]",
    (
        Metric("mae", "mean absolute error, in the unit of the labels", higher=False),
        Metric("rmse", "root of the mean square error, in the unit of the labels", higher=False),
        Metric("r2", "1 less the share of the variance that is left, mean over outputs"),
    ),
    _check,
    lambda classes, labels, inputs: labels,
    _rows,
    _figures,
    _loss,
    squared_distance,
    tempered=False,
    details=_details,
    classes_needed=0,
)
