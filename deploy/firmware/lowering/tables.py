# SPDX-License-Identifier: Apache-2.0
"""Operators with one int8 input and one int8 output, as the table of their 256 values (index: input + 128).

Each computes as TFLite Micro's reference kernel does; one table and one kernel then stand for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, floor, frexp

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


def absolute(s: Scales) -> np.ndarray:
    """|x|; without rounding where the scales are equal."""
    multiplier, shift = fp.quantize_multiplier(float(s.in_scale / s.out_scale))
    distances = [abs(x - s.in_zero) for x in _INPUTS]
    if s.in_scale != s.out_scale:
        distances = [fp.rescale(d, multiplier, shift) for d in distances]
    return _clamped([d + s.out_zero for d in distances])


def elu(s: Scales) -> np.ndarray:
    """x where positive, else exp(x) - 1, in float32."""
    inverse = np.float32(1) / s.out_scale

    def value(x: int) -> int:
        real = s.in_scale * np.float32(x - s.in_zero)
        made = np.float32(np.float32(exp(real)) - np.float32(1)) if real < 0 else real
        return round_away(float(made * inverse)) + s.out_zero

    return _clamped([value(x) for x in _INPUTS])


def rsqrt(s: Scales) -> np.ndarray:
    """1 / sqrt(x), at 0 the largest; below, TFLite Micro stops, and this goes on with the largest."""
    multiplier, shift = fp.quantize_multiplier(1.0 / float(np.float32(np.sqrt(s.in_scale)) * s.out_scale))

    def value(x: int) -> int:
        if x <= 0:
            return 127
        root, right = fp.inverse_square_root(x)
        fine = fp.rescale(1, root, 20 - right)
        return fp.rescale(fine, multiplier, shift - 20) + s.out_zero

    return _clamped([value(x - s.in_zero) for x in _INPUTS])


def sigmoid_16() -> np.ndarray:
    """1 / (1 + exp(-i / 24)) with 16 fractional bits for i up to 255, which is taken for the limit.

    Between two places a line is drawn, and it would run below the curve: half of that distance is given to the places.
    """
    curve = 1 / (1 + np.exp(-np.arange(256) / 24))
    bend = curve * (1 - curve) * (2 * curve - 1) / 24**2
    table = np.rint(65536 * (curve + bend / 16)).astype(np.uint16)
    table[-1] = 65535
    return table


def softmax_16() -> tuple[np.ndarray, np.ndarray]:
    """exp(10 (i / 512 - 1)) and 1 / (1 + i / 512) for i up to 512, both with 15 fractional bits as int16.

    Each is drawn as lines between those places, and a line between two places of a convex curve runs above it: half of
    that distance in the middle is taken from the place where the line begins. All in single precision, as TFLite Micro
    makes these tables when it starts.
    """
    steps, one = np.float32(65535), np.float32(1)
    return (
        _lines_16(lambda x: np.exp(x.astype(np.float64)).astype(np.float32), np.float32(10) / steps * -steps, 0 * one),
        _lines_16(lambda x: one / (one + x), 0 * one, one / steps * steps),
    )


def _lines_16(curve: Callable[[np.ndarray], np.ndarray], low: np.float32, high: np.float32) -> np.ndarray:
    two, scale = np.float32(2), np.float32(2) / np.float32(65535)
    of_one = np.float32(65536) / (scale * np.float32(32767) - scale * np.float32(-32768))

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.trunc(x + np.copysign(0.5, x.astype(np.float64))).astype(np.float32)

    step = (high - low) / np.float32(512)
    ends = low + np.arange(513, dtype=np.float32) * step
    starts, middles = ends[:-1], ends[:-1] + step / two
    places = rounded(curve(starts) * of_one)
    drawn = rounded((curve(ends[1:]) * of_one + places) / two)
    above = drawn - rounded(curve(middles) * of_one)
    last = rounded(curve(np.array([high])) * of_one)
    return np.clip(np.append(places - rounded(above / two), last), -32768, 32767).astype(np.int16)


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


def requantize_unsigned(s: Scales, to_unsigned: bool) -> np.ndarray:
    """QUANTIZE between int8 and uint8, by the bits of either as int8."""
    multiplier, shift = fp.quantize_multiplier(float(s.in_scale) / float(s.out_scale))
    stored = _INPUTS if to_unsigned else [x % 256 for x in _INPUTS]
    low, high = (0, 255) if to_unsigned else (-128, 127)
    values = [fp.rescale(x - s.in_zero, multiplier, shift) + s.out_zero for x in stored]
    return np.array([max(low, min(high, value)) % 256 for value in values], np.uint8).view(np.int8)


def _softmax_factor(scale: np.float32, beta: float) -> tuple[int, int]:
    """What turns a difference of inputs into Q(5)."""
    real = min(float(np.float32(beta)) * float(scale) * (1 << 26), 2.0**31 - 1)
    if real <= 1:
        raise NoTable(f"beta * scale = {beta * float(scale):g} is too small for the fixed-point softmax")
    return fp.quantize_multiplier(real)


def exponentials(scale: np.float32, beta: float) -> np.ndarray:
    """SOFTMAX's exp(-i * beta * scale) for i from 0 on, Q(0) as int32, up to the last one that TFLite Micro counts."""
    multiplier, shift = _softmax_factor(scale, beta)
    count = min(255, fp.input_radius(5, shift)) + 1
    values = [fp.exp_on_negative(fp.multiply_high(-i << shift, multiplier), 5) for i in range(count)]
    return np.array(values, np.int32)


def log_differences(scale: np.float32) -> tuple[np.ndarray, np.ndarray, int, int]:
    """LOG_SOFTMAX's -i * scale as Q(5), exp of it as Q(0), for i from 0 on, and the factor back to its scale."""
    multiplier, shift = _softmax_factor(scale, 1.0)
    if not 1 <= shift <= 31:
        raise NoTable(f"the input scale {scale:g} is out of reach for the fixed-point logarithm")
    count = min(255, fp.input_radius(5, shift)) + 1
    differences = [fp.multiply_high(-i << shift, multiplier) for i in range(count)]
    back, back_shift = fp.quantize_multiplier((1 << (31 - shift)) / multiplier)
    if back_shift > 0:
        raise NoTable(f"the input scale {scale:g} is out of reach for the fixed-point logarithm")
    powers = [fp.exp_on_negative(d, 5) for d in differences]
    return np.array(differences, np.int32), np.array(powers, np.int32), back, back_shift
