# SPDX-License-Identifier: Apache-2.0
"""`compress run`: a whole recipe."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from edgepress.compress.commands.options import (
    DEFAULT_RUN,
    LOGGERS,
    Accelerator,
    Data,
    Devices,
    Logger,
    Nodes,
    Overrides,
    Run,
    Seed,
    Strategy,
    Trust,
)
from edgepress.models.cost.energy import kept_energy


def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file.")] = "default",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    target: Annotated[
        list[str] | None, typer.Option(help="MACs, 20M or 50%, instead of the recipe's targets; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Another device class than the recipe's.")] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the stages and an estimate of time.")] = False,
    energy: Annotated[
        bool, typer.Option("--energy", help="Measure its energy with CodeCarbon, for benchmarks submission.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write the HTML report.")] = True,
    trust: Trust = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
    logger: Logger = LOGGERS,
) -> None:
    """All of a recipe: train, prune, quantize, export, benchmark, gate, report; killed, it goes on where it was."""
    if dry_run:
        from edgepress.compress.pipeline.run import recipe_of
        from edgepress.compress.sweep.forecast import stages_of, text_of

        print(text_of(stages_of(recipe_of(recipe, data, seed, device, tuple(target or ()), overrides or (), trust))))
        return
    from edgepress.compress.pipeline.run import run_recipe
    from edgepress.compress.training.machine import Machine

    with kept_energy(run) if energy else nullcontext():
        run_recipe(
            recipe,
            data=data,
            run=run,
            seed=seed,
            targets=tuple(target or ()),
            device=device,
            report=report,
            overrides=tuple(overrides or ()),
            trust=trust,
            machine=Machine(accelerator, devices, strategy, nodes, loggers=tuple(logger)),
        )
