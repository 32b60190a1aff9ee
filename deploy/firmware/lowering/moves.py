# SPDX-License-Identifier: Apache-2.0
"""Lowering of operators that only move values: strides are worked out here, and one kernel copies."""

from __future__ import annotations

from collections.abc import Sequence
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
    if x.dtype == "int8" and y.index in rows.outputs and (rows.home(x.index) in rows.inputs or x.index in rows.outputs):
        _copy(rows, x.shape, strides(x.shape), strides(x.shape), x, y, described(x.shape))
    else:
        rows.aliases[y.index] = x.index


def _copy(
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
    size, source, target = merged(shape, from_step, to_step)
    rows.add(
        "ep_copy",
        "ep_move",
        {"size": size, "from": source, "to": target, "from_start": from_start, "to_start": to_start},
        [x.index],
        y.index,
        summary,
    )


def _ends(rows: Rows, operator: Operator, position: int = 0) -> tuple[Value, Value]:
    x, y = rows.operand(operator, position), rows.values[operator.outputs[0]]
    for value in (x, y):
        if value.dtype != "int8":
            raise Refused(f"{value.name!r} is {value.dtype}, not int8")
    return x, y


def _fill(rows: Rows, y: Value, value: int) -> None:
    rows.add("ep_fill", "", {}, [], y.index, described(y.shape), arguments=(str(value), str(prod(y.shape))))


def pad(rows: Rows, operator: Operator) -> None:
    """With the value 0.0, which is the output's zero point."""
    x, y = _ends(rows, operator)
    (in_scale, in_zero), (out_scale, out_zero) = rows.int8(x), rows.int8(y)
    if in_scale != out_scale or in_zero != out_zero:
        raise Refused("input and output have different scales")
    flat = rows.integers(operator, 1)
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    if len(pairs) != len(x.shape) or any(min(pair) < 0 for pair in pairs):
        raise Refused(f"the paddings {pairs} of {list(x.shape)}")
    if tuple(size + before + after for size, (before, after) in zip(x.shape, pairs, strict=True)) != y.shape:
        raise Refused(f"{list(x.shape)} padded by {pairs} is not {list(y.shape)}")
    if len(pairs) == 4 and pairs[0] == pairs[3] == (0, 0) and rows.only_convolved(y.index):
        # Convolutions take positions outside of the image for zero themselves.
        rows.paddings[y.index] = (x, pairs[1][0], pairs[2][0])
        return
    step = strides(y.shape)
    _fill(rows, y, out_zero)
    _copy(
        rows,
        x.shape,
        strides(x.shape),
        step,
        x,
        y,
        f"{described(x.shape)} -> {described(y.shape)}",
        to_start=sum(before * s for (before, _), s in zip(pairs, step, strict=True)),
    )


def concatenation(rows: Rows, operator: Operator) -> None:
    """One copy for each input."""
    y = rows.values[operator.outputs[0]]
    if operator.option("fused_activation", "NONE") != "NONE":
        raise Refused("it has a fused activation")
    rank, step, at = len(y.shape), strides(y.shape), 0
    axis = operator.option("axis", 0) % rank if rank else 0
    for position in range(len(operator.inputs)):
        x, _ = _ends(rows, operator, position)
        # TFLite Micro copies without a change of scale; the format demands that there is none.
        if rows.int8(x) != rows.int8(y):
            raise Refused(f"{x.name!r} and the output have different scales")
        if len(x.shape) != rank or any(
            m != n for i, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)) if i != axis
        ):
            raise Refused(f"{list(x.shape)} does not fit into {list(y.shape)} along axis {axis}")
        _copy(
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
    """One copy for each output; the axis is input 0."""
    x = rows.operand(operator, 1)
    axis = rows.integers(operator, 0)[0]
    rank, step, at = len(x.shape), strides(x.shape), 0
    if not -rank <= axis < rank:
        raise Refused(f"axis {axis} of {list(x.shape)}")
    axis %= rank
    for index in operator.outputs:
        y = rows.values[index]
        if (
            x.dtype != "int8"
            or y.dtype != "int8"
            or len(y.shape) != rank
            or any(m != n for i, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)) if i != axis)
        ):
            raise Refused(f"{x.dtype} {list(x.shape)} does not give {y.dtype} {list(y.shape)} along axis {axis}")
        _copy(
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
    x, y = _ends(rows, operator)
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
    _copy(rows, sizes, walk, strides(sizes), x, y, f"{described(x.shape)} -> {described(y.shape)}", from_start=start)


def transpose(rows: Rows, operator: Operator) -> None:
    """Dimensions in another order."""
    x, y = _ends(rows, operator)
    order = rows.integers(operator, 1)
    order = [axis + len(order) if axis < 0 else axis for axis in order]
    if sorted(order) != list(range(len(x.shape))) or tuple(x.shape[axis] for axis in order) != y.shape:
        raise Refused(f"{list(x.shape)} in the order {order} is not {list(y.shape)}")
    step = strides(x.shape)
    _copy(
        rows,
        y.shape,
        [step[axis] for axis in order],
        strides(y.shape),
        x,
        y,
        f"{described(x.shape)} -> {described(y.shape)}",
    )


def resize_nearest(rows: Rows, operator: Operator) -> None:
    """Which row and column each output takes is worked out here, in float32 as TFLite Micro does."""
    x, y = _ends(rows, operator)
    if len(x.shape) != 4 or len(y.shape) != 4 or (x.shape[0], x.shape[3]) != (y.shape[0], y.shape[3]):
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    if tuple(rows.integers(operator, 1)) != y.shape[1:3]:
        raise Refused(f"the wanted size is not the one of the output, {list(y.shape)}")
    corners, centers = operator.option("align_corners", False), operator.option("half_pixel_centers", False)
    arrays = {
        "rows": _nearest(x.shape[1], y.shape[1], corners, centers),
        "columns": _nearest(x.shape[2], y.shape[2], corners, centers),
    }
    rows.add(
        "ep_resize_nearest",
        "ep_resize",
        {
            "batches": x.shape[0],
            "in_h": x.shape[1],
            "in_w": x.shape[2],
            "channels": x.shape[3],
            "out_h": y.shape[1],
            "out_w": y.shape[2],
            "rows": "rows",
            "columns": "columns",
        },
        [x.index],
        y.index,
        f"{described(x.shape)} -> {described(y.shape)}",
        arrays=arrays,
    )


def _nearest(size: int, wanted: int, corners: bool, centers: bool) -> np.ndarray:
    if max(size, wanted) > 32767:
        raise Refused(f"a size of {max(size, wanted)} does not fit into int16")
    scale = (
        np.float32(size - 1) / np.float32(wanted - 1)
        if corners and wanted > 1
        else np.float32(size) / np.float32(wanted)
    )
    at = (np.arange(wanted, dtype=np.float32) + np.float32(0.5 if centers else 0)) * scale
    whole = np.floor(at + np.float32(0.5)) if corners else np.floor(at)
    return np.clip(whole, 0, size - 1).astype(np.int16)
