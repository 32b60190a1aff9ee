# SPDX-License-Identifier: Apache-2.0
"""What integers cost: fp32, PTQ and QAT of trained networks on every runtime, over several seeds.

    python -m edgepress.benchmarks.experiments.integers.accuracy --runs runs/seed1 runs/seed2 --data DIR --work DIR \\
        --output FILE.json


The float networks are taken from run directories (`compress run`), or trained here (`--train cp_mobile`). Each
is quantized twice from the same calibration clips, exported to TFLite and ONNX, and the whole test split goes through
torch and every runtime. Differences from fp32 are paired: the same clips, resampled by recording location. What is
finished lies in `--work`, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.integers.networks import Candidate, candidates, portable
from edgepress.deploy.verify.parity import LABEL_AGREEMENT, MAX_LSB, MEAN_LSB
from edgepress.models.atomic import write_bytes, write_json
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.terminal.words import say

SCHEMA = 1
#: Points that a network may lose in the mean over its seeds.
ALLOWED_POINTS = {"ptq": 1.0, "qat": 0.3}
#: Precision -> format -> runtimes, beside torch, which is fake quantization in integers. In float the reference kernels
#: would only show that they add the same numbers more slowly.
RUNTIMES: dict[str, dict[str, tuple[str, ...]]] = {
    "fp32": {"tflite": ("litert",), "onnx": ("onnxruntime",)},
    "ptq": {"tflite": ("litert", "litert-reference", "tflm"), "onnx": ("onnxruntime",)},
    "qat": {"tflite": ("litert", "litert-reference", "tflm"), "onnx": ("onnxruntime",)},
}
_BATCH = 64
_DRAWS = 2000


def measure(one: Candidate, task: Any, *, epochs: int, clips: int | None, folder: Path) -> dict[str, Any]:
    """Quantize, export and run one network.

    Args:
        one: the network.
        task: its task, opened.
        epochs: of quantization-aware training.
        clips: at most so many test clips, evenly spread; None takes all.
        folder: where checkpoints, files and answers are kept; what is there is not made again.

    Returns:
        {"network", "seed", "task", "macs", "params", "weight_bytes", "clips", "precisions": {"fp32" | "ptq" | "qat":
        {"runtimes": {NAME: {"correct", "total", "accuracy", "seconds", and in integers "max_lsb", "mean_lsb", "equal",
        "label_agreement" against torch's fake quantization}}, "file_bytes", "departs"}}}.

    Raises:
        UsageError: the checkpoint does not fit the task. RuntimeFailure: a runtime failed.
    """
    from edgepress.compress.pipeline.data import check_fits
    from edgepress.deploy.export.in_run import Source
    from edgepress.models.checkpoints.checkpoint import read_metrics

    done = folder / "measured.json"
    key = _key(one, task, epochs, clips)
    if done.exists() and (found := json.loads(done.read_text())).get("key") == key:
        return found
    check_fits(one.checkpoint, task)
    chosen = evenly(len(task.split("test").labels), clips)
    labels = np.asarray(task.split("test").labels)[chosen]
    cost = read_metrics(one.checkpoint)["cost"]
    answers: dict[str, np.ndarray] = {}
    precisions: dict[str, Any] = {}
    for precision in RUNTIMES:
        say(f"{one.name}, seed {one.seed}: {precision}")
        source = (
            Source(one.checkpoint, one.checkpoint.name, {})
            if precision == "fp32"
            else _quantized(one, task, epochs if precision == "qat" else 0, folder)
        )
        precisions[precision] = _on_every_runtime(source, precision, task, one.source, chosen, labels, folder, answers)
    result = {
        "key": key,
        "network": one.name,
        "seed": one.seed,
        "task": task.name,
        "macs": cost["macs"],
        "params": cost["params"],
        "weight_bytes": cost["weight_bytes"],
        "rule": cost["rule"],
        "clips": len(labels),
        "precisions": precisions,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _save_answers(folder / "answers.npz", answers)
    write_json(done, result)
    return result


def _quantized(one: Candidate, task: Any, epochs: int, folder: Path) -> Any:
    """The int8 checkpoint of a network, made where it isn't there yet."""
    from edgepress.compress.pipeline.stages import quantize_stage
    from edgepress.compress.recipes.recipe import QuantizeSettings
    from edgepress.compress.training.machine import Machine
    from edgepress.deploy.export.in_run import Source
    from edgepress.models.run_directory import RunDirectory

    base, run = QuantizeSettings(), RunDirectory(folder / "run")
    settings = base.model_copy(update={"train": base.train.model_copy(update={"epochs": epochs, "batch_size": 32})})
    with run.lock():
        entry = quantize_stage(run, one.checkpoint, settings, task, machine=Machine(accelerator="cpu"), seed=one.seed)
    return Source(Path(entry["path"]), entry["name"], entry)


def _on_every_runtime(
    source: Any,
    precision: str,
    task: Any,
    data: str,
    chosen: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    answers: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Export a checkpoint and run the chosen clips of `task`, opened from `data`, through it; right and wrong answers
    are put into `answers`."""
    from edgepress.deploy.export.from_checkpoint import export_checkpoint
    from edgepress.deploy.export.in_run import ExportOptions
    from edgepress.deploy.runtimes.registry import available_runtimes
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.verify.differences import compare
    from edgepress.models.run_directory import RunDirectory

    run, scheme = RunDirectory(folder / "run"), "float32" if precision == "fp32" else "w8a8"
    formats = RUNTIMES[precision]
    with run.lock():
        files = {
            form: export_checkpoint(source, options, run, say=say)[0]
            for form, options in ((form, ExportOptions(format=form, scheme=scheme, verify=False)) for form in formats)
        }
    sessions = [("torch", source.path), *((name, files[form].path) for form in formats for name in formats[form])]
    found: dict[str, Any] = {"runtimes": {}, "departs": {}, "file_bytes": {f: files[f].file_bytes for f in files}}
    expected = None
    for name, path in sessions:
        kind = "checkpoint" if path.is_dir() else path.suffix[1:]
        if missing := available_runtimes(kind).get(name):
            raise RuntimeFailure(f"{name}: {missing}")
        begun = time.perf_counter()
        with open_session(path, name) as session:
            outputs, scale = _outputs(session, task, chosen), session.output.scale
        right = answers[f"{precision}/{name}"] = outputs.argmax(1) == labels
        figures = found["runtimes"][name] = {
            "correct": int(right.sum()),
            "total": len(right),
            "accuracy": float(right.mean()),
            "seconds": round(time.perf_counter() - begun, 1),
        }
        if expected is None:
            expected = outputs
        elif scale is not None:
            compared = compare(expected, outputs, scale)
            figures |= {key: compared[key] for key in ("max_lsb", "mean_lsb", "equal", "label_agreement")}
        say(
            f"  {name}: {100 * figures['accuracy']:.2f} %"
            + (f", at most {figures['max_lsb']} LSB from fake quantization" if "max_lsb" in figures else "")
        )
    if any(
        figures.get("max_lsb", 0) > MAX_LSB or figures.get("mean_lsb", 0) >= MEAN_LSB
        for figures in found["runtimes"].values()
    ):
        found["departs"] = _first_departures(files["tflite"].path, data)
    return found


def _first_departures(path: Path, source: str) -> dict[str, str]:
    """Runtime -> the first operator whose integers differ from fake quantization's."""
    from edgepress.deploy.verify.layers import layer_report

    first = layer_report(path, source)["first"]
    return {name: f"{layer['operator']} ({layer['name']})" for name, layer in first.items() if layer}


def _outputs(session: Any, task: Any, chosen: np.ndarray) -> np.ndarray:
    features = task.features("test")  # memory-mapped: a batch is read when it is its turn
    return np.concatenate(
        [
            session.run(np.asarray(features[part], np.float32))
            for part in np.array_split(chosen, -(-len(chosen) // _BATCH))
        ]
    )


def evenly(count: int, clips: int | None) -> np.ndarray:
    """At most so many of the numbers below `count`, evenly spread; all of them for None."""
    return np.unique(np.linspace(0, count - 1, min(clips or count, count)).astype(int))


def _key(one: Candidate, task: Any, epochs: int, clips: int | None) -> str:
    from edgepress.compress.pipeline.entries import key_of
    from edgepress.models.checkpoints.digests import identity

    return key_of("integer accuracy", SCHEMA, identity(one.checkpoint), task.fingerprint, epochs, clips, one.seed)


def _save_answers(path: Path, answers: dict[str, np.ndarray]) -> None:
    import io

    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name.replace("/", "__"): value for name, value in answers.items()}
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def load_answers(path: Path) -> dict[str, np.ndarray]:
    """{"PRECISION/RUNTIME": [clips] whether the answer was right} of one measured network."""
    with np.load(path, allow_pickle=False) as found:
        return {name.replace("__", "/"): found[name] for name in found.files}


def aggregate(
    measured: Sequence[dict[str, Any]], answers: Sequence[dict[str, np.ndarray]], identifiers: Sequence[str] | None
) -> dict[str, Any]:
    """All seeds of one network: means, and paired differences from fp32.

    Each clip counts with the share of seeds that answer it rightly; locations are resampled whole, so that the interval
    is over the recordings and not over seeds, whose spread stands beside it.

    Args:
        measured: results of `measure` for the same network and clips.
        answers: of each, see `load_answers`.
        identifiers: location of every clip; None takes every clip for itself.

    Returns:
        {"network", "task", "seeds", "macs", "params", "clips", "rows": [{"precision", "runtime", "accuracy",
        "accuracies", "points", "interval_points", "clusters", "max_lsb", "mean_lsb", "label_agreement"}], "departs"}.
    """
    from edgepress.models.tasks.kinds.intervals import paired_cluster_bootstrap

    baseline = np.mean([found["fp32/torch"] for found in answers], axis=0)
    rows = []
    for key in answers[0]:
        precision, runtime = key.split("/")
        mine = [one["precisions"][precision]["runtimes"][runtime] for one in measured]
        values = np.mean([found[key] for found in answers], axis=0)
        difference = paired_cluster_bootstrap(values, baseline, identifiers, draws=_DRAWS)
        row: dict[str, Any] = {
            "precision": precision,
            "runtime": runtime,
            "accuracy": float(np.mean([score["accuracy"] for score in mine])),
            "accuracies": [score["accuracy"] for score in mine],
            "points": 100 * difference["difference"],
            "interval_points": [100 * end for end in difference["interval"]],
            "clusters": difference["clusters"],
            "seconds": float(np.mean([score["seconds"] for score in mine])),
        }
        if "max_lsb" in mine[0]:
            row |= {
                "max_lsb": max(score["max_lsb"] for score in mine),
                "mean_lsb": float(np.mean([score["mean_lsb"] for score in mine])),
                "label_agreement": min(score["label_agreement"] for score in mine),
            }
        rows.append(row)
    first = measured[0]
    departs = {
        f"{precision}/{runtime}": layer
        for one in measured
        for precision, found in one["precisions"].items()
        for runtime, layer in found.get("departs", {}).items()
    }
    return {
        "network": first["network"],
        "task": first["task"],
        "seeds": [one["seed"] for one in measured],
        "macs": first["macs"],
        "rule": first["rule"],
        "params": first["params"],
        "clips": first["clips"],
        "file_bytes": {p: found["file_bytes"] for p, found in first["precisions"].items()},
        "rows": rows,
        "departs": departs,
    }


def violations(result: dict[str, Any]) -> list[str]:
    """What misses the marks: points lost as point estimate, LSB and labels against fake quantization."""
    found = []
    for network in result["networks"]:
        for row in network["rows"]:
            name = f"{network['network']}, {row['precision']}, {row['runtime']}"
            allowed = ALLOWED_POINTS.get(row["precision"])
            if allowed is not None and row["points"] < -allowed:
                found.append(f"{name}: {row['points']:+.2f} points, allowed are -{allowed:g}")
            if row.get("max_lsb", 0) > MAX_LSB:
                layer = network["departs"].get(f"{row['precision']}/{row['runtime']}")
                where = f"; the first layer that departs is {layer}" if layer else ""
                found.append(f"{name}: {row['max_lsb']:g} LSB at most, allowed are {MAX_LSB:g}{where}")
            if row.get("mean_lsb", 0) >= MEAN_LSB:
                found.append(f"{name}: {row['mean_lsb']:.3f} LSB in the mean, allowed are below {MEAN_LSB}")
            if row.get("label_agreement", 1) < LABEL_AGREEMENT:
                found.append(
                    f"{name}: labels agree on {100 * row['label_agreement']:.2f} %, allowed are "
                    f"{100 * LABEL_AGREEMENT:g}"
                )
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the command line asks for, written to `--output` behind every network."""
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.compress.pipeline.data import front_end_of, open_task

    groups: dict[str, list[tuple[dict[str, Any], dict[str, np.ndarray]]]] = {}
    identifiers: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    result: dict[str, Any] = {}
    for one in candidates(options):
        front_end = front_end_of(one.checkpoint)
        task_key = json.dumps([one.source, front_end], sort_keys=True)
        if task_key not in tasks:
            tasks[task_key] = open_task(one.source, front_end)
        task = tasks[task_key]
        folder = options.work / f"{one.name.replace(' ', '-')}-seed{one.seed}"
        measured = measure(one, task, epochs=options.epochs, clips=options.clips, folder=folder)
        groups.setdefault(one.name, []).append((measured, load_answers(folder / "answers.npz")))
        found = task.split("test").identifiers
        chosen = evenly(len(task.split("test").labels), options.clips)
        identifiers[one.name] = [found[index] for index in chosen] if found is not None else None
        result = {
            "schema": SCHEMA,
            "kind": "integer accuracy",
            "command": options.command,
            "epochs": options.epochs,
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "environment": environment(),
            "networks": [
                aggregate([m for m, _ in found], [a for _, a in found], identifiers[name])
                for name, found in groups.items()
            ],
        }
        if options.output is not None:
            write_json(options.output, result)
    if not result:
        raise UsageError("nothing to measure: give --runs with run directories, or --train cp_mobile")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m edgepress.benchmarks.experiments.integers.accuracy`; the exit code is the project's."""
    parser = argparse.ArgumentParser(
        prog="python -m edgepress.benchmarks.experiments.integers.accuracy",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="run directories, one per seed")
    parser.add_argument(
        "--networks", nargs="*", default=["dense", "20M-admm", "5M-admm"], help="names of the float checkpoints in them"
    )
    parser.add_argument(
        "--train",
        nargs="*",
        default=[],
        metavar="NAME[@digits]",
        help="networks of the zoo that are trained here, on --data or on scikit-learn's digits",
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3], help="of those trainings")
    parser.add_argument("--data", help="task; default: what each checkpoint names")
    parser.add_argument("--epochs", type=int, default=4, help="of quantization-aware training")
    parser.add_argument("--clips", type=int, help="at most so many test clips, evenly spread")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made; the command resumes from it")
    parser.add_argument("--output", type=Path, help="JSON to write (replaced)")
    options = parser.parse_args(arguments)
    options.command = portable(
        "edgepress.benchmarks.experiments.integers.accuracy", arguments if arguments is not None else sys.argv[1:]
    )
    from edgepress.benchmarks.experiments.integers.tables import accuracy_tables, reported

    return reported(lambda: run(options), accuracy_tables, violations)


if __name__ == "__main__":
    sys.exit(main())
