# SPDX-License-Identifier: Apache-2.0
"""What a pruned network may cost: targets as people write them and the limits of a device class, put together once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from edgepress.models.devices.classes import device_class
from edgepress.models.errors import UsageError
from edgepress.models.limits import METRIC_UNITS, Limits
from edgepress.models.units import format_quantity, parse_quantity

#: Metric -> the option that sets its target, for messages.
OPTIONS = {
    "macs": "--target-macs",
    "params": "--target-params",
    "weight_bytes": "--target-bytes",
    "peak_activation_bytes": "--target-peak",
}


def absolute(entry: Mapping[str, Any], targets: Mapping[str, str]) -> dict[str, float]:
    """Targets as numbers, by metric; a share such as "50%" is one of the entry's own cost.

    Raises:
        UsageError: no number of that unit, or a share of a cost that is not known.
    """
    return {
        metric: parse_quantity(text, METRIC_UNITS[metric], name=OPTIONS[metric], relative_to=entry.get(metric))
        for metric, text in targets.items()
    }


def limits_for(entry: Mapping[str, Any], targets: Mapping[str, str], device: str | None) -> Limits:
    """Targets and what pruning can hold of a device class's limits, whichever is tighter, in the rule of the class.

    Args:
        entry: of the checkpoint in its run directory, with its cost and the rule that it was counted by.
        targets: metric -> "20M", "50%", ...
        device: the class whose limits bind too; None for the targets alone.

    Raises:
        UsageError: an unknown class, a target that is no positive number, a share of a cost that is known under another
            rule, or nothing that pruning can hold.
    """
    bound = Limits()
    if device is not None:
        found = device_class(device).limits
        bound = Limits(**found.budgets(), rule=found.rule, scheme=found.scheme)  # type: ignore[arg-type]
    if "%" in str(targets.get("macs", "")) and entry.get("rule") != bound.rule:
        raise UsageError(
            f"--target-macs = {targets['macs']!r}: {entry['path']} was counted by the rule "
            f"{entry.get('rule')!r}, the device class {device!r} counts by {bound.rule!r}; give an "
            "absolute target, or --no-device-limits"
        )
    own = absolute(entry, targets)
    for metric, value in own.items():
        if value <= 0:
            raise UsageError(f"{OPTIONS[metric]} = {targets[metric]!r} must be above 0")
    limits = Limits(**own, rule=bound.rule, scheme=bound.scheme).tightest(bound)  # type: ignore[arg-type]
    if not limits.budgets():
        raise UsageError(f"device class {device!r} limits nothing that pruning can hold; give a target as well")
    return replace(limits, rule=bound.rule)


def is_within(entry: Mapping[str, Any], limits: Limits) -> bool:
    """Whether a checkpoint costs no more than the limits already; False where it was counted by another rule."""
    return entry.get("rule") == limits.rule and all(
        isinstance(entry.get(metric), int | float) and entry[metric] <= limit
        for metric, limit in limits.budgets().items()
    )


def label_of(entry: Mapping[str, Any], targets: Mapping[str, str], device: str | None = None) -> str:
    """What was asked for, as part of a name: 20M, 100kp, cortex-m4."""
    own = Limits(**{metric: int(value) for metric, value in absolute(entry, targets).items()})  # type: ignore[arg-type]
    return "-".join([*([budget_name(own)] if targets else []), *([device] if device else [])])


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
