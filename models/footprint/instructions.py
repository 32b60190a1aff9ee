# SPDX-License-Identifier: Apache-2.0
"""Instructions of our own firmware, layer by layer, as a function of widths.

Each kernel does so many rounds of its innermost loop, so many tiles, so many copies of a row: these amounts follow from
sizes (`kernel_amounts`). What each costs on a core was fitted to exact counts of emulated runs
(`edgepress.benchmarks.experiments.budgets.instructions` made instructions.json, and says how well).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import prod
from typing import Any

import numpy as np

from edgepress.models.cost.activations import geometry, same_amounts, symmetric_padding, weight_dimensions
from edgepress.models.cost.aten import data_input, is_transposed, weight_of
from edgepress.models.cost.aten_names import CONVOLUTIONS, POOLS
from edgepress.models.cost.graph import Node
from edgepress.models.devices.device import DeviceClass
from edgepress.models.footprint.cores import CORES, costs_of
from edgepress.models.footprint.figure import DeviceFigure, Size, Sizes, Traced
from edgepress.models.footprint.kernel_amounts import AMOUNTS, Window, elements


@dataclass(frozen=True)
class Layer:
    """One kernel call.

    Attributes:
        kind: key of `AMOUNTS`.
        window: for convolutions and pools.
        sizes: what widths change: input channels, output channels and groups of a convolution; the channels of a
            depthwise one or of a pooling; else elements of the output and of the input.
    """

    kind: str
    window: Window | None
    sizes: tuple[Size, ...]


def amounts(layer: Layer, kernels: str, sizes: tuple[float, ...]) -> dict[str, float]:
    """What a kernel does, by name, at the numbers of the layer's sizes.

    Args:
        kernels: "tiles" or "vectors".
    """
    return AMOUNTS[kernels].get(layer.kind, elements)(layer.window, *sizes)


@cache
def instruction_table() -> dict[str, Any]:
    """The content of instructions.json: core -> kernels, and kind of layer -> name of an amount -> instructions."""
    path = files("edgepress.models.footprint").joinpath("instructions.json")
    return json.loads(path.read_text(encoding="utf-8"))


def layers_of(network: Traced) -> list[Layer]:
    """The kernel calls of a network, in their order; a padding is done by the convolution that reads it."""
    return list(layers_by_step(network).values())


def layers_by_step(network: Traced) -> dict[str, Layer]:
    """The kernel calls by the step of the network's plan that each is."""
    calls: dict[str, Layer] = {}
    for step in network.plan.steps:
        node = network.graph.by_name.get(step)
        op = network.ops.get(step)
        if node is None or op is None or node.shape is None or is_read_padded(network, node):
            continue
        source = data_input(network.graph, node)
        if op.kind in ("conv", "depthwise") and not is_transposed(node) and source is not None:
            calls[step] = _convolution(network, node, source, op.kind)
        elif op.kind == "dense" and source is not None:
            rows = int(prod(node.shape[:-1]))
            line = Window((1, 1), (1, 1), (1, 1), (0, 0), (1, rows), (1, rows))
            calls[step] = Layer("dense", line, ((source.shape or (1,))[-1], node.shape[-1], 1))
        else:
            reads = prod(source.shape) if source is not None and source.shape is not None else 0
            window = _pool(node, source) if op.kind == "pool" and source is not None else None
            if window is not None:
                kind = "max_pool" if "max" in node.op else "avg_pool"
                calls[step] = Layer(kind, window, (node.shape[len(node.shape) - POOLS[node.op] - 1],))
            else:
                calls[step] = Layer(op.kind, None, (prod(node.shape), reads))
    return calls


def instructions(network: Traced, device: DeviceClass) -> DeviceFigure:
    """`instructions` of one inference of our firmware on the core of a class, with the kernels that it is built with.

    Raises:
        UsageError: the core was not counted.
    """
    core = costs_of(device, "instructions", instruction_table()["cores"])
    kernels, costs = core["kernels"], core["costs"]
    sizes = Sizes()
    layers = layers_of(network)
    places = [[sizes.number(size) for size in layer.sizes] for layer in layers]
    smooth: list[tuple[Size, float]] = [(1, float(costs["call"]["layer"]))]
    for layer in layers:
        smooth += _smooth(layer, kernels, costs)

    def value(numbers: np.ndarray) -> float:
        total = float(costs["call"]["layer"])
        for layer, own in zip(layers, places, strict=True):
            by_name = _costs(costs, layer.kind)
            found = amounts(layer, kernels, tuple(float(numbers[place]) for place in own))
            total += sum(by_name[name] * amount for name, amount in found.items())
        return float(round(total))

    counted = CORES[device.name]
    note = f"our firmware on {counted}, within {core['worst_error']:.1%} on networks that were not fitted"
    return DeviceFigure("instructions", tuple(sizes.all), value, tuple(smooth), note=note)


