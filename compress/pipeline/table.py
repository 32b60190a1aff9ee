# SPDX-License-Identifier: Apache-2.0
"""The table at the end of `compress run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.models.tasks.kinds.table import metric_text, said
from edgepress.models.text_tables import table_text
from edgepress.models.units import format_quantity

#: Of an entry, the best known first; those of accuracy are from before there were other metrics.
_NEWEST = ("test_value", "test_accuracy", "validation_value", "validation_accuracy")


def print_table(
    networks: Sequence[Mapping[str, Any]],
    files: Mapping[str, Mapping[str, Path]],
    results: Mapping[str, Mapping[str, Any]],
) -> None:
    """One row per network: MACs, parameters, TFLite bytes, the first metric in fp32 and in int8, verdicts."""
    print(table_text(*table(networks, files, results)))


def table(
    networks: Sequence[Mapping[str, Any]],
    files: Mapping[str, Mapping[str, Path]],
    results: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of cells; figures are the task's first metric on the test split."""
    runtimes = list(dict.fromkeys(run["runtime"] for found in results.values() for run in found["runs"]))
    devices = list(dict.fromkeys(device for found in results.values() for device in found["gates"]))
    metric = networks[0]["float"].get("metric", "accuracy") if networks else "accuracy"
    head = "" if metric == "accuracy" else f" {metric}"
    rule = networks[0]["float"]["rule"] if networks else "dcase"
    header = [
        "network",
        f"MACs ({rule})",
        "parameters",
        "TFLite",
        f"fp32{head}",
        *(f"int8 {name}{head}" for name in runtimes),
        *devices,
    ]
    rows = []
    for network in networks:
        entry, paths = network["float"], files.get(network["name"], {})
        found = [results.get(path.name, {"runs": [], "gates": {}}) for path in paths.values()]
        figures = {run["runtime"]: metric_text(*said(run)) for one in found for run in one["runs"]}
        gates = {device: verdict for one in found for device, verdict in one["gates"].items()}
        size = paths["tflite"].stat().st_size if "tflite" in paths and paths["tflite"].exists() else None
        metric = entry.get("metric", "accuracy")
        measured = next((entry[key] for key in _NEWEST if entry.get(key) is not None), None)
        rows.append(
            [
                network["name"],
                format_quantity(entry["macs"], "macs"),
                f"{entry['params']:,}",
                format_quantity(size, "bytes"),
                metric_text(metric, measured),
                *(figures.get(name, "-") for name in runtimes),
                *(_verdict(gates.get(device)) for device in devices),
            ]
        )
    return header, rows


def _verdict(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else "passed" if found.get("passed") else "failed"
