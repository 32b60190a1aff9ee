# SPDX-License-Identifier: Apache-2.0
"""`compress list`: recipes, networks, tasks, device classes; `compress check`: whether a recipe is valid."""

from __future__ import annotations

import json
import tomllib
from typing import Annotated

import typer

from edgepress.compress.commands.options import Overrides, Trust
from edgepress.models.errors import UsageError


def list_(
    what: Annotated[str, typer.Argument(help="recipes, networks, tasks, devices, keys (of a recipe), or all.")] = "all",
    form: Annotated[str, typer.Option("--format", help="text or json (one object on stdout).")] = "text",
) -> None:
    """What there is: recipes, networks, tasks, device classes."""
    kinds = {"recipes": _recipes, "networks": _networks, "tasks": _tasks, "devices": _devices, "keys": _keys}
    if what != "all" and what not in kinds:
        raise UsageError(f"list = {what!r} is unknown: allowed are {', '.join(kinds)}, all")
    if form not in ("text", "json"):
        raise UsageError(f"--format {form!r} is unknown: allowed are text, json")
    found = {kind: rows() for kind, rows in kinds.items() if what in ("all", kind)}
    if form == "json":
        listed = {kind: [{"name": name, "summary": summary} for name, summary in rows] for kind, rows in found.items()}
        print(json.dumps({"schema": 1, **listed}, indent=1))
        return
    for kind, rows in found.items():
        width = max(len(name) for name, _ in rows)
        print(f"{kind}:")
        for name, summary in rows:
            print(f"  {name:<{width}}  {summary}".rstrip())


def check(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file.")],
    overrides: Overrides = None,
    trust: Trust = False,
) -> None:
    """Check a recipe as a whole and say everything that is wrong with it."""
    from edgepress.compress.recipes.recipe import read_recipe

    checked = read_recipe(recipe, overrides=tuple(overrides or ()), trust=trust)
    data = checked.task or "the --data you give"
    typer.echo(f"{recipe}: a valid recipe ({checked.network.name} on {data}, {len(checked.prune.targets)} budgets)")


def _recipes() -> list[tuple[str, str]]:
    from edgepress.compress.recipes.recipe import shipped_recipes

    return [
        (name, tomllib.loads(path.read_text(encoding="utf-8")).get("summary", ""))
        for name, path in shipped_recipes().items()
    ]


def _tasks() -> list[tuple[str, str]]:
    from edgepress.models.tasks.sources.load import SOURCES

    own = ("package.module:factory", "a function of yours that returns a Task")
    return [*((source.form, source.summary) for source in SOURCES.values()), own]


def _keys() -> list[tuple[str, str]]:
    from edgepress.compress.recipes.keys import keys

    return [
        (f"{section}.{key}" if section else key, f"{kind}: {meaning}" if kind else meaning)
        for section, key, kind, meaning in keys()
    ]


def _networks() -> list[tuple[str, str]]:
    from edgepress.models.checkpoints.registry import zoo

    return [(entry.name, entry.summary) for entry in zoo().values()]


def _devices() -> list[tuple[str, str]]:
    from edgepress.models.devices.classes import device_classes

    return [(name, found.summary) for name, found in device_classes().items()]
