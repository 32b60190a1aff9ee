# SPDX-License-Identifier: Apache-2.0
"""What moves values without computing any, and transposed convolutions, in operators which converters know."""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportReturnType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportOptionalIterable=false
from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.graph.layers import argument, aten
from edgepress.compress.quantize.operators.build import Builder, for_axes, shape_of

#: TFLite Micro joins at most ten values at once.
_MOST_JOINED = 10
_MOST_COPIES = 64
_BROADCASTING = {
    getattr(getattr(aten, name), overload)
    for name, overload in (
        *((name, "Tensor") for name in ("add", "sub", "mul", "div", "gt", "ge", "lt", "le", "eq", "ne")),
        ("maximum", "default"),
        ("minimum", "default"),
        ("where", "self"),
    )
}


def joined(build: Builder, node: fx.Node) -> fx.Node | None:
    """More than ten values are joined ten by ten."""
    values, dim = list(node.args[0]), argument(node, "dim")
    if len(values) <= _MOST_JOINED:
        return None
    groups = [values[i : i + _MOST_JOINED] for i in range(0, len(values), _MOST_JOINED)]
    return build(aten.cat.default, [build(aten.cat.default, group, dim) for group in groups], dim)


def stacked(build: Builder, node: fx.Node) -> fx.Node:
    """stack: joined along a new axis."""
    dim = int(argument(node, "dim"))
    dim = dim if dim >= 0 else dim + len(shape_of(node))
    return build(aten.cat.default, [build(aten.unsqueeze.default, value, dim) for value in node.args[0]], dim)


def taken_from_joined(build: Builder, node: fx.Node) -> fx.Node | None:
    """One step of values that were joined along the same axis, directly: y[:, -1] of a recurrent layer."""
    x, dim, index = node.args
    rank = len(shape_of(x))
    dim = int(dim) % rank
    if x.target is aten.transpose.int and rank == 3:  # without one of three axes, the other two keep their order
        a, b = (int(axis) % rank for axis in x.args[1:])
        if dim not in (a, b) or abs(a - b) != 1:
            return None
        x, dim = x.args[0], a + b - dim
    if x.target is not aten.cat.default or int(argument(x, "dim")) % rank != dim:
        return None
    index = int(index) % shape_of(x)[dim]
    for value in x.args[0]:
        size = shape_of(value)[dim]
        if index < size:
            return build(aten.select.int, value, dim, index)
        index -= size
    return None


def rolled(build: Builder, node: fx.Node) -> fx.Node | None:
    """roll: two pieces that change places, by axis."""
    x, shifts, dims = node.args[0], list(argument(node, "shifts")), list(argument(node, "dims"))
    if not dims:
        return None
    for shift, dim in zip(shifts, dims, strict=True):
        size = shape_of(x)[dim]
        cut = -int(shift) % size
        if cut:
            tail, head = (build(aten.slice.Tensor, x, dim, a, b) for a, b in ((cut, size), (0, cut)))
            x = build(aten.cat.default, [tail, head], dim)
    return x


