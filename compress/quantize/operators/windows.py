# SPDX-License-Identifier: Apache-2.0
"""Windows that are cut out of a value, and put together again: no value is computed, and converters know none of it."""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
from __future__ import annotations

import math
from typing import Any

from torch import fx

from edgepress.compress.quantize.graph.layers import argument, aten
from edgepress.compress.quantize.operators.build import Builder, for_axes, shape_of

#: Larger windows that overlap are left as they are: each place in them is a slice of its own.
_MOST_SLICES = 64
_OF_WINDOWS = ("kernel_size", "dilation", "padding", "stride")


def windows(build: Builder, node: fx.Node) -> fx.Node | None:
    """x.unfold(axis, size, step): every window of an axis, its places along a new last axis."""
    x, (axis, size, step) = node.args[0], (int(number) for number in node.args[1:])
    shape = shape_of(x)
    axis %= len(shape)
    if axis == 0 or (step != size and size > _MOST_SLICES):
        return None
    before, after, count = shape[1:axis], shape[axis + 1 :], (shape[axis] - size) // step + 1
    rows = build(aten.reshape.default, x, [-1, shape[axis], math.prod(after)])
    if step == size:
        made = build(aten.reshape.default, _first(build, rows, 1, count * size), [-1, count, size, math.prod(after)])
        made = build(aten.permute.default, made, [0, 1, 3, 2])
    else:
        parts = [build(aten.unsqueeze.default, _every(build, rows, 1, i, step, count), -1) for i in range(size)]
        made = build(aten.cat.default, parts, -1)
    return build(aten.reshape.default, made, [-1, *before, count, *after, size])


def columns(build: Builder, node: fx.Node) -> fx.Node | None:
    """im2col (nn.Unfold): [N, C, H, W] -> [N, C * kernel, windows]."""
    x, shape = node.args[0], shape_of(node.args[0])
    kernel, dilation, padding, stride = (for_axes(argument(node, name), 2) for name in _OF_WINDOWS)
    if len(shape) != 4:
        return None
    if any(padding):
        x = build(aten.pad.default, x, [padding[1], padding[1], padding[0], padding[0]])
    channels, *sizes = shape_of(x)[1:]
    counts = [(size - d * (k - 1) - 1) // s + 1 for size, k, d, s in zip(sizes, kernel, dilation, stride, strict=True)]
    if kernel == stride and dilation == (1, 1):
        for axis in (0, 1):
            x = _first(build, x, 2 + axis, counts[axis] * kernel[axis])
        made = build(aten.reshape.default, x, [-1, counts[0], kernel[0], counts[1], kernel[1]])
        made = build(aten.permute.default, made, [0, 2, 4, 1, 3])
    elif math.prod(kernel) <= _MOST_SLICES:
        parts = []
        for i in range(kernel[0]):
            rows = _every(build, x, 2, i * dilation[0], stride[0], counts[0])
            for j in range(kernel[1]):
                part = _every(build, rows, 3, j * dilation[1], stride[1], counts[1])
                parts.append(build(aten.reshape.default, part, [-1, channels, 1, math.prod(counts)]))
        made = build(aten.cat.default, parts, 2)
    else:
        return None
    return build(aten.reshape.default, made, [-1, channels * math.prod(kernel), math.prod(counts)])


def image_of(build: Builder, node: fx.Node) -> fx.Node | None:
    """col2im (nn.Fold) of windows that lie side by side: [N, C * kernel, windows] -> [N, C, H, W]."""
    x, sizes = node.args[0], for_axes(argument(node, "output_size"), 2)
    kernel, dilation, padding, stride = (for_axes(argument(node, name), 2) for name in _OF_WINDOWS)
    side_by_side = kernel == stride and dilation == (1, 1) and padding == (0, 0)
    if not side_by_side or len(shape_of(x)) != 3 or any(size % k for size, k in zip(sizes, kernel, strict=True)):
        return None
    counts = [size // k for size, k in zip(sizes, kernel, strict=True)]
    made = build(aten.reshape.default, x, [-1, *kernel, *counts])
    made = build(aten.permute.default, made, [0, 3, 1, 4, 2])
    return build(aten.reshape.default, made, [-1, shape_of(x)[1] // math.prod(kernel), *sizes])


def _first(build: Builder, x: Any, axis: int, count: int) -> Any:
    return x if shape_of(x)[axis] == count else build(aten.slice.Tensor, x, axis, 0, count)


def _every(build: Builder, x: Any, axis: int, start: int, step: int, count: int) -> Any:
    """`count` places of an axis, `step` apart."""
    end = start + step * (count - 1) + 1
    if (start, end, step) == (0, shape_of(x)[axis], 1):
        return x
    return build(aten.slice.Tensor, x, axis, start, end, step)


#: What LiteRT-Torch cannot convert otherwise, in float either.
ALWAYS: dict[Any, Any] = {
    aten.unfold.default: windows,
    aten.im2col.default: columns,
    aten.col2im.default: image_of,
}
