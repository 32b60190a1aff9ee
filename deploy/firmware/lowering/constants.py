# SPDX-License-Identifier: Apache-2.0
"""Arrays as rows of constants in C."""

from __future__ import annotations

from collections.abc import Iterable

#: Of lines that are generated.
LINE_WIDTH = 116


def number_rows(values: Iterable[int | float | str], hexadecimal: bool = False) -> list[str]:
    """Lines of numbers, separated by commas; text is taken as it is."""
    lines, line = [], "   "
    for value in values:
        # -2147483648 is no constant of int in C, but the negation of one of long.
        text = f"0x{value:08x}" if hexadecimal else "INT32_MIN" if value == -(2**31) else str(value)
        if len(line) + len(text) + 2 > LINE_WIDTH:
            lines.append(line)
            line = "   "
        line += f" {text},"
    return [*lines, line]
