# SPDX-License-Identifier: Apache-2.0
"""The command `benchmarks`: profile, run, latency, gate, compare, devices, report, submission, summarize."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.benchmarks.defaults import (
    baseline_of,
    beside,
    budgets_of,
    limits_of,
    model_of,
    results_of,
    runtimes_of,
    shapes_of,
    task_of,
)
from edgepress.models.command_line import application, run_command
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import DEFAULT_RUN, RunDirectory

app: typer.Typer = application("benchmarks", "Files, devices and limits go in, verdicts come out.")

File = Annotated[Path | None, typer.Argument(help="A .tflite, an .onnx or a checkpoint; default: the run's newest.")]
Run = Annotated[Path, typer.Option("--run", help="Run directory.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of to the terminal.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Allow --output to replace a file.")]
Format = Annotated[str, typer.Option("--format", help="text or json.")]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        help="INPUT=1,3,512,512: sizes that the file leaves open. Repeatable; =1,3,512,512 names its only input."
    ),
]
Trust = Annotated[bool, typer.Option("--trust", help="Allow a checkpoint or data source to run its own code.")]


@app.command("profile")
def profile_command(
    file: File = None,
    run: Run = DEFAULT_RUN,
    form: Format = "text",
    arena: Annotated[bool, typer.Option(help="Measure TFLite Micro's arena.")] = True,
    shape: Shape = None,
    trust: Trust = False,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Count a model under every rule: MACs, params, bytes, arena, layers."""
    from edgepress.benchmarks.measure.profiling import format_profile, profile_of

    _one_of(form, ("text", "json"))
    found = profile_of(model_of(file, run), arena, shapes=shapes_of(shape), trust=trust)
    _emit(_as_json(found) if form == "json" else format_profile(found), output, overwrite)


