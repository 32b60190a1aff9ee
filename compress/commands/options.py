# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, each with one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.models.run_directory import DEFAULT_RUN as DEFAULT_RUN

Run = Annotated[Path, typer.Option("--run", help="Run directory that collects what is made.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="synthetic[:SEED], images:DIR, DIR, FILE.npz, package.module:factory, ...: `compress list tasks`.",
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of weights, order and augmentation.")]
Epochs = Annotated[int | None, typer.Option(min=0, help="Epochs in all; the recipe's otherwise.")]
Accelerator = Annotated[str, typer.Option(help="Lightning's accelerator: auto, cpu, gpu, ...")]
Devices = Annotated[str, typer.Option(help="Lightning's devices: auto, a count, or a list such as 0,1.")]
Strategy = Annotated[str, typer.Option(help="Lightning's strategy: auto, ddp, ddp_spawn, fsdp, ...")]
Nodes = Annotated[int, typer.Option(min=1, help="Machines that take part.")]
Logger = Annotated[
    list[str],
    typer.Option(help="tensorboard, csv, mlflow, wandb (offline unless WANDB_MODE=online) or none; may be repeated."),
]
LOGGERS = ["tensorboard"]
Trust = Annotated[bool, typer.Option("--trust", help="Allow a checkpoint or recipe to name code outside edgepress.")]
Teacher = Annotated[Path | None, typer.Option(help="A checkpoint or an ensemble to follow.")]
Form = Annotated[str | None, typer.Option("--form", help="Of the distillation loss: 2022 or 2023.")]
Temperature = Annotated[float | None, typer.Option(help="Of the softened distributions.")]
Weight = Annotated[float | None, typer.Option(help="Of the teacher in the loss.")]
Logits = Annotated[str | None, typer.Option(help="online (on the student's input), or cached (once per clip).")]
Network = Annotated[str | None, typer.Option(help="Another network, by name or package.module:factory.")]
BatchSize = Annotated[int | None, typer.Option(min=2, help="Clips per step.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak of the schedule.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE of the recipe, such as train.epochs=5; may be repeated."),
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin again instead of going on from a killed training.")]


def given(values: dict[str, Any]) -> dict[str, Any]:
    """What the command line gave, without what it left out."""
    return {name: value for name, value in values.items() if value is not None}
