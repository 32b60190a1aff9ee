# SPDX-License-Identifier: Apache-2.0
"""Many runs on one page: which networks are on the Pareto front of accuracy, MACs and bytes of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepress.benchmarks.report import charts
from edgepress.benchmarks.report.blocks import int8_record, interval_of, percent, versions_block
from edgepress.benchmarks.report.gather import Network, gather
from edgepress.benchmarks.report.networks.fronts import FRONT_TEXT, placed, point_row
from edgepress.benchmarks.report.networks.overview import overview_block
from edgepress.benchmarks.report.page import render_page
from edgepress.models.atomic import write_text
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.units import format_quantity


@dataclass(frozen=True)
class Point:
    """A network as the front sees it.

    Attributes:
        name: "run/network".
        accuracy: on the test split, else on validation; higher is better.
        macs: under the rule of its checkpoint; lower is better.
        weight_bytes: lower is better.
        network: what was gathered.
    """

    name: str
    accuracy: float
    macs: int
    weight_bytes: int
    network: Network


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats: none is at least as good in every figure and better in one. Least MACs first.

    Of points that are equal in every figure the first is kept.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.macs, p.weight_bytes, -p.accuracy)):
        # Whatever beats a point comes before it in this order.
        if not any(other.weight_bytes <= point.weight_bytes and other.accuracy >= point.accuracy for other in kept):
            kept.append(point)
    return kept


def points_of(runs: Sequence[str | Path]) -> list[Point]:
    """Every trained network of these runs, copies of one and the same only once.

    Raises:
        UsageError: a run holds no trained network, or was measured on other data, or counts MACs by another rule.
    """
    points: list[Point] = []
    seen: dict[str, str] = {}
    first: tuple[Any, ...] | None = None
    for run in runs:
        gathered = gather(RunDirectory(run), arena=False)
        keys = {network.name: network.metrics.get("key", network.name) for network in gathered}
        for network in gathered:
            measured, data = network.metrics, network.metrics.get("data") or {}
            found = measured.get("test") or measured.get("validation")
            if not found:
                continue
            kind = (data.get("fingerprint"), measured["cost"]["rule"], "test" if measured.get("test") else "validation")
            first = first or kind
            if kind != first:
                raise UsageError(
                    f"{run} was measured on other data or by another rule than {runs[0]}: {kind} is not "
                    f"{first}; figures that do not compare are not joined"
                )
            if keys[network.name] in seen:
                continue
            name = seen[keys[network.name]] = f"{Path(run).name}/{network.name}"
            # The largest come first, and so a dense network before what was pruned from it.
            dense = seen.get(keys.get(network.dense or "", ""))
            shown = replace(network, name=name, dense=dense)
            points.append(Point(name, found["accuracy"], network.macs, measured["cost"]["weight_bytes"], shown))
    if not points:
        raise UsageError("none of these runs holds a network with a measured accuracy")
    return points


def write_pareto(runs: Sequence[str | Path], output: str | Path) -> tuple[Path, list[Point]]:
    """Write the page; returns its path and the front."""
    points = points_of(runs)
    best = front(points)
    networks = [point.network for point in sorted(points, key=lambda p: -p.macs)]
    data = points[0].network.metrics.get("data") or {}
    rows = [[_front_block(best), _chart_block(points)], [overview_block(networks)], [versions_block(networks)]]
    cards = [
        {"label": "networks", "value": str(len(points))},
        {"label": "on the front", "value": str(len(best))},
        {"label": "runs", "value": str(len(runs))},
        {
            "label": f"highest accuracy, {max(points, key=lambda p: p.accuracy).name}",
            "value": format_quantity(max(p.accuracy for p in points), "fraction"),
        },
    ]
    page = render_page(
        rows,
        title=f"edgepress sweep: {data.get('task', 'no task')}",
        subtitle=f"{len(runs)} runs; data {data.get('source') or data.get('task', '-')}",
        cards=cards,
    )
    return write_text(output, page), best


def front_rows(best: Sequence[Point]) -> list[list[str]]:
    """The front as cells, as `COLUMNS` says."""
    rows = []
    for point in best:
        file = point.network.model_file
        rows.append(
            [
                point.name,
                f"{point.macs / 1e6:.3f} M",
                format_quantity(point.weight_bytes, "bytes"),
                format_quantity(file.profile["file_bytes"] if file else None, "bytes"),
                format_quantity(point.accuracy, "fraction"),
                " to ".join(format_quantity(end, "fraction") for end in interval_of(_record(point.network))) or "-",
                percent(int8_record(point.network)),
            ]
        )
    return rows


COLUMNS = ["network", "MACs", "weights, int8", "TFLite file", "fp32", "95 % interval", "int8"]


def _front_block(best: Sequence[Point]) -> dict[str, Any]:
    return {
        "title": "Pareto front",
        "table": {"columns": COLUMNS, "rows": front_rows(best), "numbers": list(range(1, len(COLUMNS))), "wrap": [0]},
        "text": "No other network is as good in accuracy, MACs and bytes of weights and better in one of them.",
    }


def _chart_block(points: Sequence[Point]) -> dict[str, Any]:
    rows = [point_row(point.name, "fp32", point.macs / 1e6, _record(point.network)) for point in points]
    return {
        "id": "pareto",
        "title": "Accuracy against MACs",
        "chart": charts.accuracy_against_cost(rows, placed(rows), "million MACs"),
        "text": f"{FRONT_TEXT} The front of the table counts bytes of weights as well.",
    }


def _record(network: Network) -> dict[str, Any]:
    return network.metrics.get("test") or network.metrics.get("validation") or {}
