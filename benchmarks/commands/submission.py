# SPDX-License-Identifier: Apache-2.0
"""The command `benchmarks submission`: what DCASE Task 1 wants, made from a run, or held against its checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.benchmarks.commands.options import Trust, names_of
from edgepress.models.errors import UsageError, VerdictError
from edgepress.models.run_directory import DEFAULT_RUN
from edgepress.models.terminal.words import say


def submission_command(
    run: Annotated[
        list[Path] | None,
        typer.Option("--run", help="Run directory; for 2024 one for each subset of the training data. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new folder; default: RUN/submission.")
    ] = None,
    year: Annotated[
        int | None, typer.Option(help="2022, 2023, 2024 or 2025; default: of the run's device class, else 2023.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="LASTNAME_INST; systems are LASTNAME_INST_task1_1 to _4.")] = None,
    authors: Annotated[
        str | None, typer.Option(help='"First Last <mail> (AFFILIATION); ...", the corresponding one first.')
    ] = None,
    systems: Annotated[
        str | None, typer.Option(help="Networks by name, separated by commas; default: the best four that are allowed.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="The unlabelled evaluation set; stopped, the same command goes on.")
    ] = None,
    technical_report: Annotated[Path | None, typer.Option(help="The .pdf to lay beside the systems.")] = None,
    check: Annotated[Path | None, typer.Option(help="Hold this folder against the checks; write nothing.")] = None,
    trust: Trust = False,
) -> None:
    """The submission folder of a run: predictions, complexity and results as DCASE Task 1 wants them, checked."""
    from edgepress.benchmarks.submission.check import check_folder
    from edgepress.benchmarks.submission.forms import form_of
    from edgepress.benchmarks.submission.write import read_facts, write_submission, year_of

    if check is not None:
        form = form_of(year or year_of(check))
        if found := check_folder(check, form, read_facts(check, form)):
            raise VerdictError(f"{check} is not ready for DCASE {form.year}:\n" + "\n".join(f"  - {p}" for p in found))
        print(f"{check}: passes the checks of DCASE {form.year}")
        return
    runs = run or [DEFAULT_RUN]
    form = form_of(year or year_of(runs[0]))
    if len(runs) > 1 and not form.subsets:
        raise UsageError(f"DCASE {form.year} has no subsets of the training data: give one --run, not {len(runs)}")
    folder, problems = write_submission(
        runs,
        output,
        form=form,
        label=label,
        authors=authors,
        systems=names_of(systems or ""),
        evaluation=evaluation,
        report=technical_report,
        trust=trust,
    )
    for problem in problems:
        say(f"not ready: {problem}")
    say(f"{'not ready for' if problems else 'passes the checks of'} DCASE {form.year}")
    print(folder)
