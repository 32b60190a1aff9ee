# SPDX-License-Identifier: Apache-2.0
"""Quantities with units: "20M" MACs, "128 kB", "50%", "100 ms". A number of bytes without a unit is an error."""

from __future__ import annotations

import math
import re

from edgepress.models.errors import UsageError

_SCALES: dict[str, dict[str, float]] = {
    "macs": {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "MMACs": 1e6, "MMAC": 1e6, "MACs": 1},
    "params": {"": 1, "k": 1e3, "K": 1e3, "M": 1e6},
    "bytes": {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "ms": {"us": 1e-3, "ms": 1, "s": 1e3},
    "fraction": {"": 1, "%": 0.01},
    "instructions": {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9},
    "uJ": {"uJ": 1, "mJ": 1e3, "J": 1e6},
    "number": {"": 1},
}
_EXAMPLES = {
    "macs": '"20M" or "20e6"',
    "params": '"128k" or "61148"',
    "bytes": '"128 kB" (decimal) or "64 KiB"',
    "ms": '"100 ms"',
    "fraction": '"0.9" or "90%"',
    "instructions": '"10M"',
    "uJ": '"500 uJ"',
    "number": '"1.2"',
}
_INTEGERS = {"macs", "params", "bytes", "instructions"}
_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)\s*\Z")


def parse_quantity(text: str | int | float, unit: str, *, name: str, relative_to: float | None = None) -> float | int:
    """Read a quantity such as "20M", "128 kB" or "50%".

    Args:
        text: what the user wrote; a bare number is accepted where the unit has no scale of its own (not for bytes).
        unit: "macs", "params", "bytes", "instructions", "ms", "fraction", "uJ" or "number".
        name: the parameter, for the error.
        relative_to: what "50%" is half of; without it a percentage is an error (except for fractions).

    Returns:
        int for macs, params, bytes and instructions, otherwise float.

    Raises:
        UsageError: not a quantity of this unit, negative, not finite, or without a unit where one is needed.
    """
    scales = _SCALES[unit]
    match = _QUANTITY.match(str(text)) if not isinstance(text, bool) else None
    allowed = f"write {_EXAMPLES[unit]}" + (' or a share such as "50%"' if relative_to is not None else "")
    if match is None:
        raise UsageError(f"{name} = {text!r} is not a quantity: {allowed}")
    number, suffix = float(match[1]), match[2]
    if suffix == "%" and unit != "fraction":
        if relative_to is None:
            raise UsageError(f"{name} = {text!r}: a share needs something to be a share of; {allowed}")
        value = relative_to * number / 100
    elif suffix in scales:
        value = number * scales[suffix]
    else:
        units = ", ".join(repr(known) for known in scales if known)
        problem = "has no unit" if not suffix else f"has the unknown unit {suffix!r}"
        raise UsageError(f"{name} = {text!r} {problem}: known are {units or 'bare numbers'}; {allowed}")
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"{name} = {text!r} must be finite and not negative; {allowed}")
    # A limit is never rounded up: 12.7 bytes allow 12. The small addition undoes binary dust (0.29 * 100 = 28.999...).
    return math.floor(value + 1e-6) if unit in _INTEGERS else value


def format_quantity(value: float | None, unit: str) -> str:
    """Write a quantity for people: 19996416 macs -> "20.00 M", 128000 bytes -> "128.0 kB"; None -> "-"."""
    if value is None:
        return "-"
    if unit == "fraction":
        return f"{100 * value:.2f} %"
    if unit in ("ms", "uJ"):
        return f"{value:.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"
    suffix = {"bytes": "B"}.get(unit, "")
    for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.{2 if scale > 1e3 else 1}f} {prefix}{suffix}"
    return (f"{value:,.0f} {suffix}" if float(value).is_integer() else f"{value:.4g} {suffix}").strip()


def format_against(value: float, limit: float, unit: str) -> tuple[str, str]:
    """Both quantities as text; exact digits where the rounded texts would hide which of them is larger."""
    rounded = format_quantity(value, unit), format_quantity(limit, unit)
    if value != limit and rounded[0] == rounded[1]:
        suffix = {"bytes": " B", "ms": " ms", "uJ": " uJ"}.get(unit, "")
        if float(value).is_integer() and float(limit).is_integer():
            return f"{value:,.0f}{suffix}", f"{limit:,.0f}{suffix}"
        # As few digits as tell them apart; 17 tell any two apart.
        texts = ((f"{value:,.{digits}g}", f"{limit:,.{digits}g}") for digits in range(5, 18))
        reached, wanted = next((pair for pair in texts if pair[0] != pair[1]), (str(value), str(limit)))
        return f"{reached}{suffix}", f"{wanted}{suffix}"
    return rounded
