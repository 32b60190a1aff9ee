# SPDX-License-Identifier: Apache-2.0
"""`compress fit`: a recipe for several device classes."""

from __future__ import annotations

from functools import partial
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


def fit(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file; its targets are left aside.")] = "default",
    device: Annotated[
        list[str] | None, typer.Option(help="A device class whose limits are the budget; may be repeated.")
    ] = None,
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the recipe, such as teacher.count=2; may be repeated."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster, auto or host:port: a task for each class; --run must be on a shared disk."),
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="Classes side by side on Ray, with so many cores and threads each.")
    ] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of a task on Ray; one where there are any.")] = None,
    memory: Annotated[str, typer.Option(help="Memory of a task on Ray.")] = "2 GB",
    report: Annotated[bool, typer.Option(help="Write the HTML report.")] = True,
    trust: Trust = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
) -> None:
    """For every device class the most accurate network that fits, exported and judged; exit 1 where none does."""
    from edgepress.compress.pipeline.fit import fit_recipe
    from edgepress.compress.sweep.cluster import Resources
    from edgepress.compress.sweep.fit_classes import side_by_side
    from edgepress.compress.training.machine import Machine
    from edgepress.models.units import parse_quantity

    memory_bytes = int(parse_quantity(memory, "bytes", name="--memory"))
    resources = Resources(address, cpus, gpus, memory_bytes)
    on_ray = address is not None or cpus is not None or gpus is not None

    every = fit_recipe(
        recipe,
        devices=tuple(device or ()),
        data=data,
        run=run,
        seed=seed,
        trust=trust,
        machine=Machine(accelerator, devices, strategy, nodes),
        overrides=tuple(overrides or ()),
        report=report,
        before=partial(side_by_side, resources=resources) if on_ray else None,
    )
    if not every:
        raise typer.Exit(1)
