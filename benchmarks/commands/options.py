# SPDX-License-Identifier: Apache-2.0
"""Options that several commands of `benchmarks` have, and how each of them ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.models.errors import UsageError
from edgepress.models.run_directory import DEFAULT_RUN, RunDirectory
from edgepress.models.terminal.progress import ProgressBar
from edgepress.models.terminal.words import say

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
Budgets = Annotated[Path | None, typer.Option(help="Default: budgets.toml, where there is one.")]
OwnMetrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="package.module:function of (outputs, labels), beside the task's. Repeatable."),
]
Trust = Annotated[bool, typer.Option("--trust", help="Allow a checkpoint or data source to run its own code.")]


def keep_results(run: Path, found: list[dict[str, Any]]) -> None:
    """Results go to a run directory that exists; none is made only for them, unless it was asked for by name."""
    if found and (run.is_dir() or run != DEFAULT_RUN):
        from edgepress.benchmarks.measure.result_log import append

        append(RunDirectory(run), found)


def names_of(text: str) -> list[str]:
    """The names in a text, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def one_of(value: str, allowed: tuple[str, ...]) -> None:
    """Raises:
    UsageError: the format is none of these."""
    if value not in allowed:
        raise UsageError(f"--format {value!r} is unknown: allowed are {', '.join(allowed)}")


def as_json(value: Any) -> str:
    """What --format json prints."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def emit(text: str, output: Path | None, overwrite: bool) -> None:
    """To the terminal, or into a file that is not replaced unasked."""
    # A file name that is no UTF-8 must not make the whole output unreadable.
    text = text.encode("utf-8", "replace").decode()
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
        return
    keep_existing(output, overwrite)
    from edgepress.models.atomic import write_text

    write_text(output, text)
    say(f"wrote {output}")


def keep_existing(output: Path, overwrite: bool) -> None:
    """Raises:
    UsageError: the file is there, and nobody allowed to replace it."""
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already: choose another name or add --overwrite")


def fail_late(failures: list[dict[str, Any]]) -> None:
    """What worked has been shown; now the command fails for what did not."""
    if failures:
        from edgepress.models.errors import RuntimeFailure

        raise RuntimeFailure("; ".join(failure["error"] for failure in failures))


@contextmanager
def shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each runtime in turn, where it takes long."""
    bars: dict[str, ProgressBar] = {}
    with ExitStack() as open_bars:

        def reached(runtime: str, done: int, samples: int) -> None:
            if runtime not in bars:
                open_bars.close()
                bars[runtime] = open_bars.enter_context(ProgressBar(runtime, samples))
            bars[runtime].reach(done)

        yield reached
