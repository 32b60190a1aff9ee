# SPDX-License-Identifier: Apache-2.0
"""Rows of blocks as one HTML page that works without a network and without a server."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from edgepress.benchmarks.report.shapes import Block

TEMPLATES = Path(__file__).parent / "templates"


def render_page(
    rows: Sequence[Sequence[Block | None]], *, title: str, subtitle: str, cards: list[dict[str, str]]
) -> str:
    """Rows of blocks (None is left out) as one HTML page; every text in it is escaped."""
    import vl_convert
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    shown = _anchored([[block for block in row if block] for row in rows])
    figures = {
        f"{block['id']}-chart": [choice.get("chart") for choice in block.get("choices") or []] or [block["chart"]]
        for row in shown
        for block in row
        if block.get("chart") or block.get("choices")
    }
    template = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")
    return template.render(
        title=title,
        subtitle=subtitle,
        cards=cards,
        rows=[row for row in shown if row],
        contents=[block for row in shown for block in row],
        figures=figures,
        bundle=vl_convert.javascript_bundle(),  # pyright: ignore[reportCallIssue]  # its stub has no default
        footer="MACs count under the rule dcase unless another is named: weights and biases times output positions, "
        "after BatchNorm is folded. Intervals are 95 %, over recordings where they are known, else Wilson's.",
    )


def _anchored(rows: list[list[Block]]) -> list[list[Block]]:
    """The rows with an id in every block, which the list of contents leads to."""
    taken = {block["id"] for row in rows for block in row if block.get("id")}
    made = []
    for row in rows:
        made.append([])
        for block in row:
            name = re.sub(r"[^a-z0-9]+", "-", block["title"].lower()).strip("-") or "block"
            names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
            unique = next(each for each in names if each not in taken)
            made[-1].append(block if block.get("id") else {**block, "id": unique})
            taken.add(made[-1][-1]["id"])
    return made
