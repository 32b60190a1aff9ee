# SPDX-License-Identifier: Apache-2.0
"""What operators that only move data do to channel labels: exactly what they do to the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgepress.compress.prune.coupling.grids import in_finer_groups
from edgepress.compress.prune.coupling.labels import Labelled, axes_of, drop_axes, lift, reshaped
from edgepress.compress.prune.coupling.propagation import Propagation, Result, RuleTable, required
from edgepress.models.cost.graph import Node, Ref

RULES = RuleTable()


def _first(state: Propagation, node: Node) -> Labelled:
    return state.value(node.inputs[0])


def _shape(node: Node) -> tuple[int, ...]:
    assert node.shape is not None
    return node.shape


def _mapped(state: Propagation, value: Labelled, shape: Sequence[int], function: Callable[[Any], Any]) -> Labelled:
    return Labelled(tuple(shape), state.space.compacted(function(plane) for plane in value.planes))


@RULES.rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "_reshape_alias")
def _view(state: Propagation, node: Node) -> Result:
    return reshaped(state.space, _first(state, node), _shape(node))


@RULES.rule("permute")
def _permute(state: Propagation, node: Node) -> Result:
    order = node.arguments["dims"]
    return _mapped(state, _first(state, node), _shape(node), lambda plane: plane.transpose(order))


@RULES.rule("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT")
def _transpose(state: Propagation, node: Node) -> Result:
    value = _first(state, node)
    rank = len(value.shape)
    a, b = node.arguments.get("dim0", rank - 2), node.arguments.get("dim1", rank - 1)
    if rank < 2:
        return value
    return _mapped(state, value, _shape(node), lambda plane: plane.swapaxes(a, b))


@RULES.rule("movedim", "moveaxis")
def _movedim(state: Propagation, node: Node) -> Result:
    source, target = node.arguments["source"], node.arguments["destination"]
    return _mapped(state, _first(state, node), _shape(node), lambda plane: np.moveaxis(plane, source, target))


@RULES.rule("unsqueeze")
def _unsqueeze(state: Propagation, node: Node) -> Result:
    dim = node.arguments["dim"] % len(_shape(node))
    return _mapped(state, _first(state, node), _shape(node), lambda plane: np.expand_dims(plane, dim))


@RULES.rule("squeeze")
def _squeeze(state: Propagation, node: Node) -> Result:
    value = _first(state, node)
    dims = node.arguments.get("dim", tuple(range(len(value.shape))))
    dims = [dim % len(value.shape) for dim in ((dims,) if isinstance(dims, int) else dims)]
    return drop_axes(value, [dim for dim in dims if value.shape[dim] == 1])


@RULES.rule("expand", "expand_as", "broadcast_to")
def _expand(state: Propagation, node: Node) -> Result:
    value, shape = _first(state, node), _shape(node)
    planes = [lift(plane, len(shape)) for plane in value.planes]
    old = (1,) * (len(shape) - len(value.shape)) + value.shape
    # Copies of one element: any of them may be left out.
    grown = [size if before == 1 and size > 1 else 1 for before, size in zip(old, shape, strict=True)]
    return Labelled(shape, tuple(planes) + state.free(grown).planes)


@RULES.rule("repeat", "tile")
def _repeat(state: Propagation, node: Node) -> Result:
    value, shape = _first(state, node), _shape(node)
    times = node.arguments.get("repeats", node.arguments.get("dims"))
    old = (1,) * (len(shape) - len(value.shape)) + value.shape
    times = (1,) * (len(shape) - len(times)) + tuple(times)
    planes = [
        np.tile(
            lift(plane, len(shape)),
            [count if lift(plane, len(shape)).shape[axis] > 1 else 1 for axis, count in enumerate(times)],
        )
        for plane in value.planes
    ]
    grown = [count if before == 1 else 1 for before, count in zip(old, times, strict=True)]
    return Labelled(shape, tuple(planes) + state.free(grown).planes)


@RULES.rule("repeat_interleave")
def _repeat_interleave(state: Propagation, node: Node) -> Result:
    value, times, dim = _first(state, node), node.arguments.get("repeats"), node.arguments.get("dim")
    if not isinstance(times, int) or dim is None:
        return state.unknown(node)
    dim %= len(value.shape)
    return _mapped(
        state, value, _shape(node), lambda plane: np.repeat(plane, times, dim) if plane.shape[dim] > 1 else plane
    )


@RULES.rule("cat", "concat", "concatenate")
def _cat(state: Propagation, node: Node) -> Result:
    values = [state.value(ref.name) for ref in node.arguments["tensors"]]
    values = [value for value in values if value.shape != (0,)]  # torch ignores empty vectors
    return concatenated(state, node, values, node.arguments.get("dim", 0) % len(_shape(node)))


def concatenated(state: Propagation, node: Node, values: Sequence[Labelled], dim: int) -> Labelled:
    """Labels along `dim` stand side by side, labels along other axes vanish together in all parts."""
    shape, cause = _shape(node), state.cause(node, "concatenated with a part of fixed width")
    along, across = [], []
    for value in values:
        along.append([plane for plane in value.planes if plane.shape[dim] > 1])
        others = [plane for plane in value.planes if plane.shape[dim] == 1]
        # Seen as one element along `dim`, the parts meet as in an element-wise operation.
        across.append(
            Labelled(tuple(1 if axis == dim else size for axis, size in enumerate(value.shape)), tuple(others))
        )
    result = state.space.merge(across, cause)
    planes = list(result.planes)
    if any(along):
        # One plane per part: where a part has none, or one that overlaps others, its positions are fixed.
        full = [1] * len(shape)
        for part in along:
            for plane in part:
                for axis in axes_of(plane):
                    full[axis] = shape[axis]
        columns = []
        for value, part in zip(values, along, strict=True):
            size = [value.shape[axis] if axis == dim else full[axis] for axis in range(len(shape))]
            if len(part) > 1:
                for plane in part:
                    state.space.fix(plane, cause)
                part = []
            columns.append(np.broadcast_to(part[0], size) if part else np.zeros(size, np.int64))
        joined = np.concatenate(columns, dim)
        if any(axis != dim and full[axis] > 1 for axis in range(len(shape))):
            whole = state.space.collapse(
                Labelled(shape, (joined,)), [axis for axis in range(len(shape)) if axis != dim], cause
            )
            planes += whole.planes
        else:
            planes.append(joined)
    return Labelled(shape, state.space.compacted(planes))


@RULES.rule("stack")
def _stack(state: Propagation, node: Node) -> Result:
    dim = node.arguments.get("dim", 0) % len(_shape(node))
    values = [state.value(ref.name) for ref in node.arguments["tensors"]]
    lifted = [
        Labelled((*v.shape[:dim], 1, *v.shape[dim:]), tuple(np.expand_dims(p, dim) for p in v.planes)) for v in values
    ]
    return concatenated(state, node, lifted, dim)


@RULES.rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def _split(state: Propagation, node: Node) -> Result:
    value = _first(state, node)
    dim = node.arguments.get("dim", 0) % len(value.shape)
    parts, start = [], 0
    for shape in node.shapes:
        assert shape is not None
        parts.append(_sliced(state, node, value, shape, dim, start))
        start += shape[dim]
    return tuple(parts)


def _sliced(state: Propagation, node: Node, value: Labelled, shape: Sequence[int], dim: int, start: int) -> Labelled:
    """A part as long as `shape` says. Of one channel it is read by everything that it is broadcast to: it stays."""
    index = [slice(None)] * len(value.shape)
    index[dim] = slice(start, start + shape[dim])
    if shape[dim] == 1:
        for plane in value.planes:
            if axes_of(plane) == (dim,):
                state.space.fix(plane[tuple(index)], state.cause(node, "picks this one channel by its number"))
    return _mapped(state, value, shape, lambda plane: plane[tuple(index)] if plane.shape[dim] > 1 else plane)


@RULES.rule("unbind")
def _unbind(state: Propagation, node: Node) -> Result:
    value = _first(state, node)
    dim = node.arguments.get("dim", 0) % len(value.shape)
    return tuple(_picked(state, node, value, dim, index) for index in range(value.shape[dim]))


@RULES.rule("select")
def _select(state: Propagation, node: Node) -> Result:
    value = _first(state, node)
    dim = node.arguments["dim"] % len(value.shape)
    return _picked(state, node, value, dim, node.arguments["index"] % value.shape[dim])


def _picked(state: Propagation, node: Node, value: Labelled, dim: int, index: int) -> Labelled:
    shape = tuple(1 if axis == dim else size for axis, size in enumerate(value.shape))
    return drop_axes(_sliced(state, node, value, shape, dim, index), [dim])


@RULES.rule("slice", "narrow")
def _slice(state: Propagation, node: Node) -> Result:
    value, shape = _first(state, node), _shape(node)
    dim = node.arguments.get("dim", 0) % len(value.shape)
    if node.arguments.get("step", 1) != 1:
        value = state.space.collapse(value, [dim], state.cause(node, "takes every n-th channel"))
    start, _ = slice_bounds(node, value.shape[dim])
    return _sliced(state, node, value, shape, dim, start)


@RULES.rule("slice_scatter")
def _slice_scatter(state: Propagation, node: Node) -> Result:
    """Positions of a slice are put into the others: what stands before, the part, what stands behind."""
    base, part = _first(state, node), state.value(node.arguments["src"].name)
    dim = node.arguments.get("dim", 0) % len(base.shape)
    cause = state.cause(node, "channels are assigned by their numbers")
    if node.arguments.get("step", 1) != 1:
        base, part = (state.space.collapse(value, [dim], cause) for value in (base, part))
        return state.space.merge([base, Labelled(base.shape, part.planes)], cause)
    start, _ = slice_bounds(node, base.shape[dim])
    end = start + part.shape[dim]

    def between(first: int, last: int) -> Labelled:
        sizes = [last - first if axis == dim else size for axis, size in enumerate(base.shape)]
        return _sliced(state, node, base, sizes, dim, first)

    pieces = [between(0, start), state.space.merge([between(start, end), part], cause), between(end, base.shape[dim])]
    return concatenated(state, node, [piece for piece in pieces if piece.shape[dim]], dim)


def slice_bounds(node: Node, size: int) -> tuple[int, int]:
    """First and last position (exclusive) that a slice or narrow reads on an axis of `size`."""
    start = node.arguments.get("start") or 0
    start = max(0, start + size if start < 0 else min(start, size))
    if node.op == "narrow":
        return start, start + node.arguments["length"]
    end = node.arguments.get("end")
    end = size if end is None else max(0, end + size if end < 0 else min(end, size))
    return start, end


@RULES.rule("unfold")
def _unfold(state: Propagation, node: Node) -> Result:
    """Windows along one axis, which become the last axis."""
    value, dim = _first(state, node), node.arguments["dimension"]
    value = state.space.collapse(value, [dim], state.cause(node, "windows over channels"))
    return _mapped(state, value, _shape(node), lambda plane: np.expand_dims(plane, -1))


@RULES.rule("im2col")
def _im2col(state: Propagation, node: Node) -> Result:
    """[..., C, H, W] -> [..., C x window, positions]."""
    value, shape = _first(state, node), _shape(node)
    value = state.space.collapse(value, [-1, -2], state.cause(node, "labels along pixels"))
    window = shape[-2] // value.shape[-3]
    return _mapped(
        state,
        value,
        shape,
        lambda plane: np.repeat(plane[..., 0], window, -2) if plane.shape[-3] > 1 else plane[..., 0],
    )


@RULES.rule("col2im")
def _col2im(state: Propagation, node: Node) -> Result:
    """[..., C x window, positions] -> [..., C, H, W]."""
    value, shape = _first(state, node), _shape(node)
    cause = state.cause(node, "the channels of one window go together")
    split = (*value.shape[:-2], shape[-3], value.shape[-2] // shape[-3], value.shape[-1])
    whole = state.space.collapse(reshaped(state.space, value, split), [-1, -2], cause)
    return _mapped(state, whole, shape, lambda plane: plane)


@RULES.rule("pad", "constant_pad_nd")
def _pad(state: Propagation, node: Node) -> Result:
    value, shape = _first(state, node), _shape(node)
    widths = node.arguments["pad"]
    if node.arguments.get("mode", "constant") != "constant":
        touched = [len(shape) - 1 - pair for pair in range(len(widths) // 2) if any(widths[2 * pair : 2 * pair + 2])]
        value = state.space.collapse(value, touched, state.cause(node, "padding copies neighbouring channels"))
        return Labelled(shape, value.planes)
    planes = list(value.planes)
    for pair in range(len(widths) // 2):
        axis = len(shape) - 1 - pair
        before, after = widths[2 * pair], widths[2 * pair + 1]
        for number, plane in enumerate(planes):
            if plane.shape[axis] == 1:
                continue
            index = [slice(None)] * plane.ndim
            index[axis] = slice(max(0, -before), plane.shape[axis] - max(0, -after))
            plane = plane[tuple(index)]
            # Padded positions hold a constant: nothing keeps them from being left out.
            for count, first in ((max(0, before), True), (max(0, after), False)):
                if count:
                    size = list(plane.shape)
                    size[axis] = count
                    fresh = state.space.fresh(int(np.prod(size))).reshape(size)
                    plane = np.concatenate([fresh, plane] if first else [plane, fresh], axis)
            planes[number] = plane
    return Labelled(shape, state.space.compacted(planes))


@RULES.rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def _pixel_shuffle(state: Propagation, node: Node) -> Result:
    value, shape = _first(state, node), _shape(node)
    axis = 1 if "channel" in node.op else len(shape) - 3
    if node.op == "pixel_shuffle":
        factor = node.arguments["upscale_factor"] ** 2
        split = (*shape[:axis], shape[axis], factor, *value.shape[axis + 1 :])
        whole = state.space.collapse(
            reshaped(state.space, value, split),
            [axis + 1],
            state.cause(node, "the channels of one pixel block go together"),
        )
        return _mapped(
            state,
            drop_axes(Labelled((*split[: axis + 1], 1, *split[axis + 2 :]), whole.planes), [axis + 1]),
            shape,
            lambda plane: plane,
        )
    if node.op == "pixel_unshuffle":
        factor = node.arguments["downscale_factor"] ** 2
        value = state.space.collapse(value, [axis + 1, axis + 2], state.cause(node, "labels along pixels"))
        return _mapped(
            state, value, shape, lambda plane: np.repeat(plane, factor, axis) if plane.shape[axis] > 1 else plane
        )
    groups = node.arguments["groups"]
    split = (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    grid = reshaped(state.space, in_finer_groups(state, value, axis, groups, node), split)
    swapped = (*shape[:axis], split[axis + 1], groups, *shape[axis + 1 :])
    return reshaped(state.space, _mapped(state, grid, swapped, lambda p: p.swapaxes(axis, axis + 1)), shape)


@RULES.rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def _grid_sampler(state: Propagation, node: Node) -> Result:
    """Positions of each channel are read anew, where the other input says."""
    value, shape = required(state, node, "input"), _shape(node)
    cause = state.cause(node, "the positions that are read")
    state.space.fix_value(required(state, node, "grid"), cause)
    return Labelled(shape, state.space.collapse(value, range(2, len(shape)), cause).planes)


@RULES.rule("tril", "triu")
def _triangle(state: Propagation, node: Node) -> Result:
    return state.space.collapse(_first(state, node), [-2, -1], state.cause(node, "labels in a triangle"))


@RULES.rule("flip", "roll", "rot90")
def _flip(state: Propagation, node: Node) -> Result:
    value = _first(state, node)
    dims = node.arguments.get("dims") or tuple(range(len(value.shape)))
    return state.space.collapse(value, dims, state.cause(node, "the order of the channels changes"))


@RULES.rule("cumsum", "cumprod", "logcumsumexp")
def _cumulated(state: Propagation, node: Node) -> Result:
    return state.space.collapse(_first(state, node), [node.arguments["dim"]], state.cause(node, "a sum over channels"))


@RULES.rule("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "empty", "new_empty")
def _constant(state: Propagation, node: Node) -> Result:
    return state.free(_shape(node))


@RULES.rule("_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_size")
def _check(state: Propagation, node: Node) -> Result:
    return Labelled(())


@RULES.rule("getitem")
def _getitem(state: Propagation, node: Node) -> Result:
    source, index = node.arguments["0"], node.arguments["1"]
    assert isinstance(source, Ref)
    several = state.values[source.name]
    if not isinstance(several, tuple):
        return state.unknown(node)
    return several[index] or Labelled(node.shape or ())
