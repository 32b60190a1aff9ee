# SPDX-License-Identifier: Apache-2.0
"""TFLite Micro's fixed-point arithmetic in Python integers: what the generator computes ahead of time.

Raw int32 values throughout. `Q(n)` means n integer bits and 31 - n fractional ones, as in gemmlowp's FixedPoint.
"""

from __future__ import annotations

from math import floor, frexp

INT32_MAX, INT32_MIN = 2**31 - 1, -(2**31)


def quantize_multiplier(real: float) -> tuple[int, int]:
    """(multiplier, shift) with real = multiplier / 2^31 * 2^shift, as `QuantizeMultiplier` of TFLite.

    Raises:
        ValueError: negative, infinite or NaN.
    """
    if not 0 <= real < float("inf"):
        raise ValueError(f"the multiplier {real} cannot be expressed in fixed point")
    if real == 0:
        return 0, 0
    fraction, shift = frexp(real)
    multiplier = floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def multiply_high(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul: round(a * b / 2^31), ties towards plus infinity."""
    return INT32_MAX if a == b == INT32_MIN else (a * b + 2**30) >> 31


def divide_by_power(x: int, exponent: int) -> int:
    """RoundingDivideByPOT: round(x / 2^exponent), ties away from zero."""
    mask = (1 << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def saturating_power(x: int, exponent: int) -> int:
    """SaturatingRoundingMultiplyByPOT: x * 2^exponent."""
    if exponent <= 0:
        return divide_by_power(x, -exponent)
    return max(INT32_MIN, min(INT32_MAX, x << exponent))


def rescale(x: int, multiplier: int, shift: int) -> int:
    """MultiplyByQuantizedMultiplier, with its two roundings.

    Raises:
        ValueError: the shift to the left overflows 32 bits.
    """
    shifted = x << max(shift, 0)
    if not INT32_MIN <= shifted <= INT32_MAX:
        raise ValueError(f"{x} * 2^{shift} does not fit into 32 bits")
    return divide_by_power(multiply_high(shifted, multiplier), max(-shift, 0))


def exp_on_negative(a: int, integer_bits: int) -> int:
    """exp(a) for a <= 0 in Q(integer_bits); the result is Q(0)."""
    if a == 0:
        return INT32_MAX
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    rest = (a & (quarter - 1)) - quarter
    result = _exp_near_zero(saturating_power(rest, integer_bits))
    remainder = rest - a
    for exponent, factor in zip(
        range(-2, 5), (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242), strict=True
    ):
        if integer_bits > exponent and remainder & (1 << (fraction_bits + exponent)):
            result = multiply_high(result, factor)
    return result if integer_bits <= 5 or a >= -(32 << fraction_bits) else 0


def _exp_near_zero(a: int) -> int:
    """exp(a) for a in [-1/4, 0), Q(0): a Taylor series around -1/8."""
    x = a + (1 << 28)
    x2 = multiply_high(x, x)
    x3, x4 = multiply_high(x2, x), multiply_high(x2, x2)
    inner = saturating_power(x4, -2) + x3
    series = saturating_power(multiply_high(inner, 715827883) + x2, -1)
    return 1895147668 + multiply_high(1895147668, x + series)


def _newton(a: int) -> tuple[int, int]:
    """2 / (1 + a) for a in [0, 1] of Q(0), as Q(2), and (1 + a) / 2."""
    half = (a + INT32_MAX + 1) // 2
    y = 1515870810 + multiply_high(half, -1010580540)
    for _ in range(3):
        y += saturating_power(multiply_high(y, (1 << 29) - multiply_high(half, y)), 2)
    return y, half


def one_over_one_plus(a: int) -> int:
    """1 / (1 + a) for a in [0, 1], Q(0)."""
    return saturating_power(_newton(a)[0], 1)


def one_minus_over_one_plus(a: int) -> int:
    """(1 - a) / (1 + a) for a in [0, 1], Q(0)."""
    return saturating_power(_newton(a)[0] - (1 << 29), 2)


def logistic(a: int, integer_bits: int) -> int:
    """1 / (1 + exp(-a)) of a in Q(integer_bits), as Q(0)."""
    if a == 0:
        return 1 << 30
    positive = one_over_one_plus(exp_on_negative(-abs(a), integer_bits))
    return positive if a > 0 else INT32_MAX - positive


def tanh(a: int, integer_bits: int) -> int:
    """tanh(a) of a in Q(integer_bits), as Q(0)."""
    if a == 0:
        return 0
    positive = one_minus_over_one_plus(exp_on_negative(-abs(a), integer_bits + 1))
    return positive if a > 0 else -positive


def input_radius(integer_bits: int, left_shift: int, total_bits: int = 31) -> int:
    """CalculateInputRadius: from this distance on, a function of Q(integer_bits) has reached its limit."""
    return floor(1.0 * ((1 << integer_bits) - 1) * (1 << (total_bits - integer_bits)) / (1 << left_shift))


def inverse_square_root(x: int) -> tuple[int, int]:
    """(multiplier, shift to the right) of 1 / sqrt(x) for x > 0, by Newton's method in Q(3)."""
    if x <= 1:
        return INT32_MAX, 0
    right = 11
    while x >= 1 << 29:
        x, right = x // 4, right + 1
    pairs = (32 - x.bit_length() - 1) // 2 - 1
    right, x = right - pairs, x << 2 * pairs
    y, half = 1 << 28, divide_by_power(x >> 1, 1)
    for _ in range(5):
        cube = saturating_power(multiply_high(multiply_high(y, y), y), 6)
        y = saturating_power(multiply_high((1 << 28) + (1 << 27), y) - multiply_high(half, cube), 3)
    y = multiply_high(y, 1518500250)  # sqrt(2) / 2
    return (y << -right, 0) if right < 0 else (y, right)
