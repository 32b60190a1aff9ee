# SPDX-License-Identifier: Apache-2.0
"""The shapes that the template of the report takes: blocks, tables, cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Block = dict[str, Any]


def cell(text: str, value: float | None = None, kind: str = "", title: str = "", below: str = "") -> dict[str, Any]:
    """A cell of a table.

    Args:
        text: what is read.
        value: what a click on the column sorts by, where it is another thing than the text ("1.2 MB").
        kind: "fits", "warns" or "over" for a colour.
        title: what the pointer shows.
        below: a second, smaller line, such as the difference from another network.
    """
    return {"text": text, "value": value, "kind": kind, "title": title, "below": below}


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numbers: Sequence[int] = (),
    wrap: Sequence[int] = (),
    marked: Sequence[int] = (),
) -> dict[str, Any]:
    """A table: rows of texts and `cell`s.

    Args:
        columns: their heads.
        rows: of cells, one for each column.
        numbers: columns that are aligned right.
        wrap: columns whose text may break; on a narrow screen each row of such a table stands as a list.
        marked: rows that stand out, such as the dense network's.
    """
    return {
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "numbers": list(numbers),
        "wrap": list(wrap),
        "marked": list(marked),
    }


def table_block(title: str, found: dict[str, Any], text: str = "") -> Block | None:
    """A block with one table; None where the table is empty."""
    return {"title": title, "text": text, "table": found} if found["rows"] else None


def choices_block(identifier: str, title: str, choices: Sequence[Block], text: str = "") -> Block | None:
    """A block with a button for each choice (name, and a chart or a table); None where there is no choice."""
    return {"id": identifier, "title": title, "choices": list(choices), "text": text} if choices else None
