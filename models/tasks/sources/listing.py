# SPDX-License-Identifier: Apache-2.0
"""The csv files of a folder in the layout of TAU Urban Acoustic Scenes 2022 Mobile, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgepress.models.errors import UsageError

_LARGEST_CSV_BYTES = 2**28  # the real meta.csv has 16 MB
_LONGEST_LINE = 4096
SHOWN_ERRORS = 5


@dataclass(frozen=True)
class Clip:
    """One clip: where it is, what it shows, and the line that says so."""

    name: str
    scene: str
    identifier: str
    device: str
    source: str  # "evaluation_setup/fold1_train.csv, line 12"


@dataclass(frozen=True)
class Listing:
    """The clips of a folder: development (train and validation) and test."""

    classes: tuple[str, ...]
    development: tuple[Clip, ...]
    test: tuple[Clip, ...]
    notes: tuple[str, ...] = ()


def raise_together(subject: str, errors: list[str]) -> None:
    """Raise one error for all problems: the first few as they are, then how many more there are.

    Raises:
        UsageError: `errors` is not empty.
    """
    if not errors:
        return
    if len(errors) == 1:
        raise UsageError(f"{subject}: {errors[0]}")
    lines = [f"  - {error}" for error in errors[:SHOWN_ERRORS]]
    if len(errors) > SHOWN_ERRORS:
        lines.append(f"  ... and {len(errors) - SHOWN_ERRORS} more")
    raise UsageError(f"{subject} has {len(errors)} problems:\n" + "\n".join(lines))


def read_table(path: Path, label: str, columns: tuple[str, ...]) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """The wanted columns of a tab-separated file with a header.

    Args:
        path: the file.
        label: how errors name it.
        columns: what must be there; others are passed over.

    Returns:
        (line number, column -> text) per row, and one sentence per bad row.

    Raises:
        UsageError: the file is missing, too large, no UTF-8 text, empty, or lacks a column.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError(2, "no regular file" if path.exists() else "No such file or directory")
        with path.open("rb") as file:
            data = file.read(_LARGEST_CSV_BYTES + 1)
        if len(data) > _LARGEST_CSV_BYTES:
            raise UsageError(f"{label} has more than {_LARGEST_CSV_BYTES // 2**20} MiB: that is no list of clips")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{label} is no UTF-8 text (byte {error.start}); a tab-separated list is expected") from error
    except OSError as error:
        raise UsageError(
            f"{label} cannot be read ({error.strerror}); the layout of TAU Urban Acoustic Scenes 2022 Mobile has it"
        ) from error
    lines = text.split("\n")
    header = lines[0].rstrip("\r").split("\t")
    missing = [column for column in columns if column not in header]
    if missing:
        raise UsageError(
            f"{label}, line 1: the column{'s' * (len(missing) > 1)} {', '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing; found {', '.join(map(repr, header))[:200]} "
            "(columns are separated by tabs)"
        )
    if len(set(header)) != len(header):
        raise UsageError(f"{label}, line 1: a column occurs twice in {', '.join(map(repr, header))[:200]}")
    places = {column: header.index(column) for column in columns}
    rows, errors = [], []
    for number, line in enumerate(lines[1:], 2):
        fields = line.rstrip("\r").split("\t")
        if fields == [""]:
            continue
        if len(line) > _LONGEST_LINE or "\0" in line:
            errors.append(f"{label}, line {number} is no row of text")
        elif len(fields) != len(header):
            errors.append(f"{label}, line {number} has {len(fields)} columns, the header has {len(header)}")
        else:
            row = {column: fields[place].strip() for column, place in places.items()}
            empty = [column for column, value in row.items() if not value]
            if empty:
                errors.append(f"{label}, line {number}: {empty[0]} is empty")
            else:
                rows.append((number, row))
    if not rows and not errors:
        raise UsageError(f"{label} lists no clip")
    return rows, errors


