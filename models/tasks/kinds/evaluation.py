# SPDX-License-Identifier: Apache-2.0
"""Outputs of a whole split, batch by batch, to one record: figures of the kind, own metrics, intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.kinds.intervals import DRAWS, bootstrap_figures
from edgepress.models.tasks.kinds.kind import Kind, Samples, finite
from edgepress.models.user_code import call

#: A metric of a user's own: (outputs float32 [N, ...], labels [N, ...]) -> a number.
OwnMetric = Callable[[np.ndarray, np.ndarray], float]
#: Own metrics may be slow: their interval is left out where its draws would take longer.
_LONGEST_S = 20.0


class Evaluation:
    """What a network's outputs are worth, collected batch by batch.

    Args:
        kind: of the task.
        samples: what is known of the samples, in the order in which they are added.
        own: further metrics by name; for these all outputs are kept.
    """

    def __init__(self, kind: Kind, samples: Samples, own: Mapping[str, OwnMetric] | None = None):
        self._kind, self._samples, self._own = kind, samples, dict(own or {})
        self._rows: list[np.ndarray] = []
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, outputs: np.ndarray, labels: np.ndarray, inputs: np.ndarray) -> None:
        """Outputs, labels and inputs of a batch, [B, ...] each."""
        outputs = np.asarray(outputs, np.float32)
        self._rows.append(self._kind.rows(outputs, labels, inputs))
        if self._own:
            self._kept.append((outputs, labels))

    @property
    def rows(self) -> np.ndarray:
        """[N, S] what figures need to know of each sample; of each recording, where samples are parts of one."""
        return self._whole()[0]

    def result(self, normal: np.ndarray | None = None) -> dict[str, Any]:
        """The record, JSON-able.

        Args:
            normal: `rows` of normal data, for the threshold of anomalies.

        Returns:
            task_kind, metric (the name of the first one) and value, total, metrics (name -> value or null), intervals
            (name -> [low, high], 95 %, or null), and what the kind has beside these.

        Raises:
            UsageError: an own metric failed or gave no number.
        """
        kind = self._kind
        rows, samples = self._whole()
        details = kind.details(rows, samples, normal) if kind.details is not None else {}
        figures = {name: finite(value) for name, value in kind.figures(rows).items()}
        if kind.intervals is not None:
            intervals = kind.intervals(rows, samples, details)
        else:
            intervals = bootstrap_figures(rows, kind.figures, samples.identifiers)
        for name, function in self._own.items():
            figures[name], intervals[name] = self._measure(name, function)
        return {
            "task_kind": kind.name,
            "metric": kind.primary.name,
            "value": figures[kind.primary.name],
            "total": len(rows),
            "metrics": figures,
            "intervals": intervals,
            **details,
        }

    def _whole(self) -> tuple[np.ndarray, Samples]:
        rows, samples = np.concatenate(self._rows), self._samples
        if not self._kind.by_recording or samples.identifiers is None:
            return rows, samples
        names, first, which = np.unique(samples.identifiers, return_index=True, return_inverse=True)
        means = np.zeros((len(names), rows.shape[1]))
        np.add.at(means, which, rows)
        means /= np.bincount(which)[:, None]

        def of_first(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if values is None else tuple(values[index] for index in first)

        return means, replace(
            samples,
            identifiers=tuple(map(str, names)),
            devices=of_first(samples.devices),
            groups=of_first(samples.groups),
        )

    def _measure(self, name: str, function: OwnMetric) -> tuple[float | None, list[float] | None]:
        outputs, labels = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        began = time.perf_counter()
        value = _number(name, function, outputs, labels)
        if (time.perf_counter() - began) * DRAWS > _LONGEST_S:
            return value, None
        found = bootstrap_figures(
            np.arange(len(outputs)),
            lambda rows: {name: _number(name, function, outputs[rows], labels[rows])},
            self._samples.identifiers,
        )
        return value, found[name]


def _number(name: str, function: OwnMetric, outputs: np.ndarray, labels: np.ndarray) -> float:
    if function.__module__.partition(".")[0] in ("torch", "torchmetrics"):
        import torch

        outputs, labels = torch.from_numpy(outputs), torch.from_numpy(np.asarray(labels))  # type: ignore[assignment]
    value = call(name, lambda: function(outputs, labels))
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"the metric {name} gave {type(value).__name__}, not one number") from None


def own_metrics(references: tuple[str, ...] | list[str]) -> dict[str, OwnMetric]:
    """Metrics of a user's own by name, from "package.module:function"; running that code is the caller's decision.

    Functions of torchmetrics.functional are given tensors.

    Raises:
        UsageError: no such function, or two of one name.
    """
    from edgepress.models.user_code import find_object

    found: dict[str, OwnMetric] = {}
    for reference in references:
        name = reference.partition(":")[2].rpartition(".")[2]
        function = find_object(reference)
        if not callable(function):
            raise UsageError(f"metric = {reference!r} is a {type(function).__name__}, not a function")
        if name in found:
            raise UsageError(f"metric = {reference!r}: another metric is called {name} already; rename one")
        found[name] = cast("OwnMetric", function)
    return found
