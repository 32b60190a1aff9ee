# SPDX-License-Identifier: Apache-2.0
"""Operators with one int8 input and one int8 output, as the table of their 256 values (index: input + 128).

Each computes as TFLite Micro's reference kernel does; one table and one kernel then stand for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, frexp

import numpy as np

from edgepress.deploy.firmware.lowering import fixedpoint as fp

_INPUTS = range(-128, 128)


@dataclass(frozen=True)
class Scales:
    """Scale (float32) and zero point of input and output."""

    in_scale: np.float32
    in_zero: int
    out_scale: np.float32
    out_zero: int


class NoTable(ValueError):
    """The operator has parameters that TFLite Micro refuses as well; the text says which."""


def _clamped(values: list[int], low: int = -128, high: int = 127) -> np.ndarray:
    return np.array([max(low, min(high, value)) for value in values], np.int8)


def round_away(x: float) -> int:
    """Ties away from zero, as C's round."""
    return floor(abs(x) + 0.5) * (1 if x >= 0 else -1)


def relu(s: Scales) -> np.ndarray:
    """max(x, 0) with a change of scale."""
    multiplier, shift = fp.quantize_multiplier(float(s.in_scale) / float(s.out_scale))
    return _clamped([s.out_zero + fp.rescale(x - s.in_zero, multiplier, shift) for x in _INPUTS], max(-128, s.out_zero))


def relu6(s: Scales) -> np.ndarray:
    """min(max(x, 0), 6) without a change of scale: TFLite Micro takes the input's."""
    six = round_away(float(np.float32(6) / s.in_scale)) + s.in_zero
    return _clamped(list(_INPUTS), s.in_zero, min(127, six))


def leaky_relu(s: Scales, alpha: float) -> np.ndarray:
    """x where positive, else alpha x."""
    slope = np.float32(s.in_scale * np.float32(alpha)) / s.out_scale
    if slope < 0:
        raise NoTable(f"alpha = {alpha:g} is negative")
    negative = fp.quantize_multiplier(float(slope))
    positive = fp.quantize_multiplier(float(s.in_scale / s.out_scale))
    values = [x - s.in_zero for x in _INPUTS]
    return _clamped([s.out_zero + fp.rescale(v, *(positive if v >= 0 else negative)) for v in values])


def _to_q4(s: Scales) -> tuple[int, int, int]:
    """(multiplier, shift, radius) of an input that becomes Q(4)."""
    real = float(s.in_scale) * (1 << 27)
    fraction, shift = frexp(real)
    if shift < 0 or shift > 31:
        raise NoTable(f"the input scale {s.in_scale:g} is out of reach for the fixed-point function")
    return floor(fraction * 2**31 + 0.5), shift, fp.input_radius(4, shift)


def logistic(s: Scales) -> np.ndarray:
    """1 / (1 + exp(-x)); the output's zero point must be -128."""
    if s.out_zero != -128:
        raise NoTable(f"the output's zero point is {s.out_zero}, not -128")
    multiplier, shift, radius = _to_q4(s)

    def value(x: int) -> int:
        if abs(x) >= radius:
            return -128 if x < 0 or (radius == 0 and x == 0) else 127
        return fp.divide_by_power(fp.logistic(fp.rescale(x, multiplier, shift), 4), 23) - 128

    return _clamped([value(x - s.in_zero) for x in _INPUTS])


def tanh(s: Scales) -> np.ndarray:
    """tanh(x); the output is taken as of scale 1/128 and zero point 0."""
    multiplier, shift, radius = _to_q4(s)

    def value(x: int) -> int:
        if abs(x) >= radius:
            return -128 if x < 0 or (radius == 0 and x == 0) else 127
        return fp.divide_by_power(fp.tanh(fp.rescale(x, multiplier, shift), 4), 24)

    return _clamped([value(x - s.in_zero) for x in _INPUTS])


def _multiply_high_16(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul of int16: the product is nudged away from zero and cut towards it."""
    if a == b == -32768:
        return 32767
    product = a * b
    nudged = product + (1 << 14 if product >= 0 else 1 - (1 << 14))
    return abs(nudged) // 32768 * (1 if nudged >= 0 else -1)


def _saturated_16(x: int) -> int:
    return max(-32768, min(32767, x))


def hard_swish(s: Scales) -> np.ndarray:
    """x * min(max(x + 3, 0), 6) / 6."""
    fine = np.float32(1 / 128) * s.in_scale
    out_multiplier, out_shift = fp.quantize_multiplier(float(fine / s.out_scale))
    relu_multiplier, relu_shift = fp.quantize_multiplier(float(fine / (np.float32(3) / np.float32(32768))))
    if out_shift > 0:
        raise NoTable("the output's scale is too small for the input's")
    out_16, relu_16 = (min((m + (1 << 15)) >> 16, 32767) for m in (out_multiplier, relu_multiplier))

    def value(x: int) -> int:
        high = _wrapped_16(x * 128)
        on_output_scale = _multiply_high_16(high, out_16)
        reluish = high
        if relu_shift > 0:
            reluish = _saturated_16(reluish << (relu_shift - 1))
        reluish = _multiply_high_16(reluish, relu_16)
        if relu_shift > 0:
            reluish = _saturated_16(reluish << 1)
        elif relu_shift < 0:
            reluish = fp.divide_by_power(reluish, -relu_shift)
        reluish = (reluish + (1 << 15)) >> 1
        product = reluish * on_output_scale
        product = abs(product) // 32768 * (1 if product >= 0 else -1)
        return fp.divide_by_power(product, -out_shift) + s.out_zero

    return _clamped([value(x - s.in_zero) for x in _INPUTS])


def _wrapped_16(x: int) -> int:
    return (x + 32768) % 65536 - 32768


def requantize(s: Scales) -> np.ndarray:
    """QUANTIZE from int8 to int8: the same value on another scale."""
    multiplier, shift = fp.quantize_multiplier(float(s.in_scale) / float(s.out_scale))
    return _clamped([fp.rescale(x - s.in_zero, multiplier, shift) + s.out_zero for x in _INPUTS])


def exponentials(scale: np.float32, beta: float) -> np.ndarray:
    """SOFTMAX's exp(-i * beta * scale) for i from 0 on, Q(0) as int32, up to the last one that TFLite Micro counts."""
    real = min(float(np.float32(beta)) * float(scale) * (1 << 26), 2.0**31 - 1)
    if real <= 1:
        raise NoTable(f"beta * scale = {beta * float(scale):g} is too small for the fixed-point softmax")
    multiplier, shift = fp.quantize_multiplier(real)
    radius = fp.input_radius(5, shift)
    values = []
    for i in range(256):
        if i > radius:
            break
        values.append(fp.exp_on_negative(fp.multiply_high(-i << shift, multiplier), 5))
    return np.array(values, np.int32)
