# SPDX-License-Identifier: Apache-2.0
"""What `compress run` would do, stage by stage, and about how long each takes on this machine; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepress.compress.pipeline.experiments import ALPHAS, LAMBDAS
from edgepress.compress.sweep.estimate import FIXED_SECONDS, TEACHER_FACTOR, seconds_per_clip

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Recipe
    from edgepress.models.tasks import Task


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: what it makes.
        what: how, for people.
        seconds: about how long, with the threads of this process.
    """

    name: str
    what: str
    seconds: float


def stages_of(recipe: Recipe, timed: Callable[[Recipe, Task, int], float] = seconds_per_clip) -> list[Stage]:
    """The stages of a recipe in their order.

    A few steps of the student and of a teacher are timed; pruned networks are counted like the dense one, so that the
    sum is an upper end. Shares of targets and budgets that the dense network keeps already are not looked into.

    Args:
        recipe: with its task.
        timed: seconds of training for one clip, of (recipe, task, clips of a step).

    Raises:
        UsageError: the data are missing or bad.
    """
    from edgepress.compress.pipeline.data import open_task, task_of_recipe
    from edgepress.compress.pipeline.teaching import teacher_settings

    stages: list[Stage] = []
    if recipe.teacher is not None:
        settings = teacher_settings(recipe)
        task = open_task(recipe.task, settings.front_end, trust=True)
        assert settings.network is not None
        clips = len(task.split("train"))
        per_clip = timed(recipe.model_copy(update={"network": settings.network}), task, 2)
        # After its training it is run once over the clips: a forward pass beside a forward and two backward ones.
        own = clips * per_clip * (settings.train.epochs + 1 / 3)
        stages += [
            Stage(f"teacher-{number + 1}", _training(settings.network.name, settings.train.epochs, clips), own)
            for number in range(settings.count)
        ]
        if settings.experiments:
            # The teachers without the contrastive term, and Figure 2's nine points less the recipe's own.
            more = settings.count + len(ALPHAS) + len(LAMBDAS) - 2
            stages.append(Stage("experiments", f"{more} more teachers, for Table 1 and Figure 2", more * own))
        if settings.count > 1:
            stages.append(Stage("ensemble", f"generalised mean of {settings.count}, {settings.mode}", FIXED_SECONDS))
    task = task_of_recipe(recipe)
    clips = len(task.split("train"))
    epoch = clips * timed(recipe, task, 16)
    online = recipe.distill is not None and recipe.teacher is not None and recipe.distill.logits == "online"
    stages.append(
        Stage(
            "dense",
            _training(recipe.network.name, recipe.train.epochs, clips),
            recipe.train.epochs * epoch * (TEACHER_FACTOR if online else 1),
        )
    )
    prune, quantize = recipe.prune, recipe.quantize
    for target in recipe.prune.targets:
        stages.append(
            Stage(
                f"prune to {target if isinstance(target, str) else ', '.join(target.values())}",
                f"{prune.method}, projection {prune.projection}, {prune.train.epochs} epochs",
                prune.train.epochs * epoch * (TEACHER_FACTOR if prune.distill else 1),
            )
        )
    count = len(recipe.prune.targets) + 1
    if recipe.adapt is not None:
        own_clips = _clips_of_devices(recipe, task)
        bases = max(1, len(recipe.prune.targets))
        for device, number in own_clips.items():
            what = f"{recipe.adapt.train.epochs} epochs of {number:,} samples" + (
                f", {bases} times" if bases > 1 else ""
            )
            seconds = bases * recipe.adapt.train.epochs * number * epoch / clips
            stages.append(Stage(f"device {device}", what, seconds))
        count += bases * len(own_clips)
    kind = f"{quantize.train.epochs} epochs of training" if quantize.train.epochs else "after training"
    each = quantize.train.epochs * epoch * (TEACHER_FACTOR if quantize.distill else 1)
    stages.append(Stage("int8", f"{count} networks, {quantize.scheme}, {kind}", count * each))
    measured = ", ".join((*recipe.measure.formats, *recipe.measure.runtimes)) or "nothing"
    stages.append(Stage("files", f"export and measure: {measured}", count * FIXED_SECONDS))
    if recipe.measure.submission:
        stages.append(Stage("submission", "the package of the challenge, checked", FIXED_SECONDS))
    return stages


def _clips_of_devices(recipe: Recipe, task: Task) -> dict[str, int]:
    """Training clips of every recording device that gets a network of its own."""
    assert recipe.adapt is not None
    found = Counter(task.split("train").devices or ())
    wanted = recipe.adapt.devices or sorted(found)
    return {device: found[device] for device in wanted if found[device] >= recipe.adapt.min_clips}


def text_of(stages: Sequence[Stage]) -> str:
    """A line for each stage, and the sum."""
    width = max(len(stage.name) for stage in stages)
    lines = [f"{stage.name:<{width}}  {duration(stage.seconds):>9}  {stage.what}" for stage in stages]
    total = duration(sum(stage.seconds for stage in stages))
    return "\n".join(
        [*lines, f"about {total} on this machine, at most: a few steps of each kind of network were timed"]
    )


def duration(seconds: float) -> str:
    """Minutes below an hour and a half, else hours, else days."""
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} d"
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"


def _training(network: str, epochs: int, clips: int) -> str:
    return f"train {network}: {epochs} epochs of {clips:,} samples"
