# SPDX-License-Identifier: Apache-2.0
"""What a run directory holds, joined: each trained network with its int8 form, its files and their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgepress.benchmarks.measure.profiles import Profile
from edgepress.benchmarks.measure.result_log import of_run
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import check
from edgepress.models.records import Metrics
from edgepress.models.run_directory import RunDirectory
from edgepress.models.tasks.kinds.table import said


@dataclass(frozen=True)
class File:
    """An exported file: its manifest, its counts, and the newest accuracy record of each runtime."""

    path: Path
    manifest: dict[str, Any]
    profile: Profile
    accuracy: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """A trained float network of a run.

    Attributes:
        name: of its checkpoint.
        metrics: what its metrics.json says: cost, validation, test, history, prune, ...
        integers: metrics of its int8 checkpoint, or None.
        files: what was exported from either, oldest first.
        subject: the one file that is shown, of whatever format; None in a run.
        dense: name of the network that it was pruned from, at the root of its line; None for one that was not pruned.
    """

    name: str
    metrics: dict[str, Any]
    integers: dict[str, Any] | None = None
    files: tuple[File, ...] = field(default=())
    subject: File | None = None
    dense: str | None = None

    @property
    def macs(self) -> int:
        return int(self.metrics["cost"]["macs"])

    @property
    def model_file(self) -> File | None:
        """The file that stands for the network: the subject, else the newest full-int8 TFLite file."""
        if self.subject is not None:
            return self.subject
        found = [
            file for file in self.files if file.path.suffix == ".tflite" and file.manifest.get("scheme") != "float32"
        ]
        return found[-1] if found else None


def gather(run: RunDirectory, *, arena: bool = True) -> tuple[Network, ...]:
    """The networks of a run, the largest first.

    Args:
        run: the directory.
        arena: measure TFLite Micro's arena of every .tflite (a child process each).

    Raises:
        UsageError: the run holds no trained network, or something in it is damaged.
    """
    from edgepress.models.checkpoints.checkpoint import read_metrics, read_quantization

    entries = run.entries("checkpoint")
    metrics = {
        entry["name"]: check(read_metrics(entry["path"]), f"{entry['path']}/metrics.json", Metrics) for entry in entries
    }
    integers = {entry["name"] for entry in entries if read_quantization(entry["path"]) is not None}
    children = {
        entry["parent"]: entry["name"] for entry in entries if entry["name"] in integers and entry.get("parent")
    }
    floats = [entry for entry in entries if entry["name"] not in integers and "cost" in metrics[entry["name"]]]
    if not floats:
        raise UsageError(f"{run.path} holds no trained network; run `compress run` or `compress train` first")
    parents = {entry["name"]: entry.get("parent") for entry in floats}
    files = {name: list(found) for name, found in _by_checkpoint(_files(run, arena)).items()}
    networks = []
    for entry in floats:
        child = children.get(entry["name"])
        own = [*files.get(entry["name"], []), *(files.get(child, []) if child else [])]
        networks.append(
            Network(
                entry["name"],
                metrics[entry["name"]],
                metrics.get(child) if child else None,
                tuple(own),
                dense=_root(entry["name"], parents),
            )
        )
    return tuple(sorted(networks, key=lambda network: -network.macs))


def _root(name: str, parents: Mapping[str, Any]) -> str | None:
    """The first of a line of networks, each made from the one before; None for the first itself."""
    line = [name]
    while (parent := parents.get(line[-1])) in parents and parent not in line:
        line.append(str(parent))
    return line[-1] if len(line) > 1 else None


def _files(run: RunDirectory, arena: bool) -> Iterator[File]:
    from edgepress.benchmarks.measure.profiling import profile_of
    from edgepress.deploy.artifact import read_manifest

    records = of_run(run)
    for entry in run.entries("artifact"):
        path = Path(entry["path"])
        if path.suffix not in (".tflite", ".onnx"):
            continue
        counted = profile_of(path, arena=arena and path.suffix == ".tflite")
        yield File(path, read_manifest(path), counted, accuracy_by_runtime(records, counted["sha256"]))


def accuracy_by_runtime(records: Sequence[dict[str, Any]], sha256: str) -> dict[str, dict[str, Any]]:
    """The newest record of accuracy of each runtime for the file of this hash."""
    return {
        record["runtime"]: record
        for record in records
        if record.get("sha256") == sha256
        and record.get("kind", "accuracy") == "accuracy"
        # What was not measured here is not shown as if it were.
        and record.get("runtime") is not None
        and said(record)[1] is not None
    }


def _by_checkpoint(files: Iterator[File]) -> dict[str, list[File]]:
    found: dict[str, list[File]] = {}
    for file in files:
        source = (file.manifest.get("checkpoint") or {}).get("path")
        if source:
            found.setdefault(Path(source).name, []).append(file)
    return found
