# SPDX-License-Identifier: Apache-2.0
"""A task by its source: which text stands for which kind of data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.front_end import needs, read_front_end
from edgepress.models.tasks.task import Task
from edgepress.models.user_code import call, find_object, is_reference

if TYPE_CHECKING:
    from edgepress.models.tasks.front_ends.front_end import FrontEnd


@dataclass(frozen=True)
class Source:
    """One kind of data.

    Attributes:
        form: how a source of this kind is written.
        summary: what lies there.
        loader: "module:function", called with what follows the prefix, `front_end` (where one applies) and `cache`.
        front_ends: kinds that apply, the default first; empty where the data are network inputs already.
        suffixes: of files that need no prefix.
        recipe: the shipped recipe for such data.
    """

    form: str
    summary: str
    loader: str
    front_ends: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    recipe: str = "default"


#: By prefix; a new kind of data is one file and one line. What has no prefix is told by what lies there.
SOURCES = {
    "synthetic": Source(
        "synthetic[:SEED]",
        "ten synthetic scenes, made from a seed",
        "edgepress.models.tasks.sources.synthetic:load_synthetic",
        ("log_mel",),
    ),
    "scenes": Source(
        "scenes:DIR or DIR",
        'the layout of TAU Urban Acoustic Scenes 2022 Mobile (with "@split25" for a training subset)',
        "edgepress.models.tasks.sources.scenes:open_scenes",
        ("log_mel",),
    ),
    "images": Source(
        "images:DIR",
        "a folder for each class with PNG and JPEG files, or train/ and test/ with these",
        "edgepress.models.tasks.sources.images:load_images",
        ("images",),
        recipe="images",
    ),
    "keywords": Source(
        "keywords:DIR",
        'spoken words as Speech Commands has them: a folder for each, lists of validation and test ("@yes,no": these)',
        "edgepress.models.tasks.sources.keywords:load_keywords",
        ("mfcc", "log_mel", "waveform"),
        recipe="keywords",
    ),
    "sounds": Source(
        "sounds:DIR",
        "machines that sound wrong, as DCASE Task 2, MIMII and ToyADMOS have them: normal and anomalous recordings",
        "edgepress.models.tasks.sources.machines:load_machines",
        ("frames", "log_mel", "mfcc", "waveform"),
        recipe="anomaly",
    ),
    "table": Source(
        "table:FILE.csv or .parquet",
        "a table that names files (images or sounds) and their labels, numbers or masks",
        "edgepress.models.tasks.sources.tables:load_table",
        ("images", "log_mel", "mfcc", "waveform"),
        recipe="images",
    ),
    "hf": Source(
        "hf:DIR",
        'a Hugging Face dataset that save_to_disk wrote ("@image,label": these columns)',
        "edgepress.models.tasks.sources.saved_datasets:load_saved",
        ("images", "log_mel", "mfcc", "waveform"),
        recipe="images",
    ),
    "arrays": Source(
        "FILE.npz",
        "arrays x and y of network inputs",
        "edgepress.models.tasks.sources.arrays:load_arrays",
        suffixes=(".npz",),
        recipe="images",
    ),
}


def described() -> str:
    """All forms of a source, for messages."""
    return ", ".join(source.form for source in SOURCES.values()) + ', or "package.module:factory"'


def split_source(source: str | Path) -> tuple[str | None, str]:
    """(the prefix of its kind, what follows); the prefix is None for package.module:factory and for nothing known."""
    text = os.fspath(source)
    prefix, colon, rest = text.partition(":")
    if prefix in SOURCES and (colon or prefix == "synthetic"):
        return prefix, rest
    path = Path(text)
    for name, kind in SOURCES.items():
        if path.suffix in kind.suffixes and (path.is_file() or not is_reference(text)):
            return name, text
    if path.is_dir() or Path(text.rpartition("@")[0] or os.devnull).is_dir():
        return "scenes", text
    return None, text


def is_code(source: object) -> bool:
    """Whether a task is named as package.module:factory."""
    return isinstance(source, str) and is_reference(source) and split_source(source)[0] is None


def found_from_anywhere(source: str) -> str:
    """The source with its path made absolute, so that it is found from another working directory too."""
    prefix, rest = split_source(source)
    folder, at, subset = rest.rpartition("@")
    if at and not Path(rest).exists() and Path(folder).exists():
        rest = f"{Path(folder).resolve()}@{subset}"
    elif rest and Path(rest).exists():
        rest = str(Path(rest).resolve())
    return f"{prefix}:{rest}" if prefix is not None and source.startswith(f"{prefix}:") else rest or source


def source_errors(source: str) -> list[str]:
    """What is wrong with a source that can be seen without reading its data; code is not looked at."""
    prefix, rest = split_source(source)
    if prefix == "synthetic":
        good = not rest or re.fullmatch(r"\d{1,9}", rest)
        return (
            []
            if good
            else [f'task = {source!r}: the seed {rest!r} is not a number; write "synthetic" or "synthetic:1"']
        )
    if prefix is None and is_reference(source):
        return []
    if prefix is not None and not rest:
        return [f"task = {source!r} names no file or folder: write {SOURCES[prefix].form}"]
    if prefix == "scenes" and not source.startswith("scenes:") and not _is_scenes(rest):
        return [
            f"task = {source!r} is a folder without meta.csv, which scenes have; what lies there? Write images:{rest}, "
            f"keywords:{rest}, sounds:{rest} or hf:{rest}"
        ]
    if prefix is None or not (Path(rest).exists() or Path(rest.rpartition("@")[0] or os.devnull).is_dir()):
        return [f"task = {source!r} does not exist; allowed are {described()}"]
    return []


def _is_scenes(place: str) -> bool:
    folder = place if Path(place).is_dir() else place.rpartition("@")[0]
    return not Path(folder).is_dir() or any((Path(folder) / name).exists() for name in ("meta.csv", "evaluation_setup"))


def front_end_for(source: str | Path, definition: Mapping[str, Any] | None) -> FrontEnd | None:
    """The front end of a network for this source; None where the data are network inputs already.

    Raises:
        UsageError: `definition` is no front end.
    """
    prefix, _ = split_source(source)
    return None if prefix is not None and not SOURCES[prefix].front_ends else read_front_end(definition)


def load_task(
    source: str | Path, *, front_end: FrontEnd | None = None, cache: str | Path | None = None, trust: bool = False
) -> Task:
    """Open a task.

    Args:
        source: of one of the forms in SOURCES, or "package.module:factory".
        front_end: what makes network inputs of the data; None takes the default of the data.
        cache: the folder for waveforms and features; None takes $EDGEPRESS_CACHE, else the user's cache folder.
        trust: allow "package.module:factory" to run code. Set it where the user typed the source.

    Raises:
        UsageError: nothing of this kind, or its files are missing or damaged; all problems are reported together.
    """
    text = os.fspath(source)
    prefix, rest = split_source(text)
    if prefix is None:
        if is_reference(text):
            return _call_factory(text, front_end, cache, trust)
        what = (
            "is a file of an unknown kind"
            if Path(text).is_file()
            else "is neither an existing file or folder nor a known task"
        )
        raise UsageError(f"data = {text!r} {what}; expected {described()}")
    if errors := source_errors(text):
        raise UsageError(errors[0].replace("task =", "data =", 1))
    kind = SOURCES[prefix]
    if front_end is not None and not kind.front_ends:
        raise UsageError(
            f"data = {text!r} holds network inputs, to which no front end applies: leave the key front_end out of the "
            "recipe"
        )
    if kind.front_ends:
        needs(front_end, kind.front_ends, text)
    module, _, function = kind.loader.partition(":")
    load = getattr(import_module(module), function)
    return load(rest, cache=cache, **({"front_end": front_end} if kind.front_ends else {}))


def _call_factory(source: str, front_end: FrontEnd | None, cache: str | Path | None, trust: bool) -> Task:
    import inspect

    if not trust:
        raise UsageError(
            f"data = {source!r} would run code of {source.split(':')[0]}; allow it with trust=True "
            "(--trust) if you know where it comes from"
        )
    try:
        factory = find_object(source)
    except UsageError as error:
        raise UsageError(f"data = {source!r}: {error}") from error
    offered = {"front_end": front_end, "cache": cache}
    try:
        accepted = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise UsageError(f"data = {source!r} is no function: {error}") from error
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    arguments = {key: value for key, value in offered.items() if takes_all or key in accepted}
    task = call(source, factory, **arguments)
    if not isinstance(task, Task):
        raise UsageError(f"data = {source!r} returned {type(task).__name__}, expected edgepress.models.tasks.Task")
    # A checkpoint asks for the front end that it was trained with: the factory's own, where that has not changed.
    own = task.front_end.to_json() if task.front_end is not None else None
    if front_end is not None and "front_end" not in arguments and own != front_end.to_json():
        raise UsageError(
            f"data = {source!r} takes no front_end: leave the key front_end out of the recipe, or add the parameter to "
            "the factory"
        )
    return task
