# SPDX-License-Identifier: Apache-2.0
"""Pooling and resizing in operators that have integer kernels."""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportReturnType=false
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from edgepress.compress.quantize.graph.layers import argument, aten
from edgepress.compress.quantize.operators.build import Builder, for_axes, shape_of


def average_pool(build: Builder, node: fx.Node) -> fx.Node | None:
    """avg_pool1d and avg_pool2d: zeros around the image, a plain pooling, and what its divisor was wrong by.

    A divisor that is the same everywhere needs no product. One without padding that TFLite itself leaves out of the
    count (its SAME padding) stays as it is.
    """
    x, rank = node.args[0], 1 if node.target is aten.avg_pool1d.default else 2
    sizes = shape_of(x)[-rank:]
    kernel = for_axes(argument(node, "kernel_size"), rank)
    stride = for_axes(argument(node, "stride") or kernel, rank)
    padding = for_axes(argument(node, "padding"), rank)
    counted, ceil = bool(argument(node, "count_include_pad")), bool(argument(node, "ceil_mode"))
    divisor = argument(node, "divisor_override") if rank == 2 else None
    outputs = shape_of(node)[-rank:]
    ends = [(n - 1) * s + k - p for n, s, k, p in zip(outputs, stride, kernel, padding, strict=True)]
    overhang = [max(0, end - size - p) for end, size, p in zip(ends, sizes, padding, strict=True)]
    if not any(padding) and not any(overhang) and divisor is None:
        if not ceil:
            return None
        return build(node.target, x, list(kernel), list(stride))
    if not counted and not any(overhang) and divisor is None and not ceil and _is_same(sizes, kernel, stride, padding):
        return None
    counts = [
        _counts(n, k, s, p, size, counted)
        for n, k, s, p, size in zip(outputs, kernel, stride, padding, sizes, strict=True)
    ]
    area = float(np.prod(kernel))
    amounts = [a for p, over in zip(reversed(padding), reversed(overhang), strict=True) for a in (p, p + over)]
    padded = build(aten.constant_pad_nd.default, x, amounts, 0.0) if any(amounts) else x
    pooled = build(node.target, padded, list(kernel), list(stride))
    by = counts[0] if rank == 1 else counts[0][:, None] * counts[1][None, :]
    factor = torch.as_tensor(area / (np.full_like(by, float(divisor)) if divisor else by), dtype=torch.float32)
    if bool((factor == 1).all()):
        return pooled
    return build(aten.mul.Tensor, pooled, build.constant("count", factor[None, None] if rank == 2 else factor[None]))


def max_pool(build: Builder, node: fx.Node) -> fx.Node | None:
    """max_pool1d as max_pool2d of height 1."""
    x = node.args[0]
    values = [(int(for_axes(argument(node, name), 1)[0]) if argument(node, name) else None) for name in _GEOMETRY]
    kernel, stride, padding, dilation = values
    image = build(aten.unsqueeze.default, x, -2)
    pooled = build(
        aten.max_pool2d.default,
        image,
        [1, kernel],
        [1, stride or kernel],
        [0, padding or 0],
        [1, dilation or 1],
        bool(argument(node, "ceil_mode")),
    )
    return build(aten.squeeze.dim, pooled, -2)


def dilated_max_pool(build: Builder, node: fx.Node) -> fx.Node | None:
    """max_pool2d whose window has gaps, which no integer kernel has: the largest of shifted rows, axis by axis."""
    x = node.args[0]
    names = ("kernel_size", "stride", "padding", "dilation")
    kernel, stride, padding, dilation = (for_axes(argument(node, name) or 0, 2) for name in names)
    if max(dilation) == 1:
        return None
    stride = stride if any(stride) else kernel
    for axis, size, step, pad, gap in zip((-2, -1), kernel, stride, padding, dilation, strict=True):
        rows, length = torch.arange(shape_of(node)[axis]) * step - pad, shape_of(x)[axis]
        taps = [rows + i * gap for i in range(size)]
        inside = [(tap >= 0) & (tap < length) for tap in taps]
        # A row beyond the edge is nothing to a maximum: another one of the window stands for it.
        other = torch.stack(taps).masked_fill(~torch.stack(inside), -1).amax(0)
        pieces = []
        for i, (tap, valid) in enumerate(zip(taps, inside, strict=True)):
            if bool(valid.all()):
                pieces.append(build(aten.slice.Tensor, x, axis, int(tap[0]), int(tap[-1]) + 1, step))
            else:
                picked = torch.where(valid, tap, other).to(torch.int32)
                pieces.append(build(aten.index_select.default, x, axis, build.constant(f"rows_{axis + 2}_{i}", picked)))
        x = pieces[0]
        for piece in pieces[1:]:
            x = build(aten.maximum.default, x, piece)
    return x


