# SPDX-License-Identifier: Apache-2.0
"""Recipes: what `compress run` does, as TOML, checked as a whole before anything runs.

    name = "default"
    task = "synthetic"
    device = "dcase2023"          # its limits bind beside every target
    [network]
    name = "cp_resnet"
    arguments = { rho = 8, n_blocks = [2, 1, 1] }
    [train]
    epochs = 20
    [prune]
    targets = ["30M", "20M"]

Every section and key has a default except `name` and `network`; an unknown key is an error. A recipe without a `task`
needs `--data`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from edgepress.compress.recipes.sections import (
    AdaptSettings,
    Distill,
    MeasureSettings,
    NetworkSettings,
    PruneSettings,
    QuantizeSettings,
    Section,
    TeacherSettings,
    TrainSettings,
)
from edgepress.models.errors import ConfigError, EdgepressError, UsageError
from edgepress.models.files.reading import read_toml

SHIPPED = Path(__file__).parent


#: What a recipe may name code for: the network, the task, losses and metrics.
_CODE = ("network", "task", "code")
S = TypeVar("S", bound=BaseModel)


class Recipe(Section):
    """All of `compress run`; `Recipe.model_validate` checks types and ranges, `parse_recipe` also what exists.

    With `teacher`, everything that distils follows it: the dense network where `distill` is given, pruning and
    quantization-aware training by their own sections. Without, they follow the dense network.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="of the recipe")
    summary: str = Field(default="", description="one line for `compress list`")
    task: str | None = Field(default=None, description="the data; without it every command needs --data")
    device: str | None = Field(
        default="dcase2023", description="the device class whose limits bind beside every target; empty: none"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="of weights, order and augmentation")
    front_end: dict[str, Any] | str | None = Field(
        default=None,
        description='what makes network inputs of the data: a preset as "mel22", or a table; left out: the default',
    )
    network: NetworkSettings = Field(description="the network")
    teacher: TeacherSettings | None = Field(default=None, description="teachers of other seeds, before everything else")
    train: TrainSettings = Field(default=TrainSettings(), description="training of the dense network")
    distill: Distill | None = Field(
        default=None, description="how the dense network follows the teacher; without: not at all"
    )
    prune: PruneSettings = Field(default=PruneSettings(), description="budgets and how they are reached")
    adapt: AdaptSettings | None = Field(
        default=None, description="networks of their own for recording devices; without: one for all"
    )
    quantize: QuantizeSettings = Field(default=QuantizeSettings(), description="int8")
    measure: MeasureSettings = Field(default=MeasureSettings(), description="what is exported and measured")


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that comes with edgepress."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def read_recipe(
    source: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> Recipe:
    """A recipe by its shipped name or by its file, with changes from the command line, fully checked.

    Args:
        source: "default", "esc10-mobile", ..., or a path.
        changes: replace whole top-level keys.
        sections: replace keys within a section.
        overrides: single keys at any depth, "teacher.train.epochs=1"; the value is TOML, or else text.
        trust: the file may name code, package.module:factory; what the command line names is trusted anyway.

    Raises:
        UsageError: no such recipe.
        ConfigError: everything that is wrong with it, together.
    """
    shipped = shipped_recipes()
    path = shipped.get(str(source), Path(source))
    if not path.is_file():
        raise UsageError(
            f"recipe = {str(source)!r} is neither a file nor a shipped recipe; shipped are {', '.join(shipped)}"
        )
    subject = f"recipe {path}"
    try:
        written = read_toml(path)
    except UsageError as error:
        raise ConfigError([str(error)], subject) from error
    typed = {**(changes or {}), **(sections or {})}
    for section, values in (sections or {}).items():
        before = written.get(section)
        written[section] = {**(before if isinstance(before, dict) else {}), **values}
    for text in overrides:
        _override(written, text)
    return parse_recipe({**written, **(changes or {})}, subject, trusted=_CODE if trust else tuple(typed))


def _override(written: dict[str, Any], text: str) -> None:
    """Set one key of what a recipe's file says, in place."""
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UsageError(f"--set {text!r} must be KEY=VALUE, such as teacher.train.epochs=1")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        parsed = value.strip()
    for name in names[:-1]:
        inner = written.get(name)
        inner = dict(inner) if isinstance(inner, dict) else {}
        written[name] = inner
        written = inner
    written[names[-1]] = parsed


