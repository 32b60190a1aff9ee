# SPDX-License-Identifier: Apache-2.0
"""The command `benchmarks`: files, devices and limits go in, verdicts, tables and pages come out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.benchmarks.commands.card import card_command
from edgepress.benchmarks.commands.energy import energy_command
from edgepress.benchmarks.commands.gate import gate_command
from edgepress.benchmarks.commands.node_data import node_data_command
from edgepress.benchmarks.commands.options import (
    Budgets,
    File,
    Format,
    Output,
    Overwrite,
    OwnMetrics,
    Run,
    Shape,
    Trust,
    as_json,
    emit,
    fail_late,
    keep_existing,
    keep_results,
    names_of,
    one_of,
    shown_progress,
)
from edgepress.benchmarks.commands.submission import submission_command
from edgepress.benchmarks.defaults import budgets_of, classes_of, model_of, shapes_of, task_of
from edgepress.models.command_line import application, examples, run_command
from edgepress.models.run_directory import DEFAULT_RUN, RunDirectory

app: typer.Typer = application("benchmarks", "Files, devices and limits go in, verdicts come out.")


@app.command(
    "profile",
    epilog=examples(
        "benchmarks profile model.tflite", "benchmarks profile model.onnx --shape input=1,3,224,224 --format json"
    ),
)
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

    one_of(form, ("text", "json"))
    found = profile_of(model_of(file, run), arena, shapes=shapes_of(shape), trust=trust)
    emit(as_json(found) if form == "json" else format_profile(found), output, overwrite)


@app.command(
    "run",
    epilog=examples(
        "benchmarks run model.tflite --data test.npz", "benchmarks run --runtime tflm,litert --data ./esc10-mobile"
    ),
)
def run_accuracy(
    file: File = None,
    data: Annotated[
        str | None, typer.Option(help="images:DIR, FILE.npz, DIR, synthetic, package.module:factory, ...")
    ] = None,
    runtime: Annotated[str, typer.Option(help="Runtimes, separated by commas; default: every installed one.")] = "",
    device: Annotated[list[str] | None, typer.Option(help="Device class: takes its runtime. Repeatable.")] = None,
    budgets: Budgets = None,
    metric: OwnMetrics = None,
    streams: Annotated[
        bool, typer.Option("--streams", help="Samples of one recording are one stream, in order.")
    ] = False,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N samples.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a runtime.")] = 1,
    run: Run = DEFAULT_RUN,
    form: Format = "text",
    output: Output = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> None:
    """Accuracy, or what else the task measures, on several runtimes at once."""
    from edgepress.benchmarks.measure.accuracy import measure_accuracy, records
    from edgepress.benchmarks.report.tables import accuracy_text

    one_of(form, ("text", "json"))
    classes = classes_of(device or (), budgets_of(budgets)[0] if device else None)
    path = model_of(file, run, [*names_of(runtime), *(found.runtime for found in classes)])
    source = data or task_of(path)
    with shown_progress() as progress:
        measured = measure_accuracy(
            path,
            source,
            names_of(runtime),
            devices=classes,
            split=split,
            limit=limit,
            threads=threads,
            trust=trust,
            progress=progress,
            metrics=metric or (),
            streams=streams,
        )
    # A sample of the data says nothing about the whole: it is shown, not kept.
    if limit is None:
        keep_results(run, records(measured))
    emit(as_json(measured) if form == "json" else accuracy_text(measured), output, overwrite)
    fail_late(measured["failures"])


@app.command(
    "latency", epilog=examples("benchmarks latency model.tflite", "benchmarks latency model.tflite --device cortex-m4")
)
def latency_command(
    file: File = None,
    runtime: Annotated[str, typer.Option(help="Runtimes to time here; default: every installed one.")] = "",
    device: Annotated[list[str] | None, typer.Option(help="Device class to estimate for; default: all.")] = None,
    budgets: Budgets = None,
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

    one_of(form, ("text", "json"))
    runtimes = names_of(runtime)
    classes = classes_of(device or (), budgets_of(budgets)[0] if device else None)
    path = model_of(file, run, runtimes)
    found = latency_overview(path, runtimes, classes, threads=threads, runs=runs, measure=measure, trust=trust)
    keep_results(run, found["measured"])
    emit(as_json(found) if form == "json" else latency_text(found), output, overwrite)
    fail_late(found["failures"])


app.command(
    "gate",
    epilog=examples(
        "benchmarks gate model.tflite --device cortex-m4 --limit macs=20M",
        "benchmarks gate models/*.tflite --baseline git:origin/main --format markdown",
    ),
)(gate_command)


@app.command("compare", epilog=examples("benchmarks compare before.tflite after.tflite"))
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

    one_of(form, ("text", "markdown", "json"))
    found = compare_files(a, b)
    text = {"json": as_json, "markdown": compare_markdown, "text": compare_text}[form](found)
    emit(text, output, overwrite)


@app.command(
    "history",
    epilog=examples("benchmarks history model.tflite", "benchmarks history ./releases --format svg -o history.svg"),
)
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

    one_of(form, ("json", *FORMATS))
    found = model_history(model, last=last, results=results or (), shapes=shapes_of(shape))
    emit(as_json(found) if form == "json" else FORMATS[form](found), output, overwrite)


@app.command(
    "devices", epilog=examples("benchmarks devices", "benchmarks devices --budgets budgets.toml --format json")
)
def devices_command(
    budgets: Annotated[Path | None, typer.Option(help="Add the classes of this budgets.toml.")] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown or json.")] = "text",
) -> None:
    """The device classes and their limits."""
    from edgepress.benchmarks.report.tables import devices_json, devices_text
    from edgepress.models.devices.classes import device_classes

    one_of(form, ("text", "markdown", "json"))
    known = device_classes(budgets)
    if form == "markdown":
        from edgepress.models.devices.page import markdown

        emit(markdown(known), None, False)
    else:
        emit(as_json(devices_json(known)) if form == "json" else devices_text(known), None, False)


@app.command(
    "report",
    epilog=examples("benchmarks report", "benchmarks report --run runs/esc10 --device cortex-m4 --format json"),
)
def report_command(
    run: Run = DEFAULT_RUN,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: RUN/report.html.")] = None,
    history: Annotated[
        list[Path] | None, typer.Option(help="Another run or file of results, to show what changed. Repeatable.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="A device class to show, or all; repeatable. Default: those that the run names."),
    ] = None,
    budgets: Budgets = None,
    form: Annotated[str, typer.Option("--format", help="What is printed beside the page: text or json.")] = "text",
    overwrite: Overwrite = False,
) -> None:
    """The HTML report of a run: one page that needs no network. Which network to ship to which device is printed."""
    from edgepress.benchmarks.report.networks.overview import model_table
    from edgepress.benchmarks.report.networks.recommendation import COLUMNS, recommendation_rows
    from edgepress.benchmarks.report.networks.run_page import report
    from edgepress.benchmarks.report.teacher_tables import as_text, run_tables
    from edgepress.models.text_tables import table_text

    one_of(form, ("text", "json"))
    if output is not None:
        keep_existing(output, overwrite)
    page, found = report(run, output, history=history or (), budgets=budgets_of(budgets)[0], device=tuple(device or ()))
    if form == "json":
        shipped = [one.to_json() for one in found]
        emit(as_json({"schema": 1, "report": str(page), "recommendations": shipped}), None, False)
        return
    if tables := run_tables(RunDirectory(run)):
        print(as_text([*tables, model_table(RunDirectory(run))]), end="\n\n")
    print(table_text(COLUMNS, recommendation_rows(found)), end="\n\n")
    print(page)


app.command("node-data", epilog=examples("benchmarks node-data model.tflite -o nodes"))(node_data_command)
app.command("card", epilog=examples("benchmarks card model.tflite --data test.npz -o card.html"))(card_command)


@app.command("pareto", epilog=examples("benchmarks pareto runs/seed0 runs/seed1 -o pareto.html"))
def pareto_command(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, as those of a sweep.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("pareto.html"),
    overwrite: Overwrite = False,
) -> None:
    """The networks of many runs on one page, and which of them no other one beats."""
    from edgepress.benchmarks.report.networks.pareto import COLUMNS, front_rows, write_pareto
    from edgepress.models.text_tables import table_text

    keep_existing(output, overwrite)
    page, best = write_pareto(runs, output)
    emit(table_text(COLUMNS, front_rows(best)), None, False)
    print(page)


app.command("energy", epilog=examples("benchmarks energy --baseline baseline.tflite"))(energy_command)
app.command(
    "submission",
    epilog=examples(
        'benchmarks submission --run runs/dcase2023 --label Schmidt_FAU --authors "Lo Schmidt <lo@fau.de> (FAU)"',
        "benchmarks submission --check runs/dcase2023/submission",
    ),
)(submission_command)


@app.command("summarize", epilog=examples("benchmarks summarize runs/seed0 runs/seed1 runs/seed2 -o results.json"))
def summarize_command(
    runs: Annotated[list[Path], typer.Argument(help="Run directories that differ in their seed.")],
    output: Output = None,
    overwrite: Overwrite = False,
    form: Annotated[str, typer.Option("--format", help="json or markdown.")] = "json",
) -> None:
    """Join the runs of several seeds: means, spread, and paired differences that respect recordings."""
    from edgepress.benchmarks.report.summary import as_markdown, summarize

    one_of(form, ("json", "markdown"))
    found = summarize(runs)
    emit(as_json(found) if form == "json" else as_markdown(found), output, overwrite)


def main() -> None:
    """The entry point: errors become one sentence and an exit code."""
    run_command(app)


if __name__ == "__main__":
    main()
