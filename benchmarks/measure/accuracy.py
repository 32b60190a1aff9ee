# SPDX-License-Identifier: Apache-2.0
"""What one file is worth on several runtimes, on the same labelled data, and where their answers differ."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.benchmarks.measure.environment import environment
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.files.reading import file_sha256

if TYPE_CHECKING:
    from edgepress.deploy.runtimes.sessions import Session
    from edgepress.models.devices.device import DeviceClass
    from edgepress.models.tasks.front_ends.front_end import FrontEnd
    from edgepress.models.tasks.task import Split, Task

SCHEMA = 1
#: Called with runtime, samples done, samples.
Progress = Callable[[str, int, int], None]
_BATCH = 256
#: Outputs that are kept to compare runtimes with each other: 128 MB.
_KEPT_NUMBERS = 2**25


def measure_accuracy(
    path: str | Path,
    data: str | Path | Task,
    runtimes: Sequence[str] = (),
    *,
    devices: Sequence[str | DeviceClass] = (),
    split: str = "test",
    limit: int | None = None,
    threads: int = 1,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
    metrics: Sequence[str] = (),
    streams: bool = False,
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
        metrics: of the user's own, "package.module:function", whose code is run.
        streams: samples of one recording are one stream, in their order; otherwise each is a clip of its own.

    Returns:
        schema, file, sha256, data (name, fingerprint, split, samples), results (for each runtime: runtime, on an
        emulated core firmware: flash_bytes, ram_bytes, stack_bytes, instructions, layers,
        device_classes, correct, total, accuracy, log_loss, interval, by_class, by_recording_device, outputs), flips
        (pairs of runtimes: labels that differ), differences (pairs of runtimes: outputs), failures (runtime,
        error), environment.

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
    if metrics:
        from edgepress.models.tasks.kinds.evaluation import own_metrics

        task = replace(task, metrics={**task.metrics, **own_metrics(list(metrics))})
    clips = task.split(split)
    if limit is not None and limit < len(clips):
        clips = clips.subset(range(limit))
    answers: dict[str, np.ndarray] = {}
    results, failures = [], []
    for runtime, classes in wanted.items():
        try:
            found, firmware, answers[runtime] = _evaluated(
                path, task, split, clips, runtime, threads, trust, progress, streams
            )
        except RuntimeFailure as error:
            failures.append({"runtime": runtime, "error": str(error)})
            continue
        results.append(
            {
                "runtime": runtime,
                "device_classes": classes,
                **found,
                **({"firmware": firmware} if firmware else {}),
            }
        )
    return {
        "schema": SCHEMA,
        "kind": "accuracy",
        "file": str(path),
        "sha256": model_sha256(path),
        "data": {
            "name": task.name,
            "fingerprint": task.fingerprint,
            "split": split,
            "samples": len(clips),
            "streams": streams,
        },
        "results": results,
        "flips": _flips({name: one.argmax(1) for name, one in answers.items()}, clips.labels)
        if task.kind == "classification"
        else [],
        "differences": _differences(answers),
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
    return file_sha256(path / "weights.safetensors" if path.is_dir() else path)


def wanted_runtimes(
    path: Path, runtimes: Sequence[str], devices: Sequence[str | DeviceClass] = ()
) -> dict[str, list[str]]:
    """Runtime -> the device classes that it stands for here."""
    from edgepress.deploy.runtimes.registry import KINDS, RUNTIMES, available_runtimes
    from edgepress.models.devices.classes import device_class

    wanted: dict[str, list[str]] = {name: [] for name in runtimes}
    for found in [device_class(given) if isinstance(given, str) else given for given in devices]:
        wanted.setdefault(found.runtime, []).append(found.name)
    unknown = [name for name in wanted if name not in RUNTIMES]
    if unknown:
        raise UsageError(f"runtime = {unknown[0]!r} is unknown: allowed are {', '.join(RUNTIMES)}")
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise UsageError(f"there is no model {path}: name an existing .tflite, .onnx or checkpoint")
    if wanted:
        return wanted
    kind = "checkpoint" if path.is_dir() else KINDS.get(path.suffix.lower(), "")
    every = {name: [] for name, missing in available_runtimes(kind).items() if missing is None}
    if not every:
        raise UsageError(
            f"no installed runtime runs {path}: known kinds are {', '.join(KINDS)} and checkpoint directories"
        )
    return every


def _front_end(path: Path, data: str | Path) -> FrontEnd | None:
    """What the network was made for, where the data have to be turned into network inputs."""
    from edgepress.models.tasks.sources.load import front_end_for

    if path.is_dir():
        from edgepress.models.checkpoints.checkpoint import read_spec

        definition = read_spec(path).front_end
    else:
        from edgepress.benchmarks.measure.manifests import spec_beside

        definition = spec_beside(path).get("front_end")
    if not isinstance(definition, dict):
        return None
    return front_end_for(data, definition)


def _evaluated(
    path: Path,
    task: Task,
    split: str,
    clips: Split,
    runtime: str,
    threads: int,
    trust: bool,
    progress: Progress | None,
    streams: bool,
) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """(the record of a runtime, figures of firmware, outputs [N, ...] as float32, at most so many)."""
    from edgepress.models.tasks.kinds.table import kind_of

    reference, normal = kind_of(task.kind).threshold_split, None
    if reference and reference != split and task.has(reference):
        of_normal = task.split(reference)
        collected = task.evaluation(of_normal)
        for start, (outputs, inputs, _) in _numbered(
            _outputs(path, task, reference, len(of_normal), runtime, threads, trust, None, streams)
        ):
            collected.add(outputs, of_normal.labels[start : start + len(outputs)], inputs)
        normal = collected.rows
    collected, kept, size = task.evaluation(clips), [], 0
    figures: dict[str, Any] = {}
    for start, (outputs, inputs, firmware) in _numbered(
        _outputs(path, task, split, len(clips), runtime, threads, trust, progress, streams)
    ):
        figures = firmware
        collected.add(outputs, clips.labels[start : start + len(outputs)], inputs)
        if size < _KEPT_NUMBERS:
            kept.append(outputs)
            size += outputs.size
    return collected.result(normal), figures, np.concatenate(kept)


def _numbered(batches: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Each batch with the number of its first sample."""
    start = 0
    for batch in batches:
        yield start, batch
        start += len(batch[0])


