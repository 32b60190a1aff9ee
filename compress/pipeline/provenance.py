# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's metrics.json says besides accuracy: command, versions, data, costs."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepress.models.cost.cost import Cost
    from edgepress.models.tasks import Task

_PACKAGES = ("edgepress", "torch", "lightning", "numpy", "scipy")


def command() -> str:
    """The command line of this process, as a person would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str | None]:
    """Versions of what a training depends on; None where a package is not installed."""
    found: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def data_facts(task: Task | None, source: str | None) -> dict[str, Any] | None:
    """Which data: source, fingerprint, clips by split; None without a task."""
    if task is None:
        return None
    clips = {split: len(task.split(split)) for split in ("train", "validation", "test") if task.has(split)}
    return {
        "task": task.name,
        "source": source,
        "fingerprint": task.fingerprint,
        "clips": clips,
        "classes": list(task.classes),
        "recording_devices": list(task.recording_devices),
        "unseen_devices": list(task.unseen_devices),
    }


def cost_facts(cost: Cost) -> dict[str, Any]:
    """The totals of a `Cost`, with their rule."""
    return {
        "rule": cost.rule,
        "macs": cost.macs,
        "params": cost.params,
        "weight_bytes": cost.weight_bytes,
        "peak_activation_bytes": cost.peak_activation_bytes,
        "constant_bytes": cost.constant_bytes,
        "uncounted": list(cost.uncounted),
    }


def layer_facts(cost: Cost) -> list[dict[str, Any]]:
    """MACs and parameters of every layer of a `Cost`."""
    return [
        {"name": layer.name, "operator": layer.operator, "macs": layer.macs, "params": layer.params}
        for layer in cost.layers
        if layer.macs or layer.params
    ]


def source_of(task: str) -> str:
    """The source of a task such that it is found from another working directory too."""
    from edgepress.models.tasks.sources.load import found_from_anywhere

    return found_from_anywhere(task) if task else task
