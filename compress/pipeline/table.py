# SPDX-License-Identifier: Apache-2.0
"""The table at the end of `compress run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.models.text_tables import table_text
from edgepress.models.units import format_quantity


def print_table(
    networks: Sequence[Mapping[str, Any]],
    files: Mapping[str, Mapping[str, Path]],
    results: Mapping[str, Mapping[str, Any]],
) -> None:
    """One row per network: MACs, parameters, TFLite bytes, accuracy in fp32 and in int8 per runtime, verdicts."""
    print(table_text(*table(networks, files, results)))


def table(
    networks: Sequence[Mapping[str, Any]],
    files: Mapping[str, Mapping[str, Path]],
    results: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of cells; accuracies are those of the test split."""
    runtimes = list(dict.fromkeys(run["runtime"] for found in results.values() for run in found["runs"]))
    devices = list(dict.fromkeys(device for found in results.values() for device in found["gates"]))
    rule = networks[0]["float"]["rule"] if networks else "dcase"
    header = [
        "network",
        f"MACs ({rule})",
        "parameters",
        "TFLite",
        "fp32",
        *(f"int8 {name}" for name in runtimes),
        *devices,
    ]
    rows = []
    for network in networks:
        entry, paths = network["float"], files.get(network["name"], {})
        found = [results.get(path.name, {"runs": [], "gates": {}}) for path in paths.values()]
        accuracy = {run["runtime"]: run["accuracy"] for one in found for run in one["runs"]}
        gates = {device: verdict for one in found for device, verdict in one["gates"].items()}
        size = paths["tflite"].stat().st_size if "tflite" in paths and paths["tflite"].exists() else None
        measured = entry.get("test_accuracy", entry.get("validation_accuracy"))
        rows.append(
            [
                network["name"],
                format_quantity(entry["macs"], "macs"),
                f"{entry['params']:,}",
                format_quantity(size, "bytes"),
                _percent(measured),
                *(_percent(accuracy.get(name)) for name in runtimes),
                *(_verdict(gates.get(device)) for device in devices),
            ]
        )
    return header, rows


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _verdict(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else "passed" if found.get("passed") else "failed"
