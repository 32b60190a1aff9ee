# SPDX-License-Identifier: Apache-2.0
"""Our int8 files beside those of other converters, from the same float networks and the same calibration clips.

    python -m edgepress.benchmarks.experiments.integers.files CHECKPOINT... --data DIR --onnx2tf VENV/bin/python \\
        --output FILE.json


TFLite: plain LiteRT-Torch with ai-edge-quantizer (static_wi8_ai8), and onnx2tf (per-channel), whose tensorflow needs
other versions than ours and so a Python of its own (`pip install onnx2tf==1.29.24` there). ONNX: onnxruntime's own
static quantization (per_channel=True). Compared are file bytes, TFLite Micro's arena, accuracy on the same clips
(paired bootstrap over recording locations) and latency: both files in one process, single inferences in turn, A B B A.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.integers.converters import (
    litert_file,
    onnx2tf_file,
    onnxruntime_file,
    versions_of,
)
from edgepress.models.atomic import write_json
from edgepress.models.errors import EdgepressError, UsageError
from edgepress.models.terminal.words import say

SCHEMA = 1
LITERT, ONNX2TF, ONNXRUNTIME = "litert-torch + ai-edge-quantizer", "onnx2tf", "onnxruntime quantize_static"
#: Format of our file, options of `export_model`, runtime that is timed and scored, whose file it stands beside.
PAIRS: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("tflite", {}, "litert", LITERT),
    ("tflite", {}, "litert", ONNX2TF),
    ("onnx", {"onnx_integers": "u8u8"}, "onnxruntime", ONNXRUNTIME),
    ("onnx", {"onnx_integers": "u8s8"}, "onnxruntime", ONNXRUNTIME),
    ("onnx", {"onnx_integers": "s8s8"}, "onnxruntime", ONNXRUNTIME),
)
#: Rounds of the interleaved measurement, and the least duration of one side of a round.
ROUNDS, ROUND_MS = 40, 15.0
_CLIPS_TO_CALIBRATE = 256
_DRAWS = 2000


def compare_files(checkpoint: Path, task: Any, *, clips: int, folder: Path, onnx2tf: Path | None) -> dict[str, Any]:
    """One network: our files and theirs, measured side by side.

    Args:
        checkpoint: a float checkpoint.
        task: what it was trained on.
        clips: test clips for the accuracy, evenly spread.
        folder: for the files.
        onnx2tf: a Python that has it; None leaves it out.

    Returns:
        {"network", "macs", "clips", "fp32_accuracy", "formats": {"FILE: PEER": {"runtime", "peer", "ours" and "theirs":
        {"file_bytes", "arena_bytes", "accuracy", "operators"}, "points" (ours - theirs), "interval_points", "latency":
        `interleaved`}}}.

    Raises:
        UsageError, RuntimeFailure: a file cannot be made or run.
    """
    from edgepress.compress.pipeline.data import calibration_batches, check_fits
    from edgepress.compress.quantize import quantize_model
    from edgepress.compress.training.evaluate import logits_of
    from edgepress.deploy.export.export import export_model
    from edgepress.deploy.verify.shrink import shrink_bytes
    from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_metrics

    check_fits(checkpoint, task)
    model, spec = load_checkpoint(checkpoint)
    example, batches = spec.example_inputs(), calibration_batches(task, _CLIPS_TO_CALIBRATE)
    quantized = quantize_model(model.eval(), example, batches)
    cost = read_metrics(checkpoint)["cost"]
    makers: dict[str, Callable[..., None]] = {LITERT: litert_file, ONNXRUNTIME: onnxruntime_file}
    if onnx2tf is not None:
        makers[ONNX2TF] = partial(onnx2tf_file, python=onnx2tf)
    formats: dict[str, Any] = {}
    for form, choices, runtime, peer in PAIRS:
        if peer not in makers:
            continue
        name = f"{', '.join((form, *choices.values()))}: {peer}"
        say(f"{checkpoint.name}: {name}")
        ours, theirs = folder / f"ours.{form}", folder / f"{peer.split()[0]}.{form}"
        export_model(quantized, example, ours, format=form, verify=False, overwrite=True, **choices)
        if form == "tflite":
            ours.write_bytes(shrink_bytes(ours.read_bytes()))
            ours.with_name(f"{ours.name}.manifest.json").unlink()  # it belongs to the file before shrinking
        if not theirs.exists():
            makers[peer](model, example, batches, theirs)
        formats[name] = {"runtime": runtime, "peer": peer, **_side_by_side(ours, theirs, runtime, task, clips)}
    x, labels, _ = _clips(task, clips)
    return {
        "network": f"{spec.factory} {checkpoint.name}",
        "macs": cost["macs"],
        "rule": cost["rule"],
        "clips": len(labels),
        "fp32_accuracy": float((logits_of(model, x).argmax(1) == labels).mean()),
        "formats": formats,
    }


def _side_by_side(ours: Path, theirs: Path, runtime: str, task: Any, clips: int) -> dict[str, Any]:
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.models.tasks.kinds.intervals import paired_cluster_bootstrap

    x, labels, identifiers = _clips(task, clips)
    found: dict[str, Any] = {}
    right, samples = {}, {}
    for side, path in (("ours", ours), ("theirs", theirs)):
        with open_session(path, runtime) as session:
            given = x if session.input.shape[1:] == x.shape[1:] else np.moveaxis(x, 1, -1)
            right[side] = session.run(given).argmax(1) == labels
            samples[side] = session.quantize(given[:1]) if runtime == "litert" else (given[:1],)
        found[side] = {"file_bytes": path.stat().st_size, "accuracy": float(right[side].mean()), **_inside(path)}
    difference = paired_cluster_bootstrap(right["ours"], right["theirs"], identifiers, draws=_DRAWS)
    return {
        **found,
        "points": 100 * difference["difference"],
        "interval_points": [100 * end for end in difference["interval"]],
        "latency": interleaved(_timed(ours, runtime, samples["ours"]), _timed(theirs, runtime, samples["theirs"])),
    }


def _clips(task: Any, count: int) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Features, labels and locations of test clips, evenly spread."""
    split = task.split("test")
    chosen = np.unique(np.linspace(0, len(split.labels) - 1, min(count, len(split.labels))).astype(int))
    return (
        np.asarray(task.features("test")[chosen], np.float32),
        np.asarray(split.labels)[chosen],
        None if split.identifiers is None else [split.identifiers[i] for i in chosen],
    )


