# SPDX-License-Identifier: Apache-2.0
"""Several runs of one recipe (seeds) as one table: means, spread, and paired differences that respect recordings."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.measure.environment import environment
from edgepress.benchmarks.report.gather import Network, gather
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory

SCHEMA = 1
#: Figures which follow from widths; equal MACs do not mean equal widths, so that they too may differ between seeds.
_STATIC = ("macs", "params", "weight_bytes")


def summarize(runs: Sequence[str | Path], *, split: str = "test") -> dict[str, Any]:
    """Join runs that differ in their seed only.

    Accuracy is the mean over seeds with the smallest and the largest. Differences (pruned - dense, int8 - fp32) are the
    mean over seeds and clips; their interval is a paired bootstrap over recordings, with the seeds of one recording
    kept together, so that it speaks of other recordings and not of other seeds.

    Args:
        runs: run directories of `compress run`.
        split: the split of the differences.

    Returns:
        JSON: schema, command, date, environment, task, seeds, networks (name, macs, params, weight_bytes, file_bytes,
        arena_bytes, fp32, int8 by runtime, minus_dense, int8_minus_fp32).

    Raises:
        UsageError: a run is missing, holds other networks than the first, or another data set.
    """
    gathered = [gather(RunDirectory(run)) for run in runs]
    names = [network.name for network in gathered[0]]
    for run, networks in zip(runs, gathered, strict=True):
        if {network.name for network in networks} != set(names):
            raise UsageError(
                f"{run} holds {', '.join(network.name for network in networks)}, the first run holds "
                f"{', '.join(names)}: summarize runs of one recipe"
            )
        data, first = networks[0].metrics["data"], gathered[0][0].metrics["data"]
        if data["fingerprint"] != first["fingerprint"]:
            raise UsageError(
                f"{run} was measured on other data than {runs[0]}; figures of different data are not joined"
            )
    by_name = [{network.name: network for network in networks} for networks in gathered]
    right = _right_by_clip(runs, by_name, split)
    identifiers = right.pop("identifiers")
    dense = names[0]
    rows = []
    for name in names:
        networks = [found[name] for found in by_name]
        row: dict[str, Any] = {
            "name": name,
            **{key: _spread([n.metrics["cost"][key] for n in networks]) for key in _STATIC},
        }
        files = [network.model_file for network in networks]
        row["file_bytes"] = _spread([file.profile["file_bytes"] for file in files if file])
        row["arena_bytes"] = _spread(
            [arena for file in files if file and (arena := (file.profile["arena_bytes"] or {}).get("tflm"))]
        )
        row["fp32"] = _record([network.metrics[split] for network in networks if network.metrics.get(split)])
        row["int8"] = {
            runtime: _record(list(_on(networks, runtime)))
            for runtime in dict.fromkeys(r for n in networks for file in n.files for r in file.accuracy)
        }
        row["minus_dense"] = (
            None if name == dense else _difference(right[name, "fp32"], right[dense, "fp32"], identifiers)
        )
        row["int8_minus_fp32"] = (
            _difference(right[name, "int8"], right[name, "fp32"], identifiers) if (name, "int8") in right else None
        )
        rows.append(row)
    return {
        "schema": SCHEMA,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
        "task": {
            key: gathered[0][0].metrics["data"].get(key) for key in ("task", "fingerprint", "clips", "unseen_devices")
        },
        "seeds": [networks[0].metrics.get("seed") for networks in gathered],
        "trained_with": gathered[0][0].metrics.get("versions"),
        "commands": [networks[0].metrics.get("command") for networks in gathered],
        "networks": rows,
    }


def _on(networks: Sequence[Network], runtime: str) -> list[dict[str, Any]]:
    found = []
    for network in networks:
        newest = [file.accuracy[runtime] for file in network.files if runtime in file.accuracy]
        found += newest[-1:]
    return found


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": float(np.mean(values)), "min": float(min(values)), "max": float(max(values)), "seeds": len(values)}


def _record(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Spread of each figure over the seeds."""
    if not records:
        return None
    devices = sorted(set.intersection(*(set(record.get("by_recording_device") or {}) for record in records)))
    made: dict[str, Any] = {
        key: _spread([record[key] for record in records if record.get(key) is not None])
        for key in ("accuracy", "log_loss")
    }
    for group in ("seen_devices", "unseen_devices"):
        made[group] = _spread([record[group]["accuracy"] for record in records if record.get(group)])
    made["by_recording_device"] = {
        device: _spread([record["by_recording_device"][device]["accuracy"] for record in records]) for device in devices
    }
    return made


