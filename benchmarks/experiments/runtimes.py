# SPDX-License-Identifier: Apache-2.0
"""One network in every format, on every runtime: accuracy, LSB, bytes and latency side by side.

    python -m edgepress.benchmarks.experiments.runtimes --train ds_cnn@digits --work DIR --output FILE.json

Each float network is quantized once (post-training, w8a8) and exported to TFLite, ONNX and ExecuTorch; ONNX Runtime's
and OpenVINO's own formats are made of the ONNX file. The whole test split goes through torch, which is fake
quantization, and through every runtime; latency is one sample at a time on one thread, in turns, so that what else the
machine does falls on all alike. What is finished lies in `--work`, so that the same command goes on where it stopped.
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
from edgepress.benchmarks.experiments.rounding_spread import rounding_spread
from edgepress.benchmarks.experiments.runtimes_page import PAGE, page, runtime_tables, violations
from edgepress.deploy.verify.parity import MAX_LSB, MEAN_LSB
from edgepress.models.atomic import write_json, write_text
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.terminal.words import say

SCHEMA = 1
#: What is measured: (row, format of the file, runtime).
ROWS = (
    ("litert", "tflite", "litert"),
    ("onnxruntime", "onnx", "onnxruntime"),
    ("onnxruntime, .ort", "ort", "onnxruntime"),
    ("openvino", "onnx", "openvino"),
    ("openvino, .xml", "openvino", "openvino"),
    ("executorch", "executorch", "executorch"),
)
_BATCH = 64


def measure(one: Candidate, task: Any, folder: Path, *, rounds: int, runs: int) -> dict[str, Any]:
    """Quantize, export and run one network.

    Args:
        one: the float network.
        task: its task, opened.
        folder: where files are made; what is there is not made again.
        rounds: how often every runtime has its turn at the latency.
        runs: timed runs of a turn.

    Returns:
        {"network", "task", "macs", "rule", "params", "samples", "torch_accuracy", "rows": [{"row", "format",
        "runtime", "file_bytes", "correct", "total", "accuracy", "max_lsb", "mean_lsb", "equal", "label_agreement"
        against fake quantization, "p50_ms", "min_ms", "runs"}], "spread": of
        `rounding_spread` where a row is beyond `MAX_LSB`, else null}.

    Raises:
        RuntimeFailure: a runtime is missing or failed.
    """
    from edgepress.deploy.runtimes.registry import available_runtimes
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.runtimes.torch_engine import TorchEngine
    from edgepress.deploy.verify.differences import compare
    from edgepress.models.checkpoints.checkpoint import read_metrics

    for _, form, name in ROWS:
        if missing := available_runtimes(form, emulated=True).get(name):
            raise RuntimeFailure(f"{name}: {missing}")
    checkpoint, files = _files(one, task, folder)
    labels = np.asarray(task.split("test").labels)
    with open_session(checkpoint, "torch") as session:
        expected = _outputs(session, task, len(labels))
    rows: list[dict[str, Any]] = []
    step: float | None = None  # of the output: the same integers everywhere, which an .ort file does not tell
    for row, form, name in ROWS:
        with open_session(files[form], name) as session:
            outputs, step = _outputs(session, task, len(labels)), session.output.scale or step
        if step is None:
            raise RuntimeFailure(f"{row}: the file does not tell the integers of its output")
        compared = compare(expected, outputs, step)
        right = int((outputs.argmax(1) == labels).sum())
        size = files[form].stat().st_size + (
            files[form].with_suffix(".bin").stat().st_size if form == "openvino" else 0
        )
        rows.append(
            {
                "row": row,
                "format": form,
                "runtime": name,
                "file_bytes": size,
                "correct": right,
                "total": len(labels),
                "accuracy": right / len(labels),
                **{key: compared[key] for key in ("max_lsb", "mean_lsb", "equal", "label_agreement")},
            }
        )
        say(f"  {row}: {right} of {len(labels)} right, at most {compared['max_lsb']} LSB, {size:,} bytes")
    spread = None
    if max(found["max_lsb"] for found in rows) > MAX_LSB:  # only then is there something to explain
        quantized = TorchEngine(checkpoint).quantized
        if quantized is None:
            raise RuntimeFailure(f"{checkpoint} holds no integers")
        spread = rounding_spread(quantized, _batches(task, len(labels)))
        say(f"  roundings that may go either way: at most {spread['max_lsb']:g} LSB")
    taken: dict[str, list[float]] = {row: [] for row, *_ in ROWS}
    for _ in range(rounds):
        for row, form, name in ROWS:
            taken[row] += _turn(files[form], name, runs)
    for found in rows:
        ms = np.asarray(taken[found["row"]])
        found |= {"p50_ms": float(np.median(ms)), "min_ms": float(ms.min()), "runs": len(ms)}
    cost = read_metrics(one.checkpoint)["cost"]
    return {
        "network": one.name,
        "task": task.name,
        "macs": cost["macs"],
        "rule": cost["rule"],
        "params": cost["params"],
        "samples": len(labels),
        "torch_accuracy": float((expected.argmax(1) == labels).mean()),
        "rows": rows,
        "spread": spread,
    }


def _files(one: Candidate, task: Any, folder: Path) -> tuple[Path, dict[str, Path]]:
    """The int8 checkpoint, and format -> file."""
    from edgepress.compress.pipeline.stages import quantize_stage
    from edgepress.compress.recipes.recipe import QuantizeSettings
    from edgepress.compress.training.machine import Machine
    from edgepress.deploy.export.from_checkpoint import export_checkpoint
    from edgepress.deploy.export.in_run import ExportOptions, Source
    from edgepress.models.run_directory import RunDirectory

    base, run = QuantizeSettings(), RunDirectory(folder / "run")
    settings = base.model_copy(update={"train": base.train.model_copy(update={"epochs": 0})})
    with run.lock():
        entry = quantize_stage(run, one.checkpoint, settings, task, machine=Machine(accelerator="cpu"), seed=one.seed)
        source = Source(Path(entry["path"]), entry["name"], entry)
        # The limits are those of `violations`, on the test split and with a table.
        options = {
            form: ExportOptions(format=form, verify=False) for form in dict.fromkeys(form for _, form, _ in ROWS)
        }
        files = {form: export_checkpoint(source, chosen, run, say=say)[0].path for form, chosen in options.items()}
    return source.path, files


def _batches(task: Any, count: int) -> list[np.ndarray]:
    features = task.features("test")
    return [np.asarray(features[at : at + _BATCH], np.float32) for at in range(0, count, _BATCH)]


def _outputs(session: Any, task: Any, count: int) -> np.ndarray:
    return np.concatenate([session.run(batch) for batch in _batches(task, count)])


def _turn(path: Path, runtime: str, runs: int) -> list[float]:
    """Milliseconds of single inferences in this process, on one thread, after a tenth as many for warming up."""
    from edgepress.deploy.runtimes.sessions import open_session

    with open_session(path, runtime, threads=1, isolate=False) as session:
        sample = [np.zeros([1, *details.shape[1:]], details.dtype) for details in session.inputs]
        taken = []
        for number in range(-max(1, runs // 10), runs):
            start = time.perf_counter_ns()
            session.run_integer(*sample)
            if number >= 0:
                taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the command line asks for, written to `--output` behind every network."""
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.compress.pipeline.data import front_end_of, open_task

    networks: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for one in candidates(options):
        task = open_task(one.source, front_end_of(one.checkpoint))
        folder = options.work / f"{one.name.replace(' ', '-')}-runtimes"
        done = folder / "measured.json"
        if done.exists():
            networks.append(json.loads(done.read_text()))
        else:
            say(f"{one.name} on {task.name}")
            networks.append(measure(one, task, folder, rounds=options.rounds, runs=options.timed_runs))
            write_json(done, networks[-1])
        result = {
            "schema": SCHEMA,
            "kind": "runtimes",
            "command": options.command,
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "environment": environment(),
            "limits": {"max_lsb": MAX_LSB, "mean_lsb": MEAN_LSB},
            "networks": networks,
        }
        if options.output is not None:
            write_json(options.output, result)
    if not result:
        raise UsageError("nothing to measure: give --runs with run directories, or --train ds_cnn@digits")
    if options.page:
        write_text(PAGE, page(result))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m edgepress.benchmarks.experiments.runtimes`; the exit code is the project's."""
    parser = argparse.ArgumentParser(
        prog="python -m edgepress.benchmarks.experiments.runtimes", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="run directories")
    parser.add_argument("--networks", nargs="*", default=["dense"], help="names of the float checkpoints in them")
    parser.add_argument(
        "--train", nargs="*", default=[], metavar="NAME[@digits]", help="networks that are trained here"
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=[1], help="of those trainings")
    parser.add_argument("--train-epochs", type=int, help="of those trainings on the digits")
    parser.add_argument("--data", help="task; default: what each checkpoint names")
    parser.add_argument("--rounds", type=int, default=10, help="turns of every runtime at the latency")
    parser.add_argument("--timed-runs", type=int, default=50, help="timed runs of a turn")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made; the command resumes from it")
    parser.add_argument("--output", type=Path, help="JSON to write (replaced)")
    parser.add_argument("--page", action="store_true", help="write docs/runtimes.md as well")
    options = parser.parse_args(arguments)
    options.command = portable(
        "edgepress.benchmarks.experiments.runtimes", arguments if arguments is not None else sys.argv[1:]
    )
    from edgepress.benchmarks.experiments.integers.tables import reported

    return reported(lambda: run(options), runtime_tables, violations)


if __name__ == "__main__":
    sys.exit(main())
