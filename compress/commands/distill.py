"""`compress distill`: a student that follows a teacher or an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.compress.commands.train import given
from edgepress.compress.pipeline.data import open_task, task_of
from edgepress.compress.pipeline.entries import recipe_of
from edgepress.compress.pipeline.progress import say
from edgepress.compress.pipeline.stages import train_stage
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory


def run_distill(
    recipe: str | None,
    *,
    teacher: Path | None,
    student: Path | None,
    distill: dict[str, Any],
    data: str | None,
    run: Path,
    seed: int | None,
    network: str | None,
    train: dict[str, Any],
    restart: bool,
    trust: bool,
    machine: tuple[str, str, str, int],
) -> None:
    """Train a recipe's network, or go on with a checkpoint, under a teacher; prints the new checkpoint's path.

    Raises:
        UsageError: no teacher in the run, a teacher of other classes, or one that cannot run online on these inputs.
    """
    from edgepress.compress.pipeline.teaching import student_stage
    from edgepress.compress.recipes.recipe import Distill, TrainSettings, read_recipe, validated
    from edgepress.compress.training.machine import Machine

    if student is not None and (recipe or network):
        raise UsageError(f"give either --student {student}, or a recipe whose network is trained from the beginning")
    directory, options = RunDirectory(run), Machine(*machine)
    with directory.lock():
        followed = find_teacher(directory, teacher, trust)
        if student is None:
            changes = given({"task": data, "seed": seed})
            checked = read_recipe(
                recipe or "default",
                changes,
                trust=trust,
                sections={
                    "train": given(train),
                    **({"network": {"name": network, "arguments": {}}} if network else {}),
                },
            )
            base = checked.distill or Distill()
            checked = checked.model_copy(
                update={
                    "distill": validated(Distill, {**base.model_dump(), **given(distill)}, "the settings of distill")
                }
            )
            task = open_task(checked.task, checked.front_end, trust=True)
            entry = train_stage(
                directory, checked, task, machine=options, name="distilled", resume=not restart, teacher=followed
            )
        else:
            found = recipe_of(student)
            base = (found.distill or found.prune.distill if found else None) or Distill()
            settings = validated(
                TrainSettings,
                {**(found.train if found else TrainSettings()).model_dump(), **given(train)},
                "the settings of the training",
            )
            task = task_of(student, data, trust=trust)
            if task is None:
                raise UsageError(f"{student} names no task: give --data")
            entry = student_stage(
                directory,
                student,
                settings,
                validated(Distill, {**base.model_dump(), **given(distill)}, "the settings of distill"),
                followed,
                task,
                seed=seed if seed is not None else found.seed if found else 0,
                machine=options,
                trust=trust,
                resume=not restart,
            )
    print(entry["path"])


def find_teacher(directory: RunDirectory, path: Path | None, trust: bool) -> Any:
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
