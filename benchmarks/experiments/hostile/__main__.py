# SPDX-License-Identifier: Apache-2.0
"""Damaged files by the thousand through every reader; commands that are killed, stopped, and run out of disk.

    python -m edgepress.benchmarks.experiments.hostile --cases 3000 --output benchmarks/results/hostile.json \
        --docs docs/safety.md

Half of the cases are .tflite files; then .onnx files, checkpoints, texts, arrays and folders of audio. The same number
is the same damage. `--part` chooses among files, signals, kills and disk; the others keep what the results file holds
of them. With `--work` the same command goes on where it was stopped. Exit 1 where something ends otherwise than with a
verdict or one sentence, or where something finished is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from edgepress.models.command_line import run_command
from edgepress.models.errors import UsageError, VerdictError

PARTS = ("files", "signals", "kills", "disk")


def main(
    cases: Annotated[int, typer.Option(min=6, help="Damaged files, of all kinds together.")] = 3000,
    kind: Annotated[list[str] | None, typer.Option(help="Only files of this kind. Repeatable.")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}; default: all. Repeatable.")] = None,
    kills: Annotated[int, typer.Option(min=1, help="Kills, over all commands.")] = 60,
    killed: Annotated[list[str] | None, typer.Option(help="Kill only this command. Repeatable.")] = None,
    offsets: Annotated[int, typer.Option(min=1, help="Sizes at which the disk is full.")] = 20,
    work: Annotated[Path | None, typer.Option(help="Keep what was done here, and go on with it.")] = None,
    output: Annotated[Path | None, typer.Option(help="Results file; the parts that are run replace theirs.")] = None,
    docs: Annotated[Path | None, typer.Option(help="The page to write from it.")] = None,
) -> None:
    """Damage, kill, stop, fill; read, count."""
    import time

    from edgepress.benchmarks.experiments.hostile import files
    from edgepress.benchmarks.experiments.hostile.endings import disk, signals
    from edgepress.benchmarks.experiments.hostile.endings import kills as kills_of
    from edgepress.benchmarks.experiments.hostile.page import page
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.models.atomic import write_json, write_text
    from edgepress.models.files.reading import read_json

    chosen = part or PARTS
    if wrong := sorted(set(chosen) - set(PARTS)):
        raise UsageError(f"part = {wrong[0]!r} is unknown: allowed are {', '.join(PARTS)}")
    found: dict[str, Any] = read_json(output, dict[str, Any]) if output is not None and output.exists() else {}
    found = {"schema": 2, **{name: found[name] for name in PARTS if found.get("schema") == 2 and name in found}}
    run: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
        "files": (f"--cases {cases}", lambda folder: files.measure(cases, kind, folder, _say)),
        "signals": ("", lambda folder: signals.measure(folder, _say)),
        "kills": (
            " ".join([f"--kills {kills}", *(f'--killed "{name}"' for name in killed or ())]),
            lambda folder: kills_of.measure(
                kills, folder, _say, [one for one in kills_of.SERIES if not killed or str(one) in killed]
            ),
        ),
        "disk": (f"--offsets {offsets}", lambda folder: disk.measure(offsets, folder, _say)),
    }
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(TemporaryDirectory(prefix="hostile-")))
        for name in (one for one in PARTS if one in chosen):
            options, measure = run[name]
            words = ["python -m edgepress.benchmarks.experiments.hostile --part", name, *([options] if options else [])]
            measured = measure(folder / name)
            found[name] = {
                "command": " ".join(words),
                "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "environment": environment(),
                **measured,
            }
            if output is not None:
                write_json(output, found)
    if docs is not None:
        write_text(docs, page(found))
    bad = {name: len(found[name]["bad"]) for name in PARTS if name in found and found[name]["bad"]}
    print(f"faults: {', '.join(f'{count} in {name}' for name, count in bad.items()) or 'none'}")
    if bad:
        raise VerdictError("something ended otherwise than with a verdict or one sentence; the results name it")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_command(app)
