# SPDX-License-Identifier: Apache-2.0
"""Lowering of sums, differences, products, tables of one operand, and QUANTIZE and DEQUANTIZE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from edgepress.deploy.firmware.operators.wide import requantize
from edgepress.deploy.tflite.reader import Operator

#: Bits that ADD and SUB add to their operands.
_LEFT_SHIFTS = {"int8": 20, "int16": 15}
#: Numbers of the structure, in its order.
_NUMBERS = (
    *("a_multiplier", "b_multiplier", "out_multiplier", "a_shift", "b_shift", "out_shift"),
    *("a_zero", "b_zero", "out_zero"),
)


def add_or_sub(rows: Rows, operator: Operator) -> None:
    """Both operands on a common scale with 20 more bits, 15 for int16."""
    a, b, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    dtype = "int16" if y.dtype == "int16" else "int8"
    (a_scale, a_zero), (b_scale, b_zero) = rows.quantized(a, dtype), rows.quantized(b, dtype)
    out_scale, out_zero = rows.quantized(y, dtype)
    one = 1 << _LEFT_SHIFTS[dtype]
    if operator.code == "SUB":  # in float32, as TFLite Micro does
        twice = np.float32(2) * max(a_scale, b_scale)
        reals = [float(a_scale / twice), float(b_scale / twice), float(twice / (np.float32(one) * out_scale))]
    else:
        common = 2 * float(max(a_scale, b_scale))
        reals = [float(a_scale) / common, float(b_scale) / common, common / (one * float(out_scale))]
    if not all(0 < real < 1 for real in reals):
        raise Refused("the scales of operands and output lie too far apart")
    fields = common_scale((a_zero, b_zero, out_zero), reals)
    limits = activation_range(operator.option("fused_activation", "NONE"), out_scale, out_zero, dtype)
    binary(rows, operator, a, b, y, f"ep_{operator.code.lower()}", fields, limits, dtype)


def common_scale(zeros: Sequence[int], reals: Sequence[float]) -> dict[str, int]:
    """Numbers of a kernel that brings both operands to one scale, and its result to that of the output.

    Args:
        zeros: zero points of both operands and of the output.
        reals: what each of the three is multiplied by.
    """
    (a_m, a_s), (b_m, b_s), (out_m, out_s) = (fixed(real) for real in reals)
    if max(a_s, b_s, out_s) > 0:
        raise Refused("the scales of operands and output lie too far apart")
    return {
        "a_zero": zeros[0],
        "b_zero": zeros[1],
        "out_zero": zeros[2],
        "a_multiplier": a_m,
        "a_shift": a_s,
        "b_multiplier": b_m,
        "b_shift": b_s,
        "out_multiplier": out_m,
        "out_shift": out_s,
    }


def mul(rows: Rows, operator: Operator) -> None:
    """The product of two operands."""
    a, b, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    dtype = "int16" if y.dtype == "int16" else "int8"
    (a_scale, a_zero), (b_scale, b_zero) = rows.quantized(a, dtype), rows.quantized(b, dtype)
    out_scale, out_zero = rows.quantized(y, dtype)
    multiplier, shift = fixed(float(a_scale) * float(b_scale) / float(out_scale))
    if shift > (14 if dtype == "int8" else 30):  # 255 * 255 * 2^15 does not fit
        raise Refused("the scale of the output is too small for its operands")
    fields = {
        "a_zero": a_zero,
        "b_zero": b_zero,
        "out_zero": out_zero,
        "out_multiplier": multiplier,
        "out_shift": shift,
    }
    limits = activation_range(operator.option("fused_activation", "NONE"), out_scale, out_zero, dtype)
    binary(rows, operator, a, b, y, "ep_mul", fields, limits, dtype)


def binary(
    rows: Rows,
    operator: Operator,
    a: Value,
    b: Value,
    y: Value,
    kernel: str,
    fields: dict[str, int],
    limits: tuple[int, int],
    dtype: str = "int8",
) -> None:
    """A kernel that walks over two operands, which are broadcast; what `fields` does not name is 0."""
    rank = max(len(a.shape), len(b.shape))
    first, second = ((1,) * (rank - len(v.shape)) + v.shape for v in (a, b))
    if any(m != n and 1 not in (m, n) for m, n in zip(first, second, strict=True)):
        raise Refused(f"{list(a.shape)} and {list(b.shape)} cannot be broadcast")
    shape = tuple(max(m, n) for m, n in zip(first, second, strict=True))
    if prod(shape) != prod(y.shape):
        raise Refused(f"{list(a.shape)} and {list(b.shape)} do not give {list(y.shape)}")
    steps = [[0 if size == 1 else step for size, step in zip(s, strides(s), strict=True)] for s in (first, second)]
    size, a_stride, b_stride = merged(shape, *steps)
    numbers = dict.fromkeys(_NUMBERS, 0) | fields | {"out_min": limits[0], "out_max": limits[1]}
    rows.add(
        kernel if dtype == "int8" else f"{kernel}_16",
        "ep_binary",
        {"size": size, "a_stride": a_stride, "b_stride": b_stride, **numbers},
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
        "ABS": lambda: tables.absolute(scales),
        "ELU": lambda: tables.elu(scales),
        "RSQRT": lambda: tables.rsqrt(scales),
    }
    lookup(rows, operator, x, y, makers[operator.code])


def lookup(rows: Rows, operator: Operator, x: Value, y: Value, make: Callable[[], np.ndarray]) -> None:
    """A table of 256 outputs."""
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
    """From float32, or from an integer on another scale."""
    x, y = rows.operand(operator, 0, constant=False), rows.values[operator.outputs[0]]
    if x.dtype == "int16" or (x.dtype, y.dtype) == ("int8", "int16"):
        requantize(rows, operator)
        return
    if "uint8" in (x.dtype, y.dtype):
        if {x.dtype, y.dtype} != {"int8", "uint8"}:
            raise Refused(f"it makes {y.dtype} of {x.dtype}")
        (in_scale, in_zero), (out_scale, out_zero) = rows.quantized(x, x.dtype), rows.quantized(y, y.dtype)
        scales = tables.Scales(in_scale, in_zero, out_scale, out_zero)
        lookup(rows, operator, x, y, lambda: tables.requantize_unsigned(scales, y.dtype == "uint8"))
        return
    out_scale, out_zero = rows.quantized(y, "int16" if y.dtype == "int16" else "int8")
    if x.dtype == "int8":
        in_scale, in_zero = rows.int8(x)
        lookup(rows, operator, x, y, lambda: tables.requantize(tables.Scales(in_scale, in_zero, out_scale, out_zero)))
        return
    if prod(x.shape) != prod(y.shape):
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    if x.dtype != "float32":
        raise Refused(f"it makes {y.dtype} of {x.dtype}")
    kernel, zero = ("ep_quantize", [str(out_zero)]) if y.dtype == "int8" else ("ep_quantize_16", [])
    arguments = (float_text(out_scale), *zero, str(prod(y.shape)))
    rows.add(kernel, "", {}, [x.index], y.index, described(x.shape), arguments=arguments)


def dequantize(rows: Rows, operator: Operator) -> None:
    """From int8 or int16 to float32."""
    x, y = rows.operand(operator, 0, constant=False), rows.values[operator.outputs[0]]
    in_scale, in_zero = rows.quantized(x, "int16" if x.dtype == "int16" else "int8")
    if y.dtype != "float32" or prod(x.shape) != prod(y.shape):
        raise Refused(f"{x.dtype} {list(x.shape)} becomes {y.dtype} {list(y.shape)}")
    kernel, zero = ("ep_dequantize", [str(in_zero)]) if x.dtype == "int8" else ("ep_dequantize_16", [])
    arguments = (float_text(in_scale), *zero, str(prod(y.shape)))
    rows.add(kernel, "", {}, [x.index], y.index, described(x.shape), arguments=arguments)


def float_text(value: np.float32) -> str:
    """A float constant in C that is this very number."""
    text = repr(float(np.float32(value)))
    if float(np.float32(float(text))) != float(value):
        raise Refused(f"the scale {value} cannot be written")
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"