def section_changed(section: str, values: Mapping[str, Any], overrides: Sequence[str], trust: bool) -> dict[str, Any]:
    """One section of a recipe with single keys changed, for a command that uses no other.

    Args:
        section: its name.
        values: what it holds.
        overrides: as "prune.train.epochs=1"; the value is TOML, or else text.
        trust: they may name code.

    Raises:
        UsageError: a key of another section. ConfigError: code that is not trusted.
    """
    written: dict[str, Any] = {section: dict(values)}
    for text in overrides:
        if not re.match(rf"\s*{section}\s*\.", text.partition("=")[0]):
            raise UsageError(f"--set {text!r}: of a recipe this command uses only {section}: write {section}.KEY=VALUE")
        _override(written, text)
    from edgepress.compress.recipes.checks import code_errors

    if overrides and (errors := code_errors(written, trust)):
        raise ConfigError(errors, f"the settings of {section}")
    return written[section]


def parse_recipe(
    written: Mapping[str, Any], subject: str = "the recipe", *, deep: bool = True, trusted: tuple[str, ...] = ()
) -> Recipe:
    """A recipe from a mapping.

    Args:
        written: sections and keys as in the TOML file.
        subject: what to call it in an error.
        deep: also check that network, task, device and limits exist and parse.
        trusted: which of "network", "task" and "code" (losses and metrics) may name code.

    Raises:
        ConfigError: everything that is wrong with it, together.
    """
    try:
        recipe = Recipe.model_validate(dict(written))
    except ValidationError as error:
        # What can be checked of the rest is checked too, so that nothing comes to light one run later.
        errors = [_sentence(problem) for problem in error.errors()]
        raise ConfigError(errors + (_deep_errors(written, trusted) if deep else []), subject) from None
    errors = _deep_errors(written, trusted) if deep else []
    if errors:
        raise ConfigError(errors, subject)
    return recipe


def validated(kind: type[S], values: Mapping[str, Any], subject: str) -> S:
    """One section from a mapping (the command line, a checkpoint).

    Raises:
        ConfigError: everything that is wrong with it, together.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError([_sentence(problem, kind) for problem in error.errors()], subject) from None


def _sentence(problem: Any, kind: type[BaseModel] = Recipe) -> str:
    """One pydantic error as one sentence that names the key, its value and what is allowed."""
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = _keys_at(problem["loc"][:-1], kind)
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        return f"{where} is unknown" + (f": did you mean {near[0]!r}?" if near else f": known are {', '.join(known)}")
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _keys_at(location: tuple[int | str, ...], whole: type[BaseModel]) -> list[str]:
    kind: Any = whole
    for part in location:
        annotation = kind.model_fields[part].annotation if str(part) in kind.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        kind = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
        if kind is None:
            return []
    return list(kind.model_fields)


def _deep_errors(written: Mapping[str, Any], trusted: tuple[str, ...]) -> list[str]:
    """What pydantic cannot know: whether the named things exist and the targets parse."""
    from edgepress.compress.recipes.checks import (
        code_errors,
        device_errors,
        front_end_errors,
        network_errors,
        target_errors,
        task_errors,
        teacher_errors,
    )

    checks = [
        lambda: network_errors(written.get("network"), "network" in trusted),
        lambda: task_errors(written.get("task"), "task" in trusted),
        lambda: device_errors([written.get("device", "dcase2023"), *_list(written, "measure", "devices")]),
        lambda: target_errors(_list(written, "prune", "targets")),
        lambda: front_end_errors(written.get("front_end")),
        lambda: code_errors(written, "code" in trusted),
        lambda: teacher_errors(written.get("teacher"), "network" in trusted),
    ]
    errors: list[str] = []
    for check in checks:
        try:
            errors += check()
        except EdgepressError as error:
            errors.append(str(error))
    return errors


def _list(written: Mapping[str, Any], section: str, key: str) -> list[Any]:
    values = written.get(section)
    values = values.get(key) if isinstance(values, Mapping) else None
    return list(values) if isinstance(values, list | tuple) else []
