# SPDX-License-Identifier: Apache-2.0
"""`compress train`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgepress.compress.commands.options import (
    DEFAULT_RUN,
    LOGGERS,
    Accelerator,
    BatchSize,
    Data,
    Devices,
    Epochs,
    LearningRate,
    Logger,
    Network,
    Nodes,
    Overrides,
    Restart,
    Run,
    Seed,
    Strategy,
    Trust,
    given,
)
from edgepress.compress.pipeline.data import task_of_recipe
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
    overrides: Overrides = None,
    trust: Trust = False,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
    logger: Logger = LOGGERS,
) -> None:
    """Train the dense network of a recipe; killed, the same command goes on from the last epoch."""
    from edgepress.compress.recipes.recipe import read_recipe
    from edgepress.compress.training.machine import Machine

    checked = read_recipe(
        recipe,
        given({"task": data, "seed": seed}),
        overrides=tuple(overrides or ()),
        trust=trust,
        sections={
            "train": given({"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}),
            **({"network": {"name": network, "arguments": {}}} if network else {}),
        },
    )
    directory = RunDirectory(run)
    with directory.lock():
        task = task_of_recipe(checked)
        entry = train_stage(
            directory,
            checked,
            task,
            machine=Machine(accelerator, devices, strategy, nodes, loggers=tuple(logger)),
            resume=not restart,
        )
    print(entry["path"])
