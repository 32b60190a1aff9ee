# SPDX-License-Identifier: Apache-2.0
"""Checks of network arguments: types, ranges and sizes, since arguments may come from a stranger's model.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgepress.models.errors import UsageError

#: No edge network is wider; a larger number in a file is a mistake or an attempt to fill the memory.
MAX_CHANNELS = 8192
MAX_CLASSES = 100_000


def whole_number(name: str, value: Any, minimum: int = 1, maximum: int = MAX_CHANNELS) -> int:
    """`value` as an int.

    Raises:
        UsageError: not a whole number in [minimum, maximum]; the message names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{name} = {value!r} must be a whole number from {minimum} to {maximum}")
    if not minimum <= value <= maximum:
        raise UsageError(f"{name} = {value!r} is out of range: allowed are {minimum} to {maximum}")
    if int(value) != value:
        raise UsageError(f"{name} = {value!r} must be a whole number from {minimum} to {maximum}")
    return int(value)


def number(name: str, value: Any, minimum: float, maximum: float) -> float:
    """`value` as a float in [minimum, maximum], else a UsageError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value <= maximum:
        raise UsageError(f"{name} = {value!r} must be a number from {minimum:g} to {maximum:g}")
    return float(value)


def whole_numbers(
    name: str, value: Any, count: int | tuple[int, int], minimum: int = 1, maximum: int = MAX_CHANNELS
) -> tuple[int, ...]:
    """`value` as a tuple of ints.

    Args:
        count: how many there must be, or the smallest and the largest number of them.

    Raises:
        UsageError: no sequence, the wrong length, or an element out of range.
    """
    low, high = (count, count) if isinstance(count, int) else count
    wanted = f"{low}" if low == high else f"{low} to {high}"
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not low <= len(value) <= high:
        raise UsageError(f"{name} = {value!r} must be a list of {wanted} whole numbers")
    return tuple(whole_number(f"{name}[{i}]", element, minimum, maximum) for i, element in enumerate(value))


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """`value` if it is one of `allowed`, else a UsageError that lists them."""
    if not isinstance(value, str) or value not in allowed:
        raise UsageError(f"{name} = {value!r} is unknown: allowed are {', '.join(map(repr, allowed))}")
    return value