@app.command("run")
def run_accuracy(
    file: File = None,
    data: Annotated[str | None, typer.Option(help="Folder, .npz, synthetic, or package.module:factory.")] = None,
    runtime: Annotated[str, typer.Option(help="Runtimes, separated by commas; default: every installed one.")] = "",
    device: Annotated[list[str] | None, typer.Option(help="Device class: takes its runtime. Repeatable.")] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N samples.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a runtime.")] = 1,
    run: Run = DEFAULT_RUN,
    form: Format = "text",
    output: Output = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> None:
    """Accuracy on labelled data, on several runtimes at once."""
    from edgepress.benchmarks.measure.accuracy import measure_accuracy, records
    from edgepress.benchmarks.report.tables import accuracy_text

    _one_of(form, ("text", "json"))
    path = model_of(file, run, [*_names(runtime), *runtimes_of(device or (), None)])
    source = data or task_of(path)
    quiet = not sys.stderr.isatty()
    measured = measure_accuracy(
        path,
        source,
        _names(runtime),
        devices=device or (),
        split=split,
        limit=limit,
        threads=threads,
        trust=trust,
        progress=None if quiet else _progress,
    )
    if not quiet:
        print(file=sys.stderr)
    # A sample of the data says nothing about the whole: it is shown, not kept.
    if limit is None:
        _keep(run, records(measured))
    _emit(_as_json(measured) if form == "json" else accuracy_text(measured), output, overwrite)
    _fail_late(measured["failures"])


@app.command("latency")
def latency_command(
    file: File = None,
    runtime: Annotated[str, typer.Option(help="Runtimes to time here; default: every installed one.")] = "",
    device: Annotated[list[str] | None, typer.Option(help="Device class to estimate for; default: all.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a runtime.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="At least this many inferences.")] = 50,
    measure: Annotated[bool, typer.Option(help="Measure on this host.")] = True,
    run: Run = DEFAULT_RUN,
    form: Format = "text",
    output: Output = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> None:
    """Latency: measured on this host, estimated for device classes."""
    from edgepress.benchmarks.estimate.latency import latency_overview
    from edgepress.benchmarks.report.tables import latency_text

    _one_of(form, ("text", "json"))
    runtimes = _names(runtime)
    found = latency_overview(
        model_of(file, run, runtimes), runtimes, device or (), threads=threads, runs=runs, measure=measure, trust=trust
    )
    _keep(run, found["measured"])
    _emit(_as_json(found) if form == "json" else latency_text(found), output, overwrite)
    _fail_late(found["failures"])


@app.command("gate")
def gate_command(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Models (.tflite, .onnx, checkpoints); default: the run's newest.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Device class. Repeatable.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="METRIC=QUANTITY, as macs=20M or file=128kB.")] = None,
    macs_rule: Annotated[str, typer.Option(help="Counting rule of --limit macs=...")] = "dcase",
    budgets: Annotated[Path | None, typer.Option(help="Default: budgets.toml, where there is one.")] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="A file, a JSON of --update-baseline, or git:REV. Repeatable: each file takes its own."),
    ] = None,
    update_baseline: Annotated[Path | None, typer.Option(help="Write the figures here, as a baseline.")] = None,
    results: Annotated[Path | None, typer.Option(help="Measured results; default: those of the run.")] = None,
    data: Annotated[str | None, typer.Option(help="Measure accuracy on this data first.")] = None,
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
    from edgepress.benchmarks.gate.gate import evaluate_gate, exit_code, needs_arena
    from edgepress.benchmarks.measure.profiling import profile_of

    _one_of(form, tuple(FORMATS))
    limits = limits_of(limit or [])
    budgets, named = budgets_of(budgets)
    # A file or baseline that the budgets name counts from where the budgets are.
    wanted = runtimes_of(device or (), budgets)
    paths = [model_of(file, run, wanted) for file in files or [beside(budgets, named.get("file"))]]
    if update_baseline is not None and len(paths) > 1:
        raise UsageError(f"--update-baseline {update_baseline} holds one model, and {len(paths)} files are given")
    past = baseline or [text for text in [baseline_of(budgets, named.get("baseline"))] if text is not None]
    found = results_of(results or beside(budgets, named.get("results")), run)

    def measure(path: Path) -> list[dict[str, Any]]:
        from edgepress.benchmarks.measure.accuracy import measure_accuracy, records

        measured = measure_accuracy(
            path, str(data), *([[runtime]] if runtime else []), devices=() if runtime else device or (), trust=trust
        )
        _fail_late(measured["failures"])
        return [{"schema": 1, **record} for record in records(measured)]

    verdicts = []
    for path in paths:
        if data is not None:
            made = measure(path)
            _keep(run, [{key: value for key, value in record.items() if key != "schema"} for record in made])
            found += made
        profile = profile_of(path, needs_arena(limits, device or (), budgets), shapes_of(shape), trust)
        verdicts.append(
            evaluate_gate(
                profile,
                limits,
                device or (),
                budgets=budgets,
                baseline=fitting_baseline(
                    profile, past, alone=len(paths) == 1 if match is None else not match, shapes=shapes_of(shape)
                ),
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
    _emit(render(verdicts, form, colours=colours), output, overwrite)
    if output is not None and form != "text":
        # The file is for a machine; who reads the log wants the verdict too.
        _emit(render(verdicts, "text", colours=sys.stdout.isatty()), None, False)
    if update_baseline is not None:
        from edgepress.benchmarks.gate.baseline import as_json
        from edgepress.benchmarks.measure.manifests import manifest_beside
        from edgepress.models.atomic import write_json

        only, path = verdicts[0], paths[0]
        write_json(
            update_baseline, as_json(profile_of(path, trust=trust), found, only["environment"], manifest_beside(path))
        )
    raise typer.Exit(max(exit_code(verdict) for verdict in verdicts))


@app.command("compare")
def compare_command(
    a: Annotated[Path, typer.Argument(help="A model, or a file of results.")],
    b: Annotated[Path, typer.Argument(help="Another one of the same kind.")],
    form: Annotated[str, typer.Option("--format", help="text, markdown or json.")] = "text",
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Two models or two files of results, side by side."""
    from edgepress.benchmarks.gate.compare import compare_files
    from edgepress.benchmarks.report.tables import compare_markdown, compare_text

    _one_of(form, ("text", "markdown", "json"))
    found = compare_files(a, b)
    text = {"json": _as_json, "markdown": compare_markdown, "text": compare_text}[form](found)
    _emit(text, output, overwrite)


@app.command("history")
def history_command(
    model: Annotated[Path, typer.Argument(help="A model in a git repository, or a folder of models.")],
    last: Annotated[int, typer.Option(min=1, help="So many commits, or files, at most.")] = 20,
    results: Annotated[list[Path] | None, typer.Option(help="Files of results, for accuracy. Repeatable.")] = None,
    form: Annotated[str, typer.Option("--format", help="text, json or svg.")] = "text",
    shape: Shape = None,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """How bytes, MACs and accuracy of a model moved over its commits, or over the files of a folder."""
    from edgepress.benchmarks.report.model_history import FORMATS, model_history

    _one_of(form, ("json", *FORMATS))
    found = model_history(model, last=last, results=results or (), shapes=shapes_of(shape))
    _emit(_as_json(found) if form == "json" else FORMATS[form](found), output, overwrite)


@app.command("devices")
def devices_command(
    budgets: Annotated[Path | None, typer.Option(help="Add the classes of this budgets.toml.")] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown or json.")] = "text",
) -> None:
    """The device classes and their limits."""
    from edgepress.benchmarks.report.tables import devices_json, devices_text
    from edgepress.models.devices.classes import device_classes

    _one_of(form, ("text", "markdown", "json"))
    known = device_classes(budgets)
    if form == "markdown":
        from edgepress.models.devices.page import markdown

        _emit(markdown(known), None, False)
    else:
        _emit(_as_json(devices_json(known)) if form == "json" else devices_text(known), None, False)


@app.command("report")
def report_command(
    run: Run = DEFAULT_RUN,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: RUN/report.html.")] = None,
    history: Annotated[
        list[Path] | None, typer.Option(help="Another run or file of results, to show what changed. Repeatable.")
    ] = None,
    budgets: Annotated[Path | None, typer.Option(help="Default: budgets.toml, where there is one.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """The HTML report of a run: one page that needs no network. Tables of its teachers are printed as well."""
    from edgepress.benchmarks.report.page import write_report
    from edgepress.benchmarks.report.teacher_tables import as_text, model_table, run_tables

    if output is not None:
        _keep_existing(output, overwrite)
    page = write_report(run, output, history=history or (), budgets=budgets_of(budgets)[0])
    if tables := run_tables(RunDirectory(run)):
        print(as_text([*tables, model_table(RunDirectory(run))]), end="\n\n")
    print(page)


@app.command("pareto")
def pareto_command(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, as those of a sweep.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("pareto.html"),
    overwrite: Overwrite = False,
) -> None:
    """The networks of many runs on one page, and which of them no other one beats."""
    from edgepress.benchmarks.report.pareto import COLUMNS, front_rows, write_pareto
    from edgepress.models.text_tables import table_text

    _keep_existing(output, overwrite)
    page, best = write_pareto(runs, output)
    _emit(table_text(COLUMNS, front_rows(best)), None, False)
    print(page)


@app.command("submission")
def submission_command(
    run: Run = DEFAULT_RUN,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new folder; default: RUN/submission.")
    ] = None,
    trust: Trust = False,
) -> None:
    """The submission folder of a run: int8 files, complexity, predictions as DCASE wants them, results."""
    from edgepress.benchmarks.report.submission import write_submission

    print(write_submission(run, output, trust=trust))


@app.command("summarize")
def summarize_command(
    runs: Annotated[list[Path], typer.Argument(help="Run directories that differ in their seed.")],
    output: Output = None,
    overwrite: Overwrite = False,
    form: Annotated[str, typer.Option("--format", help="json or markdown.")] = "json",
) -> None:
    """Join the runs of several seeds: means, spread, and paired differences that respect recordings."""
    from edgepress.benchmarks.report.summary import as_markdown, summarize

    _one_of(form, ("json", "markdown"))
    found = summarize(runs)
    _emit(_as_json(found) if form == "json" else as_markdown(found), output, overwrite)


def main() -> None:
    """The entry point: errors become one sentence and an exit code."""
    run_command(app)


def _keep(run: Path, found: list[dict[str, Any]]) -> None:
    """Results go to a run directory that exists; none is made only for them, unless it was asked for by name."""
    if found and (run.is_dir() or run != DEFAULT_RUN):
        from edgepress.benchmarks.measure.result_log import append

        append(RunDirectory(run), found)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _one_of(value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"--format {value!r} is unknown: allowed are {', '.join(allowed)}")


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _emit(text: str, output: Path | None, overwrite: bool) -> None:
    # A file name that is no UTF-8 must not make the whole output unreadable.
    text = text.encode("utf-8", "replace").decode()
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
        return
    _keep_existing(output, overwrite)
    from edgepress.models.atomic import write_text

    write_text(output, text)
    print(f"wrote {output}", file=sys.stderr)


def _keep_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already: choose another name or add --overwrite")


def _fail_late(failures: list[dict[str, Any]]) -> None:
    """What worked has been shown; now the command fails for what did not."""
    if failures:
        from edgepress.models.errors import RuntimeFailure

        raise RuntimeFailure("; ".join(failure["error"] for failure in failures))


def _progress(runtime: str, done: int, samples: int) -> None:
    print(f"\r{runtime}: {done} of {samples}   ", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
