# SPDX-License-Identifier: Apache-2.0
"""Accuracy against cost, with what the intervals allow to be said of a Pareto front.

A front through measured points claims that each of them is better than what lies below it. On a few hundred clips that
is often more than was measured. So the line comes with a band: at every cost the best of the lower ends and the best of
the upper ends of all networks that cost no more; and a network counts as behind the front only where its whole interval
lies below that of one which costs no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgepress.benchmarks.report import charts
from edgepress.benchmarks.report.blocks import capital, interval_of, metric_of
from edgepress.benchmarks.report.gather import File, Network
from edgepress.benchmarks.report.shapes import Block, choices_block
from edgepress.models.devices.device import is_better_higher
from edgepress.models.tasks.kinds.table import said

FRONT, NEAR, BEHIND = charts.POINTS


def _kilo(value: float | None) -> float | None:
    return None if value is None else value / 1e3


#: What accuracy is held against: title, from a network and its int8 file (None: without one).
_COSTS: dict[str, Callable[[Network, File | None], float | None]] = {
    "million MACs": lambda network, file: network.macs / 1e6,
    "thousand params": lambda network, file: network.metrics["cost"]["params"] / 1e3,
    "TFLite file, kB": lambda network, file: file.profile["file_bytes"] / 1e3 if file else None,
    "TFLite Micro arena, kB": lambda network, file: (
        _kilo((file.profile.get("arena_bytes") or {}).get("tflm")) if file else None
    ),
}


def accuracy_block(networks: Sequence[Network]) -> Block | None:
    """Accuracy against each kind of cost, with the Pareto front of each runtime."""
    choices, metric = [], metric_of(networks)
    higher = is_better_higher(f"metric.{metric}") is not False
    for title, cost_of in _COSTS.items():
        rows = []
        for network in networks:
            found = {"fp32": network.metrics.get("test")} if "TFLite" not in title else {}
            found |= {f"int8 on {name}": record for file in network.files for name, record in file.accuracy.items()}
            cost = cost_of(network, network.model_file)
            rows += [
                point_row(network.name, series, cost, record)
                for series, record in found.items()
                if record and said(record)[1] is not None and cost is not None
            ]
        if rows:
            band = placed(rows, higher)
            choices.append({"name": title, "chart": charts.accuracy_against_cost(rows, band, title, metric)})
    return choices_block("accuracy", f"{capital(metric)} against cost", choices, FRONT_TEXT)


FRONT_TEXT = (
    "The steps are the Pareto front of each runtime, the band around them what the 95 % intervals allow it to be. Full "
    "points lie on it; hollow ones lie below, but within an interval of it; crosses are behind it by more than that. A "
    "click on a runtime singles it out."
)


def point_row(network: str, series: str, cost: float, record: dict[str, Any]) -> dict[str, Any]:
    """A point of the chart: network, series, cost, accuracy and the ends of its interval, None without one."""
    low, high = interval_of(record) or (None, None)
    return {
        "network": network,
        "series": series,
        "cost": cost,
        "low": low,
        "high": high,
        "accuracy": said(record)[1],
    }


def placed(rows: Sequence[dict[str, Any]], higher: bool = True) -> list[dict[str, Any]]:
    """Say of every point where it lies ("front" in it), series by series.

    Args:
        rows: series, cost, accuracy, low, high; changed in place.
        higher: whether more of the figure is better.

    Returns:
        The front of each series and its band: series, cost, accuracy, low, high at every cost where one of them steps.
    """
    band = []
    for series in dict.fromkeys(row["series"] for row in rows):
        own = [row for row in rows if row["series"] == series]
        points = [(row["cost"], *_worst_to_best(row, higher)) for row in own]
        for row, state in zip(own, states(points), strict=True):
            row["front"] = state
        for cost, low, best, high in envelope(points):
            ends = (low, high) if higher else (-high, -low)
            band.append(
                {
                    "series": series,
                    "cost": cost,
                    "accuracy": best if higher else -best,
                    "low": ends[0],
                    "high": ends[1],
                }
            )
    return band


def _worst_to_best(row: dict[str, Any], higher: bool) -> tuple[float, float, float]:
    """(low, figure, high) such that more is better; a figure without an interval is taken at its word."""
    value = row["accuracy"]
    low, high = (value if row[end] is None else row[end] for end in ("low", "high"))
    return (low, value, high) if higher else (-high, -value, -low)


def states(points: Sequence[tuple[float, float, float, float]]) -> list[str]:
    """Where each point (cost, low, figure, high) lies; more of the figure is better.

    On the front: no other one costs at most as much and is at least as good. Behind it: one that costs at most as much
    has its whole interval above. Between them: the intervals do not tell.
    """
    on_front = pareto([(cost, figure) for cost, _, figure, _ in points])
    return [
        FRONT
        if first
        else BEHIND
        if any(other[0] <= cost and other[1] > high for other in points if other[2] > figure)
        else NEAR
        for first, (cost, _, figure, high) in zip(on_front, points, strict=True)
    ]


def envelope(points: Sequence[tuple[float, float, float, float]]) -> list[tuple[float, float, float, float]]:
    """(cost, low, best, high) of the best network for at most that cost, at every cost where one of them steps.

    The best of several lower ends is a lower end for the best network, whichever that is; likewise above.
    """
    steps: list[tuple[float, float, float, float]] = []
    for cost in sorted({point[0] for point in points}):
        within = [point for point in points if point[0] <= cost]
        low, figure, high = (max(point[place] for point in within) for place in (1, 2, 3))
        if not steps or steps[-1][1:] != (low, figure, high):
            steps.append((cost, low, figure, high))
    if steps and (last := max(point[0] for point in points)) > steps[-1][0]:
        steps.append((last, *steps[-1][1:]))
    return steps


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points (cost, accuracy) are on the front: no other costs at most as much and is at least as accurate."""
    return [
        not any(other != point and other[0] <= point[0] and other[1] >= point[1] for other in points)
        for point in points
    ]
