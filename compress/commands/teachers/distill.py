# SPDX-License-Identifier: Apache-2.0
"""`compress distill`: a student that follows a teacher or an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgepress.compress.commands.options import (
    DEFAULT_RUN,
    LOGGERS,
    Accelerator,
    BatchSize,
    Data,
    Devices,
    Epochs,
    Form,
    LearningRate,
    Logger,
    Logits,
    Network,
    Nodes,
    Overrides,
    Restart,
    Run,
    Seed,
    Strategy,
    Teacher,
    Temperature,
    Trust,
    Weight,
    given,
)
from edgepress.compress.pipeline.data import task_of, task_of_recipe
from edgepress.compress.pipeline.entries import recipe_of
from edgepress.compress.pipeline.stages import train_stage
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    from edgepress.compress.teach import teachers


def distill(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe or a file; its network and [train].")] = None,
    teacher: Teacher = None,
    student: Annotated[
        Path | None, typer.Option(help="Go on with this checkpoint, instead of the recipe's network.")
    ] = None,
    form: Form = None,
    temperature: Temperature = None,
    weight: Weight = None,
    logits: Logits = None,
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
    """Train a student under a teacher: a given one, else the run's newest ensemble, else its newest teacher."""
    from edgepress.compress.pipeline.teaching import student_stage
    from edgepress.compress.recipes.recipe import Distill, TrainSettings, read_recipe, validated
    from edgepress.compress.training.machine import Machine

    if student is not None and (recipe or network or overrides):
        raise UsageError(f"give either --student {student}, or a recipe whose network is trained from the beginning")
    directory, machine = RunDirectory(run), Machine(accelerator, devices, strategy, nodes, loggers=tuple(logger))
    following = given({"form": form, "temperature": temperature, "weight": weight, "logits": logits})
    training = given({"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate})
    with directory.lock():
        followed = find_teacher(directory, teacher, trust)
        if student is None:
            changes = given({"task": data, "seed": seed})
            checked = read_recipe(
                recipe or "default",
                changes,
                overrides=tuple(overrides or ()),
                trust=trust,
                sections={
                    "train": training,
                    **({"network": {"name": network, "arguments": {}}} if network else {}),
                },
            )
            base = checked.distill or Distill()
            checked = checked.model_copy(
                update={"distill": validated(Distill, {**base.model_dump(), **following}, "the settings of distill")}
            )
            task = task_of_recipe(checked)
            entry = train_stage(
                directory, checked, task, machine=machine, name="distilled", resume=not restart, teacher=followed
            )
        else:
            found = recipe_of(student, trust=trust)
            base = (found.distill or found.prune.distill if found else None) or Distill()
            settings = validated(
                TrainSettings,
                {**(found.train if found else TrainSettings()).model_dump(), **training},
                "the settings of the training",
            )
            task = task_of(student, data, trust=trust)
            if task is None:
                raise UsageError(f"{student} names no task: give --data")
            entry = student_stage(
                directory,
                student,
                settings,
                validated(Distill, {**base.model_dump(), **following}, "the settings of distill"),
                followed,
                task,
                seed=seed if seed is not None else found.seed if found else 0,
                machine=machine,
                trust=trust,
                resume=not restart,
            )
    print(entry["path"])


def find_teacher(directory: RunDirectory, path: Path | None, trust: bool) -> teachers.Teacher:
    """The named teacher, else the newest ensemble of the run, else its newest teacher.

    Raises:
        UsageError: there is none.
    """
    from edgepress.compress.teach.teachers import open_teacher

    if path is None:
        kind = "ensemble" if directory.entries("ensemble") else "teacher"
        path = Path(directory.newest(kind, wanted="teacher", first="compress teach")["path"])
        say(f"teacher: {path}")
    return open_teacher(path, trust=trust)
