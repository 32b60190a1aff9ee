# SPDX-License-Identifier: Apache-2.0
"""Spoken words in the layout of Speech Commands: a folder for each word, lists of validation and test.

speech_commands/
  yes/0a7c2a8d_nohash_0.wav ...      a speaker is what stands before _nohash_
  _background_noise_/running_tap.wav
  validation_list.txt  testing_list.txt      lines such as yes/0a7c2a8d_nohash_0.wav
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.mfcc import Mfcc
from edgepress.models.tasks.sources.folders import (
    existing_folder,
    files_below,
    fingerprint,
    passed_over,
    stat_files,
    subfolders,
)
from edgepress.models.tasks.sources.recordings import NOT_READ, read_waveform, through_front_end, usual_length
from edgepress.models.tasks.splitting import cut_validation, pick_calibration
from edgepress.models.tasks.task import Split, Task

_SUFFIXES = (".wav", ".flac")
NOISE = "_background_noise_"
SILENCE, UNKNOWN = "_silence_", "_unknown_"
#: The ten of MLPerf Tiny, taken where a folder has them and more: the other words are unknown ones.
TEN_WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_TEST_SHARE = 0.1
_LARGEST_LIST_BYTES = 2**26


def load_keywords(source: str, *, front_end: object = None, cache: str | Path | None = None) -> Task:
    """Open a folder of spoken words.

    Classes are the words behind "@" (DIR@yes,no), else the ten of MLPerf Tiny where the folder has these and more, else
    every word. Other words become `_unknown_`, background noise becomes `_silence_`: of each as many samples as a word
    has in the mean, chosen by a hash. Nobody speaks on two sides: all that a speaker of testing_list.txt said is test.
    Without lists, speakers are cut by a hash.

    Args:
        source: DIR, or DIR@WORD,WORD.
        front_end: `Mfcc` by default; any front end of sound.
        cache: see `edgepress.models.tasks.cache.cache_directory`.

    Raises:
        UsageError: fewer than two words, a word without a folder, a line of a list without a file, or bad audio.
    """
    place, at, chosen = source.rpartition("@")
    folder = existing_folder(source if Path(source).is_dir() or not at else place, "keywords:DIR")
    present = [name for name in subfolders(folder) if name not in (NOISE, SILENCE, UNKNOWN)]
    words = tuple(chosen.split(",")) if at and not Path(source).is_dir() else _words(present)
    missing = [word for word in words if word not in present]
    if missing or len(words) < 2:
        problem = (
            f"there is no folder {missing[0]!r}" if missing else "a folder for each of two or more words is needed"
        )
        raise UsageError(f"data = 'keywords:{source}': {problem}; present are {', '.join(present) or 'none'}")
    files = {name: files_below(folder, folder / name, _SUFFIXES) for name in present}
    if empty := next((word for word in words if not files[word]), None):
        raise UsageError(
            f"data = 'keywords:{source}': the word {empty!r} has no .wav or .flac file: take its folder out"
        )
    others = [name for word in present if word not in words for name in files[word]]
    if (folder / UNKNOWN).is_dir():
        others += files_below(folder, folder / UNKNOWN, _SUFFIXES)
    noises = files_below(folder, folder / NOISE, _SUFFIXES) if (folder / NOISE).is_dir() else []
    classes = (*words, *([UNKNOWN] if others else []), *([SILENCE] if noises else []))
    spoken = [name for word in words for name in files[word]]
    side = _sides(
        folder, [*spoken, *others], [*(words.index(Path(n).parts[0]) for n in spoken), *[len(words)] * len(others)]
    )
    front_end = front_end or Mfcc()
    rate, samples, notes = usual_length(folder, spoken)
    lengths = {name: _length(folder / name) for name in noises}
    wanted_hz = front_end.sample_rate_hz  # type: ignore[attr-defined]
    splits = {}
    for split in ("train", "validation", "test"):
        names = [name for name in spoken if side[name] == split]
        if not names:
            continue
        labels = [words.index(Path(name).parts[0]) for name in names]
        each = max(1, round(len(names) / len(words)))
        strangers = sorted((name for name in others if side[name] == split), key=_hash)[:each]
        silent = [f"{SILENCE}/{split}-{number}" for number in range(each)] if noises else []
        labels += [len(words)] * len(strangers) + [len(classes) - 1] * len(silent)
        every = (*names, *strangers, *silent)
        splits[split] = Split(every, np.array(labels, np.int64), None, tuple(map(_speaker, every)))
    stats = stat_files(folder, [*spoken, *others, *noises])

    def file_of(name: str) -> str:
        return sorted(noises, key=lambda noise: _hash(name + noise))[0] if name.startswith(f"{SILENCE}/") else name

    def waveform(name: str) -> np.ndarray:
        file = file_of(name)
        if file == name:
            return read_waveform(folder / name, rate, samples, wanted_hz)
        draw = np.random.default_rng(int.from_bytes(_hash(name)))
        start = int(draw.integers(0, max(1, lengths[file] - samples)))
        return read_waveform(folder / file, rate, samples, wanted_hz, start) * np.float32(draw.random())

    calibration = pick_calibration(splits["train"].labels, None, splits["train"].names)
    splits["calibration"] = splits["train"].subset(calibration)
    shape, in_parts, inputs = through_front_end(
        splits,
        front_end,
        round(samples * wanted_hz / rate),
        waveform,
        lambda split: [(name, *stats[file_of(name)]) for name in splits[split].names],
        cache,
        calibration,
    )
    return Task(
        folder.resolve().name,
        classes,
        shape,
        fingerprint(folder, splits, stats, file_of),
        in_parts,
        inputs,
        front_end,  # type: ignore[arg-type]
        notes=tuple(notes + passed_over(folder, NOT_READ, "WAV or FLAC")),
    )


def _words(present: list[str]) -> tuple[str, ...]:
    return TEN_WORDS if set(TEN_WORDS) < set(present) else tuple(present)


def _sides(folder: Path, names: list[str], labels: list[int]) -> dict[str, str]:
    """File -> train, validation or test, by its speaker."""
    speakers = {name: _speaker(name) for name in names}
    side: dict[str, str] = {}
    for split, file in _LISTS.items():
        for name in _listed(folder / file):
            if name not in speakers:
                raise UsageError(f"{folder / file} names {name}, which is not there")
            side[speakers[name]] = split
    if not side:
        groups = [speakers[name] for name in names]
        held = cut_validation(np.array(labels), groups, _TEST_SHARE)
        side = {group: "test" for group, taken in zip(groups, held, strict=True) if taken}
        rest = [row for row, taken in enumerate(held) if not taken]
        of_rest = cut_validation(np.array(labels)[rest], [groups[row] for row in rest])
        side |= {groups[row]: "validation" for row, taken in zip(rest, of_rest, strict=True) if taken}
    found: dict[str, str] = defaultdict(lambda: "train", side)
    return {name: found[speaker] for name, speaker in speakers.items()}


def _listed(path: Path) -> list[str]:
    if not path.is_file():
        return []
    if path.stat().st_size > _LARGEST_LIST_BYTES:
        raise UsageError(f"{path} is too large for a list of recordings")
    return [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _speaker(name: str) -> str:
    stem = Path(name).stem
    return stem.partition("_nohash_")[0] if "_nohash_" in stem else name


def _length(path: Path) -> int:
    import soundfile

    try:
        return int(soundfile.info(str(path)).frames)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise UsageError(f"{path} is no audio file that can be read (WAV or FLAC expected)") from error


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
