"""`compress teach`: one teacher or several of different seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.compress.commands.train import given
from edgepress.compress.pipeline.data import open_task
from edgepress.compress.pipeline.progress import say
from edgepress.models.run_directory import RunDirectory


def run_teach(
    recipe: str,
    *,
    data: str | None,
    run: Path,
    seed: int | None,
    count: int | None,
    network: str | None,
    weights: Path | None,
    front_end: str | None,
    train: dict[str, Any],
    contrastive: dict[str, Any],
    term: bool | None,
    name: str,
    restart: bool,
    trust: bool,
    machine: tuple[str, str, str, int],
) -> None:
    """Train teachers, run each once over all clips, probe them; prints the paths.

    Raises:
        ConfigError: everything that is wrong with the recipe and the options, together.
        UsageError: a file of weights that is missing, holds more than tensors, or is of another network.
    """
    from edgepress.compress.pipeline.teaching import teacher_settings, teacher_stage
    from edgepress.compress.recipes.recipe import (
        NetworkSettings,
        TeacherSettings,
        TrainSettings,
        read_recipe,
        validated,
    )
    from edgepress.compress.training.machine import Machine

    checked = read_recipe(recipe, given({"task": data, "seed": seed}), trust=trust)
    base = teacher_settings(checked)
    if network is not None:
        from edgepress.compress.recipes.checks import network_errors
        from edgepress.models.errors import ConfigError

        if errors := network_errors({"name": network}, True):
            raise ConfigError(errors, "--network")
        base = base.model_copy(update={"network": NetworkSettings(name=network)})
    changed = {**base.train.model_dump(), **given(train)}
    if term is False:
        changed["contrastive"] = None
    elif term or given(contrastive):
        changed["contrastive"] = {**(changed.get("contrastive") or {}), **given(contrastive)}
    settings = validated(
        TeacherSettings,
        {
            **base.model_dump(),
            "train": validated(TrainSettings, changed, "the settings of the training").model_dump(),
            **given({"count": count, "weights": str(weights) if weights else None, "front_end": front_end}),
        },
        "the settings of teach",
    )
    directory = RunDirectory(run)
    with directory.lock():
        task = open_task(checked.task, settings.front_end, trust=True)
        for index in range(settings.count):
            title = name if settings.count == 1 else f"{name}-{index + 1}"
            entry = teacher_stage(
                directory,
                settings,
                task,
                checked.task,
                seed=100 * checked.seed + index,
                machine=Machine(*machine),
                name=title,
                resume=not restart,
            )
            _say_probe(Path(entry["path"]))
            print(entry["path"])


def _say_probe(path: Path) -> None:
    from edgepress.models.checkpoints.checkpoint import read_metrics

    probe = read_metrics(path).get("device_probe")
    if probe:
        say(
            f"  recording device read from the latent of {probe['split']}: {100 * probe['balanced_accuracy']:.1f} % of "
            f"the clips, {100 * probe['chance']:.1f} % by chance"
        )
