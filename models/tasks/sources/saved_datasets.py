# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face dataset that `save_to_disk` wrote: one folder of Arrow files, or a folder for each split.

    beans/                               hf:beans
      dataset_dict.json                  hf:beans@image,labels      (these columns)
      train/  data-00000-of-00001.arrow  dataset_info.json  state.json
      test/   ...

Images and sounds are those in the files; lists and arrays of numbers are network inputs. Labels are classes, several
of them, numbers, or images whose pixels are class numbers. The package `datasets` is not needed and no code of a
dataset is run: pyarrow reads the files.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.files.arrow import read_stream
from edgepress.models.files.reading import read_json
from edgepress.models.tasks.cache import cache_directory, digest
from edgepress.models.tasks.front_ends.images import IMAGES_VERSION, Images, image_size
from edgepress.models.tasks.front_ends.log_mel import MEL16K
from edgepress.models.tasks.sources.folders import ComputedInputs, existing_folder, stat_files
from edgepress.models.tasks.sources.images import SPLIT_FOLDERS, TEST_SHARE, common_size
from edgepress.models.tasks.sources.recordings import read_waveform, through_front_end, usual_length
from edgepress.models.tasks.splitting import cut_validation, pick_calibration
from edgepress.models.tasks.task import Split, Task

_LABELS = ("label", "labels", "target", "targets", "class", "category", "mask", "annotation", "score")
_OPTIONAL = {"identifier": "identifiers", "speaker_id": "identifiers", "group": "groups", "device": "devices"}
_MEDIA = ("Image", "Audio")
_LISTS = ("List", "LargeList", "Sequence")
#: Rows whose content is part of a fingerprint, of each split.
_SAMPLED = 11


