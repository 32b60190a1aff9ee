# SPDX-License-Identifier: Apache-2.0
"""Acoustic scenes: any folder in the layout of TAU Urban Acoustic Scenes 2022 Mobile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgepress.models.atomic import write_json
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import open_regular, read_json
from edgepress.models.tasks.cache import cache_directory, cached_array, digest
from edgepress.models.tasks.front_ends.log_mel import FEATURES_VERSION, MEL22, LogMel, log_mel
from edgepress.models.tasks.parallel import map_batches
from edgepress.models.tasks.sources.audio import ClipFormat, check_clips, decode
from edgepress.models.tasks.sources.listing import Clip, Listing, raise_together, read_listing
from edgepress.models.tasks.splitting import cut_validation, pick_calibration
from edgepress.models.tasks.task import Split, Task

#: For the README: where the real recordings come from.
HOW_TO_GET_TAU = """\
TAU Urban Acoustic Scenes 2022 Mobile, development dataset: https://zenodo.org/records/6337421
(64 hours, 230,350 clips of 1 s, about 30 GB; free for non-commercial use).
Download every TAU-urban-acoustic-scenes-2022-mobile-development.*.zip there and unpack all of them into one folder:

    TAU-urban-acoustic-scenes-2022-mobile-development/
      meta.csv                                  filename, scene_label, identifier, source_label (tab separated)
      evaluation_setup/fold1_train.csv  fold1_evaluate.csv  fold1_test.csv
      audio/airport-lisbon-1000-40000-0-a.wav ...

