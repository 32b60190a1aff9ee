# SPDX-License-Identifier: Apache-2.0
"""Sounds of machines, normal and not, in the layouts of DCASE Task 2, MIMII and ToyADMOS, or two folders.

    fan/train/normal_id_00_00000000.wav      fan/id_00/normal/00000000.wav        normal/1.wav
    fan/test/anomaly_id_00_00000001.wav      fan/id_00/abnormal/00000001.wav      anomalous/7.wav

A recording is anomalous or normal by a word of its path (anomaly, anomalous, abnormal; normal); what lies in train/ is
normal. Without train/ and test/, the test has every anomalous recording and as many normal ones, a quarter of these at
most. The machine is the folder, with id_00 or section_00 where a name has it.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.frames import Frames
from edgepress.models.tasks.sources.folders import existing_folder, files_below, fingerprint, passed_over, stat_files
from edgepress.models.tasks.sources.listing import raise_together
from edgepress.models.tasks.sources.recordings import NOT_READ, read_waveform, through_front_end, usual_length
from edgepress.models.tasks.splitting import cut_validation, pick_calibration
from edgepress.models.tasks.task import Split, Task

_SUFFIXES = (".wav", ".flac")
_ANOMALOUS, _NORMAL = ("anomaly", "anomalous", "abnormal", "anomaloussound"), ("normal", "normalsound")
_NAMES_OF_SPLITS = {"train": "train", "training": "train", "dev": "train", "test": "test", "eval": "test"}
_MACHINE = re.compile(r"(?:id|section|case)_?\d+")
_MOST_NORMAL_IN_TEST = 0.25


def load_machines(source: str, *, front_end: object = None, cache: str | Path | None = None) -> Task:
    """Open a folder of machine sounds as an anomaly task.

    Validation is an eighth of the normal training recordings. Figures are of whole recordings, by machine.

    Args:
        source: the folder.
        front_end: `Frames` by default; any front end of sound.
        cache: see `edgepress.models.tasks.cache.cache_directory`.

    Raises:
        UsageError: no recordings, some of which nothing says what they are, an anomalous one in train, or bad audio.
    """
    folder = existing_folder(source, "sounds:DIR")
    names = files_below(folder, folder, _SUFFIXES)
    if not names:
        raise UsageError(f"data = 'sounds:{source}': the folder holds no {' or '.join(_SUFFIXES)} file")
    front_end = front_end or Frames()
    rows, errors = [], []
    for name in names:
        label, split = _label(name), _split(name)
        if label is None and split == "train":
            label = 0
        if label is None:
            errors.append(f"{name}: no word of its path says normal or anomalous")
        elif label and split == "train":
            errors.append(f"{name}: an anomalous recording lies in train, which is to be normal")
        rows.append((name, label or 0, split))
    raise_together(f"data = 'sounds:{source}'", errors)
    splits = _cut(rows)
    if "train" not in splits:
        raise UsageError(f"data = 'sounds:{source}': there is no normal recording to train on")
    rate, samples, notes = usual_length(folder, names)
    if "test" in splits and not splits["test"].labels.any():
        notes.append("the test has no anomalous recording, so that AUC cannot be measured")
    stats = stat_files(folder, names)
    wanted_hz = front_end.sample_rate_hz  # type: ignore[attr-defined]
    chosen = pick_calibration(splits["train"].labels, splits["train"].groups, splits["train"].names)
    splits["calibration"] = splits["train"].subset(chosen)
    shape, in_parts, inputs = through_front_end(
        splits,
        front_end,
        round(samples * wanted_hz / rate),
        lambda name: read_waveform(folder / name, rate, samples, wanted_hz),
        lambda split: [(name, *stats[name]) for name in splits[split].names],
        cache,
        chosen,
    )
    return Task(
        folder.resolve().name,
        ("normal", "anomalous"),
        shape,
        fingerprint(folder, splits, stats),
        in_parts,
        inputs,
        front_end,  # type: ignore[arg-type]
        kind="anomaly",
        notes=tuple(notes + passed_over(folder, NOT_READ, "WAV or FLAC")),
    )


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z]+", name.lower())


def _label(name: str) -> int | None:
    """1 where a word says anomalous, 0 normal; the last word of either counts, since files are named after folders."""
    found = [word for word in _words(name) if word in _ANOMALOUS or word in _NORMAL]
    return None if not found else int(found[-1] in _ANOMALOUS)


def _split(name: str) -> str | None:
    """By a folder of that name, or by a word of the file's, as section_00_source_train_normal_0000.wav."""
    folders = [_NAMES_OF_SPLITS[part] for part in Path(name).parts[:-1] if part in _NAMES_OF_SPLITS]
    if folders:
        return folders[-1]
    words = [_NAMES_OF_SPLITS[word] for word in _words(Path(name).name) if word in ("train", "test")]
    return words[0] if words else None


def _machine(name: str) -> str:
    words = {*_ANOMALOUS, *_NORMAL, *_NAMES_OF_SPLITS}
    folders = [part for part in Path(name).parts[:-1] if not words & set(_words(part)) and not _MACHINE.fullmatch(part)]
    number = _MACHINE.search(name)
    return "/".join([*folders, *([number[0]] if number else [])]) or "machine"


def _cut(rows: list[tuple[str, int, str | None]]) -> dict[str, Split]:
    names, labels = [row[0] for row in rows], np.array([row[1] for row in rows], np.int64)
    machines = tuple(map(_machine, names))
    where = np.array([row[2] or "" for row in rows], dtype="U10")
    free = where == ""
    if free.any():
        normal = free & (labels == 0)
        where[free & (labels == 1)] = "test"
        share = min(_MOST_NORMAL_IN_TEST, (free & (labels == 1)).sum() / max(1, normal.sum()))
        held = cut_validation(labels[normal], [names[i] for i in np.flatnonzero(normal)], share) if share else None
        where[normal] = "train" if held is None else np.where(held, "test", "train")
    train = np.flatnonzero(where == "train")
    kinds = {machine: number for number, machine in enumerate(sorted(set(machines)))}
    held = cut_validation(np.array([kinds[machines[i]] for i in train]), [names[i] for i in train])
    where[train[held]] = "validation"
    everything = Split(tuple(names), labels, None, tuple(names), machines)
    cut = {name: np.flatnonzero(where == name) for name in ("train", "validation", "test")}
    return {name: everything.subset(found) for name, found in cut.items() if len(found)}
