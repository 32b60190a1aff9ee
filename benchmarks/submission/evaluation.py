# SPDX-License-Identifier: Apache-2.0
"""An unlabelled evaluation set: its list of clips, read strictly, and their network inputs, a block at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.parallel import cores
from edgepress.models.tasks.sources.listing import raise_together, read_table

if TYPE_CHECKING:
    from edgepress.models.tasks.sources.audio import ClipFormat

_LISTS = ("evaluation_setup/fold1_test.csv", "fold1_test.csv", "meta.csv")


@dataclass(frozen=True)
class EvaluationSet:
    """The clips of a folder.

    Attributes:
        folder: with audio/ and, where there is one, a list of the clips.
        names: file names without their folder, in the order of the list: 0.wav, 1.wav, ...
        paths: relative to `folder`.
        devices: the recording device of each clip, where the list has a column device_id (2025), else None.
        stamps: (size in bytes, modification time in ns) of each file.
    """

    folder: Path
    names: tuple[str, ...]
    paths: tuple[str, ...]
    devices: tuple[str, ...] | None
    stamps: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.names)

    def clip_format(self) -> ClipFormat:
        """Rate, length and resolution of the first clip; `decode` holds every other one against it.

        Raises:
            UsageError: it cannot be read or has more than one channel.
        """
        from edgepress.models.tasks.sources.audio import check_clips

        found, errors = check_clips([self.folder / self.paths[0]], [self.paths[0]])
        raise_together(str(self.folder), errors)
        assert found is not None  # without an error there is a format
        return found

    def inputs(self, start: int, stop: int, front_end: Any, clip_format: ClipFormat) -> np.ndarray:
        """float32 [stop - start, *front_end.shape(...)]: decoded, resampled, through the front end as in training.

        Raises:
            UsageError: a clip is damaged or of another format than the first one.
        """
        from edgepress.models.tasks.sources.audio import decode

        rate = front_end.sample_rate_hz
        with ThreadPoolExecutor(cores()) as pool:
            waveforms = list(
                pool.map(lambda path: decode(self.folder / path, clip_format, rate), self.paths[start:stop])
            )
        return front_end.compute(np.stack(waveforms))


def open_evaluation(folder: str | Path) -> EvaluationSet:
    """Open an evaluation set: TAU Urban Acoustic Scenes 2022, 2023, 2024 or 2025 Mobile, or any folder like them.

    The clips are those of evaluation_setup/fold1_test.csv or meta.csv (column filename, and device_id where there is
    one), or all of audio/ without a list.

    Raises:
        UsageError: no such folder, no clip, or clips that are missing or listed twice; all are reported together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"--evaluation {folder} is no folder: name the unpacked evaluation set, with audio/ in it")
    listed, devices, label = _listed(folder)
    paths, stamps, errors, seen = [], [], [], set()
    for name in listed:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name:
            errors.append(f"{label}: {name[:100]!r} must be a path within the folder")
            continue
        if pure.name in seen:
            errors.append(f"{label}: {pure.name} is listed twice")
        seen.add(pure.name)
        for path in (name, f"audio/{name}"):
            try:
                found = os.stat(folder / path)
            except OSError:
                continue
            paths.append(path)
            stamps.append((found.st_size, found.st_mtime_ns))
            break
        else:
            errors.append(f"{label}: {name} does not exist")
    raise_together(str(folder), errors)
    if not paths:
        raise UsageError(f"--evaluation {folder} holds no clip: audio/0.wav, audio/1.wav, ... are expected")
    names = tuple(PurePosixPath(name).name for name in listed)
    return EvaluationSet(folder, names, tuple(paths), devices, tuple(stamps))


def _listed(folder: Path) -> tuple[Sequence[str], tuple[str, ...] | None, str]:
    """(names, devices, what lists them)."""
    for label in _LISTS:
        if not (folder / label).is_file():
            continue
        with (folder / label).open("rb") as file:
            header = file.readline(4096).decode("utf-8", "replace").strip().split("\t")
        columns = ("filename", "device_id") if "device_id" in header else ("filename",)
        rows, errors = read_table(folder / label, label, columns)
        raise_together(str(folder), errors)
        devices = tuple(row["device_id"] for _, row in rows) if len(columns) == 2 else None
        return [row["filename"] for _, row in rows], devices, label

    def order(name: str) -> tuple[int, str]:
        number = re.match(r"\d+", name)
        return (int(number[0]) if number else -1, name)

    audio = folder / "audio"
    names = sorted((entry.name for entry in os.scandir(audio)), key=order) if audio.is_dir() else []
    return [f"audio/{name}" for name in names if name.lower().endswith((".wav", ".flac"))], None, "audio/"
