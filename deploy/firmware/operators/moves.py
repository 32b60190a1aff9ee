# SPDX-License-Identifier: Apache-2.0
"""Lowering of operators that only move values: strides are worked out here, and one kernel copies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np

from edgepress.deploy.firmware.lowering.context import Refused, Rows, described, merged, strides
from edgepress.deploy.firmware.lowering.steps import Value
from edgepress.deploy.tflite.reader import Operator


def alias(rows: Rows, operator: Operator) -> None:
    """RESHAPE and its like: the same memory under another shape."""
    x, y = rows.operand(operator, 0, constant=False), rows.values[operator.outputs[0]]
    if x.size_bytes != y.size_bytes or x.dtype != y.dtype:
        raise Refused(f"{x.dtype} {list(x.shape)} becomes {y.dtype} {list(y.shape)}")
    # Two ends in one place would make an output change with the next input: those are copied.
    if y.index in rows.outputs and (rows.home(x.index) in rows.inputs or x.index in rows.outputs):
        copy(rows, x.shape, strides(x.shape), strides(x.shape), x, y, described(x.shape))
    else:
        rows.aliases[y.index] = x.index


def copy(
    rows: Rows,
    shape: Sequence[int],
    from_step: Sequence[int],
    to_step: Sequence[int],
    x: Value,
    y: Value,
    summary: str,
    *,
    from_start: int = 0,
    to_start: int = 0,
) -> None:
    """Elements of any type move from one set of strides to another; the kernel counts in bytes."""
    each = np.dtype(x.dtype).itemsize
    inside = ([], [], []) if each == 1 else ([each], [1], [1])
    size, source, target = merged(
        [*shape, *inside[0]], [s * each for s in from_step] + inside[1], [s * each for s in to_step] + inside[2]
    )
    rows.add(
        "ep_copy",
        "ep_move",
        {"size": size, "from": source, "to": target, "from_start": from_start * each, "to_start": to_start * each},
        [x.index],
        y.index,
        summary,
    )


def ends(rows: Rows, operator: Operator, position: int = 0) -> tuple[Value, Value]:
    """An input and the first output, which have one type."""
    x, y = rows.operand(operator, position), rows.values[operator.outputs[0]]
    if x.dtype != y.dtype:
        raise Refused(f"{x.name!r} is {x.dtype}, and the output {y.dtype}")
    if x.dtype not in ("int8", "int16", "int32", "float32"):
        raise Refused(f"{x.name!r} is {x.dtype}")
    return x, y


def fill(rows: Rows, y: Value, value: int | float) -> None:
    """One value everywhere."""
    pattern = np.array(value, y.dtype)
    if pattern.itemsize > 1 and not any(pattern.tobytes()):  # zeros are zeros in every type
        rows.add("ep_fill", "", {}, [], y.index, described(y.shape), arguments=("0", str(y.size_bytes)))
        return
    kernel = {1: "ep_fill", 2: "ep_fill_16", 4: "ep_fill_32"}[pattern.itemsize]
    text = str(pattern.view(f"i{pattern.itemsize}")).replace(str(-(2**31)), "INT32_MIN")
    rows.add(kernel, "", {}, [], y.index, described(y.shape), arguments=(text, str(prod(y.shape))))


def pad(rows: Rows, operator: Operator) -> None:
    """PAD with the value 0.0, which is the output's zero point, or PADV2 with a constant of the input's type."""
    x, y = ends(rows, operator)
    value: int | float = 0
    if x.dtype in ("int8", "int16"):
        if rows.quantized(x, x.dtype) != rows.quantized(y, x.dtype):
            raise Refused("input and output have different scales")
        value = rows.quantized(y, x.dtype)[1]
    zero = value
    if operator.code == "PADV2":
        given = rows.operand(operator, 2, constant=True)
        if given.dtype != x.dtype or given.data is None or given.data.size != 1:
            raise Refused(f"its value is {given.dtype} {list(given.shape)}")
        if x.dtype in ("int8", "int16") and rows.quantized(given, x.dtype) != rows.quantized(y, x.dtype):
            raise Refused("the value has another scale than the output")
        value = given.data.reshape(-1)[0].item()
    pairs = _paddings(rows, operator, x, y)
    if len(pairs) == 4 and pairs[0] == pairs[3] == (0, 0) and value == zero and rows.only_convolved(y.index):
        # Convolutions take positions outside of the image for zero themselves.
        rows.paddings[y.index] = (x, pairs[1][0], pairs[2][0])
        return
    step = strides(y.shape)
    fill(rows, y, value)
    copy(
        rows,
        x.shape,
        strides(x.shape),
        step,
        x,
        y,
        f"{described(x.shape)} -> {described(y.shape)}",
        to_start=sum(before * s for (before, _), s in zip(pairs, step, strict=True)),
    )


def _paddings(rows: Rows, operator: Operator, x: Value, y: Value) -> list[tuple[int, int]]:
    """What is added before and behind along each axis."""
    flat = rows.integers(operator, 1)
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    if len(pairs) != len(x.shape) or any(min(pair) < 0 for pair in pairs):
        raise Refused(f"the paddings {pairs} of {list(x.shape)}")
    if tuple(size + before + after for size, (before, after) in zip(x.shape, pairs, strict=True)) != y.shape:
        raise Refused(f"{list(x.shape)} padded by {pairs} is not {list(y.shape)}")
    return pairs


def mirror_pad(rows: Rows, operator: Operator) -> None:
    """MIRROR_PAD: the middle, and each edge and corner as a copy that runs backwards."""
    x, y = ends(rows, operator)
    if x.dtype in ("int8", "int16") and rows.quantized(x, x.dtype) != rows.quantized(y, x.dtype):
        raise Refused("input and output have different scales")
    pairs, apart = _paddings(rows, operator, x, y), int(operator.option("mode", 0) == 0)  # REFLECT leaves the edge out
    if any(max(pair) > size - apart for pair, size in zip(pairs, x.shape, strict=True)):
        raise Refused(f"the paddings {pairs} of {list(x.shape)}")
    # Of each axis: length, where it is read from and in which direction, and where it is written to.
    regions = [
        [
            (length, start, way, to)
            for length, start, way, to in (
                (before, before - 1 + apart, -1, 0),
                (size, 0, 1, before),
                (after, size - 1 - apart, -1, before + size),
            )
            if length
        ]
        for size, (before, after) in zip(x.shape, pairs, strict=True)
    ]
    read, written = strides(x.shape), strides(y.shape)
    for region in product(*regions):
        copy(
            rows,
            [length for length, _, _, _ in region],
            [way * step for (_, _, way, _), step in zip(region, read, strict=True)],
            written,
            x,
            y,
            f"{described(x.shape)} -> {described(y.shape)}",
            from_start=sum(start * step for (_, start, _, _), step in zip(region, read, strict=True)),
            to_start=sum(to * step for (_, _, _, to), step in zip(region, written, strict=True)),
        )


def concatenation(rows: Rows, operator: Operator) -> None:
    """One copy for each input."""
    y = rows.values[operator.outputs[0]]
    if operator.option("fused_activation", "NONE") != "NONE":
        raise Refused("it has a fused activation")
    rank, step, at = len(y.shape), strides(y.shape), 0
    axis = operator.option("axis", 0) % rank if rank else 0
    for position in range(len(operator.inputs)):
        x, _ = ends(rows, operator, position)
        # TFLite Micro copies without a change of scale; the format demands that there is none.
        if x.dtype in ("int8", "int16") and rows.quantized(x, x.dtype) != rows.quantized(y, x.dtype):
            raise Refused(f"{x.name!r} and the output have different scales")
        if len(x.shape) != rank or any(
            m != n for i, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)) if i != axis
        ):
            raise Refused(f"{list(x.shape)} does not fit into {list(y.shape)} along axis {axis}")
        copy(
            rows,
            x.shape,
            strides(x.shape),
            step,
            x,
            y,
            f"{described(x.shape)} -> {described(y.shape)}",
            to_start=at * step[axis],
        )
        at += x.shape[axis]
    if not rank or at != y.shape[axis]:
        raise Refused(f"the inputs fill {at} of {list(y.shape)} along axis {axis}")


def split(rows: Rows, operator: Operator) -> None:
    """One copy for each output; SPLIT's axis is input 0, that of SPLIT_V input 2."""
    x = rows.operand(operator, 0 if operator.code == "SPLIT_V" else 1)
    axis = rows.integers(operator, 2 if operator.code == "SPLIT_V" else 0)[0]
    rank, step, at = len(x.shape), strides(x.shape), 0
    if not -rank <= axis < rank:
        raise Refused(f"axis {axis} of {list(x.shape)}")
    axis %= rank
    for index in operator.outputs:
        y = rows.values[index]
        if (
            x.dtype != y.dtype
            or len(y.shape) != rank
            or any(m != n for i, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)) if i != axis)
        ):
            raise Refused(f"{x.dtype} {list(x.shape)} does not give {y.dtype} {list(y.shape)} along axis {axis}")
        copy(
            rows,
            y.shape,
            step,
            strides(y.shape),
            x,
            y,
            f"{described(x.shape)} -> {described(y.shape)}",
            from_start=at * step[axis],
        )
        at += y.shape[axis]
    if at != x.shape[axis]:
        raise Refused(f"the outputs take {at} of {x.shape[axis]} along axis {axis}")