def _right_by_clip(runs: Sequence[str | Path], by_name: Sequence[dict[str, Network]], split: str) -> dict[Any, Any]:
    """(network, precision) -> [seeds, clips] whether each clip was right; and the recording of every clip."""
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.models.tasks import load_task
    from edgepress.models.tasks.sources.load import front_end_for

    entries = [{entry["name"]: entry for entry in RunDirectory(run).entries("checkpoint")} for run in runs]
    spec_path = entries[0][next(iter(by_name[0]))]["path"]
    from edgepress.models.checkpoints.checkpoint import read_spec

    spec = read_spec(spec_path)
    task = load_task(spec.task or "", front_end=front_end_for(spec.task or "", spec.front_end))
    features, clips = task.features(split), task.split(split)
    found: dict[Any, Any] = {"identifiers": clips.identifiers}
    for name in by_name[0]:
        for precision in ("fp32", "int8"):
            rows = []
            for networks, of_run in zip(by_name, entries, strict=True):
                file = networks[name].model_file
                source = (
                    (of_run[name]["path"], "torch") if precision == "fp32" else (file.path, "litert") if file else None
                )
                if source is None:
                    break
                with open_session(source[0], source[1], threads=2) as session:
                    parts = [
                        np.asarray(session.run(np.asarray(features[start : start + 256])))
                        for start in range(0, len(clips), 256)
                    ]
                rows.append(np.concatenate(parts).reshape(len(clips), -1).argmax(axis=1) == clips.labels)
            else:
                found[name, precision] = np.stack(rows)
    return found


def _difference(a: np.ndarray, b: np.ndarray, identifiers: Sequence[str] | None) -> dict[str, Any]:
    """Mean of a - b over seeds and clips, with its paired cluster interval."""
    from edgepress.models.tasks.kinds.intervals import paired_cluster_bootstrap

    return paired_cluster_bootstrap(a.mean(axis=0), b.mean(axis=0), identifiers)


def as_markdown(summary: dict[str, Any]) -> str:
    """The table of a summary for a README: one row a network, mean (smallest to largest) over the seeds."""

    def percent(spread: dict[str, float] | None) -> str:
        if not spread:
            return "-"
        return f"{100 * spread['mean']:.1f} ({100 * spread['min']:.1f}–{100 * spread['max']:.1f})"

    def points(difference: dict[str, Any] | None) -> str:
        if not difference:
            return "-"
        low, high = difference["interval"]
        return f"{100 * difference['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    def mean(spread: dict[str, float] | None, scale: float, digits: int) -> str:
        return f"{spread['mean'] / scale:,.{digits}f}" if spread else "-"

    runtimes = list(dict.fromkeys(runtime for row in summary["networks"] for runtime in row["int8"]))
    head = [
        "network",
        "MMACs",
        "params",
        "TFLite kB",
        "arena kB",
        "fp32 %",
        "log loss",
        "seen %",
        "unseen %",
        *(f"int8 {runtime} %" for runtime in runtimes),
        "minus dense, points",
        "int8 minus fp32, points",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in summary["networks"]:
        fp32 = row["fp32"] or {}
        cells = [
            row["name"],
            mean(row["macs"], 1e6, 2),
            mean(row["params"], 1, 0),
            mean(row["file_bytes"], 1e3, 1),
            mean(row["arena_bytes"], 1e3, 1),
            percent(fp32.get("accuracy")),
            mean(fp32.get("log_loss"), 1, 3),
            percent(fp32.get("seen_devices")),
            percent(fp32.get("unseen_devices")),
            *(percent((row["int8"].get(runtime) or {}).get("accuracy")) for runtime in runtimes),
            points(row["minus_dense"]),
            points(row["int8_minus_fp32"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
