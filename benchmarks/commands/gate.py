# SPDX-License-Identifier: Apache-2.0
"""`benchmarks gate`: models against limits and baselines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.benchmarks.commands.options import (
    Budgets,
    Output,
    Overwrite,
    OwnMetrics,
    Run,
    Shape,
    Trust,
    emit,
    fail_late,
    keep_results,
    one_of,
)
from edgepress.benchmarks.defaults import (
    baselines_of,
    beside,
    budgets_of,
    classes_of,
    files_of,
    limits_of,
    model_of,
    results_of,
    shapes_of,
)
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import DEFAULT_RUN


def gate_command(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Models (.tflite, .onnx, checkpoints); default: the run's newest.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Device class. Repeatable.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="METRIC=QUANTITY, as macs=20M or file=128kB.")] = None,
    macs_rule: Annotated[str, typer.Option(help="Counting rule of --limit macs=...")] = "dcase",
    budgets: Budgets = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="A file, a JSON of --update-baseline, or git:REV. Repeatable: each file takes its own."),
    ] = None,
    update_baseline: Annotated[Path | None, typer.Option(help="Write the figures here, as a baseline.")] = None,
    results: Annotated[Path | None, typer.Option(help="Measured results; default: those of the run.")] = None,
    data: Annotated[str | None, typer.Option(help="Measure accuracy on this data first.")] = None,
    metric: OwnMetrics = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="Emulated core, as cortex-m4: flash, RAM and accuracy are those of linked firmware."),
    ] = None,
    run: Run = DEFAULT_RUN,
    form: Annotated[str, typer.Option("--format", help="text, markdown, json, junit, sarif or badge (SVG).")] = "text",
    fixes: Annotated[bool, typer.Option(help="Try on the file what would buy a failed size back.")] = True,
    allow_unmeasured: Annotated[
        list[str] | None,
        typer.Option(help="A metric that may stay unmeasured, or baseline (growth and drop). Repeatable."),
    ] = None,
    shape: Shape = None,
    match: Annotated[
        bool | None,
        typer.Option(
            "--match-baseline/--no-match-baseline",
            help="A baseline serves the file of its name or layers alone; default: with several of either.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings, and what was left open, fail.")] = False,
    trust: Trust = False,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Hold a model against limits. Exit 0: passed or only warned; 1: over; 2: bad input; 3: a runtime failed."""
    from edgepress.benchmarks.gate.files import fitting_baseline
    from edgepress.benchmarks.gate.formats import FORMATS, render
    from edgepress.benchmarks.gate.gate import accuracy_runtimes, evaluate_gate, exit_code, needs_arena
    from edgepress.benchmarks.measure.profiling import profile_of

    one_of(form, tuple(FORMATS))
    limits = limits_of(limit or [])
    budgets, named = budgets_of(budgets)
    # A file or baseline that the budgets name counts from where the budgets are.
    wanted = [found.runtime for found in classes_of(device or (), budgets)]
    paths = [model_of(file, run, wanted) for file in files_of(files or (), budgets, named.files)]
    if update_baseline is not None and len(paths) > 1:
        raise UsageError(f"--update-baseline {update_baseline} holds one model, and {len(paths)} files are given")
    found = results_of(results or beside(budgets, named.results), run)

    def measure(path: Path) -> list[dict[str, Any]]:
        from edgepress.benchmarks.measure.accuracy import measure_accuracy, records

        wanted, classes = ([runtime], ()) if runtime else accuracy_runtimes(limits, device or (), budgets)
        measured = measure_accuracy(path, str(data), wanted, devices=classes, trust=trust, metrics=metric or ())
        fail_late(measured["failures"])
        return [{"schema": 1, **record} for record in records(measured)]

    verdicts = []
    for path in paths:
        if data is not None:
            made = measure(path)
            keep_results(run, [{key: value for key, value in record.items() if key != "schema"} for record in made])
            found += made
        profile = profile_of(path, needs_arena(limits, device or (), budgets), shapes_of(shape), trust)
        past, its_own = baselines_of(path, baseline or (), budgets, named)
        alone = its_own or (len(paths) == 1 if match is None else not match)
        verdicts.append(
            evaluate_gate(
                profile,
                limits,
                device or (),
                budgets=budgets,
                baseline=fitting_baseline(profile, past, alone=alone, shapes=shapes_of(shape)),
                results=found,
                rule=macs_rule,
                runtime=runtime,
                try_fixes=fixes,
                allow_unmeasured=allow_unmeasured or (),
                shapes=shapes_of(shape),
                measure=measure if data is not None else None,
                strict=strict,
            )
        )
    colours = output is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    emit(render(verdicts, form, colours=colours), output, overwrite)
    if output is not None and form != "text":
        # The file is for a machine; who reads the log wants the verdict too.
        emit(render(verdicts, "text", colours=sys.stdout.isatty()), None, False)
    if update_baseline is not None:
        from edgepress.benchmarks.gate.baseline import as_json
        from edgepress.benchmarks.measure.manifests import manifest_beside
        from edgepress.models.atomic import write_json

        only, path = verdicts[0], paths[0]
        write_json(
            update_baseline, as_json(profile_of(path, trust=trust), found, only["environment"], manifest_beside(path))
        )
    raise typer.Exit(max(exit_code(verdict) for verdict in verdicts))
