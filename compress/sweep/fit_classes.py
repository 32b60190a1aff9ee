# SPDX-License-Identifier: Apache-2.0
"""`compress fit` on Ray: a task for each device class, all in one run directory on a disk that they share.

The stages of a run are known by keys of their inputs, so that what a task finished is found by whoever asks for it
next: nothing has to be collected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepress.compress.pipeline.data import open_task
from edgepress.compress.pipeline.fit import fitted_networks, wanted_limits
from edgepress.compress.pipeline.provenance import source_of
from edgepress.compress.sweep.cluster import Resources, connected, task_options
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Recipe
    from edgepress.compress.training.machine import Machine
    from edgepress.models.tasks import Task


def side_by_side(
    run: RunDirectory, recipe: Recipe, task: Task, machine: Machine, resources: Resources
) -> dict[str, str]:
    """Prune and quantize for every class that needs it, each in a Ray task, into this run directory.

    Teachers and the dense network are made before, here and once. What a task did not finish, `fitted_networks` does
    afterwards in this process, and raises what is wrong with it.

    Args:
        run: on a disk that all machines of the cluster share.

    Returns:
        Device class -> "done", or why its task failed.

    Raises:
        RuntimeFailure: there is no Ray here, or no cluster at the address.
        UsageError: no machine is large enough for a task.
    """
    # A worker may have another working directory.
    recipe = recipe.model_copy(update={"task": source_of(recipe.task or "")})
    (shared,) = fitted_networks(run, _for_classes(recipe, ()), task, machine)
    devices = list(wanted_limits(shared["float"], recipe.measure.devices))
    ended: dict[str, str] = {}
    if not devices:
        return ended
    with connected(resources.address) as ray:
        options = task_options(ray.cluster_resources(), resources, len(devices))
        accelerator = "gpu" if options["num_gpus"] else "cpu"
        remote = ray.remote(**options)(_fit_class)
        where = str(run.path.resolve())
        running = {
            remote.remote(where, _for_classes(recipe, (device,)), accelerator, options["num_cpus"]): device
            for device in devices
        }
        while running:
            finished, _ = ray.wait(list(running), num_returns=1)
            for one in finished:
                device = running.pop(one)
                try:
                    ray.get(one)
                    ended[device] = "done"
                except Exception as error:  # whatever ended one task: the others go on, and this one is made here
                    ended[device] = str(error).strip().splitlines()[-1]
                say(f"{device}: {ended[device]}, {len(running)} to go")
    return ended


def _for_classes(recipe: Recipe, devices: Sequence[str]) -> Recipe:
    measure = recipe.measure.model_copy(update={"devices": tuple(devices)})
    return recipe.model_copy(update={"measure": measure})


def _fit_class(run: str, recipe: Recipe, accelerator: str, threads: int) -> None:
    """In a Ray task: the stages of one class; its lock is held by who started the task."""
    import torch

    from edgepress.compress.training.machine import Machine

    torch.set_num_threads(max(1, int(threads)))
    task = open_task(recipe.task, recipe.front_end, trust=True)
    fitted_networks(RunDirectory(run), recipe, task, Machine(accelerator, "1", "auto", 1))
