# SPDX-License-Identifier: Apache-2.0
"""The history of the report: the same file measured again, in this run and in others, and why a figure moved."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.gate.compare import why_another
from edgepress.benchmarks.measure.result_log import of_run, read
from edgepress.benchmarks.report import charts
from edgepress.benchmarks.report.shapes import Block, cell, choices_block, table
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.units import format_quantity

#: Figure of a record -> (name, unit).
_FIGURES = {"accuracy": ("accuracy", "fraction"), "log_loss": ("log loss", "number"), "p50_ms": ("latency, p50", "ms")}


def read_history(sources: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Every measurement of some runs, oldest first.

    Args:
        sources: run directories, or files of results.

    Returns:
        Records of `edgepress.benchmarks.measure.result_log` with "origin" (the name of the run) in them; each once.

    Raises:
        UsageError: a source is missing or damaged.
    """
    found = []
    for source in dict.fromkeys(Path(source) for source in sources):
        if not source.exists():
            raise UsageError(f"there is no run directory or file of results {source}")
        records = of_run(RunDirectory(source)) if source.is_dir() else read(source)
        name = source.resolve().name if source.is_dir() else source.stem
        found += [{**record, "origin": name} for record in records]
    return sorted(found, key=lambda record: record.get("time") or 0)


def history_block(records: Sequence[Mapping[str, Any]]) -> Block | None:
    """One chart and one table for each kind of figure; None where nothing was measured twice.

    A series is a file name on a runtime, on one data set and split: figures of other data are never joined.
    """
    series: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        series.setdefault(_series(record), []).append(record)
    repeated = {key: found for key, found in series.items() if len(found) > 1}
    choices = []
    for figure, (name, unit) in _FIGURES.items():
        points = [point for key, found in repeated.items() for point in _points(key, found, figure)]
        if points:
            steps = [point["step"] for point in sorted(points, key=lambda point: point["time"])]
            choices.append(
                {"name": name, "chart": charts.over_measurements(points, list(dict.fromkeys(steps)), name, unit)}
            )
            rows = [
                [
                    point["series"],
                    point["step"],
                    _date(point["time"]),
                    _shown(point["value"], unit),
                    _change(point["change"], unit),
                    point["why"],
                ]
                for point in points
            ]
            choices.append(
                {
                    "name": f"{name}, table",
                    "table": table(
                        ["file and runtime", "run", "measured", name, "change", "what changed"], rows, [3, 4], [5]
                    ),
                }
            )
    return choices_block(
        "history",
        "History",
        choices,
        "The same file name on the same data, measured again: #2 is the second measurement of a run.",
    )


def _series(record: Mapping[str, Any]) -> tuple[str, ...]:
    data = record.get("data") or {}
    return (
        Path(str(record.get("file", "?"))).name,
        str(record.get("runtime")),
        str(record.get("device_class") or ""),
        str(record.get("kind", "accuracy")),
        str(data.get("fingerprint")),
        str(data.get("split")),
    )


def _points(key: tuple[str, ...], found: Sequence[Mapping[str, Any]], figure: str) -> list[dict[str, Any]]:
    """The points of a series, each with its change since the one before."""
    points: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    before: Mapping[str, Any] | None = None
    for record in found:
        if record.get(figure) is None:
            continue
        origin = str(record["origin"])
        taken[origin] = taken.get(origin, 0) + 1
        points.append(
            {
                "series": " on ".join((key[0], key[1])),
                "step": origin + (f" #{taken[origin]}" if taken[origin] > 1 else ""),
                "time": record.get("time") or 0,
                "value": record[figure],
                "change": None if before is None else record[figure] - before[figure],
                "why": "first" if before is None else why_another(before, record),
            }
        )
        before = record
    return points if len(points) > 1 else []


def _shown(value: float, unit: str) -> dict[str, Any]:
    return cell(f"{value:.4f}" if unit == "number" else format_quantity(value, unit), value)


def _change(change: float | None, unit: str) -> dict[str, Any]:
    if not change:
        return cell("-" if change is None else "0", change)
    text = f"{abs(change):.4f}" if unit == "number" else format_quantity(abs(change), unit)
    return cell(("+" if change > 0 else "-") + text, change)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) if seconds else "-"
