# SPDX-License-Identifier: Apache-2.0
"""How long a task of a sweep will take, from a few steps of its own network."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Recipe
    from edgepress.models.tasks import Task

#: Export, benchmarks and imports of one network, in seconds of one core: a demo run's median.
FIXED_SECONDS = 20.0
#: What following a teacher costs beside the student's own step: a forward pass beside a forward and two backward ones.
TEACHER_FACTOR = 4 / 3


def seconds_per_clip(recipe: Recipe, task: Task, batch: int = 16) -> float:
    """Training time of the recipe's dense network for one clip, on this machine with the threads of this process."""
    import torch
    import torch.nn.functional as F

    from edgepress.compress.pipeline.networks import build_for
    from edgepress.compress.training.machine import channels_last

    model, spec = build_for(recipe.network, task, recipe.seed)
    channels_last(model)
    (inputs,) = spec.example_inputs(batch)
    labels = torch.zeros(batch, dtype=torch.int64)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        F.cross_entropy(model(inputs), labels).backward()
        taken.append(time.perf_counter() - began)
    return min(taken[1:]) / batch


def task_seconds(recipe: Recipe, clips: int, per_clip: float, *, dense: bool, dense_given: bool) -> float:
    """Time of a task on one core.

    Args:
        recipe: with the budgets of this task.
        clips: in the training split.
        per_clip: see `seconds_per_clip`; smaller networks are counted like the dense one, so that this is an upper end.
        dense: only the dense training.
        dense_given: everything but the dense training.
    """
    epoch = clips * per_clip
    train = recipe.train.epochs * epoch
    if dense:
        return train + FIXED_SECONDS / 2
    budgets = len(recipe.prune.targets)
    prune = recipe.prune.train.epochs * epoch * (TEACHER_FACTOR if recipe.prune.distill else 1)
    qat = recipe.quantize.train.epochs * epoch * (TEACHER_FACTOR if recipe.quantize.distill else 1)
    return (0 if dense_given else train) + budgets * prune + (budgets + 1) * (qat + FIXED_SECONDS)
