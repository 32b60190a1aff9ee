# SPDX-License-Identifier: Apache-2.0
"""A sweep: the grid of recipes x budgets x seeds x device classes as tasks, each a `compress run` of its own.

    recipes = ["default"]
    budgets = ["30M", "20M"]          # none: the targets of the recipe, in one task
    seeds = [0, 1]
    devices = ["dcase2023"]           # none: the class of the recipe
    data = "synthetic"                # none: the task of the recipe

Tasks with the same recipe and seed share their dense network: it is trained once, before them, and copied into their
run directories, where `compress run` finds it finished.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import ConfigError, UsageError
from edgepress.models.files.reading import read_toml

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Recipe

_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Grid:
    """What a sweep goes over; every combination is one task.

    Attributes:
        recipes: shipped names or files.
        budgets: MACs, "20M" or "50%"; empty: the targets of each recipe, together in one task.
        seeds: empty: the seed of each recipe.
        devices: device classes; empty: that of each recipe.
        data: the task for all; None: that of each recipe.
    """

    recipes: tuple[str, ...]
    budgets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    data: str | None = None


@dataclass(frozen=True)
class SweepTask:
    """One `compress run`, or the `compress train` that several of them share.

    Attributes:
        name: of its run directory, FOLDER/tasks/NAME or FOLDER/dense/NAME.
        recipe, budget, seed, device, data: as in `Grid`; None where the recipe decides.
        dense: name of the shared dense training to wait for, or None.
        kind: "run" or "dense".
        trust: the recipe may name code.
        overrides: keys of the recipe, "train.epochs=1".
    """

    name: str
    recipe: str
    budget: str | None
    seed: int | None
    device: str | None
    data: str | None
    dense: str | None = None
    kind: str = "run"
    trust: bool = False
    overrides: tuple[str, ...] = ()

    def folder(self, sweep: Path) -> Path:
        """Its run directory."""
        return sweep / ("dense" if self.kind == "dense" else "tasks") / self.name

    def arguments(self, run: Path) -> list[str]:
        """The command after `compress`, without what says where it runs."""
        words = ["train" if self.kind == "dense" else "run", self.recipe, "--run", str(run)]
        options = {"--data": self.data, "--seed": self.seed}
        if self.kind == "run":
            options |= {"--target": self.budget, "--device": self.device}
            words += ["--no-report"]
        for option, value in options.items():
            words += [option, str(value)] if value is not None else []
        words += [word for text in self.overrides for word in ("--set", text)]
        return words + (["--trust"] if self.trust else [])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "overrides": list(self.overrides)}


def read_grid(path: Path) -> Grid:
    """A grid from a TOML file.

    Raises:
        ConfigError: no TOML, an unknown key, or a value of the wrong kind, all of them together.
    """
    try:
        written = read_toml(path)
    except UsageError as error:
        raise ConfigError([str(error)], f"grid {path}") from error
    return make_grid(written, f"grid {path}")


def make_grid(written: Mapping[str, Any], subject: str) -> Grid:
    """A grid from a mapping; see `read_grid`."""
    known = [field.name for field in fields(Grid)]
    errors = [f"{key} is unknown: known are {', '.join(known)}" for key in written if key not in known]
    values: dict[str, Any] = {}
    for key, kind in (("recipes", str), ("budgets", str), ("seeds", int), ("devices", str)):
        given = written.get(key, ())
        good = isinstance(given, list | tuple) and all(type(value) is kind for value in given)
        if not good:
            errors.append(f"{key} = {given!r} must be a list of {'whole numbers' if kind is int else 'texts'}")
        elif len(set(given)) != len(given):
            errors.append(f"{key} = {list(given)} names something twice")
        else:
            values[key] = tuple(given)
    if not errors and not values["recipes"]:
        errors.append('recipes is missing: name at least one, such as recipes = ["default"]')
    if not isinstance(written.get("data"), str | None):
        errors.append(f"data = {written['data']!r} must be text")
    if errors:
        raise ConfigError(errors, subject)
    return Grid(**values, data=written.get("data"))


def plan(
    grid: Grid, *, trust: bool = False, overrides: tuple[str, ...] = ()
) -> tuple[list[SweepTask], dict[str, Recipe]]:
    """Every task of a grid, the shared dense trainings first, and its recipe by the task's name.

    `overrides` ("train.epochs=1") change keys of every recipe.

    Raises:
        ConfigError: everything that is wrong with any of the recipes, together.
    """
    from edgepress.compress.pipeline.provenance import source_of
    from edgepress.compress.recipes.checks import code_errors, is_code
    from edgepress.compress.recipes.recipe import read_recipe

    errors: list[str] = []
    runs: list[SweepTask] = []
    recipes: dict[str, Recipe] = {}
    for source, budget, seed, device in itertools.product(
        grid.recipes, grid.budgets or (None,), grid.seeds or (None,), grid.devices or (None,)
    ):
        changes = {
            key: value for key, value in (("task", grid.data), ("seed", seed), ("device", device)) if value is not None
        }
        sections = {"prune": {"targets": [budget]}} if budget is not None else {}
        try:
            recipe = read_recipe(source, changes, sections=sections, overrides=overrides, trust=trust)
        except UsageError as error:
            errors += [text for text in (getattr(error, "errors", None) or [str(error)]) if text not in errors]
            continue
        if recipe.task is None:
            errors.append(f'recipe {source} names no data: give data = "..."')
            continue
        parts = [Path(source).stem, budget, device, f"seed{recipe.seed}"]
        name = "-".join(_NAME.sub("-", part.replace("%", "pct")) for part in parts if part)
        if name in recipes:
            errors.append(f"two recipes are called {Path(source).stem!r}: rename one of the files")
        code = is_code(recipe.network.name) or is_code(recipe.task) or bool(code_errors(recipe.model_dump(), False))
        runs.append(
            SweepTask(
                name,
                str(Path(source).resolve()) if Path(source).is_file() else source,
                budget,
                recipe.seed,
                device,
                source_of(recipe.task),
                trust=trust and code,
                overrides=overrides,
            )
        )
        recipes[name] = recipe
    if errors:
        raise ConfigError(list(dict.fromkeys(errors)), "the sweep")
    return _with_dense(runs, recipes), recipes


def _with_dense(runs: list[SweepTask], recipes: dict[str, Recipe]) -> list[SweepTask]:
    """The shared trainings in front, and every task of a group told to wait for its own."""
    groups: dict[tuple[Any, ...], list[SweepTask]] = {}
    for task in runs:
        groups.setdefault((task.recipe, task.seed), []).append(task)
    first, then = [], []
    for (recipe, seed), group in groups.items():
        shared = None
        if len(group) > 1:
            shared = SweepTask(
                _NAME.sub("-", f"{Path(recipe).stem}-seed{seed}"),
                recipe,
                None,
                seed,
                None,
                group[0].data,
                kind="dense",
                trust=group[0].trust,
                overrides=group[0].overrides,
            )
            first.append(shared)
            recipes[f"dense/{shared.name}"] = recipes[group[0].name]
        then += [SweepTask(**{**asdict(task), "dense": shared.name if shared else None}) for task in group]
    return [*first, *then]
