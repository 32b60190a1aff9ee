"""What must exist before anything runs: networks, tasks, device classes, targets, front ends."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.errors import EdgepressError, UsageError
from models.units import parse_quantity


def network_errors(network: Any) -> list[str]:
    """Problems of a recipe's [network]: an unknown name, arguments that its factory does not take."""
    if not isinstance(network, Mapping) or not isinstance(network.get("name"), str):
        return []
    from models.registry import resolve_factory, zoo

    name, arguments = network["name"], network.get("arguments", {})
    entries = zoo()
    if ":" in name:
        module = name.split(":")[0]
        if not _importable(module):
            return [f"network.name = {name!r}: there is no module {module!r}; is its folder on PYTHONPATH?"]
    elif name not in entries:
        return [f"network.name = {name!r} is unknown: known are {', '.join(entries)}, or package.module:factory"]
    if not isinstance(arguments, Mapping):
        return []
    try:
        inspect.signature(resolve_factory(entries[name].factory if name in entries else name)).bind(**arguments)
    except TypeError as error:
        return [f"network.arguments of {name}: {error}"]
    return []


def task_errors(task: Any) -> list[str]:
    """Problems of a task's source: a missing folder or file, a malformed seed, an unknown module."""
    if not isinstance(task, str):
        return []
    kind, _, rest = task.partition(":")
    if kind == "synthetic":
        if rest and not rest.isdigit():
            return [f"task = {task!r}: the seed {rest!r} is not a number; write \"synthetic\" or \"synthetic:1\""]
        return []
    if Path(task).exists():
        return []
    if rest and "/" not in task and not task.endswith(".npz"):
        return [] if _importable(kind) else [f"task = {task!r}: there is no module {kind!r}; is its folder on PYTHONPATH?"]
    return [f"task = {task!r} does not exist; allowed are \"synthetic[:seed]\", a folder in the layout of TAU Urban "
            "Acoustic Scenes 2022 Mobile, a file .npz with x and y, or package.module:factory"]


def device_errors(names: Iterable[Any]) -> list[str]:
    """Problems of the named device classes."""
    from models.devices import device_class

    errors = []
    for name in dict.fromkeys(name for name in names if isinstance(name, str)):
        try:
            device_class(name)
        except EdgepressError as error:
            errors.append(str(error))
    return errors


def target_errors(targets: Iterable[Any]) -> list[str]:
    """Problems of targets such as "20M" or "50%"."""
    errors = []
    for target in targets:
        try:
            if parse_quantity(target, "macs", name="prune.targets", relative_to=1e6) == 0:
                errors.append(f"prune.targets = {target!r} must be above 0")
        except UsageError as error:
            errors.append(str(error))
    return errors


def front_end_errors(front_end: Any) -> list[str]:
    """Problems of a front end, given by its name or by its fields."""
    if front_end is None:
        return []
    resolve_front_end(front_end)
    return []


def resolve_front_end(front_end: Mapping[str, Any] | str | None) -> Any:
    """A `LogMel` from a preset's name, from its fields, or None.

    Raises:
        UsageError: an unknown preset or field.
    """
    if front_end is None:
        return None
    from models.tasks import features

    if isinstance(front_end, str):
        presets = features.PRESETS
        if front_end not in presets:
            raise UsageError(f"front_end = {front_end!r} is unknown: known are {', '.join(presets)}, or a table of the "
                             "fields of LogMel")
        return presets[front_end]
    try:
        return features.LogMel(**front_end)
    except (TypeError, ValueError) as error:
        raise UsageError(f"front_end: {error}") from error


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
