# SPDX-License-Identifier: Apache-2.0
"""The table of the kinds of task: a new kind is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from edgepress.models.errors import UsageError, did_you_mean
from edgepress.models.tasks.kinds.kind import Kind, Metric
from edgepress.models.units import format_quantity

#: Name -> the module whose KIND it is.
KINDS = {
    "classification": "edgepress.models.tasks.kinds.classification",
    "multi-label": "edgepress.models.tasks.kinds.multi_label",
    "regression": "edgepress.models.tasks.kinds.regression",
    "anomaly": "edgepress.models.tasks.kinds.anomaly",
    "segmentation": "edgepress.models.tasks.kinds.segmentation",
    "detection": "edgepress.models.tasks.kinds.detection",
}


@cache
def kind_of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        UsageError: unknown.
    """
    if name not in KINDS:
        raise UsageError(f"kind = {name!r} is unknown{did_you_mean(name, KINDS)}: known are {', '.join(KINDS)}")
    return import_module(KINDS[name]).KIND


def find_metric(name: str) -> Metric | None:
    """The metric of this name of any kind; None for one of a user's own."""
    return next((metric for kind in KINDS for metric in kind_of(kind).metrics if metric.name == name), None)


def metric_text(name: str, value: float | None) -> str:
    """A figure for people: "78.10 %", "0.853"; "-" for None."""
    found = find_metric(name)
    if value is None or (found is not None and found.unit == "fraction"):
        return format_quantity(value, "fraction")
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def said(found: Mapping[str, Any]) -> tuple[str, float | None]:
    """(name, value) of the first metric in a record of an evaluation; one from before there were kinds has accuracy."""
    return (found["metric"], found["value"]) if "metric" in found else ("accuracy", found.get("accuracy"))
