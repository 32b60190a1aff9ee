# SPDX-License-Identifier: Apache-2.0
"""Lowering of extremes of two operands, quotients, slopes, and logarithms of softmax."""

from __future__ import annotations

from math import prod

import numpy as np

from edgepress.deploy.firmware.lowering.context import Refused, Rows, activation_range, described, fixed
from edgepress.deploy.firmware.lowering.tables import NoTable, log_differences
from edgepress.deploy.firmware.operators.values import binary, common_scale
from edgepress.deploy.tflite.reader import Operator


def extreme_of_two(rows: Rows, operator: Operator) -> None:
    """MAXIMUM and MINIMUM of integers as they are stored: TFLite Micro does not rescale."""
    a, b, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    dtype = "int16" if y.dtype == "int16" else "int8"
    if not rows.quantized(a, dtype) == rows.quantized(b, dtype) == rows.quantized(y, dtype):
        raise Refused("operands and output have different scales")
    binary(rows, operator, a, b, y, f"ep_{operator.code.lower()}", {}, (0, 0), dtype)


def prelu(rows: Rows, operator: Operator) -> None:
    """x where it is not negative, else a slope times x."""
    x, slopes, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    dtype = "int16" if y.dtype == "int16" else "int8"
    (in_scale, in_zero), (out_scale, out_zero) = rows.quantized(x, dtype), rows.quantized(y, dtype)
    slope_scale, slope_zero = rows.int8(slopes)
    identity, identity_shift = fixed(float(in_scale) / float(out_scale))
    sloped, sloped_shift = fixed(float(in_scale) * float(slope_scale) / float(out_scale))
    if x.shape != y.shape:
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    if identity_shift > (22 if dtype == "int8" else 15) or sloped_shift > (14 if dtype == "int8" else 7):
        raise Refused("the scale of the output is too small for its operands")
    fields = {
        "a_zero": in_zero,
        "b_zero": slope_zero,
        "out_zero": out_zero,
        "a_multiplier": identity,
        "a_shift": identity_shift,
        "out_multiplier": sloped,
        "out_shift": sloped_shift,
    }
    limits = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    binary(rows, operator, x, slopes, y, "ep_prelu", fields, limits, dtype)


def divide(rows: Rows, operator: Operator) -> None:
    """DIV by Newton's method."""
    a, b, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    (a_scale, a_zero), (b_scale, b_zero), (out_scale, out_zero) = rows.int8(a), rows.int8(b), rows.int8(y)
    multiplier, shift = fixed(float(a_scale / (b_scale * out_scale)))
    # 38 bits are the furthest that a dividend of 0 and a divisor of 255 are shifted; 31 are defined.
    if not 7 <= shift <= 23:
        raise Refused("the scale of the output is out of reach for the quotient of its operands")
    fields = {
        "a_zero": a_zero,
        "b_zero": b_zero,
        "out_zero": out_zero,
        "out_multiplier": multiplier,
        "out_shift": shift,
    }
    limits = activation_range(operator.option("fused_activation", "NONE"), out_scale, out_zero)
    binary(rows, operator, a, b, y, "ep_div", fields, limits)


def squared_difference(rows: Rows, operator: Operator) -> None:
    """(a - b)^2, with both on a common scale with 7 more bits."""
    a, b, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    (a_scale, a_zero), (b_scale, b_zero), (out_scale, out_zero) = rows.int8(a), rows.int8(b), rows.int8(y)
    twice = 2.0 * float(max(a_scale, b_scale))
    reals = (float(a_scale) / twice, float(b_scale) / twice, twice * twice / ((1 << 14) * float(out_scale)))
    fields = common_scale((a_zero, b_zero, out_zero), reals)
    binary(rows, operator, a, b, y, "ep_squared_difference", fields, (-128, 127))


def log_softmax(rows: Rows, operator: Operator) -> None:
    """LOG_SOFTMAX along the last dimension, to scale 1/16 and zero point 127."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    (in_scale, _), (out_scale, out_zero) = rows.int8(x), rows.int8(y)
    if out_zero != 127 or float(out_scale) != 1 / 16:
        raise Refused(f"its output has scale {out_scale:g} and zero point {out_zero}, not 1/16 and 127")
    if not x.shape or x.shape != y.shape:
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    depth = x.shape[-1]
    if depth > 4095:  # the sum has 12 bits for whole numbers
        raise Refused(f"it is over {depth:,} values; up to 4,095 are certain to be in range")
    try:
        differences, exponentials, multiplier, shift = log_differences(in_scale)
    except (NoTable, ValueError) as reason:
        raise Refused(str(reason)) from None
    rows.add(
        "ep_log_softmax",
        "ep_log_softmax_plan",
        {
            "rows": prod(x.shape) // depth,
            "depth": depth,
            "count": len(differences),
            "differences": "differences",
            "exponentials": "exponentials",
            "multiplier": multiplier,
            "shift": shift,
        },
        [x.index],
        y.index,
        described(x.shape),
        arrays={"differences": differences, "exponentials": exponentials},
    )
