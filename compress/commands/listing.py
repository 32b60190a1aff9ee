# SPDX-License-Identifier: Apache-2.0
"""`compress list`: recipes, networks, tasks, device classes; `compress check`: whether a recipe is valid."""

from __future__ import annotations

import tomllib
from typing import Annotated

import typer

from edgepress.compress.commands.options import Trust
from edgepress.models.errors import UsageError

_TASKS = (
    ("synthetic[:seed]", "scenes generated from a seed, ten classes, nine recording devices; the default"),
    ("DIR", "a folder in the layout of TAU Urban Acoustic Scenes 2022 Mobile"),
    ("FILE.npz", "arrays x and y, optionally device, names, labels"),
    ("package.module:factory", "a function of yours that returns a Task"),
)


def list_(
    what: Annotated[str, typer.Argument(help="recipes, networks, tasks, devices, or all of them.")] = "all",
) -> None:
    """What there is: recipes, networks, tasks, device classes."""
    kinds = {"recipes": _recipes, "networks": _networks, "tasks": lambda: list(_TASKS), "devices": _devices}
    if what != "all" and what not in kinds:
        raise UsageError(f"list = {what!r} is unknown: allowed are {', '.join(kinds)}, all")
    for kind, rows in kinds.items():
        if what not in ("all", kind):
            continue
        found = rows()
        width = max(len(name) for name, _ in found)
        print(f"{kind}:")
        for name, summary in found:
            print(f"  {name:<{width}}  {summary}".rstrip())


def check(recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file.")], trust: Trust = False) -> None:
    """Check a recipe as a whole and say everything that is wrong with it."""
    from edgepress.compress.recipes.recipe import read_recipe

    checked = read_recipe(recipe, trust=trust)
    data = checked.task or "the --data you give"
    typer.echo(f"{recipe}: a valid recipe ({checked.network.name} on {data}, {len(checked.prune.targets)} budgets)")


def _recipes() -> list[tuple[str, str]]:
    from edgepress.compress.recipes.recipe import shipped_recipes

    return [
        (name, tomllib.loads(path.read_text(encoding="utf-8")).get("summary", ""))
        for name, path in shipped_recipes().items()
    ]


def _networks() -> list[tuple[str, str]]:
    from edgepress.models.checkpoints.registry import zoo

    return [(entry.name, entry.summary) for entry in zoo().values()]


def _devices() -> list[tuple[str, str]]:
    from edgepress.models.devices.classes import device_classes

    return [(name, found.summary) for name, found in device_classes().items()]