class _Embedded(io.BytesIO):
    """A file inside of another one, with a name for errors."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name


def load_saved(source: str, *, front_end: Any = None, cache: str | Path | None = None) -> Task:
    """Open a dataset that was saved to disk.

    Without a split called test, a fifth of train is kept for it; without validation, an eighth of train. Both are cut
    by identifier or speaker_id where there is such a column, else by row: equal on every machine.

    Args:
        source: the folder; behind "@" the columns of input and label, where it is not clear which they are.
        front_end: `Images` for images, `LogMel` at 16 kHz for sound by default; none for numbers.
        cache: see `edgepress.models.tasks.cache.cache_directory`.

    Raises:
        UsageError: pyarrow is missing, this is no such folder, or columns that are missing, unclear or damaged.
    """
    place, at, chosen = source.rpartition("@") if not Path(source).is_dir() else (source, "", "")
    folder = existing_folder(place if at else source, "hf:DIR")
    what = f"data = 'hf:{source}'"
    folders, notes = _splits(folder, what)
    features = {name: _features(path) for name, path in folders.items()}
    first = next(iter(features.values()))
    taken, label = _columns(first, chosen.split(",") if at else [], what)
    extra = [name for name in (*_OPTIONAL, "attribute") if name in first]
    files = {name: _files(path) for name, path in folders.items()}
    tables = {name: read_stream(paths, [taken, label, *extra]) for name, paths in files.items()}
    for name, found in features.items():
        if any(found.get(column) != first[column] for column in (taken, label)):
            raise UsageError(f"{what}: {taken} or {label} is of another type in {name} than in {next(iter(features))}")
    media = first[taken]["_type"] if first[taken].get("_type") in _MEDIA else None
    if media is None and front_end is not None:
        raise UsageError(f"{what}: {taken} holds numbers, to which no front end applies: leave the key front_end out")
    front_end = front_end or (Images(1, 1) if media == "Image" else MEL16K if media else None)
    if media and (front_end.kind == "images") != (media == "Image"):
        raise UsageError(
            f"{what}: front_end.kind = {front_end.kind!r} does not take the {media} of {taken}: leave it out"
        )
    names = {name: [f"{name}/{row}" for row in range(len(table))] for name, table in tables.items()}

    def opened(name: str, column: str = taken) -> _Embedded:
        split, _, row = name.partition("/")
        return _embedded(tables[split][column][int(row)], f"{folders[split]}, row {row}, {column}")

    everyone = [name for listed in names.values() for name in listed]
    if media == "Image" and front_end == Images(1, 1):
        front_end = Images(
            *common_size([image_size(opened(name)) for name in everyone[:: max(1, len(everyone) // 32)]])
        )
    masks = first[label].get("_type") == "Image"
    if masks:
        if media != "Image":
            raise UsageError(f"{what}: {label} holds images, and {taken} none that they could be masks of")
        kind, labels = (
            "segmentation",
            {
                name: np.stack([front_end.pixels(opened(one, label), nearest=True)[..., 0] for one in listed])
                for name, listed in names.items()
            },
        )
        classes = _numbered(max(int(np.where(found == 255, 0, found).max()) for found in labels.values()))
    else:
        kind, classes, labels = _labels(tables, label, first[label], what)
    texts = [column for column in extra if column in _OPTIONAL]
    whole = {
        name: Split(
            tuple(names[name]),
            labels[name],
            **{_OPTIONAL[column]: tuple(map(str, tables[name][column].to_pylist())) for column in texts},
            attributes=_numbers(tables[name]["attribute"], what) if "attribute" in extra else None,
        )
        for name in tables
    }
    splits = _cut(whole, kind == "classification", notes)
    calibration = None
    if "train" in splits:
        by_class = splits["train"].labels if kind == "classification" else np.zeros(len(splits["train"]), np.int64)
        calibration = pick_calibration(by_class, None, splits["train"].names)
        splits["calibration"] = splits["train"].subset(calibration)
    stats = [
        [path.name, *next(iter(stat_files(path.parent, [path.name]).values()))] for p in files.values() for path in p
    ]
    if media is None:
        arrays = {name: _dense(table[taken], f"{what}: {taken}") for name, table in tables.items()}

        def read_arrays(split: str) -> np.ndarray:
            return np.stack(
                [arrays[name.partition("/")[0]][int(name.partition("/")[2])] for name in splits[split].names]
            )

        shape, inputs = next(iter(arrays.values())).shape[1:], read_arrays
    elif media == "Image":

        def compute(batch: Sequence[str]) -> np.ndarray:
            return front_end.normalised(np.stack([front_end.pixels(opened(name)) for name in batch]))

        def keys(split: str) -> list[Any]:
            return [IMAGES_VERSION, front_end.to_json(), stats, taken, splits[split].names]

        shape = front_end.shape
        inputs = ComputedInputs(cache_directory(cache), "images", splits, keys, shape, compute, calibration)
    else:
        rate, samples, heard = usual_length(folder, everyone, opened)
        notes += heard
        hz = front_end.sample_rate_hz
        shape, splits, inputs = through_front_end(
            splits,
            front_end,
            round(samples * hz / rate),
            lambda name: read_waveform(opened(name), rate, samples, hz),
            lambda split: [stats, taken, splits[split].names],
            cache,
            calibration,
        )
    return Task(
        folder.resolve().name,
        classes,
        tuple(shape),
        _fingerprint(tables, taken, media, labels),
        splits,
        inputs,
        front_end,
        kind=kind,
        notes=tuple(notes),
    )


def _splits(folder: Path, what: str) -> tuple[dict[str, Path], list[str]]:
    """Folder of each split (of a dataset without splits: train), notes."""
    if (folder / "state.json").is_file():
        return {"train": folder}, []
    if not (folder / "dataset_dict.json").is_file():
        raise UsageError(
            f"{what}: there is no state.json and no dataset_dict.json: write the folder with dataset.save_to_disk(DIR)"
        )
    listed = read_json(folder / "dataset_dict.json", dict[str, list[str]]).get("splits", [])
    known = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    found = {known[name]: folder / name for name in listed if name in known and Path(name).name == name}
    if len(found) < sum(name in known for name in listed) or not found:
        raise UsageError(
            f"{what}: the splits are {', '.join(listed)}; expected are train, validation and test, each once"
        )
    unused = [name for name in listed if name not in known]
    return found, [f"the splits {', '.join(unused)} are not used"] if unused else []


def _files(folder: Path) -> list[Path]:
    state = read_json(folder / "state.json", dict[str, Any])
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UsageError(
            f"{folder} is a selection of rows of other files: save dataset.flatten_indices() to disk instead"
        )
    names: list[Any] = [entry.get("filename") for entry in state.get("_data_files") or [] if isinstance(entry, dict)]
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UsageError(f"{folder / 'state.json'} names no files of this folder")
    return [folder / name for name in names]


def _features(folder: Path) -> dict[str, dict[str, Any]]:
    """Column -> its type, as `datasets` writes it."""
    found = read_json(folder / "dataset_info.json", dict[str, Any]).get("features")
    if not isinstance(found, dict):
        raise UsageError(f"{folder / 'dataset_info.json'} says no features: save the dataset to disk again")
    # A list of one type is how a list was written before it had a name.
    listed = {
        name: {"_type": "List", "feature": one[0]} if isinstance(one, list) and one else one
        for name, one in found.items()
    }
    return {str(name): one for name, one in listed.items() if isinstance(one, dict)}


def _columns(features: Mapping[str, dict[str, Any]], asked: list[str], what: str) -> tuple[str, str]:
    """(input, label)."""
    shown = ", ".join(f"{name} ({one.get('_type', '?')})" for name, one in features.items())
    if asked:
        if len(asked) != 2 or len(set(asked)) != 2 or not set(asked) <= set(features):
            raise UsageError(f"{what}: behind @ are two columns, INPUT,LABEL, of {shown}")
        return asked[0], asked[1]
    media = [name for name, one in features.items() if one.get("_type") in _MEDIA and name not in _LABELS]
    inputs = media or [name for name, one in features.items() if _is_numbers(one) and name not in _LABELS]
    labels = [name for name in _LABELS if name in features] or [
        name for name, one in features.items() if one.get("_type") == "ClassLabel"
    ]
    if len(inputs) != 1 or len(labels) != 1:
        lacking = "inputs" if len(inputs) != 1 else "labels"
        raise UsageError(f"{what}: which column holds the {lacking}? Say hf:DIR@INPUT,LABEL with two of {shown}")
    return inputs[0], labels[0]


def _is_numbers(feature: Mapping[str, Any]) -> bool:
    kind, inner = str(feature.get("_type")), feature.get("feature")
    return kind.startswith("Array") or (
        kind in _LISTS and isinstance(inner, dict) and inner.get("_type") != "ClassLabel"
    )


def _embedded(cell: Any, name: str) -> _Embedded:
    value = cell.as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise UsageError(
            f"{name} holds no bytes: files outside of a dataset are not read; save it with its files in it"
        )
    return _Embedded(data, name)


def _labels(
    tables: Mapping[str, Any], column: str, feature: Mapping[str, Any], what: str
) -> tuple[str, tuple[str, ...], dict[str, np.ndarray]]:
    """(kind, classes, labels of each split)."""
    values: dict[str, list[Any]] = {name: table[column].to_pylist() for name, table in tables.items()}
    everything = [value for found in values.values() for value in found]
    if not everything or any(value is None for value in everything):
        raise UsageError(f"{what}: {column} is empty in some row")
    inner = feature.get("feature") if feature.get("_type") in _LISTS else None
    names = (inner or feature).get("names")
    several = isinstance(everything[0], list)
    flat = [one for value in everything for one in value] if several else everything
    if not all(isinstance(one, str | int | float) for one in flat) or len({type(one) for one in flat}) > 1:
        raise UsageError(f"{what}: {column} holds neither classes nor numbers: name another column, hf:DIR@INPUT,LABEL")
    if flat and isinstance(flat[0], float):
        if several and len({len(value) for value in everything}) != 1:
            raise UsageError(f"{what}: {column} holds lists of numbers of different lengths")
        return "regression", (), {name: np.array(found, np.float32) for name, found in values.items()}
    if names is None:
        numbers = sorted({int(one) for one in flat}) if flat and not isinstance(flat[0], str) else []
        names = list(_numbered(numbers[-1])) if numbers else sorted(set(flat))
    classes = tuple(map(str, names))
    if flat and isinstance(flat[0], str):
        order = {name: number for number, name in enumerate(classes)}
        values = {
            name: [[order[one] for one in value] if several else order[value] for value in found]
            for name, found in values.items()
        }
    every = [value for found in values.values() for value in found]
    numbers = list(map(int, [one for value in every for one in value] if several else every))
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(classes):
        raise UsageError(
            f"{what}: {column} reaches from {min(numbers)} to {max(numbers)}, for {len(classes)} classes (-1 is how "
            "labels of a test are kept secret: leave that split out)"
        )
    if not several:
        return "classification", classes, {name: np.array(found, np.int64) for name, found in values.items()}
    many = {name: np.zeros((len(found), len(classes)), np.float32) for name, found in values.items()}
    for name, found in values.items():
        for row, value in zip(many[name], found, strict=True):
            row[value] = 1
    return "multi-label", classes, many


def _numbers(column: Any, what: str) -> np.ndarray:
    """A column of numbers, nan for a cell without one."""
    cells = column.to_pylist()
    if any(not isinstance(cell, (int, float, type(None))) for cell in cells):
        raise UsageError(f"{what}: the column attribute holds numbers, not {column.type}")
    return np.array([np.nan if cell is None else cell for cell in cells], np.float64)


def _numbered(largest: int) -> tuple[str, ...]:
    return tuple(map(str, range(max(2, largest + 1))))


def _cut(whole: Mapping[str, Split], by_class: bool, notes: list[str]) -> dict[str, Split]:
    splits = dict(whole)
    for name, share in (("test", TEST_SHARE), ("validation", None)):
        if name in splits or "train" not in splits:
            continue
        train = splits["train"]
        groups = train.identifiers or train.names
        labels = train.labels if by_class else np.zeros(len(train), np.int64)
        held = cut_validation(labels, groups, **({"share": share} if share else {}))
        if not held.any():
            continue
        splits[name], splits["train"] = train.subset(np.flatnonzero(held)), train.subset(np.flatnonzero(~held))
        if name == "test":
            notes.append("test was cut from train, one row in five of each class")
    return splits


def _dense(column: Any, what: str) -> np.ndarray:
    """float32 [N, ...] of lists that all have one shape."""
    from pyarrow import StructArray, types
    from pyarrow.compute import call_function

    array, shape = column.combine_chunks(), [len(column)]
    while True:
        array = getattr(array, "storage", array)
        if not hasattr(array, "flatten") or isinstance(array, StructArray) or not types.is_nested(array.type):
            break
        lengths = call_function("unique", [call_function("list_value_length", [array])]).to_pylist()
        if array.null_count or len(lengths) != 1:
            raise UsageError(f"{what} holds lists of different lengths: cut or fill them up before saving")
        shape.append(lengths[0])
        array = array.flatten()
    if array.null_count or not (types.is_integer(array.type) or types.is_floating(array.type)):
        raise UsageError(f"{what} holds {array.type}, or nothing in some row; expected numbers, images or sounds")
    made = array.to_numpy(zero_copy_only=False).astype(np.float32).reshape(shape)
    if not np.isfinite(made).all():
        raise UsageError(f"{what} holds values that are not finite")
    return made


def _fingerprint(tables: Mapping[str, Any], column: str, media: str | None, labels: Mapping[str, np.ndarray]) -> str:
    content, sizes = hashlib.blake2b(digest_size=16), []
    for name, table in sorted(tables.items()):
        content.update(np.ascontiguousarray(labels[name]).tobytes())
        rows = range(len(table))
        sizes.append([name, len(table)])
        for row in rows if media is None else rows[:: max(1, len(table) // _SAMPLED)][:_SAMPLED]:
            cell = table[column][row]
            content.update(_embedded(cell, column).getvalue() if media else repr(cell.as_py()).encode())
    return digest(sizes, content.hexdigest())
