# SPDX-License-Identifier: Apache-2.0
"""`benchmarks card`: the result card of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.benchmarks.commands.options import Budgets, File, Overwrite, Run, Shape, Trust, fail_late, keep_existing
from edgepress.benchmarks.defaults import beside, budgets_of, model_of, results_of, shapes_of
from edgepress.models.run_directory import DEFAULT_RUN


def card_command(
    file: File = None,
    run: Run = DEFAULT_RUN,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="NAME.html and NAME.md; default: FILE.card.html and .md beside it."),
    ] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help="Measured results; default: those of the run. Repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Measure accuracy on this data first, on every runtime.")] = None,
    budgets: Budgets = None,
    shape: Shape = None,
    verify: Annotated[bool, typer.Option(help="Compare runtimes where the export has not.")] = True,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> None:
    """The result card of a model: one page and Markdown to attach to a release."""
    from edgepress.benchmarks.card.card import as_html, card_paths, result_card
    from edgepress.benchmarks.card.markdown import as_markdown
    from edgepress.models.atomic import write_text
    from edgepress.models.devices.classes import device_classes

    budgets, named = budgets_of(budgets)
    path = model_of(file, run)
    page, text = card_paths(path, output)
    for target in (page, text):
        keep_existing(target, overwrite)
    sources = results or [source for source in [beside(budgets, named.results)] if source is not None]
    found = [record for source in sources or [None] for record in results_of(source, run)]
    if data is not None:
        from edgepress.benchmarks.measure.accuracy import measure_accuracy, records

        measured = measure_accuracy(path, data, trust=trust)
        found += records(measured)
        if not measured["results"]:
            fail_late(measured["failures"])
    card = result_card(
        path, results=found, classes=device_classes(budgets), shapes=shapes_of(shape), verify=verify, trust=trust
    )
    write_text(page, as_html(card))
    write_text(text, as_markdown(card))
    print(page)
    print(text)
