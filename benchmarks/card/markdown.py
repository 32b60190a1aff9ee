# SPDX-License-Identifier: Apache-2.0
"""Blocks of the report as Markdown: what is a table there is one here; charts stay in the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgepress.benchmarks.card.card import Card
from edgepress.benchmarks.gate.formats import escaped

#: A longer table is folded.
_MOST_ROWS = 25


def as_markdown(card: Card) -> str:
    """The card for a release, a README or a pull request; no name in it becomes markup."""
    lines = [f"# {escaped(card.title)}", "", escaped(card.subtitle), ""]
    lines += [f"- {escaped(figure['label'])}: **{escaped(figure['value'])}**" for figure in card.figures]
    for block in (block for row in card.rows for block in row if block):
        lines += _block(block)
    return "\n".join(lines).rstrip("\n") + "\n"


def _block(block: Mapping[str, Any]) -> list[str]:
    tables = [("", block["table"])] if block.get("table") else []
    choices = [choice for choice in block.get("choices") or () if choice.get("table")]
    tables += [(choice["name"] if len(choices) > 1 else "", choice["table"]) for choice in choices]
    drawn = block.get("chart") or (block.get("choices") and not choices)
    if drawn and not tables:
        return []
    lines = ["", f"## {escaped(block['title'])}", ""]
    lines += [escaped(block["text"]), ""] if block.get("text") else []
    for name, table in tables:
        lines += [f"### {escaped(name)}", ""] if name else []
        folded = len(table["rows"]) > _MOST_ROWS
        lines += [f"<details><summary>{len(table['rows'])} rows</summary>", ""] if folded else []
        lines += [*_rows(table), "", *(["</details>", ""] if folded else [])]
    return lines[:-1]


def _rows(table: Mapping[str, Any]) -> Iterator[str]:
    numbers = set(table["numbers"])
    yield _line(table["columns"])
    yield "|" + "|".join("---:" if index in numbers else "---" for index in range(len(table["columns"]))) + "|"
    yield from (_line(row) for row in table["rows"])


def _line(cells: Sequence[Any]) -> str:
    texts = [str(cell["text"]) if isinstance(cell, Mapping) else str(cell) for cell in cells]
    return "| " + " | ".join(map(escaped, texts)) + " |"
