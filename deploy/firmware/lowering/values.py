# SPDX-License-Identifier: Apache-2.0
"""Lowering of sums, differences, products, tables of one operand, and QUANTIZE and DEQUANTIZE."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from edgepress.deploy.firmware.lowering import tables
from edgepress.deploy.firmware.lowering.context import (
    Refused,
    Rows,
    activation_range,
    described,
    fixed,
    merged,
    strides,
)
from edgepress.deploy.firmware.lowering.steps import Value
from edgepress.deploy.tflite.reader import Operator

#: Bits that ADD and SUB add to their operands.
_LEFT_SHIFT = 20


def add_or_sub(rows: Rows, operator: Operator) -> None:
    """Both operands on a common scale with 20 more bits."""
    a, b, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    (a_scale, a_zero), (b_scale, b_zero), (out_scale, out_zero) = rows.int8(a), rows.int8(b), rows.int8(y)
    if operator.code == "SUB":  # in float32, as TFLite Micro does
        twice = np.float32(2) * max(a_scale, b_scale)
        reals = [
            float(a_scale / twice),
            float(b_scale / twice),
            float(twice / (np.float32(1 << _LEFT_SHIFT) * out_scale)),
        ]
    else:
        common = 2 * float(max(a_scale, b_scale))
        reals = [float(a_scale) / common, float(b_scale) / common, common / ((1 << _LEFT_SHIFT) * float(out_scale))]
    if not all(0 < real < 1 for real in reals):
        raise Refused("the scales of operands and output lie too far apart")
    (a_m, a_s), (b_m, b_s), (out_m, out_s) = (fixed(real) for real in reals)
    if max(a_s, b_s, out_s) > 0:
        raise Refused("the scales of operands and output lie too far apart")
    _binary(
        rows,
        operator,
        a,
        b,
        y,
        {
            "a_zero": a_zero,
            "b_zero": b_zero,
            "out_zero": out_zero,
            "a_multiplier": a_m,
            "a_shift": a_s,
            "b_multiplier": b_m,
            "b_shift": b_s,
            "out_multiplier": out_m,
            "out_shift": out_s,
        },
        out_scale,
        out_zero,
    )


def mul(rows: Rows, operator: Operator) -> None:
    """The product of two operands."""
    a, b, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    (a_scale, a_zero), (b_scale, b_zero), (out_scale, out_zero) = rows.int8(a), rows.int8(b), rows.int8(y)
    multiplier, shift = fixed(float(a_scale) * float(b_scale) / float(out_scale))
    if shift > 14:  # 255 * 255 * 2^15 does not fit
        raise Refused("the scale of the output is too small for its operands")
    _binary(
        rows,
        operator,
        a,
        b,
        y,
        {
            "a_zero": a_zero,
            "b_zero": b_zero,
            "out_zero": out_zero,
            "a_multiplier": 0,
            "a_shift": 0,
            "b_multiplier": 0,
            "b_shift": 0,
            "out_multiplier": multiplier,
            "out_shift": shift,
        },
        out_scale,
        out_zero,
    )


def _binary(
    rows: Rows,
    operator: Operator,
    a: Value,
    b: Value,
    y: Value,
    fields: dict[str, int],
    out_scale: np.float32,
    out_zero: int,
) -> None:
    rank = max(len(a.shape), len(b.shape))
    first, second = ((1,) * (rank - len(v.shape)) + v.shape for v in (a, b))
    if any(m != n and 1 not in (m, n) for m, n in zip(first, second, strict=True)):
        raise Refused(f"{list(a.shape)} and {list(b.shape)} cannot be broadcast")
    shape = tuple(max(m, n) for m, n in zip(first, second, strict=True))
    if prod(shape) != prod(y.shape):
        raise Refused(f"{list(a.shape)} and {list(b.shape)} do not give {list(y.shape)}")
    steps = [[0 if size == 1 else step for size, step in zip(s, strides(s), strict=True)] for s in (first, second)]
    size, a_stride, b_stride = merged(shape, *steps)
    low, high = activation_range(operator.option("fused_activation", "NONE"), out_scale, out_zero)
    rows.add(
        f"ep_{operator.code.lower()}",
        "ep_binary",
        {"size": size, "a_stride": a_stride, "b_stride": b_stride, **fields, "out_min": low, "out_max": high},
        [a.index, b.index],
        y.index,
        f"{described(a.shape)}, {described(b.shape)} -> {described(y.shape)}",
    )


def by_table(rows: Rows, operator: Operator) -> None:
    """Any function of one int8."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    (in_scale, in_zero), (out_scale, out_zero) = rows.int8(x), rows.int8(y)
    scales = tables.Scales(in_scale, in_zero, out_scale, out_zero)
    makers: dict[str, Callable[[], np.ndarray]] = {
        "RELU": lambda: tables.relu(scales),
        "RELU6": lambda: tables.relu6(scales),
        "TANH": lambda: tables.tanh(scales),
        "LOGISTIC": lambda: tables.logistic(scales),
        "HARD_SWISH": lambda: tables.hard_swish(scales),
        "LEAKY_RELU": lambda: tables.leaky_relu(scales, operator.option("alpha", 0.0)),
    }
    _lookup(rows, operator, x, y, makers[operator.code])


def _lookup(rows: Rows, operator: Operator, x: Value, y: Value, make: Callable[[], np.ndarray]) -> None:
    if prod(x.shape) != prod(y.shape):
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    try:
        table = make()
    except (ValueError, OverflowError) as reason:
        raise Refused(str(reason)) from None
    rows.add(
        "ep_lookup",
        "",
        {},
        [x.index],
        y.index,
        described(x.shape),
        arrays={"table": table},
        arguments=("table", str(prod(y.shape))),
    )


def quantize(rows: Rows, operator: Operator) -> None:
    """From float32, or from int8 on another scale."""
    x, y = rows.operand(operator, 0, constant=False), rows.values[operator.outputs[0]]
    out_scale, out_zero = rows.int8(y)
    if x.dtype == "int8":
        in_scale, in_zero = rows.int8(x)
        _lookup(rows, operator, x, y, lambda: tables.requantize(tables.Scales(in_scale, in_zero, out_scale, out_zero)))
        return
    if prod(x.shape) != prod(y.shape):
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    rows.add(
        "ep_quantize",
        "",
        {},
        [x.index],
        y.index,
        described(x.shape),
        arguments=(float_text(out_scale), str(out_zero), str(prod(y.shape))),
    )


def dequantize(rows: Rows, operator: Operator) -> None:
    """From int8 to float32."""
    x, y = rows.operand(operator, 0, constant=False), rows.values[operator.outputs[0]]
    in_scale, in_zero = rows.int8(x)
    if y.dtype != "float32" or prod(x.shape) != prod(y.shape):
        raise Refused(f"int8 {list(x.shape)} becomes {y.dtype} {list(y.shape)}")
    rows.add(
        "ep_dequantize",
        "",
        {},
        [x.index],
        y.index,
        described(x.shape),
        arguments=(float_text(in_scale), str(in_zero), str(prod(y.shape))),
    )


def float_text(value: np.float32) -> str:
    """A float constant in C that is this very number."""
    text = repr(float(np.float32(value)))
    if float(np.float32(float(text))) != float(value):
        raise Refused(f"the scale {value} cannot be written")
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"
