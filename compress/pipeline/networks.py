# SPDX-License-Identifier: Apache-2.0
"""Networks with fresh weights that fit a task."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import UsageError
from edgepress.models.tasks.kinds.table import kind_of

if TYPE_CHECKING:
    from torch import nn

    from edgepress.compress.recipes.recipe import NetworkSettings
    from edgepress.models.checkpoints.spec import ModelSpec
    from edgepress.models.tasks import Task


def build_for(network: NetworkSettings, task: Task, seed: int) -> tuple[nn.Module, ModelSpec]:
    """A network with fresh weights that fits the task: its channels and classes unless the recipe gives them.

    Raises:
        UsageError: unknown network or arguments, or it does not fit the task.
    """
    import torch

    from edgepress.models.checkpoints.registry import fit_arguments, make_network
    from edgepress.models.checkpoints.spec import ModelSpec

    shape, classes, wanted = tuple(task.input_shape), tuple(task.classes), task.output_shape
    arguments = dict(network.arguments)
    if ":" not in network.name:
        arguments = {**fit_arguments(network.name, shape, wanted[0] if wanted else len(classes)), **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_network(network.name, arguments)
    spec = ModelSpec(
        network.name,
        arguments,
        (shape,),
        classes=classes,
        front_end=task.front_end.to_json() if task.front_end is not None else None,
        kind=task.kind,
    )
    with torch.no_grad():
        try:
            outputs = model.eval()(*spec.example_inputs())
        except (RuntimeError, TypeError, ValueError) as error:
            raise UsageError(
                f"network {network.name} does not take the inputs of task {task.name}, "
                f"{' x '.join(map(str, shape))}: {error}"
            ) from error
    if problem := _misfit(outputs, task):
        raise UsageError(f"network {network.name} {problem}; set network.arguments, or network.name")
    return model.train(), spec


def _misfit(outputs: Any, task: Task) -> str:
    """What is wrong with a network's outputs of one sample, "" where they fit the task."""
    kind, wanted = kind_of(task.kind), task.output_shape
    if isinstance(outputs, (tuple, list)):
        return "" if kind.all_outputs else f"gives {len(outputs)} outputs, but a task of {kind.name} takes one"
    made = tuple(outputs.shape)[1:]
    said = " x ".join(map(str, made)) or "one number"
    if wanted is not None and made != wanted:
        return f"gives outputs of {said}, but the task {task.name} ({kind.name}) takes {' x '.join(map(str, wanted))}"
    if kind.name == "anomaly" and math.prod(made) not in (1, math.prod(task.input_shape)):
        return (
            f"gives outputs of {said}, but the task {task.name} (anomaly) takes a reconstruction of its inputs "
            f"({' x '.join(map(str, task.input_shape))}), or one score"
        )
    return ""
