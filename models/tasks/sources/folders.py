# SPDX-License-Identifier: Apache-2.0
"""Folders of files as splits: listed, known by names and content, their network inputs computed once and mapped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.files.reading import open_regular
from edgepress.models.tasks.cache import cached_array, digest
from edgepress.models.tasks.parallel import map_batches
from edgepress.models.tasks.sources.listing import raise_together
from edgepress.models.tasks.task import Split

_BATCH = 64
#: Files whose content is part of a fingerprint, of each split.
_SAMPLED = 11


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are passed over."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def files_below(root: Path, folder: Path, suffixes: Sequence[str]) -> list[str]:
    """Files of these suffixes in a folder and the folders below, sorted, as paths within `root`."""
    found = [
        os.path.join(place, name)
        for place, below, names in os.walk(folder)
        if not _hide(below)
        for name in names
        if name.lower().endswith(tuple(suffixes)) and not name.startswith(".")
    ]
    return sorted(Path(path).relative_to(root).as_posix() for path in found)


def passed_over(folder: Path, suffixes: Sequence[str], instead: str) -> list[str]:
    """A note about files of kinds that are not read, if there are any.

    Args:
        folder: with everything below.
        suffixes: of the kinds.
        instead: what they are to be converted to.
    """
    found = [Path(name).suffix.lower() for name in files_below(folder, folder, suffixes)]
    kinds = ", ".join(sorted(set(found)))
    many = "1 file ending in {} is" if len(found) == 1 else f"{len(found)} files ending in {{}} are"
    return [f"{many.format(kinds)} not read: convert to {instead} what belongs there"] if found else []


def _hide(folders: list[str]) -> None:
    """Keep hidden folders out of a walk, and the rest in order."""
    folders[:] = sorted(name for name in folders if not name.startswith("."))


def stat_files(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(size in bytes, modification time in ns) of every file.

    Raises:
        UsageError: some are missing; they are reported together.
    """
    stats, errors = {}, []
    for name in names:
        try:
            found = os.stat(folder / name)
        except OSError:
            errors.append(f"{name} does not exist")
            continue
        stats[name] = (found.st_size, found.st_mtime_ns)
    raise_together(str(folder), errors)
    return stats


def fingerprint(
    folder: Path, splits: Mapping[str, Split], stats: Mapping[str, tuple[int, int]], files: Callable[[str], str] = str
) -> str:
    """Of names, labels, sizes, and the content of some files of each split.

    Args:
        folder: where the files lie.
        splits: train, validation and test.
        stats: by file name.
        files: name of a sample -> the file that it comes from.
    """
    rows, sample = [], hashlib.blake2b(digest_size=16)
    for name in ("train", "validation", "test"):
        if name not in splits:
            continue
        split = splits[name]
        rows.append([(clip, stats[files(clip)][0]) for clip in split.names])
        sample.update(np.ascontiguousarray(split.labels).tobytes())
        if split.attributes is not None:
            sample.update(split.attributes.tobytes())
        for clip in split.names[:: max(1, len(split) // _SAMPLED)][:_SAMPLED]:
            with open_regular(folder / files(clip)) as file:
                while block := file.read(1 << 20):
                    sample.update(block)
    return digest(rows, sample.hexdigest())


class ComputedInputs:
    """Network inputs of every split, computed into the cache when they are asked for, and mapped from there.

    Args:
        root: the cache folder.
        kind: subfolder of the cache, and what the progress bar says.
        splits: by name; "calibration" is rows of train.
        keys: split -> everything that its inputs follow from, JSON-able.
        shape: of one sample.
        compute: (names of samples) -> float32 [n, *shape]; called in several threads.
        calibration: rows of train.
    """

    def __init__(
        self,
        root: Path,
        kind: str,
        splits: Mapping[str, Split],
        keys: Callable[[str], Any],
        shape: tuple[int, ...],
        compute: Callable[[Sequence[str]], np.ndarray],
        calibration: np.ndarray | None = None,
    ):
        self._root, self._kind, self._splits, self._keys = root, kind, splits, keys
        self._shape, self._compute, self._calibration = shape, compute, calibration

    def __call__(self, split: str) -> np.ndarray:
        """float32 [N, *shape], read-only."""
        if split == "calibration" and self._calibration is not None:
            return self("train")[self._calibration]
        names = self._splits[split].names

        def fill(array: np.ndarray) -> None:
            def work(rows: Sequence[int]) -> None:
                array[rows[0] : rows[-1] + 1] = self._compute([names[row] for row in rows])

            map_batches(work, range(len(names)), batch=_BATCH, title=f"{self._kind.capitalize()} of {split}")

        key = digest(self._keys(split))
        return cached_array(self._root, self._kind, key, (len(names), *self._shape), "float32", fill)


def existing_folder(source: str, form: str) -> Path:
    """The folder of a source.

    Raises:
        UsageError: there is none.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise UsageError(f"data = {form.replace('DIR', source)!r}: there is no folder {source!r}")
    return folder
