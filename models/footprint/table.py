# SPDX-License-Identifier: Apache-2.0
"""Which figures of a device follow from a network, and all of them for one network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgepress.models.cost.graph import Graph, trace_one_sample
from edgepress.models.devices.classes import device_class
from edgepress.models.errors import UsageError
from edgepress.models.footprint.figure import Builder, DeviceFigure, Traced
from edgepress.models.footprint.firmware_arena import firmware_arena
from edgepress.models.footprint.firmware_flash import firmware_flash
from edgepress.models.footprint.instructions import instructions
from edgepress.models.footprint.latency import energy, latency, usable_systems
from edgepress.models.footprint.memory import arena, file, flash
from edgepress.models.limits import BUDGET_METRICS, DEVICE_METRICS, Limits

if TYPE_CHECKING:
    import torch
    from torch import nn

#: A new figure is one line here, one in `edgepress.models.limits` and a builder.
BUILDERS: Mapping[str, Builder] = {
    "latency_ms": latency,
    "energy_uj": energy,
    "instructions": instructions,
    "arena_bytes": arena,
    "firmware_arena_bytes": firmware_arena,
    "file_bytes": file,
    "flash_bytes": flash,
    "firmware_flash_bytes": firmware_flash,
}
assert set(BUILDERS) == set(DEVICE_METRICS)


def held_limits(device: str, constant_bytes: int = 0) -> Limits:
    """The limits of a device class which pruning can hold there.

    Those whose figure the class does not have (no published speed, no TFLite Micro) are left out.

    Args:
        device: name of a device class.
        constant_bytes: of the network's file beside weights (`Cost.constant_bytes`); a class whose counter counts every
            constant (`DeviceClass.memory_rule`) leaves that much less for weights.

    Raises:
        UsageError: an unknown class.
    """
    found = device_class(device)
    limits = found.limits
    there = {
        "latency_ms": bool(usable_systems(found)[0]),
        "arena_bytes": found.runtime == "tflm",
        "file_bytes": found.runtime in ("tflm", "litert"),
        "flash_bytes": found.runtime in ("tflm", "litert"),
    }
    known = {
        name: value
        for name, value in limits.given().items()
        if name in BUDGET_METRICS or (name in DEVICE_METRICS and there.get(name, False))
    }
    if found.memory_rule is not None and "weight_bytes" in known:
        known["weight_bytes"] = max(0, known["weight_bytes"] - constant_bytes)
    return Limits(**known, rule=limits.rule, scheme=limits.scheme, device=device)  # type: ignore[arg-type]


def figures_of(graph: Graph, device: str, metrics: Iterable[str]) -> tuple[DeviceFigure, ...]:
    """The asked figures of a traced network.

    Args:
        graph: of integers, or of symbols.
        device: name of a device class.
        metrics: of `edgepress.models.limits.DEVICE_METRICS`.

    Raises:
        UsageError: an unknown class, or a figure that the class or the network does not have; the message says why.
    """
    found, network = device_class(device), Traced.of(graph)
    return tuple(BUILDERS[metric](network, found) for metric in metrics)


def footprint(
    model: nn.Module, example_inputs: tuple[torch.Tensor, ...] | torch.Tensor, device: str
) -> dict[str, float]:
    """What an int8 network takes of a device class: metric -> figure, for all that the class and the network have.

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        example_inputs: one tensor per input; figures are for a batch of one.
        device: name of a device class.

    Raises:
        UsageError: an unknown class, or a network that cannot be traced.
    """
    graph = trace_one_sample(model, example_inputs)
    device_class(device)
    result = {}
    for metric in DEVICE_METRICS:
        try:
            (figure,) = figures_of(graph, device, (metric,))
        except UsageError:
            continue
        result[metric] = figure.now()
    return result
