# SPDX-License-Identifier: Apache-2.0
"""Networks with fresh weights that fit a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepress.models.errors import UsageError

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

    shape, classes = tuple(task.input_shape), tuple(task.classes)
    arguments = dict(network.arguments)
    if ":" not in network.name:
        arguments = {**fit_arguments(network.name, shape, len(classes)), **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_network(network.name, arguments)
    spec = ModelSpec(
        network.name,
        arguments,
        (shape,),
        classes=classes,
        front_end=task.front_end.to_json() if task.front_end is not None else None,
    )
    with torch.no_grad():
        try:
            outputs = tuple(model.eval()(*spec.example_inputs()).shape)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UsageError(
                f"network {network.name} does not take the inputs of task {task.name}, "
                f"{' x '.join(map(str, shape))}: {error}"
            ) from error
    if outputs != (1, len(classes)):
        raise UsageError(
            f"network {network.name} gives outputs of shape {outputs}, but the task {task.name} has "
            f"{len(classes)} classes; set network.arguments"
        )
    return model.train(), spec
