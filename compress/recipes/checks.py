# SPDX-License-Identifier: Apache-2.0
"""What must exist before anything runs: networks, tasks, device classes, targets, front ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import EdgepressError, UsageError, did_you_mean
from edgepress.models.units import parse_quantity
from edgepress.models.user_code import is_reference

if TYPE_CHECKING:
    from edgepress.models.tasks import LogMel


def is_code(name: object) -> bool:
    """Whether a network or a task is named as package.module:factory."""
    return is_reference(name) and not str(name).startswith("synthetic:")


def network_errors(network: Any, trust: bool) -> list[str]:
    """Problems of a recipe's [network]: an unknown name, arguments that its factory does not take."""
    if not isinstance(network, Mapping) or not isinstance(network.get("name"), str):
        return []
    from edgepress.models.checkpoints.registry import arguments_of, resolve_factory, zoo

    name, arguments = network["name"], network.get("arguments", {})
    if is_code(name):
        if not trust:
            return [f"network.name = {name!r} is code outside edgepress: read it, then allow it with --trust"]
        resolve_factory(name)
        return []
    if name not in zoo():
        return [
            f"network.name = {name!r} is unknown{did_you_mean(name, zoo())}: known are {', '.join(zoo())}, "
            "or package.module:factory"
        ]
    known = arguments_of(name)
    return [
        f"network.arguments.{argument} is unknown: {name} takes {', '.join(known)}"
        for argument in (arguments if isinstance(arguments, Mapping) else ())
        if argument not in known
    ]


def task_errors(task: Any, trust: bool) -> list[str]:
    """Problems of a task's source: a missing folder or file, a malformed seed, code that nobody allowed."""
    if not isinstance(task, str):
        return []
    kind, _, rest = task.partition(":")
    if kind == "synthetic":
        if rest and not rest.isdigit():
            return [f'task = {task!r}: the seed {rest!r} is not a number; write "synthetic" or "synthetic:1"']
        return []
    if Path(task).exists() or Path(task.rpartition("@")[0] or task).is_dir():
        return []
    if is_code(task):
        return [] if trust else [f"task = {task!r} is code outside edgepress: read it, then allow it with --trust"]
    return [
        f'task = {task!r} does not exist; allowed are "synthetic[:seed]", a folder in the layout of TAU Urban '
        "Acoustic Scenes 2022 Mobile, a file .npz with x and y, or package.module:factory"
    ]


def device_errors(names: Iterable[Any]) -> list[str]:
    """Problems of the named device classes."""
    from edgepress.models.devices.classes import device_class

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


def teacher_errors(teacher: Any, trust: bool) -> list[str]:
    """Problems of a recipe's [teacher]: its network, its front end, a file of weights that is not there."""
    if not isinstance(teacher, Mapping):
        return []
    errors = [f"teacher.{error}" for error in network_errors(teacher.get("network"), trust)]
    weights = teacher.get("weights")
    if isinstance(weights, str) and not Path(weights).is_file():
        errors.append(
            f"teacher.weights = {weights!r} does not exist: give the path of a file of published weights, or "
            "leave it out to train from the beginning"
        )
    return errors + front_end_errors(teacher.get("front_end"))


def resolve_front_end(front_end: Mapping[str, Any] | str | None) -> LogMel | None:
    """A `LogMel` from a preset's name, from its fields, or None.

    Raises:
        UsageError: an unknown preset or field.
    """
    if front_end is None:
        return None
    from edgepress.models.tasks.front_ends import log_mel as features

    if isinstance(front_end, str):
        presets = features.PRESETS
        if front_end not in presets:
            raise UsageError(
                f"front_end = {front_end!r} is unknown: known are {', '.join(presets)}, or a table of the "
                "fields of LogMel"
            )
        return presets[front_end]
    return features.LogMel.from_json(dict(front_end))
