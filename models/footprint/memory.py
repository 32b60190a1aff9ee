# SPDX-License-Identifier: Apache-2.0
"""Bytes of an int8 .tflite file and of TFLite Micro's arena, from the sizes of a network alone.

The arena is laid out as TFLite Micro's greedy planner does it (tensorflow/lite/micro/memory_planner/
greedy_memory_planner.cc): the largest buffer first, of equal ones the later, each at the lowest gap that is free while
it lives. Behind these activations (the head) come structures which do not depend on widths, but for the multiplier and
shift of every channel of a convolution (the tail), as it is on a machine of 64 bits, where the gate measures it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepress.models.cost.aten import bias_of, weight_of
from edgepress.models.devices.device import DeviceClass
from edgepress.models.errors import UsageError
from edgepress.models.footprint.figure import DeviceFigure, Size, Sizes, Traced

#: TFLite Micro's MicroArenaBufferAlignment, and the alignment of constants in a file.
ALIGNMENT_BYTES = 16
#: Kinds of operators with arrays of multipliers and of shifts by channel in TFLite Micro's arena.
_PER_CHANNEL = frozenset({"conv", "depthwise", "transposed_conv"})
_CHANNEL_ARRAYS, _CHANNEL_BYTES = 2, 4
#: Bytes of the tail that do not depend on widths, fitted to files of `compress`: of any interpreter, of a tensor, of an
#: operator by kind.
_TAIL_BASE_BYTES, _TENSOR_BYTES = 904, 24
_OPERATOR_BYTES = {"conv": 168, "depthwise": 168, "dense": 152, "add": 136}
_OTHER_OPERATOR_BYTES = 112
#: Bytes of a file beside its numbers, fitted likewise: of any file, of a tensor beside its name, of an operator, and of
#: a name beside its module's.
_FILE_BASE_BYTES, _FILE_TENSOR_BYTES, _FILE_OPERATOR_BYTES, _NAME_BYTES = 470, 79, 45, 19
_WEIGHTED = frozenset({"conv", "depthwise", "transposed_conv", "dense"})


def planned_bytes(sizes: Sequence[int] | np.ndarray, first: Sequence[int], last: Sequence[int]) -> int:
    """Bytes that TFLite Micro's greedy planner spans.

    Args:
        sizes: [T] bytes of the activations, in the order of the file.
        first, last: [T] operators between which each lives, both included.
    """
    aligned = (np.asarray(sizes, np.int64) + ALIGNMENT_BYTES - 1) // ALIGNMENT_BYTES * ALIGNMENT_BYTES
    placed: list[tuple[int, int, int, int]] = []  # start, end, first, last, by rising start
    span = 0
    for tensor in sorted(range(len(aligned)), key=lambda t: (-int(aligned[t]), -t)):
        size, begin, finish = int(aligned[tensor]), first[tensor], last[tensor]
        start = 0
        for low, high, begins, ends in placed:
            if begins > finish or ends < begin:
                continue
            if low - start >= size:
                break
            start = max(start, high)
        placed.append((start, start + size, begin, finish))
        placed.sort()
        span = max(span, start + size)
    return span


def arena(network: Traced, device: DeviceClass) -> DeviceFigure:
    """`arena_bytes` of TFLite Micro: head and tail.

    Raises:
        UsageError: the class runs something else.
    """
    if device.runtime != "tflm":
        raise UsageError(
            f"arena_bytes: the device class {device.name!r} runs {device.runtime}, the arena is one of TFLite Micro; "
            "leave this budget out, or limit peak_activation_bytes"
        )
    plan, sizes = network.plan, Sizes()
    places = np.array([sizes.product(tensor.shape) for tensor in plan.tensors], np.int64)
    channels: list[int] = []
    fixed = _TAIL_BASE_BYTES + _TENSOR_BYTES * len(plan.tensors)
    for step in plan.steps:
        op = network.ops.get(step)
        kind = "move" if op is None else op.kind
        fixed += _OPERATOR_BYTES.get(kind, _OTHER_OPERATOR_BYTES)
        # Weights and biases, or the constant of a padding or a mean.
        fixed += _TENSOR_BYTES * (2 if kind in _WEIGHTED else kind in ("move", "mean"))
        if kind in _PER_CHANNEL:
            channels.append(sizes.number(_channels(network, step)))

    def value(numbers: np.ndarray) -> float:
        tail = fixed + _CHANNEL_ARRAYS * int(_aligned(_CHANNEL_BYTES * numbers[channels]))
        head = planned_bytes(numbers[places], plan.first, plan.last)
        return head + -(-tail // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    return DeviceFigure("arena_bytes", tuple(sizes.all), value, follows="peak_activation_bytes", note="TFLite Micro")


def file(network: Traced, device: DeviceClass) -> DeviceFigure:
    """`file_bytes` of an int8 .tflite file as `deploy export` writes it."""
    return _file("file_bytes", network, 0)


def flash(network: Traced, device: DeviceClass) -> DeviceFigure:
    """`flash_bytes`: the file and the runtime of the class."""
    return _file("flash_bytes", network, device.flash_runtime_bytes)


def _file(metric: str, network: Traced, runtime_bytes: int) -> DeviceFigure:
    sizes = Sizes()
    weights, channels = [], []
    smooth: list[tuple[Size, float]] = []
    for name, op in network.ops.items():
        if op.kind not in _WEIGHTED:
            continue
        own = _channels(network, name)
        weights.append(sizes.number(op.weights))
        channels.append(sizes.number(own))
        # int8 weights; int32 biases, two scales, and of the zero points what no other tensor has.
        smooth += [(op.weights, 1.0), (own, 12.0)]
    by_name = network.graph.by_name
    tensors = [tensor.node for tensor in network.plan.tensors] + 2 * [
        name for name, op in network.ops.items() if op.kind in _WEIGHTED
    ]
    fixed = _FILE_BASE_BYTES + _FILE_OPERATOR_BYTES * len(network.plan.steps) + runtime_bytes
    fixed += sum(_FILE_TENSOR_BYTES + _NAME_BYTES + len(by_name[name].module) for name in tensors)
    smooth.append((1, float(fixed)))

    def value(numbers: np.ndarray) -> float:
        stored, wide = numbers[weights], numbers[channels]
        constants = _aligned(stored) + _aligned(4 * wide)
        # Scales of weights and biases; vectors of zero points, all zero, are kept once for each length, padded.
        lengths = np.unique(wide)
        return float(constants + 8 * wide.sum() + 8 * lengths.sum() + 16 * len(lengths) + fixed)

    return DeviceFigure(metric, tuple(sizes.all), value, tuple(smooth), note="an int8 .tflite file")


def _channels(network: Traced, name: str) -> Size:
    """Output channels of a layer with weights."""
    node = network.graph.by_name[name]
    bias, weight = bias_of(network.graph, node), weight_of(network.graph, node)
    if bias is not None and bias.shape is not None:
        return bias.shape[0]
    if weight is None or weight.shape is None or node.shape is None:
        raise UsageError(f"the channels of the operator {node.op} of module {node.module!r} are not known")
    return node.shape[-1] if network.ops[name].kind == "dense" else node.shape[len(node.shape) - len(weight.shape) + 1]


def _aligned(sizes: np.ndarray) -> float:
    return float((np.ceil(sizes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES).sum())
