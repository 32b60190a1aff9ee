# SPDX-License-Identifier: Apache-2.0
"""Accuracy of one file on several runtimes, on the same labelled data, and where their answers differ."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.benchmarks.measure.environment import environment
from edgepress.models.errors import RuntimeFailure, UsageError

if TYPE_CHECKING:
    from edgepress.deploy.runtimes.sessions import Session
    from edgepress.models.tasks.front_ends.log_mel import LogMel
    from edgepress.models.tasks.task import Split, Task

SCHEMA = 1
#: Called with runtime, samples done, samples.
Progress = Callable[[str, int, int], None]
_BATCH = 256


def measure_accuracy(
    path: str | Path,
    data: str | Path | Task,
    runtimes: Sequence[str] = (),
    *,
    devices: Sequence[str] = (),
    split: str = "test",
    limit: int | None = None,
    threads: int = 1,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run labelled data through a file on every runtime.

    Stored integers that are the file's own input are fed as they are; ties in argmax go to the first index.

    Args:
        path: a .tflite or .onnx file, or a checkpoint directory (runtime "torch").
        data: a task or what `edgepress.models.tasks.load_task` takes: a folder, an .npz, "synthetic".
        runtimes: names; none of them and no device takes every installed runtime for this kind of file.
        devices: device classes; the runtime of each is added.
        split: "test", "validation" or "train".
        limit: only the first samples, for a quick look; None takes all.
        threads: threads of a runtime.
        trust: allow a data source or checkpoint to run its own code.
        cache: folder for computed features.
        progress: called with (runtime, samples done, samples) where given.

    Returns:
        schema, file, sha256, data (name, fingerprint, split, samples), results (for each runtime: runtime, on an
        emulated core firmware: flash_bytes, ram_bytes, stack_bytes, instructions, layers,
        device_classes, correct, total, accuracy, log_loss, interval, by_class, by_recording_device, outputs), flips
        (pairs of runtimes: labels that differ), failures (runtime, error), environment.

    Raises:
        UsageError: missing or damaged file or data, an unknown runtime, shapes that do not fit.
    """
    from edgepress.models.tasks.sources.load import load_task
    from edgepress.models.tasks.task import Task

    path = Path(path)
    wanted = wanted_runtimes(path, runtimes, devices)
    task = (
        data if isinstance(data, Task) else load_task(data, front_end=_front_end(path, data), cache=cache, trust=trust)
    )
    clips = task.split(split)
    if limit is not None and limit < len(clips):
        clips = clips.subset(range(limit))
    answers: dict[str, np.ndarray] = {}
    results, failures = [], []
    for runtime, classes in wanted.items():
        try:
            logits, firmware = _logits(path, task, split, len(clips), runtime, threads, trust, progress)
            results.append(
                {
                    "runtime": runtime,
                    "device_classes": classes,
                    **_evaluate(logits, task, clips),
                    **({"firmware": firmware} if firmware else {}),
                }
            )
        except RuntimeFailure as error:
            failures.append({"runtime": runtime, "error": str(error)})
            continue
        answers[runtime] = logits.argmax(axis=1)
    return {
        "schema": SCHEMA,
        "kind": "accuracy",
        "file": str(path),
        "sha256": model_sha256(path),
        "data": {"name": task.name, "fingerprint": task.fingerprint, "split": split, "samples": len(clips)},
        "results": results,
        "flips": _flips(answers, clips.labels),
        "failures": failures,
        "environment": environment(),
    }


