# SPDX-License-Identifier: Apache-2.0
"""A table that names files and what they show: one row a sample, files beside it or below.

    file,label,split,identifier            file,target_x,target_y          file,mask
    a/1.png,cat,train,garden               1.wav,0.31,7.5                  1.png,1_mask.png

`label` is a class, or several of them with ";" between (multi-label); `target` or `target_*` are numbers (regression);
`mask` is an image whose pixels are class numbers (segmentation). Optional are split, identifier, group and device.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.files.arrow import read_parquet
from edgepress.models.tasks.cache import cache_directory
from edgepress.models.tasks.front_ends.images import IMAGES_VERSION, SUFFIXES, Images
from edgepress.models.tasks.front_ends.log_mel import MEL16K
from edgepress.models.tasks.sources.arrays import split_rows
from edgepress.models.tasks.sources.folders import ComputedInputs, fingerprint, stat_files
from edgepress.models.tasks.sources.images import usual_size
from edgepress.models.tasks.sources.recordings import read_waveform, through_front_end, usual_length
from edgepress.models.tasks.task import Split, Task

_LARGEST_BYTES = 2**28
_SOUNDS = (".wav", ".flac")
_FILE = ("file", "path", "filename")
_KNOWN = ("label", "target", "mask", "split", "identifier", "group", "device", "attribute")


def load_table(source: str, *, front_end: Any = None, cache: str | Path | None = None) -> Task:
    """Open a .csv file (UTF-8, with a header; commas, else semicolons or tabs) or a .parquet file.

    Without a column split, or without validation in it, rows are cut as for arrays (`load_arrays`): all are test, or
    validation is cut from train by identifier.

    Args:
        source: the file.
        front_end: `Images` for images, `LogMel` at 16 kHz for sound by default.
        cache: see `edgepress.models.tasks.cache.cache_directory`.

    Raises:
        UsageError: a column that is missing, unknown or ambiguous, a missing file, or files of two kinds.
    """
    path = Path(source)
    columns = _read(path)
    names = next(columns[name] for name in _FILE if name in columns)
    folder, kinds = path.parent, {Path(name).suffix.lower() for name in names}
    stats = stat_files(folder, names)
    images = kinds <= set(SUFFIXES)
    if not images and not kinds <= set(_SOUNDS):
        allowed = ", ".join((*SUFFIXES, *_SOUNDS))
        raise UsageError(f"{path}: files end in {', '.join(sorted(kinds))}; all images or all sounds, of {allowed}")
    front_end = front_end or (Images(*usual_size(folder, names)) if images else MEL16K)
    if (front_end.kind == "images") != images:
        raise UsageError(
            f"front_end.kind = {front_end.kind!r} does not take the {'images' if images else 'sounds'} of {path}: set "
            "front_end in the recipe, or leave the key out for the default"
        )
    kind, classes, labels = _labels(path, columns, folder, front_end)
    device, identifier, group = (_texts(columns, name) for name in ("device", "identifier", "group"))
    everything = Split(tuple(names), labels, device, identifier, group, _numbers(path, columns, "attribute"))
    by_class = labels if kind == "classification" else np.zeros(len(names), np.int64)
    rows = split_rows(path, by_class, _texts(columns, "split"), everything.identifiers, len(names))
    splits = {name: everything.subset(found) for name, found in rows.items() if len(found)}
    chosen = None
    if "calibration" in splits:
        chosen = np.searchsorted(rows["train"], rows["calibration"])
    shape: tuple[int, ...]
    notes: list[str] = []
    if images:

        def compute(batch: Sequence[str]) -> np.ndarray:
            return front_end.normalised(np.stack([front_end.pixels(folder / name) for name in batch]))

        def keys(split: str) -> list[Any]:
            return [IMAGES_VERSION, front_end.to_json(), [(name, *stats[name]) for name in splits[split].names]]

        shape, in_parts = front_end.shape, splits
        inputs: Any = ComputedInputs(cache_directory(cache), "images", splits, keys, shape, compute, chosen)
    else:
        rate, samples, notes = usual_length(folder, names)
        wanted_hz = front_end.sample_rate_hz
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
        path.stem,
        classes,
        shape,
        fingerprint(folder, splits, stats),
        in_parts,
        inputs,
        front_end,
        kind=kind,
        notes=tuple(notes),
    )


def _read(path: Path) -> dict[str, list[str]]:
    """Column -> its cells."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"data = 'table:{path}': .csv and .parquet files are read; write the table as one")
    if path.suffix.lower() == ".parquet":
        table = read_parquet(path)
        found = {str(name): table[place].to_pylist() for place, name in enumerate(table.column_names)}
        return _checked(path, list(found), [list(map(_cell, row)) for row in zip(*found.values(), strict=True)])
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise UsageError(f"{path} has more than {_LARGEST_BYTES // 2**20} MiB: that is no list of files")
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            # As spreadsheets write it where the comma is for decimals, and as they copy it.
            comma = next((sign for sign in (",", ";", "\t") if sign in first), ",")
            lines = [[cell.strip() for cell in line] for line in csv.reader(file, delimiter=comma, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no table of comma-separated UTF-8 text: {error}") from error
    header, rows = (lines[0], [line for line in lines[1:] if line]) if lines else ([], [])
    return _checked(path, header, rows)


def _cell(value: Any) -> str:
    """As a .csv file would have it."""
    return ";".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _checked(path: Path, header: list[str], rows: list[list[str]]) -> dict[str, list[str]]:
    header = [name.strip().lower() for name in header]
    if rows and not {*_FILE, *_KNOWN} & set(header):
        raise UsageError(
            f"{path}: row 1 is no header: write above the rows what the columns are, such as file,label,split; known "
            f"are {', '.join((_FILE[0], *_KNOWN))} and target_*"
        )
    unknown = [name for name in header if name not in (*_FILE, *_KNOWN) and not name.startswith("target_")]
    ragged = next((number for number, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if unknown or not rows or ragged or len(set(header)) != len(header) or not set(_FILE) & set(header):
        problem = (
            f"the column {unknown[0]!r} is unknown"
            if unknown
            else f"row {ragged} has another number of cells than the header"
            if ragged
            else f"there are no rows, a column twice, or no column {' or '.join(_FILE)}"
        )
        raise UsageError(f"{path}: {problem}; known are {', '.join((_FILE[0], *_KNOWN))} and target_*")
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def _texts(columns: dict[str, list[str]], name: str) -> tuple[str, ...] | None:
    return tuple(columns[name]) if name in columns else None


def _numbers(path: Path, columns: dict[str, list[str]], name: str) -> np.ndarray | None:
    """A column of numbers, nan for an empty cell."""
    if name not in columns:
        return None
    try:
        return np.array([float(cell) if cell else np.nan for cell in columns[name]])
    except ValueError as error:
        raise UsageError(f"{path}: the column {name} holds numbers, or nothing where one is unknown: {error}") from None


def _labels(
    path: Path, columns: dict[str, list[str]], folder: Path, front_end: Any
) -> tuple[str, tuple[str, ...], np.ndarray]:
    """(kind, classes, labels)."""
    targets = [name for name in columns if name == "target" or name.startswith("target_")]
    given = [name for name in ("label", "mask") if name in columns] + targets[:1]
    if len(given) != 1:
        raise UsageError(f"{path}: one of the columns label, mask and target (or target_*) says what is to be learned")
    if targets:
        try:
            numbers = np.array([[float(cell) for cell in columns[name]] for name in targets], np.float32).T
        except ValueError as error:
            raise UsageError(f"{path}: a {targets[0]} is no number: {error}") from None
        return (
            "regression",
            tuple(name.removeprefix("target_") for name in targets) if len(targets) > 1 else (),
            numbers,
        )
    if given == ["mask"]:
        if front_end.kind != "images":
            raise UsageError(f"{path}: masks are of images")
        stat_files(folder, columns["mask"])
        masks = np.stack([front_end.pixels(folder / name, nearest=True)[..., 0] for name in columns["mask"]])
        known = masks[masks != 255]
        count = max(2, int(known.max()) + 1) if known.size else 2
        return "segmentation", tuple(map(str, range(count))), masks
    cells = [[part.strip() for part in cell.split(";") if part.strip()] for cell in columns["label"]]
    classes = tuple(sorted({part for cell in cells for part in cell}))
    place = {name: number for number, name in enumerate(classes)}
    if all(len(cell) == 1 for cell in cells):
        return "classification", classes, np.array([place[cell[0]] for cell in cells], np.int64)
    if all(len(cell) < 2 for cell in cells):
        row = next(number for number, cell in enumerate(cells, 2) if not cell)
        raise UsageError(f"{path}: the label of row {row} is empty: fill it in, or take the row out")
    many = np.zeros((len(cells), len(classes)), np.float32)
    for row, cell in zip(many, cells, strict=True):
        row[[place[part] for part in cell]] = 1
    return "multi-label", classes, many
