# SPDX-License-Identifier: Apache-2.0
"""Lowering of reductions: means, sums, extremes, and where the extreme lies."""

from __future__ import annotations

from math import prod

from edgepress.deploy.firmware.lowering.context import Refused, Rows, described, fixed, merged, strides
from edgepress.deploy.firmware.lowering.steps import FieldValue, Value
from edgepress.deploy.tflite.reader import Operator

#: A sum has to stay below.
_LARGEST_SUM = 1 << 31


def mean_or_sum(rows: Rows, operator: Operator) -> None:
    """MEAN and SUM over any axes, of int8 or int16."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    dtype = "int16" if x.dtype == "int16" else "int8"
    (in_scale, in_zero), (out_scale, out_zero) = rows.quantized(x, dtype), rows.quantized(y, dtype)
    walks, count = _walks(rows, operator, x, y)
    multiplier, shift = fixed(float(in_scale) / float(out_scale))
    if operator.code == "MEAN":  # one over the count becomes part of the multiplier
        bits = min(count.bit_length() - 1, 32, 31 + shift)
        multiplier, shift = (multiplier << bits) // count, shift - bits
    reach = (256 if dtype == "int8" else 32768) * count
    if multiplier >= 1 << 31 or reach * 2 ** max(0, shift) >= _LARGEST_SUM:
        raise Refused(f"the sum of {count:,} values may overflow 32 bits")
    rows.add(
        "ep_mean_over" if dtype == "int8" else "ep_mean_over_16",
        "ep_mean",
        {**walks, "zero_sum": in_zero * count, "out_zero": out_zero, "multiplier": multiplier, "shift": shift},
        [x.index],
        y.index,
        f"{described(x.shape)} -> {described(y.shape)}",
    )


def extreme(rows: Rows, operator: Operator) -> None:
    """REDUCE_MAX and REDUCE_MIN over any axes; the scale stays."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    if rows.int8(x) != rows.int8(y):
        raise Refused("input and output have different scales")
    walks, _ = _walks(rows, operator, x, y)
    rest = {"zero_sum": 0, "multiplier": 0, "shift": 0, "out_zero": 0}
    summary = f"{described(x.shape)} -> {described(y.shape)}"
    rows.add(f"ep_{operator.code.lower()}", "ep_mean", {**walks, **rest}, [x.index], y.index, summary)


def arg_extreme(rows: Rows, operator: Operator) -> None:
    """ARG_MAX and ARG_MIN: int32, the first one of equals."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    rows.int8(x)
    axis = rows.integers(operator, 1)
    if y.dtype != "int32":
        raise Refused(f"its output is {y.dtype}, not int32")
    if len(axis) != 1 or not -len(x.shape) <= axis[0] < len(x.shape):
        raise Refused(f"the axes {axis} of {list(x.shape)}")
    at = axis[0] % len(x.shape)
    if prod(y.shape) != prod(x.shape) // x.shape[at]:
        raise Refused(f"{list(x.shape)} along axis {at} is not {list(y.shape)}")
    rows.add(
        "ep_arg_extreme",
        "ep_arg",
        {
            "outer": prod(x.shape[:at]),
            "count": x.shape[at],
            "inner": prod(x.shape[at + 1 :]),
            "sign": 1 if operator.code == "ARG_MAX" else -1,
        },
        [x.index],
        y.index,
        f"{described(x.shape)} -> {described(y.shape)}",
    )


def _walks(rows: Rows, operator: Operator, x: Value, y: Value) -> tuple[dict[str, FieldValue], int]:
    """Sizes and strides over the outputs and over the values of one, and how many these are."""
    rank = len(x.shape)
    axes = {axis + rank if axis < 0 else axis for axis in rows.integers(operator, 1)}
    if not axes or not axes <= set(range(rank)):
        raise Refused(f"the axes {sorted(axes)} of {list(x.shape)}")
    step = strides(x.shape)
    kept = [a for a in range(rank) if a not in axes]
    if prod(y.shape) != prod(x.shape[a] for a in kept):
        raise Refused(f"{list(x.shape)} over the axes {sorted(axes)} is not {list(y.shape)}")
    size, stride = merged([x.shape[a] for a in kept], [step[a] for a in kept])
    over, over_stride = merged([x.shape[a] for a in sorted(axes)], [step[a] for a in sorted(axes)])
    walks: dict[str, FieldValue] = {"size": size, "stride": stride, "over": over, "over_stride": over_stride}
    return walks, prod(x.shape[a] for a in axes)
