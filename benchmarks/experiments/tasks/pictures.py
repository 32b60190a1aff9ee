# SPDX-License-Identifier: Apache-2.0
"""A run of the recipe `images` on pictures: accuracy of its networks and files on every runtime, and their verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.models.errors import UsageError


def measured_pictures(run: Path) -> dict[str, Any]:
    """Each network of a run: accuracy of its checkpoints and of its TFLite file on every runtime that measured it.

    Returns:
        {"networks": name -> {"macs", "parameters", "file_bytes", "float", "w8a8", "runtimes": name -> {"correct",
        "total", "accuracy", "interval"}}, "clips": split -> samples, "fingerprint" of the data}.

    Raises:
        UsageError: nothing was measured there.
    """
    from edgepress.benchmarks.measure.result_log import of_run
    from edgepress.models.run_directory import RunDirectory
    from edgepress.models.tasks import load_task

    directory = RunDirectory(run)
    checkpoints = {entry["name"]: entry for entry in directory.entries("checkpoint")}
    artifacts = {entry["sha256"]: entry for entry in directory.entries("artifact") if entry["format"] == "tflite"}
    records = [r for r in of_run(directory) if r.get("sha256") in artifacts and r.get("accuracy") is not None]
    if not records:
        raise UsageError(f"--pictures {run}: no file was measured there; run `compress run RECIPE` first")
    networks: dict[str, dict[str, Any]] = {}
    for record in records:
        artifact = artifacts[record["sha256"]]
        integers = checkpoints[artifact["checkpoint"]]
        floating = checkpoints[Path(integers["parent"]).name]
        found = networks.setdefault(
            floating["name"],
            {
                "macs": floating["macs"],
                "parameters": floating["params"],
                "file_bytes": artifact["file_bytes"],
                "float": floating["test_value"],
                "w8a8": integers["test_value"],
                "runtimes": {},
            },
        )
        found["runtimes"][record["runtime"]] = {
            name: record[name] for name in ("correct", "total", "accuracy", "interval")
        }
    task = load_task(next(iter(checkpoints.values()))["task"])
    return {
        "networks": networks,
        "clips": {split: len(task.splits[split]) for split in ("train", "validation", "test")},
        "fingerprint": task.fingerprint,
    }