def _inside(path: Path) -> dict[str, Any]:
    """Operators of a file, and for TFLite its arena."""
    from collections import Counter

    if path.suffix == ".onnx":
        import onnx

        return {"operators": dict(Counter(node.op_type for node in onnx.load(path).graph.node)), "arena_bytes": None}
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.tflite.reader import read_tflite

    graph = read_tflite(path).subgraphs[0]
    facts: dict[str, Any] = {"operators": dict(Counter(operator.code for operator in graph.operators))}
    try:
        with open_session(path, "tflm") as session:
            facts["arena_bytes"] = session.arena_bytes()["total"]
    except EdgepressError as error:
        facts |= {"arena_bytes": None, "tflm": str(error)}
    return facts


def _timed(path: Path, runtime: str, sample: tuple[np.ndarray, ...]) -> Callable[[], Any]:
    """A call of one inference in this process; the file has run in a child before."""
    from edgepress.deploy.runtimes.registry import build_engine

    engine = build_engine(runtime, path.read_bytes())
    return lambda: engine.run(sample)


def interleaved(
    a: Callable[[], Any], b: Callable[[], Any], rounds: int = ROUNDS, round_ms: float = ROUND_MS
) -> dict[str, Any]:
    """Time two calls in turn, A B B A, so that whatever else the machine does meets both alike.

    Args:
        a, b: one inference each.
        rounds: of both.
        round_ms: one side of a round runs at least about that long.

    Returns:
        {"rounds", "runs_per_round", "a_ms", "b_ms" (medians over rounds of the mean run), "ratio" (median of a / b by
        round), "interval" (95 %, bootstrap over rounds)}.
    """
    for call in (a, b):
        call()
    start = time.perf_counter()
    a()
    runs = max(1, round(round_ms / 1e3 / max(time.perf_counter() - start, 1e-6)))

    def mean_ms(call: Callable[[], Any]) -> float:
        start = time.perf_counter_ns()
        for _ in range(runs):
            call()
        return (time.perf_counter_ns() - start) / 1e6 / runs

    taken = np.empty((rounds, 2))
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            taken[number, side] = mean_ms((a, b)[side])
    ratios = taken[:, 0] / taken[:, 1]
    drawn = np.random.default_rng(0).integers(0, rounds, (_DRAWS, rounds))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    a_ms, b_ms = np.median(taken, axis=0)
    return {
        "rounds": rounds,
        "runs_per_round": runs,
        "a_ms": float(a_ms),
        "b_ms": float(b_ms),
        "ratio": float(np.median(ratios)),
        "interval": [float(low), float(high)],
    }


