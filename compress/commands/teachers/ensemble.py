# SPDX-License-Identifier: Apache-2.0
"""`compress ensemble`: teachers joined by the generalised mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgepress.compress.commands.options import DEFAULT_RUN, Accelerator, Data, Run, Trust
from edgepress.compress.pipeline.data import front_end_of, open_task, task_source
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory

if TYPE_CHECKING:
    from edgepress.compress.teach.ensemble import Mode


def ensemble(
    teachers: Annotated[
        list[Path] | None, typer.Argument(help="Checkpoints; otherwise every teacher of the run.")
    ] = None,
    mode: Annotated[str, typer.Option(help="stable, or paper (free weights, no bias).")] = "stable",
    shared_exponent: Annotated[bool, typer.Option("--shared-exponent", help="One exponent for all classes.")] = False,
    name: Annotated[str, typer.Option(help="Of the ensemble.")] = "ensemble",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    trust: Trust = False,
    accelerator: Accelerator = "auto",
) -> None:
    """Join teachers by a generalised mean, fitted on the validation split."""
    from edgepress.compress.pipeline.teaching import ensemble_stage, ensemble_text
    from edgepress.compress.teach.teachers import read_ensemble
    from edgepress.compress.training.machine import Machine

    directory = RunDirectory(run)
    with directory.lock():
        members = teachers or [Path(entry["path"]) for entry in directory.entries("teacher")]
        if len(members) < 2:
            raise UsageError(
                f"{run} holds {len(members)} teachers: an ensemble needs two or more; run `compress teach "
                "--count N` first, or name their paths"
            )
        source = data or task_source(members[0])
        if source is None:
            raise UsageError(f"{members[0]} names no task to fit the ensemble on: give --data")
        task = open_task(source, front_end_of(members[0]), trust=trust or data is not None)
        entry = ensemble_stage(
            directory,
            members,
            task,
            source,
            mode=cast("Mode", mode),  # the stage refuses others
            shared_exponent=shared_exponent,
            machine=Machine(accelerator),
            trust=trust,
            name=name,
        )
    metrics = read_ensemble(Path(entry["path"]))["metrics"]
    print(ensemble_text(metrics, "test" if "test" in metrics["figures"] else "validation"))
    print(entry["path"])
