# SPDX-License-Identifier: Apache-2.0
"""The task of a stage: opened, fitted to a checkpoint, its calibration batches, the splits that are reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.checkpoints.checkpoint import read_spec
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch

    from edgepress.compress.recipes.recipe import Recipe
    from edgepress.models.tasks import Task


def open_task(source: str | None, front_end: Mapping[str, Any] | str | None = None, *, trust: bool = False) -> Task:
    """`load_task`, with the front end by name or by its fields.

    Raises:
        UsageError: no source, or what `load_task` raises.
    """
    if source is None:
        raise UsageError("the recipe names no data: set the key task, or give --data images:DIR, --data FILE.npz, ...")
    from edgepress.compress.recipes.checks import resolve_front_end
    from edgepress.models.tasks import load_task

    return load_task(source, front_end=resolve_front_end(front_end), trust=trust)


def task_of_recipe(recipe: Recipe) -> Task:
    """The task of a checked recipe, with its own metrics; code that it names was allowed when it was read.

    Raises:
        UsageError: what `open_task` raises, or a metric that is not there.
    """
    from edgepress.models.tasks.kinds.evaluation import own_metrics
    from edgepress.models.terminal.words import say

    task = open_task(recipe.task, recipe.front_end, trust=True)
    for note in task.notes:
        say(f"note: {note}")
    return replace(task, metrics={**task.metrics, **own_metrics(recipe.measure.metrics)})


def task_of(checkpoint: Path, data: str | None, *, trust: bool) -> Task | None:
    """The task that a checkpoint is worked on with: the data that a command names, else what it was trained on.

    Args:
        checkpoint: whose front end the clips go through.
        data: what the user typed, which may name code; None takes what the checkpoint says.
        trust: the checkpoint may name code too.

    Raises:
        UsageError: the data are missing or damaged, or give other inputs or classes than the network knows.
    """
    source = data or task_source(checkpoint)
    if source is None:
        return None
    from edgepress.models.tasks.sources.load import front_end_for, load_task

    task = load_task(source, front_end=front_end_for(source, front_end_of(checkpoint)), trust=trust or data is not None)
    check_fits(checkpoint, task)
    return task


def task_source(checkpoint: Path) -> str | None:
    """The source of the task that a checkpoint was trained on, or None where it does not say."""
    return read_spec(checkpoint).task


def front_end_of(checkpoint: Path) -> dict[str, Any] | None:
    """The fields of the front end that a checkpoint was trained on, or None for a task's own features."""
    return read_spec(checkpoint).front_end


def check_fits(checkpoint: Path, task: Task) -> None:
    """That a task gives what the network of the checkpoint takes.

    Raises:
        UsageError: other inputs, or other classes.
    """
    spec = read_spec(checkpoint)
    if spec.input_shapes != (tuple(task.input_shape),):
        raise UsageError(
            f"{checkpoint} takes inputs of shape {spec.input_shapes}, but the task {task.name} gives "
            f"{tuple(task.input_shape)}; choose the --data that it was trained on"
        )
    if spec.classes and spec.classes != tuple(task.classes):
        raise UsageError(
            f"{checkpoint} knows the classes {', '.join(spec.classes)}, but the task {task.name} has "
            f"{', '.join(task.classes)}; choose the --data that it was trained on"
        )


def calibration_batches(task: Task, clips: int) -> list[tuple[torch.Tensor]]:
    """Tuples of one tensor [<= 32, *input_shape], from the task's calibration split, evenly spread over it."""
    import numpy as np
    import torch

    features = task.features("calibration" if task.has("calibration") else "train")
    chosen = np.unique(np.linspace(0, len(features) - 1, min(clips, len(features))).astype(int))
    return [
        (torch.from_numpy(np.ascontiguousarray(features[part])),)
        for part in np.array_split(chosen, -(-len(chosen) // 32))
    ]


def evaluated_splits(task: Task) -> list[str]:
    """The splits that accuracy is reported on."""
    return [split for split in ("validation", "test") if task.has(split)]
