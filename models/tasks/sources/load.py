# SPDX-License-Identifier: Apache-2.0
"""A task by its source: which text stands for which kind of data."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.log_mel import LogMel
from edgepress.models.tasks.task import Task
from edgepress.models.user_code import call, find_object, is_reference

_SYNTHETIC = re.compile(r"synthetic(?::(\d{1,9}))?\Z")
SOURCES = (
    '"synthetic" or "synthetic:SEED", a folder in the layout of TAU Urban Acoustic Scenes 2022 Mobile (with '
    '"@split25" for a training subset), an .npz file, or "package.module:factory"'
)


def load_task(
    source: str | Path, *, front_end: LogMel | None = None, cache: str | Path | None = None, trust: bool = False
) -> Task:
    """Open a task.

    Args:
        source: "synthetic[:SEED]", a folder in the layout of TAU Urban Acoustic Scenes 2022 Mobile (DIR, or
            DIR@split25 for the training clips of split25.csv), an .npz file, or "package.module:factory".
        front_end: the log-mel definition; None takes the task's default (MEL22 for scenes, MEL16K for synthetic).
        cache: the folder for waveforms and features; None takes $EDGEPRESS_CACHE, else the user's cache folder.
        trust: allow "package.module:factory" to run code. Set it where the user typed the source.

    Raises:
        UsageError: nothing of this kind, or its files are missing or damaged; all problems are reported together.
    """
    text = os.fspath(source)
    synthetic = _SYNTHETIC.match(text)
    if synthetic:
        from edgepress.models.tasks.sources.synthetic import load_synthetic

        return load_synthetic(int(synthetic[1] or 0), front_end=front_end, cache=cache)
    path = Path(text)
    if path.is_file():
        if path.suffix != ".npz":
            raise UsageError(f"data = {text!r} is a file but no .npz; expected {SOURCES}")
        if front_end is not None:
            raise UsageError(f"data = {text!r} holds network inputs, to which no front end applies; leave it out")
        from edgepress.models.tasks.sources.arrays import load_arrays

        return load_arrays(path)
    if path.is_dir() or Path(text.rpartition("@")[0] or os.devnull).is_dir():
        from edgepress.models.tasks.sources.scenes import load_scenes

        folder, subset = (text, None) if path.is_dir() else text.rsplit("@", 1)
        return load_scenes(folder, subset=subset, front_end=front_end, cache=cache)
    if is_reference(text) and not text.startswith("synthetic:"):
        return _call_factory(text, front_end, cache, trust)
    raise UsageError(f"data = {text!r} is neither an existing file or folder nor a known task; expected {SOURCES}")


def _call_factory(source: str, front_end: LogMel | None, cache: str | Path | None, trust: bool) -> Task:
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
    if front_end is not None and "front_end" not in arguments:
        raise UsageError(f"data = {source!r} takes no front_end; leave it out, or add the parameter to the factory")
    task = call(source, factory, **arguments)
    if not isinstance(task, Task):
        raise UsageError(f"data = {source!r} returned {type(task).__name__}, expected edgepress.models.tasks.Task")
    return task
