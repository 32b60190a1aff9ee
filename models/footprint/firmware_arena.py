# SPDX-License-Identifier: Apache-2.0
"""Bytes of the arena of our own firmware, from the sizes of a network alone.

Activations and the scratch of the fast kernels are laid out as `edgepress.deploy.firmware.layout` does it, but without
its local search: where that finds a better plan than the greedy orders, the firmware takes less than this, never more.
A padding is done by the convolution that reads it, so that a padded copy takes nothing; who is padded lives until then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import prod

import numpy as np

from edgepress.models.cost.aten import data_input
from edgepress.models.devices.device import DeviceClass
from edgepress.models.footprint.cores import kernels_of
from edgepress.models.footprint.figure import DeviceFigure, Sizes, Traced
from edgepress.models.footprint.instructions import is_read_padded, layers_by_step
from edgepress.models.footprint.kernel_amounts import Window
from edgepress.models.footprint.placement import Block, aligned, in_greedy_order

#: Of a plane of a depthwise convolution, as in `edgepress.deploy.firmware.operators.layers`.
_PLANE_BYTES = 2048
_LEAST_BYTES = 16


def firmware_arena(network: Traced, device: DeviceClass) -> DeviceFigure:
    """`firmware_arena_bytes` of `deploy export --format c-inference`, on the core of a class.

    Raises:
        UsageError: the class is no microcontroller.
    """
    kernels = kernels_of(device, "firmware_arena_bytes")
    plan, sizes = network.plan, Sizes()
    padded = _padded_copies(network)
    number_of = {tensor.name: number for number, tensor in enumerate(plan.tensors)}
    last = list(plan.last)
    for copy, source in padded.items():
        if source in number_of:
            last[number_of[source]] = max(last[number_of[source]], plan.last[number_of[copy]])
    kept = [number for number, tensor in enumerate(plan.tensors) if tensor.name not in padded]
    places = [sizes.product(plan.tensors[number].shape) for number in kept]
    scratch = [
        (plan.steps.index(step), layer, [sizes.number(size) for size in layer.sizes])
        for step, layer in layers_by_step(network).items()
        if (layer.kind, kernels) in _SCRATCH
    ]

    def value(numbers: np.ndarray) -> float:
        blocks = [
            Block(number, aligned(int(numbers[place])), plan.first[number], last[number])
            for number, place in zip(kept, places, strict=True)
        ]
        for number, (step, layer, own) in enumerate(scratch, 1):
            assert layer.window is not None
            needed = _SCRATCH[layer.kind, kernels](layer.window, *(int(numbers[place]) for place in own))
            if needed:
                blocks.append(Block(-number, aligned(needed), step, step))
        return float(max(_LEAST_BYTES, in_greedy_order(blocks)[0])) if blocks else float(_LEAST_BYTES)

    note = f"our firmware with the kernels {kernels}"
    return DeviceFigure("firmware_arena_bytes", tuple(sizes.all), value, follows="peak_activation_bytes", note=note)


def _padded_copies(network: Traced) -> dict[str, str]:
    """Tensor that a convolution does without, since it pads itself -> the tensor that it reads instead."""
    found = {}
    for tensor in network.plan.tensors:
        if tensor.name.endswith(".padded"):
            found[tensor.name] = tensor.node
        elif (node := network.graph.by_name.get(tensor.name)) is not None and is_read_padded(network, node):
            source = data_input(network.graph, node)
            if source is not None:
                found[tensor.name] = source.name
    stored = {tensor.name for tensor in network.plan.tensors} - set(found)
    return {copy: _stored(network, source, stored, found) for copy, source in found.items()}


def _stored(network: Traced, name: str, stored: Collection[str], copies: Mapping[str, str]) -> str:
    """The tensor of the arena that holds a node's values: a copy's source, or what a ReLU was fused into."""
    while name not in stored:
        source = copies.get(name)
        if source is None:
            node = network.graph.by_name.get(name)
            before = data_input(network.graph, node) if node is not None else None
            if before is None:
                break
            source = before.name
        name = source
    return name


def _conv_rounds(w: Window, in_c: int, out_c: int, groups: int) -> tuple[int, int, bool]:
    """(products of an output, rounds of four of them, whether the kernel reads the image in place)."""
    products = prod(w.kernel) * (in_c // groups)
    same = w.image == w.outputs and w.stride == (1, 1)
    return products, -(-products // 4), w.kernel == (1, 1) and groups == 1 and same and products % 4 == 0


def _is_plain(in_c: int, groups: int) -> bool:
    """A multiplier of channels is a depthwise convolution that has no fast kernel."""
    return groups == in_c and groups > 1


def _conv_tiled(w: Window, in_c: int, out_c: int, groups: int) -> int:
    _, rounds, in_place = _conv_rounds(w, in_c, out_c, groups)
    return 0 if _is_plain(in_c, groups) else 12 * rounds + (0 if in_place else 4 * rounds)


def _conv_dsp(w: Window, in_c: int, out_c: int, groups: int) -> int:
    _, rounds, in_place = _conv_rounds(w, in_c, out_c, groups)
    return 0 if _is_plain(in_c, groups) else 24 * rounds + (0 if in_place else 4 * rounds)


def _conv_mve(w: Window, in_c: int, out_c: int, groups: int) -> int:
    products, _, _ = _conv_rounds(w, in_c, out_c, groups)
    return 0 if _is_plain(in_c, groups) else 48 * -(-products // 16)


def _depthwise_plane(w: Window, channels: int) -> int:
    if prod(w.dilation) > 1:
        return 0
    width = (w.outputs[1] - 1) * w.stride[1] + -(-w.kernel[1] // 4) * 4
    band = min(max(1, (_PLANE_BYTES // width - w.kernel[0]) // w.stride[0] + 1), w.outputs[0])
    return width * ((band - 1) * w.stride[0] + w.kernel[0])


def _depthwise_mve(w: Window, channels: int) -> int:
    if prod(w.dilation) > 1:
        return 0
    return 16 * (w.kernel[0] * ((w.outputs[1] - 1) * w.stride[1] + w.kernel[1]) + prod(w.kernel))


_CONVOLUTIONS = {"tiled": _conv_tiled, "dsp": _conv_dsp, "mve": _conv_mve}
_DEPTHWISE = {"tiled": _depthwise_plane, "dsp": _depthwise_plane, "mve": _depthwise_mve}
#: (kind of layer, kernels) -> bytes of scratch, from the window and the sizes of the layer.
_SCRATCH: dict[tuple[str, str], Callable[..., int]] = {
    **{(kind, name): of for kind in ("conv", "dense") for name, of in _CONVOLUTIONS.items()},
    **{("depthwise", name): of for name, of in _DEPTHWISE.items()},
}
