# SPDX-License-Identifier: Apache-2.0
"""What a pruned network may cost: targets as people write them and the limits of a device class, put together once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from edgepress.models.errors import UsageError
from edgepress.models.limits import DEVICE_METRICS, METRIC_UNITS, TARGETS, Limits
from edgepress.models.units import format_quantity, parse_quantity

#: Metric -> the option that sets its target, for messages.
OPTIONS = {metric: f"--target-{name}" for name, metric in TARGETS.items()}


def absolute(entry: Mapping[str, Any], targets: Mapping[str, str]) -> dict[str, float]:
    """Targets as numbers, by metric; a share such as "50%" is one of the entry's own cost.

    Raises:
        UsageError: no number of that unit, or a share of a cost that is not known.
    """
    return {
        metric: parse_quantity(text, METRIC_UNITS[metric], name=OPTIONS[metric], relative_to=entry.get(metric))
        for metric, text in targets.items()
    }


def targets_of(target: str | Mapping[str, str]) -> dict[str, str]:
    """A target of a recipe by metric: "20M" are MACs, { latency = "100 ms", arena = "64 KiB" } says which."""
    return {"macs": target} if isinstance(target, str) else {TARGETS[name]: text for name, text in target.items()}


def with_footprint(
    entry: Mapping[str, Any], targets: Mapping[str, str], device: str | None, trust: bool = False
) -> dict[str, Any]:
    """The entry of a float checkpoint with what it takes of the device class, where budgets ask for that.

    Raises:
        UsageError: an unknown class, or code of the user's without `trust`.
    """
    # Not at the top: what --help imports need not count anything.
    from edgepress.models.footprint.table import footprint, held_limits

    if device is None or not (held_limits(device).on_device or set(targets) & set(DEVICE_METRICS)):
        return dict(entry)
    from edgepress.models.checkpoints.checkpoint import load_checkpoint

    model, spec = load_checkpoint(entry["path"], trust=trust)
    return {**entry, **footprint(model.eval(), spec.example_inputs(), device)}


def limits_for(
    entry: Mapping[str, Any], targets: Mapping[str, str], device: str | None, targets_alone: bool = False
) -> Limits:
    """Targets and what pruning can hold of a device class's limits, whichever is tighter, in the rule of the class.

    Args:
        entry: of the checkpoint in its run directory, with its cost and the rule that it was counted by.
        targets: metric -> "20M", "50%", ...
        device: the class whose limits bind too, less what its counter finds beside weights; None for the targets alone.
        targets_alone: the class names the device of the targets, and its own limits do not bind.

    Raises:
        UsageError: an unknown class, a target that is no positive number, a share of a cost that is known under another
            rule, or nothing that pruning can hold.
    """
    bound, named = Limits(), None
    if device is not None:
        from edgepress.models.footprint.table import held_limits

        held = held_limits(device, entry.get("constant_bytes") or 0)
        bound, named = bound if targets_alone else held, held.device
    if "%" in str(targets.get("macs", "")) and entry.get("rule") != bound.rule:
        raise UsageError(
            f"--target-macs = {targets['macs']!r}: {entry['path']} was counted by the rule "
            f"{entry.get('rule')!r}, the device class {device!r} counts by {bound.rule!r}; give an "
            "absolute target, or --no-device-limits"
        )
    own = absolute(entry, targets)
    needing = [OPTIONS[metric] for metric in own if metric in DEVICE_METRICS]
    if needing and named is None:
        raise UsageError(f"{', '.join(needing)} needs a device class: give --device NAME")
    for metric, value in own.items():
        if value <= 0:
            raise UsageError(f"{OPTIONS[metric]} = {targets[metric]!r} must be above 0")
    limits = Limits(**own, rule=bound.rule, scheme=bound.scheme, device=named).tightest(bound)  # type: ignore[arg-type]
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
    own = Limits(**absolute(entry, targets), device=device or "any")  # type: ignore[arg-type]
    return "-".join([*([budget_name(own)] if targets else []), *([device] if device else [])])


def budget_name(limits: Limits) -> str:
    """A file name part for a budget: 20M, 20M-100kB, ..."""
    units = {
        "macs": "",
        "params": "p",
        "weight_bytes": "B",
        "peak_activation_bytes": "B-peak",
        "latency_ms": "ms",
        "energy_uj": "uJ",
        "instructions": "i",
        "arena_bytes": "B-arena",
        "firmware_arena_bytes": "B-firmware-arena",
        "file_bytes": "B-file",
        "flash_bytes": "B-flash",
        "firmware_flash_bytes": "B-firmware-flash",
    }
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
        "latency_ms": ("ms", "an inference"),
        "energy_uj": ("uJ", "an inference"),
        "instructions": ("instructions", "instructions an inference"),
        "arena_bytes": ("bytes", "of TFLite Micro's arena"),
        "firmware_arena_bytes": ("bytes", "of our firmware's arena"),
        "file_bytes": ("bytes", "of file"),
        "flash_bytes": ("bytes", "of flash with the runtime"),
        "firmware_flash_bytes": ("bytes", "of flash of our firmware"),
    }
    assert set(words) <= {f.name for f in fields(limits)}
    return "at most " + ", ".join(
        f"{format_quantity(value, words[metric][0])} {words[metric][1]}" for metric, value in limits.budgets().items()
    )