def records(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """One record for each runtime, for `edgepress.benchmarks.measure.result_log`."""
    shared = {key: value for key, value in measured.items() if key not in ("results", "flips", "failures", "schema")}
    return [{**shared, **result} for result in measured["results"]]


def model_sha256(path: str | Path) -> str:
    """SHA-256 of a file; of a checkpoint, of its weights, as in its profile.

    Raises:
        UsageError: it cannot be read.
    """
    path = Path(path)
    try:
        with (path / "weights.safetensors" if path.is_dir() else path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def wanted_runtimes(path: Path, runtimes: Sequence[str], devices: Sequence[str] = ()) -> dict[str, list[str]]:
    """Runtime -> the device classes that it stands for here."""
    from edgepress.deploy.runtimes.registry import RUNTIMES, available_runtimes
    from edgepress.models.devices.classes import device_class

    wanted: dict[str, list[str]] = {name: [] for name in runtimes}
    for name in devices:
        wanted.setdefault(device_class(name).runtime, []).append(name)
    unknown = [name for name in wanted if name not in RUNTIMES]
    if unknown:
        raise UsageError(f"runtime = {unknown[0]!r} is unknown: allowed are {', '.join(RUNTIMES)}")
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise UsageError(f"there is no model {path}: name an existing .tflite, .onnx or checkpoint")
    if wanted:
        return wanted
    kind = "checkpoint" if path.is_dir() else path.suffix.lower().lstrip(".")
    found = {name: [] for name, missing in available_runtimes(kind).items() if missing is None}
    if not found:
        raise UsageError(f"no installed runtime runs {path}: known kinds are .tflite, .onnx and checkpoint directories")
    return found


def _front_end(path: Path, data: str | Path | Task) -> LogMel | None:
    """The log-mel definition that the network was made for, where the data has to be turned into features."""
    if Path(str(data)).suffix == ".npz":
        return None
    if path.is_dir():
        from edgepress.models.checkpoints.checkpoint import read_spec

        definition = read_spec(path).front_end
    else:
        from edgepress.benchmarks.measure.manifests import spec_beside

        definition = spec_beside(path).get("front_end")
    if not isinstance(definition, dict):
        return None
    from edgepress.models.tasks.front_ends.log_mel import LogMel

    return LogMel.from_json(definition)


def _logits(
    path: Path, task: Task, split: str, samples: int, runtime: str, threads: int, trust: bool, progress: Progress | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Outputs [N, K] as float32, and the figures of firmware on an emulated core."""
    from edgepress.deploy.runtimes.sessions import open_session

    try:
        with open_session(path, runtime, threads=threads, trust=trust) as session:
            raw = _fits_raw(session, task)
            arrays = task.stored_inputs(split) if raw else task.features(split)
            parts = []
            for start in range(0, samples, _BATCH):
                batch = np.asarray(arrays[start : min(start + _BATCH, samples)])
                made = session.dequantize(*_tuple(session.run_integer(batch))) if raw else _tuple(session.run(batch))
                parts.append(np.asarray(made[0], np.float32).reshape(len(batch), -1))
                if progress is not None:
                    progress(runtime, start + len(batch), samples)
            firmware = session.firmware_figures()
    except RuntimeFailure as error:
        raise RuntimeFailure(str(error) if runtime in str(error) else f"{runtime}: {error}") from None
    logits = np.concatenate(parts)
    if logits.shape[1] != len(task.classes):
        raise UsageError(f"{path} gives {logits.shape[1]} outputs, but {task.name} has {len(task.classes)} classes")
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise RuntimeFailure(
            f"{runtime}: {path} gives NaN or infinity for {bad} of {samples} samples; a verdict on "
            "them would mean nothing"
        )
    return logits, firmware


def _tuple(made: Any) -> tuple[Any, ...]:
    return made if isinstance(made, tuple) else (made,)


def _fits_raw(session: Session, task: Task) -> bool:
    """Whether the stored integers are this file's own input."""
    stored = task.stored
    if stored is None or not stored.quantized:
        return False
    return (
        len(session.inputs) == 1
        and stored.dtype == session.input.dtype
        and len(session.input.shape) == len(stored.shape) + 1
        and all(want in (-1, got) for got, want in zip(stored.shape, session.input.shape[1:], strict=True))
    )


def looks_like_probabilities(rows: np.ndarray) -> bool:
    """Whether [N, K] outputs come from a softmax, within the steps of an int8 output."""
    if rows.size == 0 or rows.min() < 0 or rows.max() > 1.0 + 1e-3:
        return False
    # Every one of K outputs may be off by half a step of 1/256, and int8 cannot say 1.0.
    return bool(np.abs(rows.sum(axis=1) - 1).max() <= 0.01 + rows.shape[1] / 512)


def _evaluate(logits: np.ndarray, task: Task, clips: Split) -> dict[str, Any]:
    from edgepress.models.tasks.metrics import evaluate

    probabilities = looks_like_probabilities(logits)
    if probabilities:
        # The steps of an int8 softmax leave sums such as 0.996; the order of the classes stays as it is.
        logits = logits.astype(np.float64) / logits.sum(axis=1, keepdims=True, dtype=np.float64)
    found = evaluate(
        logits,
        clips.labels,
        devices=clips.devices,
        classes=task.classes,
        identifiers=clips.identifiers,
        unseen=task.unseen_devices,
        probabilities=probabilities,
    )
    return {**found, "outputs": "probabilities" if probabilities else "logits"}


def _flips(answers: dict[str, np.ndarray], labels: np.ndarray) -> list[dict[str, Any]]:
    found = []
    for (a, first), (b, second) in combinations(answers.items(), 2):
        differ = first != second
        found.append(
            {
                "a": a,
                "b": b,
                "labels_differ": int(differ.sum()),
                "samples": len(labels),
                "only_a_correct": int((differ & (first == labels)).sum()),
                "only_b_correct": int((differ & (second == labels)).sum()),
            }
        )
    return found
