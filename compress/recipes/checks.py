# SPDX-License-Identifier: Apache-2.0
"""What must exist before anything runs: networks, tasks, device classes, targets, front ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import EdgepressError, UsageError, did_you_mean
from edgepress.models.limits import METRIC_UNITS, TARGETS
from edgepress.models.units import parse_quantity
from edgepress.models.user_code import is_reference

if TYPE_CHECKING:
    from edgepress.models.tasks.front_ends.front_end import FrontEnd


def is_code(name: object) -> bool:
    """Whether a network or a task is named as package.module:factory."""
    from edgepress.models.tasks.sources.load import is_code

    return is_code(name)


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
    from edgepress.models.tasks.sources.load import source_errors

    if is_code(task) and not trust:
        return [f"task = {task!r} is code outside edgepress: read it, then allow it with --trust"]
    return source_errors(task)


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
    """Problems of targets such as "20M", "50%" or { latency = "100 ms", arena = "64 KiB" }."""
    errors = []
    for target in targets:
        named = target if isinstance(target, dict) else {"macs": target}
        if unknown := [name for name in named if name not in TARGETS]:
            errors.append(f"prune.targets: {', '.join(unknown)} is unknown; known are {', '.join(TARGETS)}")
        for name, text in named.items():
            try:
                unit = METRIC_UNITS[TARGETS[name]] if name in TARGETS else ""
                if unit and parse_quantity(text, unit, name="prune.targets", relative_to=1e6) == 0:
                    errors.append(f"prune.targets = {text!r} must be above 0")
            except UsageError as error:
                errors.append(str(error))
    return errors


def front_end_errors(front_end: Any) -> list[str]:
    """Problems of a front end, given by its name or by its fields."""
    if front_end is None:
        return []
    resolve_front_end(front_end)
    return []


def code_errors(written: Mapping[str, Any], trust: bool) -> list[str]:
    """Losses and metrics of a user's own: of the form package.module:function, and allowed."""
    measure = written.get("measure")
    metrics = measure.get("metrics", ()) if isinstance(measure, Mapping) else ()
    found = [("measure.metrics", name) for name in metrics if isinstance(metrics, list | tuple)]
    found += list(_losses(written, ""))
    errors = []
    for key, name in found:
        if not is_reference(name):
            errors.append(f"{key} = {name!r} must have the form package.module:function")
        elif not trust:
            errors.append(f"{key} = {name!r} is code outside edgepress: read it, then allow it with --trust")
    return errors


def _losses(section: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    """Every key `loss` that is set, at any depth."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _losses(value, f"{place}{key}.")
        elif key == "loss" and value is not None:
            yield f"{place}{key}", value


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


def resolve_front_end(front_end: Mapping[str, Any] | str | None) -> FrontEnd | None:
    """A front end from a preset's name, from its fields, or None.

    Raises:
        UsageError: an unknown preset or field.
    """
    from edgepress.models.tasks.front_ends.front_end import KINDS, read_front_end

    if not isinstance(front_end, str):
        return read_front_end(front_end)
    if front_end in KINDS:
        return read_front_end({"kind": front_end})
    from edgepress.models.tasks.front_ends.log_mel import PRESETS

    if front_end not in PRESETS:
        raise UsageError(
            f"front_end = {front_end!r} is unknown: known are {', '.join([*PRESETS, *KINDS])}, or a table of fields"
        )
    return PRESETS[front_end]
