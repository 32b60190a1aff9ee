# SPDX-License-Identifier: Apache-2.0
"""`compress train`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgepress.compress.commands.options import (
    DEFAULT_RUN,
    Accelerator,
    BatchSize,
    Data,
    Devices,
    Epochs,
    LearningRate,
    Network,
    Nodes,
    Restart,
    Run,
    Seed,
    Strategy,
    Trust,
    given,
)
from edgepress.compress.pipeline.data import open_task
from edgepress.compress.pipeline.stages import train_stage
from edgepress.models.run_directory import RunDirectory


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file; its network and [train].")] = "default",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    epochs: Epochs = None,
    network: Network = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    trust: Trust = False,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
) -> None:
    """Train the dense network of a recipe; killed, the same command goes on from the last epoch."""
    from edgepress.compress.recipes.recipe import read_recipe
    from edgepress.compress.training.machine import Machine

    checked = read_recipe(
        recipe,
        given({"task": data, "seed": seed}),
        trust=trust,
        sections={
            "train": given({"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}),
            **({"network": {"name": network, "arguments": {}}} if network else {}),
        },
    )
    directory = RunDirectory(run)
    with directory.lock():
        task = open_task(checked.task, checked.front_end, trust=True)
        entry = train_stage(
            directory, checked, task, machine=Machine(accelerator, devices, strategy, nodes), resume=not restart
        )
    print(entry["path"])
