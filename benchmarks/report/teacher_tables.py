# SPDX-License-Identifier: Apache-2.0
"""Tables and figures like the report's: per recording device, sweeps, weights of an ensemble, differences.

They come from a results file of benchmarks/teachers.py or, in a run of a recipe with teachers, from what its teachers
and ensembles measured; both have one form (`edgepress.benchmarks.experiments.teachers.results.summarise`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.report import charts
from edgepress.benchmarks.report.shapes import table as report_table
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import read_json
from edgepress.models.run_directory import RunDirectory
from edgepress.models.text_tables import table_text

#: With the contrastive term and without: arms of one row of networks each.
_PAIRS = (
    ("contrastive", "none", "the plain term"),
    ("contrastive-balanced", "none", "the balanced term"),
    ("augmented-contrastive", "augmented", "the balanced term, on top of DIR and Freq-MixStyle"),
)


@dataclass(frozen=True)
class Table:
    """A table that can be printed, written as Markdown, or shown on the page with its figure."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    text: str = ""
    chart: dict[str, Any] | None = field(default=None, repr=False)


def tables_of(results: dict[str, Any]) -> list[Table]:
    """Every table that the results have figures for."""
    return [table for table in (*_device_tables(results), *_sweep_tables(results), _weights(results)) if table]


def run_tables(directory: RunDirectory) -> list[Table]:
    """The tables of a run: of its results file of benchmarks/teachers.py, else of its teachers and ensembles."""
    file = directory.path / "results" / "teachers.json"
    results = read_results(file) if file.is_file() else results_of_run(directory)
    return tables_of(results)


def as_text(tables: Sequence[Table]) -> str:
    """The tables for a terminal."""
    return "\n\n".join(f"{table.title}\n{table_text(table.columns, table.rows)}" for table in tables)


def as_markdown(table: Table) -> str:
    """One table in Markdown, without its title."""
    return (
        "\n".join(
            [
                "| " + " | ".join(table.columns) + " |",
                "|" + "---|" * len(table.columns),
                *("| " + " | ".join(row) + " |" for row in table.rows),
            ]
        )
        + "\n"
    )


def blocks(directory: RunDirectory) -> list[list[dict[str, Any]]]:
    """Rows of blocks for the page of `benchmarks report`; none for a run without teachers and searches."""
    made = [
        {
            "title": table.title,
            "text": table.text,
            "id": f"teachers-{number}",
            "chart": table.chart,
            "table": report_table(table.columns, table.rows, range(1, len(table.columns))),
        }
        for number, table in enumerate(run_tables(directory))
    ]
    return [
        *(made[start : start + 2] for start in range(0, len(made), 2)),
        *([found] for found in _searches(directory)),
    ]


