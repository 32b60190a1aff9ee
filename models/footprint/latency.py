# SPDX-License-Identifier: Apache-2.0
"""Milliseconds and microjoules by kind of layer, as published systems take them.

The coefficients are in latency_systems.json (`edgepress.benchmarks.estimate.fit_latency` made it, and says how and how
well): nanoseconds of one MAC (rule `core`) of a convolution, a depthwise convolution and a dense layer, and what an
output of a convolution costs beside its MACs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from math import prod
from typing import Any

from edgepress.models.cost.aten import weight_of
from edgepress.models.cost.op_costs import macs as count_macs
from edgepress.models.devices.device import DeviceClass
from edgepress.models.errors import UsageError
from edgepress.models.footprint.figure import DeviceFigure, Size, Sizes, Traced

#: A system on which the held-out model was missed by more than this is not described by three coefficients.
WORST_HELD_OUT = 0.5
#: Up to this share of MACs may be of kinds without a coefficient; above it there is no estimate.
UNCOVERED = 0.01
KINDS = ("conv", "depthwise", "dense")


@cache
def systems_table() -> dict[str, Any]:
    """The content of latency_systems.json."""
    return json.loads(files("edgepress.models.footprint").joinpath("latency_systems.json").read_text(encoding="utf-8"))


def usable_systems(device: DeviceClass) -> tuple[list[str], list[str]]:
    """The published systems that stand for a class, best first, and why others of it do not."""
    table = systems_table()["latency_us"]["systems"]
    usable, refused = [], []
    for name in device.latency_systems:
        system = table.get(name)
        if system is None:
            refused.append(f"{name} is not among the published systems")
            continue
        worst = max((abs(error) for error in (system["held_out"] or {}).values()), default=0.0)
        if worst > WORST_HELD_OUT:
            refused.append(f"{name}: a held-out model was missed by {worst:.0%}, its time does not follow MACs")
            continue
        usable.append(name)
    return usable, refused


def factors(system: Mapping[str, Any], output_cost: float) -> tuple[float, float, float, float]:
    """ns or nJ of one MAC of each of `KINDS`, and of one output of a convolution."""
    per_mac = system["per_mac"]
    conv, depthwise, dense = (float(per_mac[kind]) for kind in KINDS)
    return conv, depthwise, dense, conv * output_cost


def applied(system: Mapping[str, Any], macs: Mapping[str, int], outputs: int, output_cost: float) -> float:
    """ns or nJ of MACs by kind and outputs of convolutions."""
    amounts = (*(macs[kind] for kind in KINDS), outputs)
    return sum(factor * amount for factor, amount in zip(factors(system, output_cost), amounts, strict=True))


def interval(table: Mapping[str, Any], system: Mapping[str, Any], claim: float) -> tuple[float, str]:
    """The factor up and down, and the words for it.

    Args:
        table: of one quantity of `systems_table`.
        system: an entry of its systems.
        claim: share of models that the interval holds.
    """
    group = table["validation"]["clean" if system["clean"] else "all"]
    own = max((abs(math.log1p(error)) for error in (system["held_out"] or {}).values()), default=0.0)
    factor = math.exp(max(group["log_factor"], own))
    words = (
        f"{claim:.0%} interval, from held-out models on {group['systems']} systems "
        f"(mean error {group['mean_abs']:.0%}, median {group['median_abs']:.0%})"
    )
    if system["held_out"] is None:
        words += "; this system itself could not be validated"
    return factor, words


def latency(network: Traced, device: DeviceClass) -> DeviceFigure:
    """`latency_ms` of the system that stands for a class.

    Raises:
        UsageError: no published system stands for the class, or too much of the network is of other kinds.
    """
    usable, refused = usable_systems(device)
    if not usable:
        why = "; ".join(refused) or "no published measurements stand for this class"
        raise UsageError(f"latency_ms: the device class {device.name!r} has no latency model: {why}")
    table = systems_table()
    system = table["latency_us"]["systems"][usable[0]]
    factor, words = interval(table["latency_us"], system, table["claim"])
    note = f"by {usable[0]}: times {1 / factor:.2f} to {factor:.2f}, {words}"
    return _figure("latency_ms", network, factors(system, table["latency_us"]["output_cost"]), note)


def energy(network: Traced, device: DeviceClass) -> DeviceFigure:
    """`energy_uj` of the system that stands for a class.

    Raises:
        UsageError: no energy was published for the class, or too much of the network is of other kinds.
    """
    table = systems_table()["energy_uj"]
    name = next((name for name in usable_systems(device)[0] if name in table["systems"]), None)
    if name is None:
        raise UsageError(f"energy_uj: no energy was published for the device class {device.name!r}")
    return _figure("energy_uj", network, factors(table["systems"][name], table["output_cost"]), f"by {name}")


def _kind_in_file(network: Traced, name: str) -> str:
    """The kind of layer that TFLite makes of it: a convolution of one channel is a depthwise one with a multiplier."""
    kind, node = network.ops[name].kind, network.graph.by_name[name]
    weight = weight_of(network.graph, node) if kind == "conv" else None
    single = weight is not None and weight.shape is not None and int(weight.shape[1]) == 1
    return "depthwise" if single and int(node.arguments.get("groups", 1)) == 1 else kind


def _figure(metric: str, network: Traced, by_kind: tuple[float, ...], note: str) -> DeviceFigure:
    """A sum over kinds; ns are ms and nJ are uJ at different scales."""
    scale = 1e-6 if metric == "latency_ms" else 1e-3
    amounts: list[Size] = [0, 0, 0, 0]
    other = 0
    for name, op in network.ops.items():
        products = count_macs(op, "core")
        kind = _kind_in_file(network, name)
        if kind not in KINDS:
            other += int(products)
            continue
        amounts[KINDS.index(kind)] += products
        shape = network.graph.by_name[name].shape
        if kind == "conv" and shape is not None:
            amounts[3] += prod(shape)
    total = other + sum(int(amount) for amount in amounts[:3])
    if other > UNCOVERED * total or not total:
        raise UsageError(
            f"{metric}: {other / max(total, 1):.0%} of the network's MACs are neither of convolutions nor of dense "
            "layers, for which nothing was measured; leave this budget out"
        )
    sizes = Sizes()
    places = [sizes.number(amount) for amount in amounts]
    weights = [factor * scale for factor in by_kind]

    def value(numbers: Any) -> float:
        return float(sum(weight * numbers[place] for weight, place in zip(weights, places, strict=True)))

    return DeviceFigure(metric, tuple(sizes.all), value, tuple(zip(amounts, weights, strict=True)), note=note)
