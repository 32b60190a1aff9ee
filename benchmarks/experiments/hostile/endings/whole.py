# SPDX-License-Identifier: Apache-2.0
"""What a project holds, and whether all of it is whole: the same before a kill, behind it, and at the end."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edgepress.models.errors import EdgepressError


def broken(place: Path, run: str) -> list[str]:
    """What can be seen in a run directory and is not whole: weights, states, results, tables, JSON."""
    import torch

    from edgepress.benchmarks.measure.result_log import of_run
    from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_metrics
    from edgepress.models.run_directory import RunDirectory

    found = []
    try:
        directory = RunDirectory(place / run)
        for entry in directory.entries("checkpoint"):
            load_checkpoint(entry["path"])  # compares the SHA-256 of the weights with that in model.json
            read_metrics(entry["path"])
        of_run(directory)
    except EdgepressError as error:
        found.append(str(error))
    for path in (place / run).rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(place).parts) or "swept" in path.parts[:-2]:
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".ckpt":
                torch.load(path, weights_only=True, map_location="cpu")
            elif path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
                found.append(f"{path.name} is cut")
        except (ValueError, RuntimeError, OSError) as error:
            found.append(f"{path.relative_to(place)}: {error}")
    return found


def finished(place: Path, run: str) -> set[str]:
    """Names of what is finished: entries of the index, and results."""
    from edgepress.benchmarks.measure.result_log import of_run
    from edgepress.models.run_directory import KINDS, RunDirectory

    directory = RunDirectory(place / run)
    names = {f"{kind} {entry['name']}" for kind in KINDS for entry in directory.entries(kind)}
    return names | {f"result {one.get('kind')} {one.get('sha256')} {one.get('runtime')}" for one in of_run(directory)}


def made(place: Path, run: str) -> dict[str, Any]:
    """What a command is for, without times: weights, histories and figures of networks, files, results."""
    from edgepress.benchmarks.measure.result_log import of_run
    from edgepress.models.checkpoints.checkpoint import read_metrics
    from edgepress.models.run_directory import RunDirectory

    directory, found = RunDirectory(place / run), {}
    for entry in directory.entries("checkpoint"):
        metrics = read_metrics(entry["path"])
        found[f"checkpoint {entry['name']}"] = {
            "weights": json.loads((entry["path"] / "model.json").read_text())["weights"]["sha256"],
            "history": [{k: v for k, v in one.items() if k != "seconds"} for one in metrics.get("history", ())],
            "test": metrics.get("test"),
        }
    files = [entry["path"] for entry in directory.entries("artifact") if entry["path"].is_file()]
    for path in [*files, *place.glob("new.*")]:
        if path.suffix == ".json" or path.is_dir():  # a manifest says when it was written
            continue
        found[f"file {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    for one in of_run(directory):
        if one.get("kind") == "accuracy":
            found[f"accuracy {one['sha256']} {one['runtime']}"] = one["accuracy"]
    return json.loads(json.dumps(found))


def others(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs between two of `made`."""
    return [f"other {name}" for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