def _searches(directory: RunDirectory) -> list[dict[str, Any]]:
    """The report's Figure 1 of every search of the run, with its best trials."""
    from edgepress.compress.teach.search import figure_of

    made = []
    for path in sorted((directory.path / "search").glob("*.json")):
        found = read_json(path, dict[str, Any])
        trials = [trial for trial in found.get("trials", []) if trial.get("log_loss") is not None]
        best = sorted((trial for trial in trials if trial["state"] == "complete"), key=lambda trial: trial["log_loss"])
        if not best:
            continue
        names = [name for name in ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay") if name in best[0]]
        network = (found.get("network") or {}).get("name", "network")
        rows = [[f"{trial['log_loss']:.4f}", *(f"{trial[name]:.4g}" for name in names)] for trial in best[:5]]
        made.append(
            {
                "title": f"Search {path.stem}: {'the teacher' if found.get('teacher') else 'the network'}, {network}",
                "text": f"{len(trials)} trials of {found.get('epochs')} epochs; validation log loss over each.",
                "id": f"search-{path.stem}",
                "chart": figure_of(trials),
                "table": report_table(("log loss", *names), rows, range(len(names) + 1)),
            }
        )
    return made


def read_results(path: Path) -> dict[str, Any]:
    """A results file of benchmarks/teachers.py.

    Raises:
        UsageError: damaged, or of another schema.
    """
    try:
        found = read_json(path)
        if found["schema"] != 1 or not isinstance(found["arms"], dict):
            raise ValueError
    except (UsageError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no results file of edgepress.benchmarks.experiments.teachers.trainings: write it again"
        ) from error
    return found


def results_of_run(directory: RunDirectory) -> dict[str, Any]:
    """What the teachers and ensembles of a run measured, in the form of a results file.

    Teachers with the contrastive term and those without become two arms; where they differ in alpha or in lambda alone,
    a sweep.
    """
    from edgepress.compress.teach.teachers import read_ensemble
    from edgepress.models.checkpoints.checkpoint import read_metrics

    metrics = [read_metrics(entry["path"]) for entry in directory.entries("teacher")]
    metrics = [one for one in metrics if one.get("test")]
    arms: dict[str, list[dict[str, Any]]] = {}
    for one in metrics:
        arms.setdefault("contrastive" if _term(one) else "none", []).append(one)
    ensembles = [read_ensemble(entry["path"])["metrics"] for entry in directory.entries("ensemble")]
    unseen = next((one["data"]["unseen_devices"] for one in metrics if one.get("data")), [])
    points = [(_term(one)["alpha"], _term(one)["weight"], one) for one in metrics if _term(one)]
    return {
        "arms": {arm: _arm(found) for arm, found in arms.items()},
        "ensembles": [{**one, "seed": number} for number, one in enumerate(ensembles, 1)],
        "data": {"unseen_devices": unseen},
        "comparisons": [],
        "sweeps": {"alpha": _points(points, 0), "lambda": _points(points, 1)},
    }


def _term(metrics: dict[str, Any]) -> dict[str, Any]:
    return metrics.get("train_settings", {}).get("contrastive") or {}


def _arm(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def spread(values: Sequence[float]) -> dict[str, float]:
        return {"mean": float(np.mean(values)), "min": min(values), "max": max(values), "seeds": len(values)}

    tests = [one["test"] for one in found]
    devices = sorted(set.intersection(*(set(test.get("by_recording_device") or {}) for test in tests)))
    return {
        "all": {name: spread([test[name] for test in tests]) for name in ("accuracy", "log_loss")},
        "by_recording_device": {
            device: {
                name: spread([test["by_recording_device"][device][name] for test in tests])
                for name in ("accuracy", "log_loss")
            }
            for device in devices
        },
    }


def _points(points: Sequence[tuple[float, float, dict[str, Any]]], which: int) -> list[dict[str, Any]]:
    """The largest set of teachers that differ in one parameter only; empty for fewer than two."""
    groups: dict[float, dict[float, Any]] = {}
    for *parameters, entry in points:
        groups.setdefault(parameters[1 - which], {})[parameters[which]] = entry["test"]
    largest = max(groups.values(), key=len, default={})
    return (
        [
            {"value": value, "accuracy": test["accuracy"], "log_loss": test["log_loss"]}
            for value, test in sorted(largest.items())
        ]
        if len(largest) > 1
        else []
    )


def percent(spread: dict[str, float] | None) -> str:
    """Mean of fractions in percent, with the smallest and the largest of several seeds."""
    if spread is None:
        return "-"
    text = f"{100 * spread['mean']:.1f}"
    several = spread["seeds"] > 1
    return text + (f" ({100 * spread['min']:.1f}–{100 * spread['max']:.1f})" if several else "")


def points(found: dict[str, Any] | None, scale: float = 100, digits: int = 1) -> str:
    """A difference with its interval, in points; "-" where it was not measured."""
    if not found:
        return "-"
    low, high = (scale * end for end in found["interval"])
    return f"{scale * found['difference']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _device_tables(results: dict[str, Any]) -> list[Table]:
    arms, made = results["arms"], []
    unseen = results["data"].get("unseen_devices") or []
    # Where no network has the term, those without it are a table too.
    for with_term, without, title in [pair for pair in _PAIRS if pair[0] in arms] or _PAIRS[:1]:
        shown = {name: arms[arm] for name, arm in (("with the term", with_term), ("without", without)) if arm in arms}
        if not shown:
            continue
        devices = list(next(iter(shown.values()))["by_recording_device"])
        rows = [
            [
                device + (" (unseen)" if device in unseen else ""),
                *(cell for arm in shown.values() for cell in _cells(arm["by_recording_device"][device])),
            ]
            for device in devices
        ]
        rows.append(["all", *(cell for arm in shown.values() for cell in _cells(arm["all"]))])
        drawn = [
            {
                "network": name,
                "device": device,
                "seen": "unseen" if device in unseen else "seen in training",
                "accuracy": arm["by_recording_device"][device]["accuracy"]["mean"],
            }
            for name, arm in shown.items()
            for device in devices
        ]
        heads = [f"{head}, {name}" for name in shown for head in ("log loss", "accuracy, %")]
        made.append(
            Table(
                f"Per recording device: {title}",
                ("recording device", *heads),
                rows,
                "As the report's Table 1: mean over the teachers, the smallest and the largest in brackets.",
                charts.accuracy_by_recording_device(drawn),
            )
        )
    return made


def _cells(figures: dict[str, Any]) -> list[str]:
    return [f"{figures['log_loss']['mean']:.3f}", percent(figures["accuracy"])]


def _sweep_tables(results: dict[str, Any]) -> list[Table]:
    made = []
    for parameter, rows in results["sweeps"].items():
        if len(rows) < 2:
            continue
        probed = any(row.get("device_probe") is not None for row in rows)
        cells = [
            [
                f"{row['value']:g}",
                f"{row['log_loss']:.3f}",
                f"{100 * row['accuracy']:.2f}",
                *([f"{100 * row['unseen_accuracy']:.2f}", f"{100 * row['device_probe']:.1f}"] if probed else []),
            ]
            for row in rows
        ]
        drawn = [
            {"value": row["value"], "measure": measure, "figure": row[name] * scale}
            for row in rows
            for measure, name, scale in (("log loss", "log_loss", 1), ("accuracy, %", "accuracy", 100))
        ]
        made.append(
            Table(
                f"Sweep over {parameter}",
                (parameter, "log loss", "accuracy, %", *(("unseen devices, %", "device probe, %") if probed else ())),
                cells,
                "As the report's Figure 2, one seed a point.",
                charts.sweep(drawn, parameter),
            )
        )
    return made


def _weights(results: dict[str, Any]) -> Table | None:
    found = results["ensembles"]
    if not found:
        return None
    members = max(len(one["shares"]) for one in found)
    rows = [
        [str(index + 1), *(f"{one['shares'][index]:.4f}" if index < len(one["shares"]) else "-" for one in found)]
        for index in range(members)
    ]
    rows.append(["effective models", *(f"{one['effective_models']:.2f}" for one in found)])
    drawn = [
        {"model": str(index + 1), "ensemble": str(one["seed"]), "weight": share}
        for one in found
        for index, share in enumerate(one["shares"])
    ]
    return Table(
        "Weights of the ensemble",
        ("model", *(f"ensemble {one['seed']}" for one in found)),
        rows,
        "As the report's Figure 3, as shares of 1 (the report's sum to 0.69).",
        charts.ensemble_weights(drawn),
    )
