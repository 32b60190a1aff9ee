# SPDX-License-Identifier: Apache-2.0
"""Damaged files by the thousand through every reader.

    python -m edgepress.benchmarks.experiments.hostile --cases 3000 --output benchmarks/results/hostile.json \
        --docs docs/safety.md

Half of the cases are .tflite files; then .onnx files, checkpoints, texts, arrays and folders of audio. The same number
is the same damage. Exit 1 where a reading ends otherwise than with a verdict or one sentence.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from edgepress.models.command_line import run_command
from edgepress.models.errors import VerdictError


def main(
    cases: Annotated[int, typer.Option(min=6, help="Of all kinds together.")] = 3000,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind. Repeatable.")] = None,
    output: Annotated[Path | None, typer.Option(help="Results file; an older one is replaced.")] = None,
    docs: Annotated[Path | None, typer.Option(help="The page to write from it.")] = None,
) -> None:
    """Damage, read, count."""
    import time

    from edgepress.benchmarks.experiments.hostile.cases import write_seeds
    from edgepress.benchmarks.experiments.hostile.files import read_all, shares, summary
    from edgepress.benchmarks.experiments.hostile.page import page
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.models.atomic import write_json, write_text

    found: dict[str, Any] = {
        "schema": 1,
        "command": f"python -m edgepress.benchmarks.experiments.hostile --cases {cases}",
        "environment": environment(),
        "kinds": {},
    }
    with TemporaryDirectory(prefix="hostile-") as folder:
        valid = Path(folder) / "valid"
        write_seeds(valid)
        for name, count in shares(cases).items():
            if kind and name not in kind:
                continue
            found["kinds"][name] = summary(read_all(name, count, valid, Path(folder), _say))
            found["date"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            if output is not None:
                write_json(output, found)
    if docs is not None:
        write_text(docs, page(found))
    faults = {name: one["faults"] for name, one in found["kinds"].items() if one["faults"]}
    print(f"{sum(one['cases'] for one in found['kinds'].values())} cases, faults: {faults or 'none'}")
    if faults:
        raise VerdictError("readings ended otherwise than with a verdict or one sentence; the results name them")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_command(app)