def pool_of_volumes(build: Builder, node: fx.Node) -> fx.Node | None:
    """max_pool3d and avg_pool3d: over height and width, then over depth."""
    x, largest = node.args[0], node.target is aten.max_pool3d.default
    if len(shape_of(x)) != 5 or argument(node, "ceil_mode"):
        return None
    names = ("kernel_size", "stride", "padding") + (("dilation",) if largest else ())
    values = {name: for_axes(argument(node, name) or 0, 3) for name in names}
    values["stride"] = values["stride"] if any(values["stride"]) else values["kernel_size"]
    if not largest and (argument(node, "divisor_override") or not argument(node, "count_include_pad")):
        return None
    kind = aten.max_pool2d.default if largest else aten.avg_pool2d.default
    _, channels, depth, height, width = shape_of(x)
    image = build(aten.reshape.default, x, [-1, channels * depth, height, width])
    pooled = build(kind, image, *[list(values[name][1:]) for name in names])
    height, width = shape_of(pooled)[2:]
    rows = build(aten.reshape.default, pooled, [-1, channels, depth, height * width])
    beside = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    pooled = build(kind, rows, *[[values[name][0], beside[name]] for name in names])
    return build(aten.reshape.default, pooled, [-1, channels, shape_of(pooled)[2], height, width])


