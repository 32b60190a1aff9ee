# SPDX-License-Identifier: Apache-2.0
"""What a kind of task is: which labels fit, what is trained, what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError


@dataclass(frozen=True)
class Metric:
    """One figure of a kind.

    Attributes:
        name: short, a key of results and of `metric.NAME` in limits.
        summary: what it is.
        unit: as `edgepress.models.units` calls it.
        higher: whether more is better.
    """

    name: str
    summary: str
    unit: str = "number"
    higher: bool = True


@dataclass(frozen=True)
class Samples:
    """What is known of the samples of a split, besides outputs and labels.

    Attributes:
        classes: names of classes or outputs.
        identifiers: the recording that each sample is a part of.
        devices: what recorded it.
        groups: what figures are broken down by, such as the machine.
        unseen: recording devices that training did not have.
    """

    classes: tuple[str, ...] = ()
    identifiers: tuple[str, ...] | None = None
    devices: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of task, as functions. N and B count samples, K classes or numbers.

    Attributes:
        name, summary: what people call it, and what its labels are.
        metrics: its figures; by the first one epochs are chosen, and it stands in tables.
        check: (labels [N, ...], classes, "task t, split s") -> the labels in the type they are kept in; raises
            `UsageError` for those that do not fit.
        output_shape: (classes, shape of one label, shape of one input) -> of one output; None: any.
        rows: (outputs [B, ...], labels [B, ...], inputs [B, ...]) -> float64 [B, S], all that figures need to know.
        figures: rows [N, S] -> metric name -> value, NaN where it is not defined.
        loss: torch: (outputs, labels, inputs, label smoothing) -> [B].
        follow: torch: (student, teacher, temperature) -> the distance in distillation, a scalar.
        tempered: whether `follow` shrinks by T^2, which form 2023 of the distillation makes up for.
        details: (rows, samples, rows of normal data or None) -> more for people, JSON-able.
        intervals: (rows, samples, details) -> intervals by metric; None: the bootstrap.
        by_recording: whether samples of one identifier are parts of one recording, whose rows are averaged first.
        classes_needed: how many classes there must be at least.
        spatial: whether labels lie over the pixels of the input, so that what moves these must move labels.
        all_outputs: whether every output of a network counts, flattened and joined; otherwise the first one does.
        threshold_split: the split whose rows `details` gets too; "" for none.
    """

    name: str
    summary: str
    metrics: tuple[Metric, ...]
    check: Callable[[np.ndarray, tuple[str, ...], str], np.ndarray]
    output_shape: Callable[[tuple[str, ...], tuple[int, ...], tuple[int, ...]], tuple[int, ...] | None]
    rows: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    figures: Callable[[np.ndarray], dict[str, float]]
    loss: Callable[[Any, Any, Any, float], Any]
    follow: Callable[[Any, Any, float], Any]
    tempered: bool = True
    details: Callable[[np.ndarray, Samples, np.ndarray | None], dict[str, Any]] | None = None
    intervals: Callable[[np.ndarray, Samples, dict[str, Any]], dict[str, list[float] | None]] | None = None
    by_recording: bool = False
    classes_needed: int = 2
    spatial: bool = False
    all_outputs: bool = False
    threshold_split: str = ""

    def outputs_of(self, made: Any) -> np.ndarray:
        """What counts of a network's outputs (an array, or a tuple of them), [B, ...]."""
        parts = [np.asarray(part, np.float32) for part in (made if isinstance(made, (tuple, list)) else (made,))]
        if not self.all_outputs or len(parts) == 1:
            return parts[0]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)

    @property
    def primary(self) -> Metric:
        """The first metric."""
        return self.metrics[0]


def whole_labels(labels: np.ndarray, classes: tuple[str, ...], where: str) -> np.ndarray:
    """Labels [N] as int64, each the index of a class.

    Raises:
        UsageError: another shape or type, or an index without a class.
    """
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise UsageError(f"{where}: labels must be a vector of integers, not {labels.dtype} of shape {labels.shape}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise UsageError(
            f"{where}: labels reach from {labels.min()} to {labels.max()}, but there are {len(classes)} classes"
        )
    return labels.astype(np.int64)


def squared_distance(student: Any, teacher: Any, temperature: float) -> Any:
    """Mean squared difference: what a student follows where outputs are no distribution; no temperature applies."""
    return (student - teacher).square().mean()


def finite(value: float) -> float | None:
    """A number for JSON; None for what is not defined."""
    return float(value) if np.isfinite(value) else None


def table_of(labels: np.ndarray, width: int | None, where: str, what: str) -> np.ndarray:
    """Labels [N] or [N, K] as [N, K].

    Raises:
        UsageError: another shape, or values that are not finite.
    """
    table = labels[:, None] if labels.ndim == 1 else labels
    if table.ndim != 2 or (width is not None and table.shape[1] != width) or table.dtype.kind not in "fiub":
        wanted = f"[N, {width}]" if width is not None else "[N] or [N, K]"
        raise UsageError(f"{where}: labels must be {what} {wanted}, not {labels.dtype} of shape {labels.shape}")
    if not np.isfinite(table).all():
        raise UsageError(f"{where}: labels hold values that are not finite")
    return table