def violations(result: dict[str, Any]) -> list[str]:
    """Where ours is larger, slower beyond the interval, or less accurate beyond the interval."""
    found = []
    for network in result["networks"]:
        for form, pair in network["formats"].items():
            name = f"{network['network']}, {form}"
            ours, theirs = pair["ours"], pair["theirs"]
            for figure in ("file_bytes", "arena_bytes"):
                if ours[figure] is not None and theirs[figure] is not None and ours[figure] > theirs[figure]:
                    found.append(f"{name}: {figure} {ours[figure]:,}, theirs has {theirs[figure]:,}")
            if pair["latency"]["interval"][0] > 1:
                low, high = pair["latency"]["interval"]
                found.append(f"{name}: {pair['latency']['ratio']:.3f} times their latency ({low:.3f} to {high:.3f})")
            if pair["interval_points"][1] < 0:
                found.append(f"{name}: {pair['points']:+.2f} points against theirs")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m edgepress.benchmarks.experiments.integers.files`; the exit code is the project's."""
    parser = argparse.ArgumentParser(
        prog="python -m edgepress.benchmarks.experiments.integers.files", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, help="float checkpoints")
    parser.add_argument("--data", help="task; default: what each checkpoint names")
    parser.add_argument("--clips", type=int, default=600, help="test clips for the accuracy, evenly spread")
    parser.add_argument("--onnx2tf", type=Path, metavar="PYTHON", help="of an environment that has onnx2tf")
    parser.add_argument("--output", type=Path, help="JSON to write (replaced)")
    options = parser.parse_args(arguments)
    from edgepress.benchmarks.experiments.integers.tables import peer_tables, reported

    given = arguments if arguments is not None else sys.argv[1:]
    return reported(lambda: _run(options, given), peer_tables, violations)


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    from edgepress.benchmarks.experiments.integers.networks import portable
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.compress.pipeline.data import front_end_of, open_task
    from edgepress.models.checkpoints.checkpoint import read_spec

    result: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "integer peers",
        "networks": [],
        "command": portable("edgepress.benchmarks.experiments.integers.files", arguments),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
        "not_run": {},
    }
    if options.onnx2tf is None:
        result["not_run"]["onnx2tf"] = "--onnx2tf names no Python that has it"
    else:
        result["environment"]["tools"] |= versions_of(options.onnx2tf)
    tasks: dict[str, Any] = {}
    for checkpoint in options.checkpoints:
        source = options.data or read_spec(checkpoint).task
        if source is None:
            raise UsageError(f"{checkpoint} names no task: give --data")
        front_end = front_end_of(checkpoint)
        key = json.dumps([source, front_end], sort_keys=True)
        if key not in tasks:
            tasks[key] = open_task(source, front_end)
        with TemporaryDirectory(prefix="edgepress-") as folder:
            result["networks"].append(
                compare_files(checkpoint, tasks[key], clips=options.clips, folder=Path(folder), onnx2tf=options.onnx2tf)
            )
        if options.output is not None:
            write_json(options.output, result)
    return result


if __name__ == "__main__":
    sys.exit(main())