def adaptive_max_pool(build: Builder, node: fx.Node) -> Any:
    """Windows of one size as plain pooling, others piece by piece, unless it is asked where the largest ones stood."""
    x, rank = node.args[0], 1 if node.target is aten.adaptive_max_pool1d.default else 2
    several = isinstance(node.meta["val"], (tuple, list))
    if several and any(user.args[1] != 0 for user in node.users):
        return None
    sizes = shape_of(x)[-rank:]
    outputs = [int(n) for n in for_axes(argument(node, "output_size"), rank)]
    if all(size % n == 0 for size, n in zip(sizes, outputs, strict=True)):
        kernel = [size // n for size, n in zip(sizes, outputs, strict=True)]
        made = build(aten.max_pool1d.default if rank == 1 else aten.max_pool2d.default, x, kernel, kernel)
        return (made,) if several else made
    made = x
    for axis, (size, n) in enumerate(zip(sizes, outputs, strict=True)):
        dim = axis - rank
        pieces = []
        for i in range(n):
            start, stop = i * size // n, -(-(i + 1) * size // n)
            pieces.append(build(aten.amax.default, build(aten.slice.Tensor, made, dim, start, stop), [dim], True))
        made = build(aten.cat.default, pieces, dim) if n > 1 else pieces[0]
    return (made,) if several else made


def adaptive_average_pool(build: Builder, node: fx.Node) -> fx.Node | None:
    """Windows of one size as plain pooling; others as a matrix along each axis. One window for all is left."""
    x, rank = node.args[0], 1 if node.target is aten.adaptive_avg_pool1d.default else 2
    sizes, outputs = shape_of(x)[-rank:], shape_of(node)[-rank:]
    if all(n == 1 for n in outputs):
        return None
    if sizes == outputs:
        return x
    if all(size % n == 0 for size, n in zip(sizes, outputs, strict=True)):
        kernel = [size // n for size, n in zip(sizes, outputs, strict=True)]
        return build(aten.avg_pool1d.default if rank == 1 else aten.avg_pool2d.default, x, kernel, kernel)
    return _along_each(build, node, x, rank)


def linearly_resized(build: Builder, node: fx.Node) -> fx.Node:
    """upsample_linear1d as an image of height 1: as a matrix, it would be larger than the layers around it."""
    factors = argument(node, "scale_factors")
    length = shape_of(node)[-1]
    image = build(aten.unsqueeze.default, node.args[0], -2)
    resize = build(
        aten.upsample_bilinear2d.vec,
        image,
        None if factors else [1, length],
        bool(argument(node, "align_corners")),
        [1.0, *factors] if factors else None,
    )
    return build(aten.squeeze.dim, resize, -2)


def resized(build: Builder, node: fx.Node) -> fx.Node | None:
    """Resizing is linear and acts on each axis by itself: bicubic and antialiased modes as matrices."""
    rank = len(shape_of(node)) - 2
    return _along_each(build, node, node.args[0], rank)


def cumulative_sum(build: Builder, node: fx.Node) -> fx.Node | None:
    """A triangle of ones along the axis: LiteRT has no cumulative sum of integers. One over the samples is left."""
    x, dim = node.args[0], int(argument(node, "dim"))
    if dim % len(shape_of(x)) == 0 or not isinstance(x, fx.Node) or not x.meta["val"].is_floating_point():
        return None
    size = shape_of(x)[dim]
    return along(build, x, torch.ones(size, size).tril(), dim, "ones")


def along(build: Builder, x: fx.Node, matrix: torch.Tensor, dim: int, what: str) -> fx.Node:
    """matrix @ x along one axis, as a fully connected layer on the last one."""
    rank = len(shape_of(x))
    dim %= rank
    weight = build.constant(what, matrix)
    if dim == rank - 1:
        return build(aten.linear.default, x, weight)
    moved = build(aten.transpose.int, x, dim, rank - 1)
    return build(aten.transpose.int, build(aten.linear.default, moved, weight), dim, rank - 1)


def _along_each(build: Builder, node: fx.Node, x: fx.Node, rank: int) -> fx.Node:
    """Apply a separable linear operator axis by axis; its matrices are what it makes of unit vectors."""
    sizes, outputs = shape_of(x)[-rank:], shape_of(node)[-rank:]
    for axis, (size, made) in enumerate(zip(sizes, outputs, strict=True)):
        if size == made and node.target in _ADAPTIVE:
            continue
        matrix = _response(node, size, axis, rank)
        x = along(build, x, matrix, axis - rank, f"matrix_{axis}")
    return x


def _response(node: fx.Node, size: int, axis: int, rank: int) -> torch.Tensor:
    """[made, size] of one axis: the operator on images which are constant along the other axes."""
    shape = list(shape_of(node.args[0]))[-rank:]
    units = torch.eye(size).reshape([1, size, *[size if i == axis else 1 for i in range(rank)]])
    units = units.expand(1, size, *shape).contiguous()
    with torch.no_grad():
        made = node.target(units, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return made[0].movedim(axis + 1, 1).reshape(size, shape_of(node)[axis - rank], -1)[:, :, 0].T.contiguous()


def _counts(n: int, kernel: int, stride: int, padding: int, size: int, counted: bool) -> np.ndarray:
    """How many elements each window is divided by, as PyTorch counts them."""
    starts = np.arange(n) * stride - padding
    stops = np.minimum(starts + kernel, size + padding)
    if counted:
        return (stops - starts).astype(np.float64)
    return (np.minimum(stops, size) - np.maximum(starts, 0)).astype(np.float64)


def _is_same(sizes: Any, kernel: Any, stride: Any, padding: Any) -> bool:
    for size, k, s, p in zip(sizes, kernel, stride, padding, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        if (total // 2, total - total // 2) != (p, p) or (size + 2 * p - k) // s + 1 != -(-size // s):
            return False
    return True


_GEOMETRY = ("kernel_size", "stride", "padding", "dilation")
_ADAPTIVE = {aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default}
REWRITES: dict[Any, Any] = {
    aten.avg_pool1d.default: average_pool,
    aten.avg_pool2d.default: average_pool,
    aten.max_pool1d.default: max_pool,
    aten.max_pool2d.default: dilated_max_pool,
    aten.max_pool3d.default: pool_of_volumes,
    aten.avg_pool3d.default: pool_of_volumes,
    aten.adaptive_max_pool1d.default: adaptive_max_pool,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.adaptive_avg_pool1d.default: adaptive_average_pool,
    aten.adaptive_avg_pool2d.default: adaptive_average_pool,
    aten.upsample_bicubic2d.vec: resized,
    aten.upsample_linear1d.vec: linearly_resized,
    aten._upsample_bilinear2d_aa.vec: resized,
    aten._upsample_bicubic2d_aa.vec: resized,
    aten.cumsum.default: cumulative_sum,
}
