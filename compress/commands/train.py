"""`compress train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.compress.pipeline.data import open_task
from edgepress.compress.pipeline.stages import train_stage
from edgepress.models.run_directory import RunDirectory


def run_train(
    recipe: str,
    *,
    data: str | None,
    run: Path,
    seed: int | None,
    network: str | None,
    restart: bool,
    train: dict[str, Any],
    trust: bool,
    machine: tuple[str, str, str, int],
) -> None:
    """Train the dense network of a recipe, with changes from the command line; prints the checkpoint's path."""
    from edgepress.compress.recipes.recipe import read_recipe
    from edgepress.compress.training.machine import Machine

    changes: dict[str, Any] = given({"task": data, "seed": seed})
    checked = read_recipe(
        recipe,
        changes,
        trust=trust,
        sections={"train": given(train), **({"network": {"name": network, "arguments": {}}} if network else {})},
    )
    directory = RunDirectory(run)
    with directory.lock():
        task = open_task(checked.task, checked.front_end, trust=True)
        entry = train_stage(directory, checked, task, machine=Machine(*machine), resume=not restart)
    print(entry["path"])


def given(values: dict[str, Any]) -> dict[str, Any]:
    """What the command line gave, without what it left out."""
    return {name: value for name, value in values.items() if value is not None}
