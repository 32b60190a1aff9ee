# SPDX-License-Identifier: Apache-2.0
"""Bytes of flash of our own firmware, from the sizes of a network alone.

Constants lie as `edgepress.deploy.firmware.operators.layers` packs them: weights by pairs of channels and rounds of
four products, a bias and a multiplier for each channel. What code takes was fitted to linked programs, core by core
(`edgepress.benchmarks.experiments.budgets.flash` made firmware_code.json, and says how well): the program itself, a
kernel once for all layers of its kind, and the call and the fields of each layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import ceil, prod
from typing import Any

import numpy as np

from edgepress.models.cost.aten_names import POOLS
from edgepress.models.devices.device import DeviceClass
from edgepress.models.footprint.cores import CORES, costs_of, kernels_of
from edgepress.models.footprint.figure import DeviceFigure, Size, Sizes, Traced
from edgepress.models.footprint.instructions import Layer, layers_by_step

_WORD = 4


@dataclass(frozen=True)
class Stored:
    """What one step puts into flash.

    Attributes:
        kind: of its kernel, a key of the table's kinds.
        layer: whose weights are packed; None where there are weights only, and these as they are.
        sizes: of the layer, or (weights, biases).
    """

    kind: str
    layer: Layer | None
    sizes: tuple[Size, ...]


@cache
def code_table() -> dict[str, Any]:
    """The content of firmware_code.json: core -> bytes of the program, and kind -> bytes of its kernel and a layer."""
    path = files("edgepress.models.footprint").joinpath("firmware_code.json")
    return json.loads(path.read_text(encoding="utf-8"))


def stored_by(network: Traced) -> Iterator[Stored]:
    """What the steps of a network store, in their order."""
    for step, layer in layers_by_step(network).items():
        if layer.kind in ("conv", "dense", "depthwise"):
            yield Stored(kernel_of(layer), layer, layer.sizes)
        else:
            op, node = network.ops[step], network.graph.by_name[step]
            kind = "mean" if op.kind == "pool" and node.op not in POOLS else layer.kind
            yield Stored(kind, None, (op.weights, op.bias))


def kernel_of(layer: Layer) -> str:
    """The kind of kernel of a layer with a window: a dense layer is a convolution, and some have no fast kernel."""
    assert layer.window is not None
    if layer.kind == "depthwise":
        return "plain" if prod(layer.window.dilation) > 1 else "depthwise"
    in_c, groups = int(layer.sizes[0]), int(layer.sizes[2])
    return "plain" if groups == in_c and groups > 1 else "conv"


def constants(stored: Stored, numbers: Sequence[float]) -> int:
    """Bytes of weights, biases and multipliers at the numbers of the sizes."""
    if stored.layer is None or stored.layer.window is None:
        weights, biases = numbers
        return _words(weights) + 2 * _WORD * int(biases)
    kernel = stored.layer.window.kernel
    if stored.layer.kind == "depthwise":
        channels = numbers[0]
        row = kernel[1] if stored.kind == "plain" else ceil(kernel[1] / 4) * 4
        return _words(channels * kernel[0] * row) + 2 * _WORD * int(channels)
    in_c, out_c, groups = numbers
    products = prod(kernel) * in_c / groups
    if stored.kind == "plain":
        return _words(out_c * products) + 2 * _WORD * int(out_c)
    rounds, pairs = ceil(products / 4), groups * ceil(out_c / groups / 2)
    # Vectors of sixteen products are read whole; a bias lies behind the last of an odd number of channels.
    return int(pairs * rounds * 8 + -rounds % 4 * 8 + 2 * _WORD * (out_c + out_c % 2))


def code(core: dict[str, Any], kinds: Sequence[str]) -> float:
    """Bytes of everything but the constants, of a program with layers of these kinds."""
    known = core["kinds"]
    once = sum(known.get(kind, known["other"])["kernel"] for kind in set(kinds))
    return core["program"] + once + sum(known.get(kind, known["other"])["layer"] for kind in kinds)


def firmware_flash(network: Traced, device: DeviceClass) -> DeviceFigure:
    """`firmware_flash_bytes` of `deploy export --format c-inference`, linked as `benchmarks gate` does it.

    Raises:
        UsageError: the class is no microcontroller, or programs for its core were not linked.
    """
    kernels_of(device, "firmware_flash_bytes")
    core = costs_of(device, "firmware_flash_bytes", code_table()["cores"])
    sizes, every = Sizes(), list(stored_by(network))
    places = [[sizes.number(size) for size in stored.sizes] for stored in every]
    program = code(core, [stored.kind for stored in every])
    smooth: list[tuple[Size, float]] = [(1, program)]
    for stored in every:
        smooth += _smooth(stored)

    def value(numbers: np.ndarray) -> float:
        own = (constants(s, [float(numbers[p]) for p in at]) for s, at in zip(every, places, strict=True))
        return float(round(program + sum(own)))

    note = f"our firmware on {CORES[device.name]}, within {core['worst_error']:.1%} on networks that were not fitted"
    return DeviceFigure("firmware_flash_bytes", tuple(sizes.all), value, tuple(smooth), note=note)


def _smooth(stored: Stored) -> list[tuple[Size, float]]:
    """Constants without what fills them up to whole rounds and pairs."""
    if stored.layer is None or stored.layer.window is None:
        return [(stored.sizes[0], 1.0), (stored.sizes[1], 2.0 * _WORD)]
    products = prod(stored.layer.window.kernel)
    if stored.layer.kind == "depthwise":
        return [(stored.sizes[0], products + 2.0 * _WORD)]
    in_c, out_c, groups = stored.sizes
    if int(groups) == 1:
        return [(in_c * out_c, float(products)), (out_c, 2.0 * _WORD)]
    return [(in_c * (int(out_c) // int(groups)), float(products)), (out_c, 2.0 * _WORD)]


def _words(count: float) -> int:
    return ceil(count / _WORD) * _WORD