def _costs(costs: Mapping[str, Mapping[str, float]], kind: str) -> Mapping[str, float]:
    return costs.get(kind, costs["other"])


def _smooth(layer: Layer, kernels: str, costs: Mapping[str, Mapping[str, float]]) -> list[tuple[Size, float]]:
    """Near the amounts without their steps, by what the dense layer costs: products, outputs, inputs that it reads."""
    dense = tuple(float(int(size)) for size in layer.sizes)
    by_name = _costs(costs, layer.kind)
    own = {name: by_name[name] * amount for name, amount in amounts(layer, kernels, dense).items()}
    w = layer.window
    if layer.kind in ("conv", "dense") and w is not None:
        in_c, out_c, groups = layer.sizes
        inner = sum(cost for name, cost in own.items() if name.endswith("rounds") and "inside" not in name)
        outer = sum(cost for name, cost in own.items() if "pairs" in name or name in ("fours", "stored"))
        products, rest = dense[0] * dense[1] / dense[2], sum(own.values()) - inner - outer
        per_group = in_c * out_c if int(groups) == 1 else in_c * (int(out_c) // int(groups))
        return [
            (per_group, inner / max(products, 1.0)),
            (out_c, outer / max(dense[1], 1.0)),
            (in_c, rest / max(dense[0], 1.0)),
        ]
    first = layer.sizes[0]
    return [(first, sum(own.values()) / max(dense[0], 1.0))]


def _convolution(network: Traced, node: Node, source: Node, kind: str) -> Layer:
    weight = weight_of(network.graph, node)
    assert weight is not None
    assert node.shape is not None
    assert source.shape is not None
    count = weight_dimensions(network.graph, node)
    kernel, stride, dilation = geometry(network.graph, node, count)
    channel = len(node.shape) - count - 1
    before = (0,) * count
    if is_read_padded(network, source):
        amounts_before = tuple(source.arguments["pad"])[::2][::-1]
        before = (0,) * (count - len(amounts_before)) + amounts_before
        source = data_input(network.graph, source) or source
    assert source.shape is not None
    image, outputs = source.shape[channel + 1 :], node.shape[channel + 1 :]
    pad = symmetric_padding(network.graph, node)
    if pad is None:  # "same" or "valid"
        same = node.arguments.get("padding") == "same"
        pad = tuple(
            same_amounts(size, k, s, d)[0] if same else 0
            for size, k, s, d in zip(image, kernel, stride, dilation, strict=True)
        )
    pad = tuple(own + more for own, more in zip(pad, before, strict=True))
    flat = [_two(values, filler) for values, filler in ((kernel, 1), (stride, 1), (dilation, 1), (pad, 0))]
    window = Window(*flat, _two(image, 1), _two(outputs, 1))  # type: ignore[arg-type]
    in_c, out_c = source.shape[channel], node.shape[channel]
    if kind == "depthwise" and int(in_c) != int(out_c):
        kind = "conv"  # a multiplier of channels: the plain kernel; its groups are channels
    groups: Size = node.arguments.get("groups", 1)
    return Layer("depthwise", window, (out_c,)) if kind == "depthwise" else Layer("conv", window, (in_c, out_c, groups))


def is_read_padded(network: Traced, node: Node) -> bool:
    """Whether a padding with zeros along the image is one that the convolutions which read it do themselves."""
    amounts_given = tuple(node.arguments.get("pad", ()))
    if node.op not in ("pad", "constant_pad_nd") or node.arguments.get("value") not in (None, 0, 0.0):
        return False
    readers = [network.graph.by_name[name] for name in network.graph.users[node.name]]
    convolutions = [reader for reader in readers if reader.op in CONVOLUTIONS and not is_transposed(reader)]
    fits = all(weight_dimensions(network.graph, reader) * 2 >= len(amounts_given) for reader in convolutions)
    return bool(readers) and len(convolutions) == len(readers) and fits and min(amounts_given, default=0) >= 0


def _pool(node: Node, source: Node) -> Window | None:
    count = POOLS.get(node.op)
    if count is None or source.shape is None or node.shape is None:
        return None
    kernel = node.arguments.get("kernel_size", 1)
    kernel = (kernel,) * count if isinstance(kernel, int) else (tuple(kernel) * count)[:count]
    image, outputs = source.shape[-count:], node.shape[-count:]
    return Window(_two(kernel, 1), (1, 1), (1, 1), (0, 0), _two(image, 1), _two(outputs, 1))


def _two(values: tuple[int, ...], filler: int) -> tuple[int, int]:
    """One axis is the width of an image of one row; of three, the first ones are together."""
    if len(values) == 1:
        return filler, int(values[0])
    return int(prod(values[:-1])), int(values[-1])
