# SPDX-License-Identifier: Apache-2.0
"""Tables as text: one look for everything that the commands print in columns."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

#: What stands to the right: a figure with its sign and unit, as "+1.5 %", "128 kB" or "90/100"; no sentence.
_FIGURE = re.compile(r"[-+]?\d[\d,.]*(e[-+]?\d+)?(/\d+)?( ?%| ?[A-Za-z]{1,5})?\Z")


#: Laying out a table takes about a millisecond a row: a network of 20,000 operators would take a quarter of a minute.
MOST_ROWS = 1000


def table_text(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell, whatever the terminal: a pipe gets what a person sees.

    Args:
        headings: one for each column.
        rows: cells; None is shown as "-". A column of figures stands to the right.

    A table is for people: of more than `MOST_ROWS` rows the first ones are shown, and a line says how many are not.

    Returns:
        Lines without spaces at their ends, the last one without a line break.
    """
    from rich.console import Console
    from rich.table import Table

    left_out, rows = len(rows) - MOST_ROWS, rows[:MOST_ROWS]
    cells = [["-" if value is None else printable(str(value)) for value in row] for row in (headings, *rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, *column in zip(*cells, strict=True):
        figures = [cell for cell in column if cell not in ("", "-")]
        right = bool(figures) and all(_FIGURE.match(cell) for cell in figures)
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for row in cells[1:]:
        table.add_row(*row)
    file = io.StringIO()
    # Wide enough for anything, so that nothing is cut or wrapped here; a character takes two places at most. With both
    # sizes given, no terminal and no variable is asked.
    width = 2 * sum(len(cell) + 2 for row in cells for cell in row)
    console = Console(
        file=file, width=width, height=len(cells), force_terminal=False, color_system=None, markup=False, emoji=False
    )
    console.print(table, highlight=False)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join([*lines, f"... and {left_out:,} more rows; JSON has them all"] if left_out > 0 else lines)


def printable(text: str) -> str:
    """One line without control characters: names come from files, and must not reach into the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