def strided_slice(rows: Rows, operator: Operator) -> None:
    """Begin, end and step of each dimension, as in Python."""
    x, y = ends(rows, operator)
    begin, end, stride = (rows.integers(operator, position) for position in (1, 2, 3))
    option = operator.option
    if option("ellipsis_mask", 0) or option("new_axis_mask", 0):
        raise Refused("it has an ellipsis or a new axis")
    if not len(begin) == len(end) == len(stride) <= len(x.shape) or 0 in stride:
        raise Refused(f"begin {begin}, end {end}, strides {stride} of {list(x.shape)}")
    step, start, sizes, walk = strides(x.shape), 0, [], []
    for i, size in enumerate(x.shape):
        if i >= len(begin):
            chosen = range(size)
        elif option("shrink_axis_mask", 0) >> i & 1:
            at = begin[i] + size if begin[i] < 0 else begin[i]
            chosen = range(at, at + 1)
        else:
            last = begin[i] + end[i] if option("offset", False) else end[i]
            chosen = range(size)[
                slice(
                    None if option("begin_mask", 0) >> i & 1 else begin[i],
                    None if option("end_mask", 0) >> i & 1 else last,
                    stride[i],
                )
            ]
        if not chosen or not 0 <= min(chosen) <= max(chosen) < size:
            raise Refused(f"it takes nothing of dimension {i} of {list(x.shape)}")
        start += chosen[0] * step[i]
        sizes.append(len(chosen))
        walk.append(chosen.step * step[i])
    if prod(sizes) != prod(y.shape):
        raise Refused(f"a slice of {sizes} values is not {list(y.shape)}")
    copy(rows, sizes, walk, strides(sizes), x, y, f"{described(x.shape)} -> {described(y.shape)}", from_start=start)


def transpose(rows: Rows, operator: Operator) -> None:
    """Dimensions in another order."""
    x, y = ends(rows, operator)
    order = rows.integers(operator, 1)
    order = [axis + len(order) if axis < 0 else axis for axis in order]
    if sorted(order) != list(range(len(x.shape))) or tuple(x.shape[axis] for axis in order) != y.shape:
        raise Refused(f"{list(x.shape)} in the order {order} is not {list(y.shape)}")
    step = strides(x.shape)
    copy(
        rows,
        y.shape,
        [step[axis] for axis in order],
        strides(y.shape),
        x,
        y,
        f"{described(x.shape)} -> {described(y.shape)}",
    )