def read_listing(folder: Path, subset: str | None = None) -> Listing:
    """Read meta.csv and the split files of a folder.

    Train is `evaluation_setup/fold1_train.csv`, or `<subset>.csv` (as `split25.csv` of DCASE 2024, which may lie in
    evaluation_setup, split_setup or the folder itself); test is `fold1_evaluate.csv`, else `fold1_test.csv` or
    `test.csv` with the labels of meta.csv.

    Raises:
        UsageError: a file or column is missing, or rows are bad; all bad rows are reported together.
    """
    meta_rows, errors = read_table(
        folder / "meta.csv", f"{folder}/meta.csv", ("filename", "scene_label", "identifier", "source_label")
    )
    meta: dict[str, dict[str, str]] = {}
    for number, row in meta_rows:
        problem = _path_problem(row["filename"])
        if problem:
            errors.append(f"meta.csv, line {number}: filename {row['filename'][:100]!r} {problem}")
        elif row["filename"] in meta:
            errors.append(f"meta.csv, line {number}: {row['filename']} is listed twice")
        else:
            meta[row["filename"]] = row
    raise_together(str(folder), errors)
    classes = tuple(sorted({row["scene_label"] for row in meta.values()}))
    train_name = _find(folder, [f"{subset}.csv"] if subset else ["fold1_train.csv"])
    development, train_errors = _read_split(folder, train_name, meta, classes, needs_label=True)
    test_name = _find(folder, ["fold1_evaluate.csv", "fold1_test.csv", "test.csv"])
    test, test_errors = _read_split(folder, test_name, meta, classes, needs_label=test_name.endswith("evaluate.csv"))
    errors = train_errors + test_errors
    in_train = {clip.name: clip.source for clip in development}
    errors += [
        f"{clip.source}: {clip.name} is a training clip too ({in_train[clip.name]})"
        for clip in test
        if clip.name in in_train
    ]
    raise_together(str(folder), errors)
    if len(classes) < 2:
        raise UsageError(f"{folder}/meta.csv names only the scene {min(classes)!r}; at least two are needed")
    return Listing(classes, tuple(development), tuple(test), _leak_notes(development, test))


def _read_split(
    folder: Path, name: str, meta: dict[str, dict[str, str]], classes: tuple[str, ...], *, needs_label: bool
) -> tuple[list[Clip], list[str]]:
    columns = ("filename", "scene_label") if needs_label else ("filename",)
    rows, errors = read_table(folder / name, f"{folder}/{name}", columns)
    clips: dict[str, Clip] = {}
    for number, row in rows:
        where, filename = f"{name}, line {number}", row["filename"]
        known = meta.get(filename)
        scene = row.get("scene_label") or (known or {}).get("scene_label", "")
        problem = _path_problem(filename)
        if problem:
            errors.append(f"{where}: filename {filename[:100]!r} {problem}")
        elif scene and scene not in classes:
            errors.append(f"{where}: the scene {scene!r} is unknown; meta.csv has {', '.join(classes)[:300]}")
        elif known is None:
            errors.append(f"{where}: {filename} is not in meta.csv")
        elif scene != known["scene_label"]:
            errors.append(f"{where}: {filename} is {scene!r} here but {known['scene_label']!r} in meta.csv")
        elif filename in clips:
            errors.append(f"{where}: {filename} is listed twice")
        else:
            clips[filename] = Clip(filename, scene, known["identifier"], known["source_label"], where)
    return list(clips.values()), errors


def _find(folder: Path, names: list[str]) -> str:
    for name in names:
        for place in ("evaluation_setup/", "split_setup/", ""):
            if (folder / place / name).is_file():
                return place + name
    raise UsageError(
        f"{folder} has no evaluation_setup/{names[0]}; the layout of TAU Urban Acoustic Scenes 2022 "
        "Mobile has it (training subsets such as split25.csv come with DCASE 2024)"
    )


def _path_problem(filename: str) -> str | None:
    """Why a name must not be opened, or None."""
    if filename.startswith(("/", "~")) or "\\" in filename or ":" in filename:
        return "must be a path relative to the folder, with forward slashes"
    if ".." in filename.split("/"):
        return "leaves the folder"
    return None


def _leak_notes(development: list[Clip], test: list[Clip]) -> tuple[str, ...]:
    shared = {clip.identifier for clip in development} & {clip.identifier for clip in test}
    if not shared:
        return ()
    return (
        f"{len(shared)} recording identifiers (such as {min(shared)}) are in train and in test: the test accuracy "
        "is too good",
    )
