# SPDX-License-Identifier: Apache-2.0
"""The embedded task: ten synthetic scenes on nine recording devices, made from a seed, nothing to download.

The clips are written once, in the layout of TAU Urban Acoustic Scenes 2022 Mobile, into the cache; the same code as for
real recordings reads them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgepress.models.atomic import new_directory
from edgepress.models.tasks.cache import cache_directory, digest, locked
from edgepress.models.tasks.front_ends.log_mel import MEL16K, LogMel
from edgepress.models.tasks.parallel import map_batches
from edgepress.models.tasks.task import Task

#: Raise it when the same seed gives other clips.
VERSION = 1
_DEVELOPMENT_PLACES, _DEVELOPMENT_SEGMENTS = 21, 7  # 1,470 different seconds, all of them on device a
_TEST_PLACES, _TEST_SEGMENTS = 12, 3  # 360 different seconds, each on three of the nine devices
_TWIN_SHARE = 0.073  # of the seconds on a, heard by b, c, s1, s2 and s3 each, as in TAU
_TRIPLES = (("a", "s1", "s4"), ("b", "s2", "s5"), ("c", "s3", "s6"))
_CITIES = ("north", "east", "south", "west")


@dataclass(frozen=True)
class _Second:
    """One second at one place, and the devices that record it."""

    scene: str
    scene_number: int
    place: int
    segment: int
    devices: tuple[str, ...]
    test: bool

    @property
    def identifier(self) -> str:
        return f"{_CITIES[self.place % len(_CITIES)]}-{1000 * self.test + 100 * self.scene_number + self.place}"

    def filename(self, device: str) -> str:
        return f"audio/{self.scene}-{self.identifier}-{self.segment}-0-{device}.wav"


def load_synthetic(seed: int | str = 0, *, front_end: LogMel | None = None, cache: str | Path | None = None) -> Task:
    """Open the synthetic task, making its clips (about 2,000 for development, 1,080 for test, 100 MB) if need be.

    Args:
        seed: of the clips, "" for 0; the recording devices are the same for all seeds.
        front_end: None takes MEL16K, which fits the 16 kHz of the clips.
        cache: see `edgepress.models.tasks.cache.cache_directory`.

    Raises:
        UsageError: the cache cannot be written.
    """
    from edgepress.models.tasks.sources.scenes import load_scenes

    seed = int(seed or 0)
    folder = cache_directory(cache) / "synthetic" / f"v{VERSION}-seed{seed}"
    if not folder.is_dir():
        with locked(folder):
            if not folder.is_dir():
                write_synthetic(folder, seed)
    name = f"synthetic:{seed}" if seed else "synthetic"
    task = load_scenes(folder, front_end=front_end or MEL16K, cache=cache, name=name)
    # Rounding may differ in the last bit from machine to machine; what the clips follow from does not.
    return replace(task, fingerprint=digest("synthetic", VERSION, seed))


def write_synthetic(folder: Path, seed: int = 0) -> None:
    """Write the clips and lists of a seed as a new folder; it appears when it is complete.

    Raises:
        UsageError: the folder exists or cannot be written.
    """
    for leftover in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a process that was killed
    seconds = _plan(seed)
    with new_directory(folder) as target:
        (target / "audio").mkdir()

        def work(batch: Sequence[_Second]) -> None:
            for second in batch:
                _write_second(target, second, seed)

        map_batches(work, seconds, batch=16, title="Making the synthetic scenes")
        rows = [(second, device) for second in seconds for device in second.devices]
        train = [(second.filename(device), second.scene) for second, device in rows if not second.test]
        test = [(second.filename(device), second.scene) for second, device in rows if second.test]
        _write_table(
            target / "meta.csv",
            ("filename", "scene_label", "identifier", "source_label"),
            [(second.filename(device), second.scene, second.identifier, device) for second, device in rows],
        )
        (target / "evaluation_setup").mkdir()
        _write_table(target / "evaluation_setup/fold1_train.csv", ("filename", "scene_label"), train)
        _write_table(target / "evaluation_setup/fold1_evaluate.csv", ("filename", "scene_label"), test)
        _write_table(target / "evaluation_setup/fold1_test.csv", ("filename",), [row[:1] for row in test])


def _plan(seed: int) -> list[_Second]:
    """Which seconds there are and who records them."""
    from edgepress.models.tasks.sources.synthesis.sounds import SCENES

    rng = np.random.default_rng([seed, 0])
    seconds = []
    for number, scene in enumerate(SCENES):
        for place in range(_DEVELOPMENT_PLACES):
            for segment in range(_DEVELOPMENT_SEGMENTS):
                twins = tuple(device for device in ("b", "c", "s1", "s2", "s3") if rng.random() < _TWIN_SHARE)
                seconds.append(_Second(scene, number, place, segment, ("a", *twins), False))
        for place in range(_TEST_PLACES):
            for segment in range(_TEST_SEGMENTS):
                seconds.append(_Second(scene, number, place, segment, _TRIPLES[(place + segment) % 3], True))
    return seconds


def _write_second(folder: Path, second: _Second, seed: int) -> None:
    import soundfile

    from edgepress.models.tasks.sources.synthesis.microphones import record
    from edgepress.models.tasks.sources.synthesis.sounds import SAMPLE_RATE_HZ, Place, make_clip

    where = [seed, 1 + second.test, second.scene_number, second.place]
    place = Place(tuple(np.random.default_rng(where).uniform(0, 1, 8)))
    rng = np.random.default_rng([*where, second.segment])
    clip = make_clip(second.scene, place, rng)
    for device in second.devices:
        soundfile.write(folder / second.filename(device), record(clip, device, rng), SAMPLE_RATE_HZ, subtype="PCM_16")


def _write_table(path: Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in (header, *rows)))
