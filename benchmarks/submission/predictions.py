# SPDX-License-Identifier: Apache-2.0
"""Outputs of a system on many clips, kept row by row on disk, so that a kill costs no more than the last block."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.cache import digest, locked
from edgepress.models.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from edgepress.benchmarks.submission.evaluation import EvaluationSet
    from edgepress.models.tasks import Task

#: On what predictions are made.
RUNTIME = "litert"
#: Raise it when the same clips and files give other outputs.
_VERSION = 1
_BLOCK = 256
_BATCH = 64
#: The model for recording devices without one of their own.
GENERAL = ""


@dataclass(frozen=True)
class Predictor:
    """The files of one system.

    Attributes:
        models: recording device -> file; GENERAL for all others.
        hashes: the same keys -> SHA-256 of the file.
        front_end: what makes network inputs of clips, or None where the data are network inputs.
        classes: how many outputs a clip has.
    """

    models: Mapping[str, Path]
    hashes: Mapping[str, str]
    front_end: Any
    classes: int

    @property
    def identity(self) -> Any:
        """What its outputs follow from, beside the clips: JSON-able."""
        front_end = self.front_end.to_json() if self.front_end is not None else None
        return [_VERSION, RUNTIME, sorted(self.hashes.items()), front_end, self.classes]


def on_task(predictor: Predictor, task: Task, split: str, store: Path) -> np.ndarray:
    """float32 [N, classes] on the labelled clips of a split; a clip goes to the model of its recording device."""
    clips = task.split(split)
    features = task.features(split)
    key = digest(predictor.identity, task.fingerprint, split, len(clips))
    return _rows(
        [predictor],
        [store / key],
        len(clips),
        clips.devices,
        lambda start, stop, _: np.array(features[start:stop]),
        "Test clips",
    )[0]


def on_evaluation(predictors: Sequence[Predictor], clips: EvaluationSet, store: Path) -> list[np.ndarray]:
    """float32 [N, classes] for each system on the unlabelled clips; features are computed once for all of them.

    Raises:
        UsageError: a clip is damaged, or the clips are no input of a network.
    """
    clip_format = clips.clip_format()
    entries: list[Path] = []
    for predictor in predictors:
        if predictor.front_end is None or not hasattr(predictor.front_end, "sample_rate_hz"):
            raise UsageError("predictions of an evaluation set need networks with a front end of sound")
        entries.append(store / digest(predictor.identity, clips.names, clips.stamps, clips.devices))
    # Systems of the same files are one.
    unique = dict(zip(entries, predictors, strict=True))

    def inputs(start: int, stop: int, predictor: Predictor) -> np.ndarray:
        return clips.inputs(start, stop, predictor.front_end, clip_format)

    rows = _rows(list(unique.values()), list(unique), len(clips), clips.devices, inputs, "Evaluation clips")
    made = dict(zip(unique, rows, strict=True))
    return [made[entry] for entry in entries]


def _rows(
    predictors: Sequence[Predictor],
    entries: Sequence[Path],
    total: int,
    devices: Sequence[str] | None,
    inputs: Callable[[int, int, Predictor], np.ndarray],
    title: str,
) -> list[np.ndarray]:
    """The rows of each system, those of an earlier call read and the missing ones made, block by block."""
    with ExitStack() as stack:
        for entry in sorted(entries):
            stack.enter_context(locked(entry))
        files = [
            stack.enter_context(_Rows(entry, predictor.classes))
            for entry, predictor in zip(entries, predictors, strict=True)
        ]
        start = min((min(file.count, total) for file in files), default=total)
        progress = stack.enter_context(ProgressBar(title, total))
        progress.reach(start)
        sessions = [_Sessions(stack, predictor) for predictor in predictors]
        while start < total:
            stop = min(start + _BLOCK, total)
            made: dict[str, np.ndarray] = {}
            for file, predictor, session in zip(files, predictors, sessions, strict=True):
                if file.count > start:  # it went further before it was stopped
                    continue
                key = digest(predictor.front_end.to_json() if predictor.front_end is not None else None)
                if key not in made:
                    made[key] = inputs(start, stop, predictor)
                file.append(session.run(made[key], devices[start:stop] if devices is not None else None))
            start = min(stop, *(file.count for file in files))
            progress.reach(start)
        return [file.read(total) for file in files]


class _Rows:
    """A file of float32 rows that only grows; a torn last row is cut off."""

    def __init__(self, entry: Path, columns: int):
        self._path, self._columns = entry.with_suffix(".rows"), columns
        self.count = 0

    def __enter__(self) -> _Rows:
        try:
            self._file = open(self._path, "a+b", buffering=0)
        except OSError as error:
            raise UsageError(f"cannot write {self._path}: {error.strerror}; choose a writable run directory") from error
        size = 4 * self._columns
        self.count = os.path.getsize(self._path) // size
        self._file.truncate(self.count * size)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: np.ndarray) -> None:
        data = memoryview(np.ascontiguousarray(rows, "<f4").tobytes())
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise UsageError(f"cannot write {self._path}: {error.strerror}; make room and call again") from error
        self.count += len(rows)

    def read(self, total: int) -> np.ndarray:
        self._file.seek(0)
        return np.frombuffer(self._file.read(4 * self._columns * total), "<f4").reshape(total, self._columns)


class _Sessions:
    """The models of a system, each opened when a clip needs it."""

    def __init__(self, stack: ExitStack, predictor: Predictor):
        self._stack, self._predictor = stack, predictor
        self._open: dict[str, Any] = {}

    def run(self, inputs: np.ndarray, devices: Sequence[str] | None) -> np.ndarray:
        """float32 [B, classes]."""
        own = [device if device in self._predictor.models else GENERAL for device in devices or [GENERAL] * len(inputs)]
        result = np.empty((len(inputs), self._predictor.classes), np.float32)
        for model in sorted(set(own)):
            chosen = np.flatnonzero(np.array(own) == model)
            for start in range(0, len(chosen), _BATCH):
                rows = chosen[start : start + _BATCH]
                result[rows] = np.asarray(self._session(model).run(inputs[rows])).reshape(len(rows), -1)
        if not np.isfinite(result).all():
            raise UsageError(f"{self._predictor.models[GENERAL].name} gives outputs that are not finite")
        return result

    def _session(self, model: str) -> Any:
        from edgepress.deploy.runtimes.sessions import open_session

        if model not in self._open:
            self._open[model] = self._stack.enter_context(open_session(self._predictor.models[model], RUNTIME))
        return self._open[model]
