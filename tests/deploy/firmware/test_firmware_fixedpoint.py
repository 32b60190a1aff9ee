"""The generator's fixed-point arithmetic: hand-worked numbers, and functions against real ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgepress.deploy.firmware.lowering import fixedpoint as fp
from edgepress.deploy.firmware.lowering import tables
from edgepress.deploy.firmware.lowering.context import Refused, merged


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0.5, (1 << 30, 0)),
        (1.0, (1 << 30, 1)),
        (0.25, (1 << 30, -1)),
        (0.75, (3 << 29, 0)),
        (0.0, (0, 0)),
        (2.0**-40, (0, 0)),
        # The fraction rounds up to 1: the multiplier is halved and the shift grows.
        (1 - 2.0**-40, (1 << 30, 1)),
    ],
)
def test_multiplier_and_shift(real, expected):
    assert fp.quantize_multiplier(real) == expected


@pytest.mark.parametrize(
    ("x", "exponent", "expected"), [(3, 1, 2), (-3, 1, -2), (5, 2, 1), (-5, 2, -1), (6, 2, 2), (-6, 2, -2), (7, 0, 7)]
)
def test_division_rounds_ties_away_from_zero(x, exponent, expected):
    assert fp.divide_by_power(x, exponent) == expected


def test_high_product_rounds_ties_up():
    assert fp.multiply_high(1, 1 << 30) == 1  # 0.5
    assert fp.multiply_high(-1, 1 << 30) == 0  # -0.5
    assert fp.multiply_high(-3, 1 << 30) == -1  # -1.5


def test_two_roundings_differ_from_one():
    # 3 * 0.75 / 2 = 1.125: the roundings give 2, then 1; 1 * 0.75 / 2 = 0.375 gives 1, then 1 and not 0.
    assert fp.rescale(3, 3 << 29, -1) == 1
    assert fp.rescale(1, 3 << 29, -1) == 1


def test_a_shift_that_overflows_is_refused():
    with pytest.raises(ValueError, match="32 bits"):
        fp.rescale(1 << 30, 1 << 30, 2)


@pytest.mark.parametrize("real", [-15.5, -4.0, -1.0, -0.3, -0.01, 0.0])
def test_exponential_is_one(real):
    raw = round(real * (1 << 26))
    assert fp.exp_on_negative(raw, 5) / 2**31 == pytest.approx(math.exp(real), abs=2e-7)


@pytest.mark.parametrize("real", [-7.5, -2.0, -0.1, 0.0, 0.4, 3.0, 7.5])
def test_logistic_and_tanh(real):
    raw = round(real * (1 << 27))
    assert fp.logistic(raw, 4) / 2**31 == pytest.approx(1 / (1 + math.exp(-real)), abs=1e-6)
    assert fp.tanh(raw, 4) / 2**31 == pytest.approx(math.tanh(real), abs=1e-6)


def _scales(in_scale, in_zero, out_scale, out_zero):
    return tables.Scales(np.float32(in_scale), in_zero, np.float32(out_scale), out_zero)


def test_tables_by_hand():
    relu = tables.relu(_scales(0.5, 10, 0.25, -20))  # twice the distance to 10, from -20
    assert [relu[128 + x] for x in (-128, 9, 10, 11, 40, 127)] == [-20, -20, -20, -18, 40, 127]
    six = tables.relu6(_scales(0.1, -50, 0.1, -50))
    assert six.min() == -50
    assert six.max() == 10
    leaky = tables.leaky_relu(_scales(0.5, 0, 0.5, 0), 0.5)
    assert [leaky[128 + x] for x in (-100, -1, 0, 100)] == [-50, 0, 0, 100]  # -0.5 rounds up


def test_tables_stay_near_the_functions():
    x = (np.arange(-128, 128) - 3) * 0.05
    hard = tables.hard_swish(_scales(0.05, 3, 0.04, -90)).astype(float)
    real = x * np.clip(x + 3, 0, 6) / 6
    assert np.abs((hard + 90) * 0.04 - np.clip(real, None, 217 * 0.04)).max() <= 0.04
    assert (
        np.abs((tables.logistic(_scales(0.05, 3, 1 / 256, -128)) + 128.0) / 256 - 1 / (1 + np.exp(-x))).max() <= 1 / 256
    )


def test_exponentials_fall_from_one():
    values = tables.exponentials(np.float32(0.1), 1.0)
    assert values[0] == 2**31 - 1
    assert (np.diff(values.astype(np.int64)) <= 0).all()
    assert values[10] / 2**31 == pytest.approx(math.exp(-1), abs=1e-6)


def test_dimensions_are_merged_where_strides_allow_it():
    assert merged([1, 4, 5, 6], [120, 30, 6, 1]) == ((1, 1, 1, 1, 120), (0, 0, 0, 0, 1))
    assert merged([4, 5, 6], [30, 6, 1], [0, 0, 1]) == ((1, 1, 1, 20, 6), (0, 0, 0, 6, 1), (0, 0, 0, 0, 1))
    with pytest.raises(Refused, match="6 dimensions"):
        merged([2] * 6, [1, 2, 4, 8, 16, 32])
