# SPDX-License-Identifier: Apache-2.0
"""`compress run`: a whole recipe."""

from __future__ import annotations

from typing import Annotated

import typer

from edgepress.compress.commands.options import (
    DEFAULT_RUN,
    Accelerator,
    Data,
    Devices,
    Nodes,
    Run,
    Seed,
    Strategy,
    Trust,
)


def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file.")] = "default",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    target: Annotated[
        list[str] | None, typer.Option(help="MACs, 20M or 50%, instead of the recipe's targets; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Another device class than the recipe's.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the recipe, such as teacher.count=2; may be repeated."),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write the HTML report.")] = True,
    trust: Trust = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
) -> None:
    """All of a recipe: train, prune, quantize, export, benchmark, gate, report; killed, it goes on where it was."""
    from edgepress.compress.pipeline.run import run_recipe
    from edgepress.compress.training.machine import Machine

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
        machine=Machine(accelerator, devices, strategy, nodes),
    )