def padded(build: Builder, node: fx.Node) -> fx.Node | None:
    """replicate and circular padding as joined pieces, reflected padding of signals too; the others are left."""
    mode, x, amounts = argument(node, "mode"), node.args[0], list(node.args[1])
    rank = len(shape_of(x))
    if mode not in ("replicate", "circular") and (mode, rank) != ("reflect", 3):
        return None
    for position in range(len(amounts) // 2):
        dim = rank - 1 - position
        before, after = (int(a) for a in amounts[2 * position : 2 * position + 2])
        size = shape_of(x)[dim]
        if mode == "circular":
            pieces = [(size - before, size)] * bool(before) + [(0, size)] + [(0, after)] * bool(after)
        elif mode == "reflect":
            steps = [*range(before, 0, -1)], [*range(size - 2, size - 2 - after, -1)]
            pieces = [*((i, i + 1) for i in steps[0]), (0, size), *((i, i + 1) for i in steps[1])]
        else:
            pieces = [(0, 1)] * before + [(0, size)] + [(size - 1, size)] * after
        parts = [x if piece == (0, size) else build(aten.slice.Tensor, x, dim, *piece) for piece in pieces]
        if len(parts) > 1:
            x = build(aten.cat.default, parts, dim)
    return x


def transposed_convolution(build: Builder, node: fx.Node) -> fx.Node | None:
    """A transposed convolution of one group without padding, cut to size.

    Padding takes rows off the result, output padding takes fewer off its end; where it adds more than there are, zeros
    behind the kernel make them. In 1-D it is one of height 1.
    """
    x, weight, bias = node.args[0], argument(node, "weight"), argument(node, "bias")
    rank = len(shape_of(node)) - 2
    stride, padding, extra, dilation = (
        for_axes(argument(node, name), rank) for name in ("stride", "padding", "output_padding", "dilation")
    )
    groups = int(argument(node, "groups"))
    plain = not any(padding) and not any(extra) and all(d == 1 for d in dilation)
    if (plain and groups == 1 and rank == 2) or weight.op != "get_attr":
        return None
    missing = [max(0, e - p) for e, p in zip(extra, padding, strict=True)]
    tensor = build.tensor_of(weight)
    if any(missing) or any(d > 1 for d in dilation):
        sizes = [(k - 1) * d + 1 for k, d in zip(tensor.shape[2:], dilation, strict=True)]
        spread = tensor.new_zeros(*tensor.shape[:2], *(n + m for n, m in zip(sizes, missing, strict=True)))
        spread[(..., *(slice(0, n, d) for n, d in zip(sizes, dilation, strict=True)))] = tensor.detach()
        weight = build.constant("weight", spread)
    if rank == 1:
        x, stride, padding, extra, missing = (
            build(aten.unsqueeze.default, x, 2),
            (1, *stride),
            (0, *padding),
            (0, *extra),
            [0, *missing],
        )
        weight = build.constant("weight_of_rows", build.tensor_of(weight).unsqueeze(2))
    made = _in_groups(build, node, x, weight, bias, stride, groups)
    for axis, (p, e, m) in enumerate(zip(padding, extra, missing, strict=True), 2):
        size = shape_of(made)[axis]
        if p or p - e + m:
            made = build(aten.slice.Tensor, made, axis, p, size - (p - e + m))
    return build(aten.squeeze.dim, made, 2) if rank == 1 else made


def nearest(build: Builder, node: fx.Node) -> fx.Node | None:
    """Enlarging by a factor that is not whole: pixels picked by their numbers, floor(i / factor) as torch has it, or
    floor((i + 1/2) / factor) where it is "nearest-exact".

    LiteRT-Torch's resize looks from the middles of pixels, which is the same for whole factors only.
    """
    x, before, after = node.args[0], shape_of(node.args[0]), shape_of(node)
    exact = node.target in _FROM_MIDDLES
    if all(new % old == 0 for old, new in zip(before[2:], after[2:], strict=True)):
        # From whole factors, pixels and their middles pick the same.
        return build(_FROM_MIDDLES[node.target], *node.args, **node.kwargs) if exact else None
    for axis, factor in enumerate(_factors(node, len(after) - 2), 2):
        if after[axis] != before[axis]:
            step = before[axis] / after[axis] if factor is None else 1 / factor
            picked = ((torch.arange(after[axis], dtype=torch.float32) + 0.5 * exact) * torch.tensor(step)).floor()
            index = build.constant(f"pixels_{axis}", picked.clamp(max=before[axis] - 1).to(torch.int32))
            x = build(aten.index_select.default, x, axis, index)
    return x


def expanded(build: Builder, node: fx.Node) -> fx.Node | None:
    """expand of images: left out where operators broadcast by themselves, else copies side by side.

    LiteRT-Torch turns images channels last and lets the sizes of an expand stand as they were.
    """
    x = node.args[0]
    if x.op == "get_attr" or len(shape_of(x)) != 4 or len(shape_of(node)) != 4:
        return None
    if all(_broadcasts(user, node) for user in node.users):
        return x
    return _side_by_side(build, x, [n // m for n, m in zip(shape_of(node), shape_of(x), strict=True)])


def _broadcasts(user: fx.Node, node: fx.Node) -> bool:
    others = [x for x in user.all_input_nodes if x is not node]
    return user.target in _BROADCASTING and any(shape_of(x) == shape_of(user) for x in others if "val" in x.meta)


def repeated(build: Builder, node: fx.Node) -> fx.Node | None:
    """repeat and tile of images as copies side by side: LiteRT-Torch repeats along axes as they were before it."""
    x, times = node.args[0], list(node.args[1])
    if len(shape_of(x)) != 4 or len(times) > 4 or not all(isinstance(n, int) for n in times):
        return None
    return _side_by_side(build, x, [1] * (4 - len(times)) + times)


def _side_by_side(build: Builder, x: fx.Node, times: list[int]) -> fx.Node | None:
    if times[0] != 1 or max(times) > _MOST_COPIES or min(times) < 1:
        return None
    for axis, n in enumerate(times):
        x = build(aten.cat.default, [x] * n, axis) if n > 1 else x
    return x


def picked_by_numbers(build: Builder, node: fx.Node) -> fx.Node | None:
    """x[:, [2, 0, 1]] and repeat_interleave: rows of one axis, whose numbers are constant."""
    x = node.args[0]
    if node.target is aten.repeat_interleave.self_int:
        times, dim = node.args[1], argument(node, "dim")
        if dim is None or not isinstance(times, int):
            return None
        if dim % len(shape_of(x)) == 0:  # each sample several times, of however many there are
            only = build.constant("rows", torch.zeros(times, dtype=torch.int32))
            copies = build(aten.index_select.default, build(aten.unsqueeze.default, x, 1), 1, only)
            return build(aten.reshape.default, copies, [-1, *shape_of(x)[1:]])
        rows = torch.arange(shape_of(x)[dim]).repeat_interleave(times)
    else:
        given = [(axis, index) for axis, index in enumerate(node.args[1]) if index is not None]
        if len(given) != 1 or given[0][1].op != "get_attr":
            return None
        dim, rows = given[0][0], build.tensor_of(given[0][1])
        if rows.dim() != 1 or rows.dtype == torch.bool:
            return None
    size = shape_of(x)[dim]
    rows = torch.where(rows < 0, rows + size, rows)
    return build(aten.index_select.default, x, dim, build.constant("rows", rows.to(torch.int32)))


def _factors(node: fx.Node, rank: int) -> list[float | None]:
    """By how much each axis is enlarged, where it was said; else it follows from the sizes."""
    if str(node.target).endswith(".vec"):
        given = argument(node, "scale_factors")
    else:
        given = [argument(node, name) for name in (("scales_h", "scales_w") if rank == 2 else ("scales",))]
    return [None] * rank if given is None else list(given)


def _in_groups(
    build: Builder, node: fx.Node, x: fx.Node, weight: fx.Node, bias: Any, stride: Any, groups: int
) -> fx.Node:
    if groups == 1:
        made = build(aten.conv_transpose2d.input, x, weight, bias, list(stride))
        if weight is node.args[1]:
            build.moved[made] = node
        return made
    tensor = build.tensor_of(weight)
    inputs, outputs = tensor.shape[0] // groups, tensor.shape[1]
    parts = []
    for group in range(groups):
        picked = build(aten.slice.Tensor, x, 1, group * inputs, (group + 1) * inputs)
        own = build.constant(f"weight_{group}", tensor[group * inputs : (group + 1) * inputs])
        offset = None
        if bias is not None:
            offset = build.constant(
                f"bias_{group}", build.tensor_of(bias)[group * outputs : (group + 1) * outputs].clone()
            )
        parts.append(build(aten.conv_transpose2d.input, picked, own, offset, list(stride)))
    return build(aten.cat.default, parts, 1)


#: "nearest-exact" -> "nearest".
_FROM_MIDDLES: dict[Any, Any] = {
    aten._upsample_nearest_exact2d.vec: aten.upsample_nearest2d.vec,
    aten._upsample_nearest_exact2d.default: aten.upsample_nearest2d.default,
    aten._upsample_nearest_exact1d.vec: aten.upsample_nearest1d.vec,
    aten._upsample_nearest_exact1d.default: aten.upsample_nearest1d.default,
}
#: What LiteRT-Torch cannot convert otherwise, in float either.
ALWAYS: dict[Any, Any] = {
    aten.conv_transpose1d.default: transposed_convolution,
    aten.conv_transpose2d.input: transposed_convolution,
    aten.upsample_nearest2d.vec: nearest,
    aten.upsample_nearest2d.default: nearest,
    aten.upsample_nearest1d.vec: nearest,
    aten.upsample_nearest1d.default: nearest,
    **dict.fromkeys(_FROM_MIDDLES, nearest),
    aten.expand.default: expanded,
    aten.repeat.default: repeated,
    aten.tile.default: repeated,
}
REWRITES: dict[Any, Any] = {
    aten.cat.default: joined,
    aten.stack.default: stacked,
    aten.select.int: taken_from_joined,
    aten.roll.default: rolled,
    aten.index.Tensor: picked_by_numbers,
    aten.repeat_interleave.self_int: picked_by_numbers,
    aten.pad.default: padded,
}
