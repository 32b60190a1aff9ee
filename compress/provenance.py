"""What a checkpoint's metrics.json says besides accuracy: command, versions, data, costs, identity."""

from __future__ import annotations

import hashlib
import shlex
import sys
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgepress.models.limits import Limits
from edgepress.models.units import format_quantity

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


def data_facts(task: Any, source: str | None) -> dict[str, Any] | None:
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


def cost_facts(cost: Any) -> dict[str, Any]:
    """The totals of a `Cost`, with their rule."""
    return {
        "rule": cost.rule,
        "macs": cost.macs,
        "params": cost.params,
        "weight_bytes": cost.weight_bytes,
        "peak_activation_bytes": cost.peak_activation_bytes,
        "uncounted": list(cost.uncounted),
    }


def layer_facts(cost: Any) -> list[dict[str, Any]]:
    """MACs and parameters of every layer of a `Cost`."""
    return [
        {"name": layer.name, "operator": layer.operator, "macs": layer.macs, "params": layer.params}
        for layer in cost.layers
        if layer.macs or layer.params
    ]


def identity(checkpoint: Path) -> str:
    """The digest of a checkpoint's model.json, which holds the digest of its weights: what it is, wherever it lies."""
    return hashlib.sha256((checkpoint / "model.json").read_bytes()).hexdigest()


def tensors_digest(model: Any) -> str:
    """The SHA-256 of all tensors of a model with their names."""
    import torch

    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode())
        if value.numel():
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def source_of(task: str) -> str:
    """The source of a task such that it is found from another working directory too."""
    return str(Path(task).resolve()) if Path(task).exists() else task


def budget_name(limits: Limits) -> str:
    """A file name part for a budget: 20M, 20M-100kB, ..."""
    units = {"macs": "", "params": "p", "weight_bytes": "B", "peak_activation_bytes": "B-peak"}
    parts = []
    for metric, value in limits.budgets().items():
        scale, prefix = next(((s, p) for s, p in ((1e6, "M"), (1e3, "k")) if value >= s), (1, ""))
        parts.append(f"{value / scale:.6g}{prefix}{units[metric]}")
    return "-".join(parts) or "unlimited"


def describe(limits: Limits) -> str:
    """A budget for people: "at most 20.00 M MACs (dcase), 128.0 kB of weights (w8a8)"."""
    words = {
        "macs": ("macs", f"MACs ({limits.rule})"),
        "params": ("params", "parameters"),
        "weight_bytes": ("bytes", f"of weights ({limits.scheme})"),
        "peak_activation_bytes": ("bytes", "of activations at once"),
    }
    assert set(words) <= {f.name for f in fields(limits)}
    return "at most " + ", ".join(
        f"{format_quantity(value, words[metric][0])} {words[metric][1]}" for metric, value in limits.budgets().items()
    )
