# SPDX-License-Identifier: Apache-2.0
"""`compress init`: a commented recipe for the data that it is pointed at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgepress.compress.commands.options import Overrides, Trust, given
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Recipe
    from edgepress.models.tasks import Task


def init(
    data: Annotated[str, typer.Argument(help="The data: images:DIR, FILE.npz, package.module:factory, ...")],
    device: Annotated[str | None, typer.Option(help="Device class whose limits bind; the recipe's otherwise.")] = None,
    network: Annotated[str | None, typer.Option(help="Another network, by name or package.module:factory.")] = None,
    like: Annotated[
        str | None, typer.Option(help="A recipe to begin with; default: the shipped one for such data.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: NAME.toml of the data.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Allow to replace a file.")] = False,
    overrides: Overrides = None,
    trust: Trust = False,
) -> None:
    """Write a commented recipe for data: read it, change it, then `compress run` it."""
    from edgepress.compress.pipeline.data import open_task
    from edgepress.compress.pipeline.networks import build_for
    from edgepress.compress.recipes.checks import is_code
    from edgepress.compress.recipes.recipe import parse_recipe, read_recipe
    from edgepress.compress.recipes.writing import recipe_text
    from edgepress.models.atomic import write_text
    from edgepress.models.cost.cost import cost_of
    from edgepress.models.tasks.sources.load import SOURCES, split_source
    from edgepress.models.terminal.words import say
    from edgepress.models.units import format_quantity

    prefix, rest = split_source(data)
    base = like or (SOURCES[prefix].recipe if prefix is not None else "images")
    changes = given({"task": data, "device": device})
    sections = {"network": {"name": network, "arguments": {}}} if network else {}
    own = like is not None
    if not own and any(text.partition("=")[0].split(".")[0].strip() == "front_end" for text in overrides or ()):
        own = True
        needed = open_task(data, trust=True).front_end
        sections["front_end"] = needed.to_json() if needed is not None else {}
    recipe = read_recipe(base, changes, sections=sections, overrides=tuple(overrides or ()), trust=trust)
    # A shipped recipe's own front end is for its data; what these need is said in the file.
    task = open_task(data, recipe.front_end if own else None, trust=True)
    if not task.has("train"):
        there = ", ".join(split for split in ("validation", "test") if task.has(split)) or "none"
        raise UsageError(
            f"{data} has no training samples (its splits: {there}), and a recipe trains: say in an array `split` of "
            "the file which samples are for train, validation and test; `benchmarks run` takes it as it is"
        )
    if like is None and not any("augment" in text for text in overrides or ()):
        recipe = _fitting(recipe, task)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(rest or data).stem.partition(":")[0]).strip("-.") or "recipe"
    place = output or Path(f"{name}.toml")
    if place.exists() and not overwrite:
        raise UsageError(f"{place} exists already: choose another name with --output, or add --overwrite")
    # A factory of the user's has its own front end, and may not take another.
    front_end = task.front_end.to_json() if task.front_end is not None and not is_code(data) else None
    recipe = recipe.model_copy(update={"name": name, "summary": "", "task": data, "front_end": front_end})
    model, spec = build_for(recipe.network, task, recipe.seed)
    cost = cost_of(model.eval(), spec.example_inputs())
    clips = ", ".join(f"{len(task.split(one))} of {one}" for one in ("train", "validation", "test") if task.has(one))
    facts = (
        f"{data}: {clips}; {len(task.classes)} classes.\n"
        f"{recipe.network.name} on {' x '.join(map(str, task.input_shape))}: {format_quantity(cost.macs, 'macs')} MACs "
        f"({cost.rule}), {cost.params:,} parameters.\n"
        f"Check it with `compress check {place}`, run it with `compress run {place}`."
    )
    text = recipe_text(recipe, facts)
    parse_recipe(_read(text), f"the recipe for {data}", trusted=("network", "task", "code"))
    write_text(place, text)
    for line in (*facts.splitlines()[:2], *(f"note: {note}" for note in task.notes)):
        say(line)
    print(place)


def _fitting(recipe: Recipe, task: Task) -> Recipe:
    """A shipped recipe without the augmentation of images where the data are none, or labels lie where they were."""
    from edgepress.compress.recipes.sections import Augment

    front_end = task.front_end.to_json() if task.front_end is not None else {}
    images = front_end.get("kind") == "images" if front_end else len(task.input_shape) == 3
    augment = recipe.train.augment
    if (images and task.kind not in ("segmentation", "detection")) or not (
        augment.flip_probability or augment.crop_pixels
    ):
        return recipe
    plain = {"augment": Augment()}
    pruning = recipe.prune.model_copy(update={"train": recipe.prune.train.model_copy(update=plain)})
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=plain), "prune": pruning})


def _read(text: str) -> dict[str, object]:
    import tomllib

    return tomllib.loads(text)
