"""Quantities with units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.models.errors import UsageError
from edgepress.models.units import format_against, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("20e6", "macs", 20_000_000),
        ("20M", "macs", 20_000_000),
        (20e6, "macs", 20_000_000),
        ("0.5 G", "macs", 500_000_000),
        ("128 kB", "bytes", 128_000),
        ("128KiB", "bytes", 131_072),
        ("17 B", "bytes", 17),
        ("61148", "params", 61_148),
        ("100 ms", "ms", 100.0),
        ("1.5 s", "ms", 1500.0),
        ("90%", "fraction", 0.9),
        ("0.9", "fraction", 0.9),
    ],
)
def test_known_quantities(text, unit, value):
    assert parse_quantity(text, unit, name="limit") == pytest.approx(value)


def test_shares_need_a_whole():
    assert parse_quantity("50%", "macs", name="target", relative_to=37_837_921) == 18_918_960
    with pytest.raises(UsageError, match="a share needs something"):
        parse_quantity("50%", "macs", name="target")


@pytest.mark.parametrize(
    ("text", "unit", "problem"),
    [
        ("128000", "bytes", "has no unit"),
        ("banana", "bytes", "is not a quantity"),
        ("5 parsec", "macs", "unknown unit 'parsec'"),
        ("-3M", "macs", "not negative"),
        ("1e999", "macs", "finite"),
        (True, "macs", "is not a quantity"),
        ("nan", "macs", "is not a quantity"),
    ],
)
def test_bad_quantities_name_the_parameter_and_what_is_allowed(text, unit, problem):
    with pytest.raises(UsageError, match=problem) as caught:
        parse_quantity(text, unit, name="max_file")
    assert "max_file" in str(caught.value)
    assert "write" in str(caught.value)


@given(st.integers(0, 10**12))
def test_integers_are_read_exactly(number):
    assert parse_quantity(number, "macs", name="macs") == number
    assert parse_quantity(f"{number} B", "bytes", name="file") == number


def test_formats():
    assert format_quantity(19_996_416, "macs") == "20.00 M"
    assert format_quantity(128_000, "bytes") == "128.0 kB"
    assert format_quantity(None, "macs") == "-"
    assert format_quantity(0.7712, "fraction") == "77.12 %"


@given(st.integers(1, 10**10), st.integers(1, 10**10))
def test_rounding_never_hides_which_is_larger(value, limit):
    left, right = format_against(value, limit, "bytes")
    assert (left == right) == (value == limit)
