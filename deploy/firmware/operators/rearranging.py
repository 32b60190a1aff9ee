# SPDX-License-Identifier: Apache-2.0
"""Lowering of operators that take parts, stack, fold and choose: copies with strides, as far as they go."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from edgepress.deploy.firmware.lowering.context import Refused, Rows, described, merged, strides
from edgepress.deploy.firmware.lowering.steps import Value
from edgepress.deploy.firmware.operators.moves import copy, ends
from edgepress.deploy.firmware.operators.values import lookup
from edgepress.deploy.tflite.reader import Operator


def slice_(rows: Rows, operator: Operator) -> None:
    """SLICE: a start and a size in each dimension; -1 is all that is left."""
    x, y = ends(rows, operator)
    start, size = rows.integers(operator, 1), rows.integers(operator, 2)
    if len(start) != len(x.shape) or len(size) != len(x.shape):
        raise Refused(f"begin {start} and size {size} of {list(x.shape)}")
    sizes = [whole - at if wanted == -1 else wanted for whole, at, wanted in zip(x.shape, start, size, strict=True)]
    if any(at < 0 or n < 1 or at + n > whole for at, n, whole in zip(start, sizes, x.shape, strict=True)):
        raise Refused(f"begin {start} and size {size} lie outside of {list(x.shape)}")
    if tuple(sizes) != y.shape:
        raise Refused(f"a slice of {sizes} is not {list(y.shape)}")
    step = strides(x.shape)
    begin = sum(at * s for at, s in zip(start, step, strict=True))
    copy(rows, sizes, step, strides(sizes), x, y, _summary(x, y), from_start=begin)


def pack(rows: Rows, operator: Operator) -> None:
    """PACK: inputs become neighbours along a new dimension."""
    y = rows.values[operator.outputs[0]]
    axis = _axis(operator, "axis", len(y.shape))
    step = strides(y.shape)
    for position in range(len(operator.inputs)):
        x, _ = ends(rows, operator, position)
        _same_scale(rows, x, y)
        if (*x.shape[:axis], len(operator.inputs), *x.shape[axis:]) != y.shape:
            raise Refused(f"{len(operator.inputs)} times {list(x.shape)} along axis {axis} is not {list(y.shape)}")
        walk = [*step[:axis], *step[axis + 1 :]]
        copy(rows, x.shape, strides(x.shape), walk, x, y, _summary(x, y), to_start=position * step[axis])


def unpack(rows: Rows, operator: Operator) -> None:
    """UNPACK: one output for each index of a dimension."""
    x = rows.operand(operator, 0)
    axis = _axis(operator, "axis", len(x.shape))
    step = strides(x.shape)
    for number, index in enumerate(operator.outputs):
        y = rows.values[index]
        if x.dtype != y.dtype or (*x.shape[:axis], *x.shape[axis + 1 :]) != y.shape:
            raise Refused(f"{x.dtype} {list(x.shape)} along axis {axis} does not give {y.dtype} {list(y.shape)}")
        if number >= x.shape[axis]:
            raise Refused(f"{len(operator.outputs)} outputs of {x.shape[axis]} along axis {axis}")
        walk = [*step[:axis], *step[axis + 1 :]]
        copy(rows, y.shape, walk, strides(y.shape), x, y, _summary(x, y), from_start=number * step[axis])


def depth_and_space(rows: Rows, operator: Operator) -> None:
    """DEPTH_TO_SPACE and SPACE_TO_DEPTH: blocks of pixels become channels of one, or the reverse."""
    x, y = ends(rows, operator)
    block = operator.option("block_size", 0)
    small, large = (x, y) if operator.code == "DEPTH_TO_SPACE" else (y, x)
    n, h, w, c = large.shape if len(large.shape) == 4 else (0, 0, 0, 0)
    if block < 1 or h % block or w % block or small.shape != (n, h // block, w // block, c * block * block):
        raise Refused(f"{list(x.shape)} does not become {list(y.shape)} with blocks of {block}")
    shape = (n, h // block, block, w // block, block, c)
    in_large, order = strides(shape), (0, 1, 3, 2, 4, 5)  # in the small one, both rows of a block lie in the channels
    in_small = strides([shape[i] for i in order])
    walk = [in_small[order.index(i)] for i in range(6)]
    source, target = (walk, in_large) if operator.code == "DEPTH_TO_SPACE" else (in_large, walk)
    copy(rows, shape, source, target, x, y, _summary(x, y))


def broadcast_to(rows: Rows, operator: Operator) -> None:
    """BROADCAST_TO: dimensions of one element are repeated."""
    x, y = ends(rows, operator)
    shape = (1,) * (len(y.shape) - len(x.shape)) + x.shape
    if len(shape) != len(y.shape) or any(a not in (1, b) for a, b in zip(shape, y.shape, strict=True)):
        raise Refused(f"{list(x.shape)} cannot be broadcast to {list(y.shape)}")
    walk = [0 if size == 1 else step for size, step in zip(shape, strides(shape), strict=True)]
    copy(rows, y.shape, walk, strides(y.shape), x, y, _summary(x, y))


def reverse(rows: Rows, operator: Operator) -> None:
    """REVERSE_V2: one dimension backwards."""
    x, y = ends(rows, operator)
    axes = rows.integers(operator, 1)
    if x.shape != y.shape or len(axes) != 1 or not -len(x.shape) <= axes[0] < len(x.shape):
        raise Refused(f"the axes {axes} of {list(x.shape)}")
    step, axis = strides(x.shape), axes[0] % len(x.shape)
    walk = [-s if i == axis else s for i, s in enumerate(step)]
    copy(rows, x.shape, walk, step, x, y, _summary(x, y), from_start=(x.shape[axis] - 1) * step[axis])


def gather(rows: Rows, operator: Operator) -> None:
    """GATHER: slices by their numbers along an axis; a table of 256 for every int8 is a function of it."""
    x, y = ends(rows, operator)
    which = rows.operand(operator, 1)
    axis = _axis(operator, "axis", len(x.shape))
    batches = operator.option("batch_dims", 0)
    if which.index in rows.indices:
        source, offset = rows.indices[which.index]
        assert x.data is not None
        table = x.data.reshape(-1)[np.arange(-128, 128) + offset]
        lookup(rows, operator, source, y, lambda: table)
        return
    if which.dtype != "int32":
        raise Refused(f"{which.name!r} is {which.dtype}, not int32")
    if not 0 <= batches <= min(axis, len(which.shape)) or x.shape[:batches] != which.shape[:batches]:
        raise Refused(f"{batches} dimensions of {list(x.shape)} and {list(which.shape)} are no batches")
    _slices(rows, x, which, which.shape, y, axis, batches)


def gather_nd(rows: Rows, operator: Operator) -> None:
    """GATHER_ND by one number each: slices along the first axis."""
    x, y = ends(rows, operator)
    which = rows.operand(operator, 1, constant=True)
    if which.dtype != "int32" or which.data is None or not which.shape or which.shape[-1] != 1:
        raise Refused(f"{which.name!r} is {which.dtype} {list(which.shape)}, not int32 with one number for each slice")
    _slices(rows, x, which, which.shape[:-1], y, 0, 0)


def _slices(rows: Rows, x: Value, which: Value, numbers: tuple[int, ...], y: Value, axis: int, batches: int) -> None:
    """Slices of `x` along an axis by numbers of the shape `numbers`."""
    if (*x.shape[:axis], *numbers[batches:], *x.shape[axis + 1 :]) != y.shape:
        raise Refused(f"{list(x.shape)} by {list(which.shape)} along axis {axis} is not {list(y.shape)}")
    if which.data is not None and not ((which.data >= 0) & (which.data < x.shape[axis])).all():
        raise Refused(f"{which.name!r} holds numbers outside of {x.shape[axis]}")
    rows.add(
        "ep_gather",
        "ep_gather_plan",
        {
            "batches": prod(x.shape[:batches]),
            "outer": prod(x.shape[batches:axis]),
            "size": x.shape[axis],
            "count": prod(numbers[batches:]),
            "bytes": prod(x.shape[axis + 1 :]) * np.dtype(x.dtype).itemsize,
        },
        [x.index, which.index],
        y.index,
        f"{described(x.shape)} by {described(which.shape)} -> {described(y.shape)}",
    )


def cast(rows: Rows, operator: Operator) -> None:
    """CAST between integers; what only chooses from tables is not made."""
    x, y = rows.operand(operator, 0, constant=False), rows.values[operator.outputs[0]]
    if prod(x.shape) != prod(y.shape):
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    if x.dtype == "int8" and y.dtype == "int32" and only_chooses(rows, y.index, 0):
        rows.indices[y.index] = (x, 0)
        return
    kernels = {
        ("int8", "int32"): "ep_cast_8_32",
        ("int16", "int32"): "ep_cast_16_32",
        ("int32", "int8"): "ep_cast_32_8",
    }
    if (x.dtype, y.dtype) not in kernels:
        raise Refused(f"it makes {y.dtype} of {x.dtype}")
    kernel = kernels[x.dtype, y.dtype]
    rows.add(kernel, "", {}, [x.index], y.index, described(x.shape), arguments=(str(prod(y.shape)),))


def add_to_index(rows: Rows, operator: Operator) -> None:
    """ADD of int32: what is added to an index, or a sum that wraps."""
    for position in (0, 1):
        x = rows.values[operator.inputs[position]]
        if x.index in rows.indices:
            source, offset = rows.indices[x.index]
            rows.indices[operator.outputs[0]] = (source, offset + rows.integers(operator, 1 - position)[0])
            return
    a, b, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    if operator.option("fused_activation", "NONE") != "NONE" or {a.dtype, b.dtype, y.dtype} != {"int32"}:
        raise Refused(f"it adds {a.dtype} and {b.dtype} with {operator.option('fused_activation', 'NONE')}")
    rank = len(y.shape)
    shapes = [(1,) * (rank - len(v.shape)) + v.shape for v in (a, b)]
    if any(size not in (1, whole) for shape in shapes for size, whole in zip(shape, y.shape, strict=True)):
        raise Refused(f"{list(a.shape)} and {list(b.shape)} do not give {list(y.shape)}")
    walks = [[0 if n == 1 else s for n, s in zip(shape, strides(shape), strict=True)] for shape in shapes]
    size, a_stride, b_stride = merged(y.shape, *walks)
    fields = {"size": size, "a_stride": a_stride, "b_stride": b_stride}
    rows.add("ep_add_32", "ep_binary", fields, [a.index, b.index], y.index, described(y.shape))


def only_chooses(rows: Rows, tensor: int, offset: int) -> bool:
    """Whether an int32 of [-128, 127] + offset only chooses from constant tables that have a place for each."""
    if tensor in rows.outputs:
        return False
    for reader in rows.readers(tensor):
        if reader.code == "GATHER" and reader.inputs[1] == tensor and reader.inputs[0] != tensor:
            table = rows.values[reader.inputs[0]]
            y = rows.values[reader.outputs[0]]
            fits = table.data is not None and table.dtype == y.dtype == "int8" and len(table.shape) == 1
            if not fits or offset < 128 or table.shape[0] < offset + 128 or reader.option("batch_dims", 0):
                return False
        elif reader.code == "ADD" and reader.inputs[0] != reader.inputs[1]:
            other = rows.values[reader.inputs[1 - tuple(reader.inputs).index(tensor)]]
            plain = reader.option("fused_activation", "NONE") == "NONE"
            if other.data is None or other.dtype != "int32" or other.data.size != 1 or not plain:
                return False
            if not only_chooses(rows, reader.outputs[0], offset + int(other.data.reshape(-1)[0])):
                return False
        else:
            return False
    return True


def _axis(operator: Operator, name: str, rank: int) -> int:
    axis = operator.option(name, 0)
    if not -rank <= axis < rank:
        raise Refused(f"axis {axis} of {rank} dimensions")
    return axis % rank


def _same_scale(rows: Rows, x: Value, y: Value) -> None:
    if x.dtype in ("int8", "int16") and rows.quantized(x, x.dtype) != rows.quantized(y, x.dtype):
        raise Refused(f"{x.name!r} and the output have different scales")


def _summary(x: Value, y: Value) -> str:
    return f"{described(x.shape)} -> {described(y.shape)}"


def batches_and_space(rows: Rows, operator: Operator) -> None:
    """SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND of images [N, H, W, C] whose padding and crops are 0."""
    x, y = ends(rows, operator)
    block, borders = rows.integers(operator, 1), rows.integers(operator, 2)
    few, many = (x, y) if operator.code == "SPACE_TO_BATCH_ND" else (y, x)
    if len(few.shape) != 4 or len(block) != 2 or any(borders):
        raise Refused(f"{list(x.shape)} in blocks of {block} with borders of {borders}")
    n, h, w, c = few.shape
    high, wide = block
    if h % high or w % wide or many.shape != (n * high * wide, h // high, w // wide, c):
        raise Refused(f"{list(x.shape)} does not become {list(y.shape)} with blocks of {block}")
    shape: Sequence[int] = (n, h // high, high, w // wide, wide, c)
    in_few, order = strides(shape), (2, 4, 0, 1, 3, 5)
    in_many = strides([shape[i] for i in order])
    walk = [in_many[order.index(i)] for i in range(6)]
    source, target = (in_few, walk) if operator.code == "SPACE_TO_BATCH_ND" else (walk, in_few)
    copy(rows, shape, source, target, x, y, _summary(x, y))
