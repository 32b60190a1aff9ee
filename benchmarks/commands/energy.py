# SPDX-License-Identifier: Apache-2.0
"""`benchmarks energy`: what inference takes on this machine, beside a baseline's, as DCASE Task 1 asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.benchmarks.commands.options import File, Format, Run, as_json, one_of
from edgepress.benchmarks.defaults import model_of
from edgepress.models.run_directory import DEFAULT_RUN


def energy_command(
    file: File = None,
    run: Run = DEFAULT_RUN,
    baseline: Annotated[
        Path | None, typer.Option(help="A file of the challenge's baseline, measured on this machine too.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="That the figure is for.")] = 118_800,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each file runs.")] = 15.0,
    runtime: Annotated[str, typer.Option(help="What runs it.")] = "litert",
    form: Format = "text",
) -> None:
    """Energy of inference with CodeCarbon, in kWh; kept in the run, from where `benchmarks submission` takes it."""
    from edgepress.benchmarks.measure.inference_energy import inference_energy
    from edgepress.models.cost.energy import add_inference

    one_of(form, ("text", "json"))
    path = model_of(file, run)
    found = inference_energy(path, clips, seconds=seconds, runtime=runtime)
    if baseline is not None:
        found["baseline"] = inference_energy(baseline, clips, seconds=seconds, runtime=runtime)
    if run.is_dir():
        add_inference(run, found["sha256"], found)
    if form == "json":
        print(as_json(found), end="")
        return
    for record in (found, *([found["baseline"]] if baseline is not None else [])):
        print(
            f"{record['file']}: {record['kwh']:.3g} kWh for {clips:,} clips on {runtime} "
            f"({record['measured_clips']:,} were run in {record['seconds']:.1f} s; {record['tool']}, {record['mode']})"
        )