def _outputs(
    path: Path,
    task: Task,
    split: str,
    samples: int,
    runtime: str,
    threads: int,
    trust: bool,
    progress: Progress | None,
    streams: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """(outputs of a batch as float32, its inputs, figures of firmware on an emulated core, known with the last)."""
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.models.tasks.kinds.table import kind_of

    kind = kind_of(task.kind)
    try:
        with open_session(path, runtime, threads=threads, trust=trust) as session:
            raw = _fits_raw(session, task)
            arrays = task.stored_inputs(split) if raw else task.features(split)
            begins = _begins(task.split(split)) if streams else None
            for start in range(0, samples, _BATCH):
                batch = np.asarray(arrays[start : min(start + _BATCH, samples)])
                outputs = kind.outputs_of(_run(session, batch, raw, begins, start))
                if start == 0:
                    outputs = _fitting(outputs, task, path)
                done = start + len(batch)
                if bad := int((~np.isfinite(outputs.reshape(len(batch), -1))).any(axis=1).sum()):
                    raise RuntimeFailure(
                        f"{runtime}: {path} gives NaN or infinity for {bad} of {len(batch)} samples; a verdict on "
                        "them would mean nothing"
                    )
                if progress is not None:
                    progress(runtime, done, samples)
                inputs = _as_inputs(batch, task, raw)
                wanted = task.output_shape
                shaped = outputs.reshape(len(batch), *wanted) if wanted is not None else outputs
                yield shaped, inputs, session.firmware_figures() if done >= samples else {}
    except RuntimeFailure as error:
        raise RuntimeFailure(str(error) if runtime in str(error) else f"{runtime}: {error}") from None


def _begins(clips: Split) -> set[int]:
    """Where a recording begins: samples of one recording are a stream, in order; all of them where none is known."""
    names = clips.identifiers
    return {0} if names is None else {i for i, name in enumerate(names) if i == 0 or names[i - 1] != name}


def _run(session: Session, batch: np.ndarray, raw: bool, begins: set[int] | None, first: int) -> tuple[Any, ...]:
    """Outputs of a batch, whose samples are clips, or parts of streams that begin at these samples of the split."""
    stream, cuts = begins is not None, [0, len(batch)]
    if begins is not None:
        cuts = sorted({0, len(batch), *(at - first for at in begins if first <= at < first + len(batch))})
    pieces = []
    for begin, end in pairwise(cuts):
        if begins is not None and first + begin in begins:
            session.reset()
        part = batch[begin:end]
        made = session.run_integer(part, stream=stream) if raw else session.run(part, stream=stream)
        pieces.append(session.dequantize(*_tuple(made)) if raw else _tuple(made))
    return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))


def _fitting(outputs: np.ndarray, task: Task, path: Path) -> np.ndarray:
    """The outputs, if a sample's are as many numbers as the task wants.

    Raises:
        UsageError: they are not.
    """
    wanted = task.output_shape
    if wanted is not None and outputs[0].size != math.prod(wanted):
        what = f"{len(task.classes)} classes" if len(wanted) == 1 and task.classes else " x ".join(map(str, wanted))
        raise UsageError(f"{path} gives {outputs[0].size} outputs, but {task.name} has {what}")
    return outputs


def _as_inputs(batch: np.ndarray, task: Task, raw: bool) -> np.ndarray:
    if not raw or task.stored is None:
        return batch
    from edgepress.models.tasks.sources.arrays import as_features

    return as_features(batch, task.stored)


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


def _differences(answers: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """How far outputs of two runtimes are apart, beside their range."""
    found = []
    for (a, first), (b, second) in combinations(answers.items(), 2):
        apart = np.abs(first.astype(np.float64) - second)
        found.append(
            {
                "a": a,
                "b": b,
                "max": float(apart.max()),
                "mean": float(apart.mean()),
                "range": float(first.max() - first.min()),
                "samples": len(first),
            }
        )
    return found
