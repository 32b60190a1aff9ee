# SPDX-License-Identifier: Apache-2.0
"""Segmentation: a class for every pixel; mean intersection over union."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.kinds.classification import softened_divergence
from edgepress.models.tasks.kinds.kind import Kind, Metric, Samples, finite

#: A pixel that counts nowhere (as in Pascal VOC and Cityscapes).
IGNORED = 255


def _check(labels: np.ndarray, classes: tuple[str, ...], where: str) -> np.ndarray:
    if labels.ndim != 3 or labels.dtype.kind not in "iu":
        raise UsageError(f"{where}: masks must be integers [N, H, W], not {labels.dtype} of shape {labels.shape}")
    if labels.size:
        low, high = int(labels.min()), int(np.where(labels == IGNORED, 0, labels).max())
        if low < 0 or high >= len(classes):
            raise UsageError(
                f"{where}: masks reach from {low} to {high}, but there are {len(classes)} classes ({IGNORED} counts "
                "nowhere)"
            )
    return labels.astype(np.uint8)


def _output_shape(classes: tuple[str, ...], labels: tuple[int, ...], inputs: tuple[int, ...]) -> tuple[int, ...]:
    return (len(classes), *labels)


def _rows(outputs: np.ndarray, labels: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """[B, K * K] pixels by (true class, chosen class)."""
    count = outputs.shape[1]
    chosen = outputs.argmax(1)
    made = np.zeros((len(outputs), count * count))
    for row, truth, found in zip(made, labels, chosen, strict=True):
        counted = truth != IGNORED
        pairs = truth[counted].astype(np.int64) * count + found[counted]
        row += np.bincount(pairs, minlength=count * count)
    return made


def _over_union(rows: np.ndarray) -> np.ndarray:
    """[K]; NaN for a class that neither occurs nor is chosen."""
    count = round(rows.shape[1] ** 0.5)
    confusion = rows.sum(0).reshape(count, count)
    both = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - both
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, both / union, np.nan)


def _figures(rows: np.ndarray) -> dict[str, float]:
    ratios = _over_union(rows)
    known = ratios[np.isfinite(ratios)]
    count, pixels = len(ratios), rows.sum()
    right = np.diag(rows.sum(0).reshape(count, count)).sum()
    return {
        "mean_iou": float(known.mean()) if len(known) else float("nan"),
        "pixel_accuracy": float(right / pixels) if pixels else float("nan"),
    }


def _details(rows: np.ndarray, samples: Samples, normal: np.ndarray | None) -> dict[str, Any]:
    return {
        "by_class": {
            name: {"iou": finite(value)} for name, value in zip(samples.classes, _over_union(rows), strict=True)
        }
    }


def _loss(outputs: Any, labels: Any, inputs: Any, smoothing: float) -> Any:
    import torch.nn.functional as F

    wanted = labels.long()
    losses = F.cross_entropy(outputs, wanted, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)
    return losses.flatten(1).sum(1) / (wanted != IGNORED).flatten(1).sum(1).clamp_min(1)


KIND = Kind(
    "segmentation",
    f"a class for every pixel; labels are masks of integers [N, H, W], {IGNORED} counts nowhere",
    (
        Metric("mean_iou", "mean over the classes of intersection over union, counted over all pixels"),
        Metric("pixel_accuracy", "share of pixels whose largest output is their class", "fraction"),
    ),
    _check,
    _output_shape,
    _rows,
    _figures,
    _loss,
    softened_divergence,
    details=_details,
    spatial=True,
)
