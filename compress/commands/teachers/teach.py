# SPDX-License-Identifier: Apache-2.0
"""`compress teach`: one teacher or several of different seeds."""

from __future__ import annotations

from pathlib import Path
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
    Nodes,
    Overrides,
    Restart,
    Run,
    Seed,
    Strategy,
    Trust,
    given,
)
from edgepress.compress.pipeline.data import open_task
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say


def teach(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe or a file; its [teacher], else its network and [train].")
    ] = "default",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    epochs: Epochs = None,
    count: Annotated[int | None, typer.Option(min=1, help="Teachers, of different seeds.")] = None,
    network: Annotated[str | None, typer.Option(help="passt, passt_tiny, cp_resnet or any other.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Published weights to start from, .safetensors, .pt or .ckpt; tensors only are read."),
    ] = None,
    front_end: Annotated[str | None, typer.Option(help="Of the teacher: mel22, mel23, melpasst, mel16k.")] = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    contrastive: Annotated[
        bool | None,
        typer.Option("--contrastive/--no-contrastive", help="Train with the inverse contrastive term, or without."),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Barrier of the contrastive term.")] = None,
    weight: Annotated[float | None, typer.Option("--lambda", help="Weight of the contrastive term.")] = None,
    mode: Annotated[str | None, typer.Option(help="Of its pairs: plain or balanced.")] = None,
    distance: Annotated[str | None, typer.Option(help="normalized, rms or euclidean.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="The term goes by the samples' numeric attribute: those no further apart are neighbours."),
    ] = None,
    projection: Annotated[int | None, typer.Option(help="Width of a head between latent and term; 0: none.")] = None,
    balance: Annotated[float | None, typer.Option(help="Of recording devices in a batch, 0 to 1.")] = None,
    name: Annotated[str, typer.Option(help="Of the teachers.")] = "teacher",
    overrides: Overrides = None,
    trust: Trust = False,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
    logger: Logger = LOGGERS,
) -> None:
    """Train teachers; their logits and features are computed once per clip and kept."""
    from edgepress.compress.pipeline.teaching import teacher_settings, teacher_stage
    from edgepress.compress.recipes.recipe import (
        NetworkSettings,
        TeacherSettings,
        TrainSettings,
        read_recipe,
        validated,
    )
    from edgepress.compress.training.machine import Machine

    checked = read_recipe(recipe, given({"task": data, "seed": seed}), overrides=tuple(overrides or ()), trust=trust)
    base = teacher_settings(checked)
    if network is not None:
        from edgepress.compress.recipes.checks import network_errors
        from edgepress.models.errors import ConfigError

        if errors := network_errors({"name": network}, True):
            raise ConfigError(errors, "--network")
        base = base.model_copy(update={"network": NetworkSettings(name=network)})
    changed = {
        **base.train.model_dump(),
        **given({"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}),
    }
    term = given(
        {
            "alpha": alpha,
            "weight": weight,
            "mode": mode,
            "distance": distance,
            "threshold": threshold,
            "projection": projection,
            "balance": balance,
        }
    )
    if contrastive is False:
        changed["contrastive"] = None
    elif contrastive or term:
        changed["contrastive"] = {**(changed.get("contrastive") or {}), **term}
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
                machine=Machine(accelerator, devices, strategy, nodes, loggers=tuple(logger)),
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
