# SPDX-License-Identifier: Apache-2.0
"""Bar charts as SVG: one bar a row, drawn by vl-convert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgepress.models.errors import RuntimeFailure
from edgepress.models.terminal.installation import how_to_install

#: Okabe and Ito's colours, which people with colour-blindness can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def bars_svg(rows: Sequence[tuple[str, str, float]], title: str, axis: str) -> str:
    """Horizontal bars, in the order of the rows.

    Args:
        rows: (label, group, value); bars of one label stand together, a colour for each group.
        title: of the figure.
        axis: what the values are, with their unit.

    Raises:
        RuntimeFailure: vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise RuntimeFailure(f"the figure needs vl-convert ({error}): {how_to_install('vl_convert')}") from error
    values: list[dict[str, Any]] = [{"label": label, "group": group, "value": value} for label, group, value in rows]
    return vl_convert.vegalite_to_svg(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "data": {"values": values},
            "width": 420,
            "height": {"step": 11},
            "title": title,
            "mark": {"type": "bar"},
            "encoding": {
                "y": {
                    "field": "label",
                    "type": "nominal",
                    "title": None,
                    "axis": {"labelLimit": 300},
                    "sort": list(dict.fromkeys(label for label, _, _ in rows)),
                },
                "x": {"field": "value", "type": "quantitative", "title": axis},
                "yOffset": {"field": "group", "type": "nominal"},
                "color": {"field": "group", "type": "nominal", "title": None, "scale": {"range": list(_COLOURS)}},
            },
        }
    )