Then name that folder: compress run --data TAU-urban-acoustic-scenes-2022-mobile-development
The training subsets of DCASE 2024 (split5.csv, split10.csv, split25.csv, split50.csv, split100.csv) go into
evaluation_setup/ and are chosen by --data FOLDER@split25.
Any other recordings in this layout work too: mono clips of one length and rate, WAV or FLAC.
"""
#: Raise it when the same clips give other waveforms.
_WAVEFORMS_VERSION = 1
_BATCH = 32


def open_scenes(source: str, *, front_end: LogMel | None = None, cache: str | Path | None = None) -> Task:
    """`load_scenes` of DIR or DIR@SUBSET."""
    folder, subset = (source, None) if Path(source).is_dir() else source.rsplit("@", 1)
    return load_scenes(folder, subset=subset, front_end=front_end, cache=cache)


def load_scenes(
    folder: str | Path,
    *,
    subset: str | None = None,
    front_end: LogMel | None = None,
    cache: str | Path | None = None,
    name: str | None = None,
) -> Task:
    """Open a folder of acoustic scenes.

    Every header is checked the first time (later only that sizes and modification times are the same). The cache finds
    waveforms and features by the list of clips with their sizes and modification times, the front end and the version
    of our code; a file that was changed but kept its size and its time to the nanosecond is not noticed.

    Args:
        folder: meta.csv, evaluation_setup/, audio/.
        subset: a training subset such as "split25", or None for fold1_train.csv.
        front_end: None takes MEL22.
        cache: see `edgepress.models.tasks.cache.cache_directory`.
        name: of the task; None takes the folder's name.

    Raises:
        UsageError: anything is missing or bad; the problems of many rows are reported together.
    """
    folder, front_end, root = Path(folder), front_end or MEL22, cache_directory(cache)
    listing = read_listing(folder, subset)
    stats = _stat_clips(folder, listing)
    clip_format = _check_once(folder, listing, stats, root)
    samples = clip_format.samples_at(front_end.sample_rate_hz)
    parts = _cut(listing)
    # Train and validation lie one after the other in one array, so that both are views of the mapped file.
    stored_parts = {"development": parts["train"] + parts["validation"], "test": parts["test"]}
    reader = _Reader(folder, root, clip_format, front_end, stats, stored_parts, len(parts["train"]))
    index = {scene: number for number, scene in enumerate(listing.classes)}
    splits = {
        split: Split(
            tuple(clip.name for clip in clips),
            np.array([index[clip.scene] for clip in clips], int),
            tuple(clip.device for clip in clips),
            tuple(clip.identifier for clip in clips),
        )
        for split, clips in parts.items()
    }
    chosen = pick_calibration(splits["train"].labels, splits["train"].devices, splits["train"].names)
    splits["calibration"] = splits["train"].subset(chosen)
    reader.calibration = chosen
    return Task(
        name or folder.resolve().name + (f"@{subset}" if subset else ""),
        listing.classes,
        front_end.shape(samples),
        _fingerprint(folder, splits, stats),
        splits,
        reader.features,
        front_end,
        reader.waveforms,
        notes=listing.notes,
    )


class _Reader:
    """Computes waveforms and features of a folder into the cache, when they are asked for."""

    def __init__(
        self,
        folder: Path,
        root: Path,
        clip_format: ClipFormat,
        front_end: LogMel,
        stats: dict[str, tuple[int, int]],
        stored: dict[str, list[Clip]],
        train_clips: int,
    ):
        self._folder, self._root, self._clip_format, self._front_end = folder, root, clip_format, front_end
        self._stats, self._stored, self._train_clips = stats, stored, train_clips
        self.calibration = np.zeros(0, np.int64)

    def waveforms(self, split: str) -> np.ndarray:
        """[N, samples], int16 or float32."""
        return self._select(split, self._all_waveforms("test" if split == "test" else "development"))

    def features(self, split: str) -> np.ndarray:
        """float32 [N, 1, bands, frames]."""
        return self._select(split, self._all_features("test" if split == "test" else "development"))

    def _select(self, split: str, array: np.ndarray) -> np.ndarray:
        if split == "train":
            return array[: self._train_clips]
        if split == "validation":
            return array[self._train_clips :]
        return array[self.calibration] if split == "calibration" else array

    def _key(self, part: str) -> str:
        clips = [(clip.name, *self._stats[clip.name]) for clip in self._stored[part]]
        return digest(_WAVEFORMS_VERSION, self._front_end.sample_rate_hz, asdict(self._clip_format), clips)

    def _all_waveforms(self, part: str) -> np.ndarray:
        clips = self._stored[part]
        rate = self._front_end.sample_rate_hz
        shape = (len(clips), self._clip_format.samples_at(rate))

        def fill(array: np.ndarray) -> None:
            def work(indices: Sequence[int]) -> None:
                for index in indices:
                    array[index] = decode(self._folder / clips[index].name, self._clip_format, rate)

            map_batches(work, range(len(clips)), batch=_BATCH, title=f"Decoding {part}")

        return cached_array(self._root, "waveforms", self._key(part), shape, self._clip_format.dtype, fill)

    def _all_features(self, part: str) -> np.ndarray:
        front_end, clips = self._front_end, self._stored[part]
        shape = (len(clips), *front_end.shape(self._clip_format.samples_at(front_end.sample_rate_hz)))

        def fill(array: np.ndarray) -> None:
            waveforms = self._all_waveforms(part)

            def work(indices: Sequence[int]) -> None:
                rows = slice(indices[0], indices[-1] + 1)
                array[rows] = log_mel(waveforms[rows], front_end)

            map_batches(work, range(len(clips)), batch=_BATCH, title=f"Features of {part}")

        key = digest(self._key(part), FEATURES_VERSION, front_end.to_json())
        return cached_array(self._root, "features", key, shape, "float32", fill)


def _cut(listing: Listing) -> dict[str, list[Clip]]:
    index = {scene: number for number, scene in enumerate(listing.classes)}
    clips = listing.development
    validation = cut_validation(
        np.array([index[clip.scene] for clip in clips], int), [clip.identifier for clip in clips]
    )
    return {
        "train": [clip for clip, held in zip(clips, validation, strict=True) if not held],
        "validation": [clip for clip, held in zip(clips, validation, strict=True) if held],
        "test": list(listing.test),
    }


def _stat_clips(folder: Path, listing: Listing) -> dict[str, tuple[int, int]]:
    """(size in bytes, modification time in ns) of every clip; what is missing is reported together."""
    stats, errors = {}, []
    for clip in (*listing.development, *listing.test):
        try:
            stat = os.stat(folder / clip.name)
        except OSError:
            errors.append(f"{clip.source}: {clip.name} does not exist")
            continue
        stats[clip.name] = (stat.st_size, stat.st_mtime_ns)
    raise_together(str(folder), errors)
    return stats


def _check_once(folder: Path, listing: Listing, stats: dict[str, tuple[int, int]], root: Path) -> ClipFormat:
    """Check all headers, or find in the cache that exactly these files were good."""
    clips = (*listing.development, *listing.test)
    marker = root / "checked" / f"{digest(_WAVEFORMS_VERSION, sorted(stats.items()))}.json"
    try:
        return ClipFormat(**read_json(marker))
    except (UsageError, ValueError, TypeError):
        pass  # not checked yet, or a damaged marker: check
    clip_format, errors = check_clips(
        [folder / clip.name for clip in clips], [f"{clip.source}: {clip.name}" for clip in clips]
    )
    raise_together(str(folder), errors)
    if clip_format is None:
        raise UsageError(f"{folder} holds no clip that can be read")
    write_json(marker, asdict(clip_format))
    return clip_format


def _fingerprint(folder: Path, splits: dict[str, Split], stats: dict[str, tuple[int, int]]) -> str:
    """Of names, labels, devices, sizes, and the content of 32 clips spread over train and test."""
    rows, sample = [], hashlib.blake2b(digest_size=16)
    for name in ("train", "validation", "test"):
        split = splits[name]
        rows.append(
            [
                (clip, int(label), device, stats[clip][0])
                for clip, label, device in zip(split.names, split.labels, split.devices or (), strict=True)
            ]
        )
        for clip in split.names[:: max(1, len(split) // 11)][:11]:
            with open_regular(folder / clip) as file:
                while block := file.read(1 << 20):
                    sample.update(block)
    return digest(rows, sample.hexdigest())
