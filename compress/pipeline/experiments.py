# SPDX-License-Identifier: Apache-2.0
"""The report's experiments on teachers: both halves of its Table 1, and the sweeps of its Figure 2.

The teachers of the recipe's [teacher] and their ensemble are the left half; the right half is the same without the
contrastive term. Figure 2 has one teacher for each alpha at the lambda of the recipe, and for each lambda at its alpha.
What was trained before, is taken; experiments.json of the run holds the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.compress.pipeline.data import evaluated_splits, open_task
from edgepress.compress.pipeline.teaching import ensemble_stage, teacher_settings, teacher_stage
from edgepress.models.atomic import write_json
from edgepress.models.checkpoints.checkpoint import read_metrics
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory, follows
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Recipe, TeacherSettings
    from edgepress.compress.recipes.sections import Contrastive
    from edgepress.compress.training.machine import Machine
    from edgepress.models.tasks import Task

#: Of Figure 2.
ALPHAS, LAMBDAS = (0.0, 0.2, 0.4, 0.8, 1.5), (0.1, 0.5, 1.0, 3.0, 6.0)
FILE = "experiments.json"


def experiment_stages(run: RunDirectory, recipe: Recipe, *, machine: Machine, trust: bool = False) -> None:
    """Train what Table 1 and Figure 2 need beside the recipe's own teachers, and write the figures of all.

    Raises:
        UsageError: a recipe without [teacher] or without its contrastive term.
    """
    if recipe.teacher is None or recipe.teacher.train.contrastive is None:
        raise UsageError("teacher.experiments needs [teacher.train.contrastive]: it is what they are about")
    settings = teacher_settings(recipe)
    assert settings.train.contrastive is not None
    task = open_task(recipe.task, settings.front_end, trust=True)
    term = settings.train.contrastive

    def teacher(contrastive: Contrastive | None, number: int, name: str) -> dict[str, Any]:
        changed = settings.model_copy(update={"train": settings.train.model_copy(update={"contrastive": contrastive})})
        seed = 100 * recipe.seed + number
        return teacher_stage(run, changed, task, recipe.task, seed=seed, machine=machine, name=name)

    say("experiments: the teachers of Table 1 without the contrastive term")
    halves = {
        "without contrastive": _half(run, settings, task, recipe, None, "plain", teacher, machine, trust),
        "contrastive": _half(run, settings, task, recipe, term, "teacher", teacher, machine, trust),
    }
    say("experiments: the sweeps of Figure 2")
    sweeps = {
        "alpha": {value: teacher(term.model_copy(update={"alpha": value}), 0, f"alpha-{value:g}") for value in ALPHAS},
        "lambda": {
            value: teacher(term.model_copy(update={"weight": value}), 0, f"lambda-{value:g}") for value in LAMBDAS
        },
    }
    if follows():
        return
    split = evaluated_splits(task)[-1]
    write_json(
        run.path / FILE,
        {
            "schema": 1,
            "split": split,
            "table_1": {name: _figures(entry, split) for name, entry in halves.items()},
            "figure_2": {
                name: [{name: value, **_short(_figures(entry, split))} for value, entry in rows.items()]
                for name, rows in sweeps.items()
            },
        },
    )


def _half(
    run: RunDirectory,
    settings: TeacherSettings,
    task: Task,
    recipe: Recipe,
    term: Contrastive | None,
    name: str,
    teacher: Any,
    machine: Machine,
    trust: bool,
) -> dict[str, Any]:
    entries = [teacher(term, number, f"{name}-{number + 1}") for number in range(settings.count)]
    if len(entries) == 1:
        return entries[0]
    members = [Path(entry["path"]) for entry in entries]
    own = "ensemble" if term is not None else "ensemble-plain"
    return ensemble_stage(run, members, task, recipe.task, mode=settings.mode, machine=machine, trust=trust, name=own)


def _figures(entry: dict[str, Any], split: str) -> dict[str, Any]:
    """Accuracy and log loss of a teacher or an ensemble: all, and by recording device."""
    if entry["kind"] == "ensemble":
        from edgepress.compress.teach.teachers import read_ensemble

        return read_ensemble(Path(entry["path"]))["metrics"]["figures"][split]["ensemble"]
    return read_metrics(entry["path"])[split]


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in ("accuracy", "log_loss")}
