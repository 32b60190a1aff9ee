# SPDX-License-Identifier: Apache-2.0
"""Networks from outside through pruning, quantization and export, beside other tools.

    python -m edgepress.benchmarks.experiments.networks --run runs/networks --output benchmarks/results/networks.json \\
        --docs docs/networks.md

Every finished part of a network is a line of `rows.jsonl` in the run directory; the same command goes on where it was.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.models.command_line import run_command
from edgepress.models.errors import UsageError


def main(
    run: Annotated[Path, typer.Option(help="Keeps every finished part.")] = Path("runs/networks"),
    only: Annotated[str | None, typer.Option(help="Names of networks or groups, by commas; default: all.")] = None,
    parts: Annotated[str | None, typer.Option(help="Parts, by commas; default: all.")] = None,
    retry: Annotated[str, typer.Option(help="Rows to measure anew: none, failed or all.")] = "none",
    cpu_s: Annotated[int, typer.Option(min=1, help="CPU seconds for one part of one network.")] = 120,
    minutes: Annotated[float | None, typer.Option(min=0, help="Begin no network after so long; 0: sum up.")] = None,
    output: Annotated[Path | None, typer.Option(help="Results file; an older one is replaced.")] = None,
    docs: Annotated[Path | None, typer.Option(help="The page to write from it.")] = None,
) -> None:
    """Measure what is missing and sum up."""
    from edgepress.benchmarks.experiments.networks.catalogue import GROUPS, catalogue
    from edgepress.benchmarks.experiments.networks.page import page
    from edgepress.benchmarks.experiments.networks.parts import PARTS
    from edgepress.benchmarks.experiments.networks.run import Bounds, run_all
    from edgepress.models.atomic import write_json, write_text

    known = catalogue()
    names = only.split(",") if only else list(known)
    wanted_parts = parts.split(",") if parts else list(PARTS)
    for option, values, allowed in (
        ("--only", names, (*known, *GROUPS)),
        ("--parts", wanted_parts, tuple(PARTS)),
        ("--retry", [retry], ("none", "failed", "all")),
    ):
        if unknown := [value for value in values if value not in allowed]:
            raise UsageError(f"{option} = {unknown[0]!r} is unknown: known are {', '.join(allowed)}")
    chosen = {name: network for name, network in known.items() if name in names or network.group in names}
    rows = run_all(
        run,
        chosen,
        wanted_parts,
        Bounds(cpu_s=cpu_s),
        again={"none": lambda row: False, "failed": lambda row: "error" in row, "all": lambda row: True}[retry],
        until=None if minutes is None else time.monotonic() + 60 * minutes,
        say=_say,
    )
    found = report(known, rows)
    if output is not None:
        write_json(output, found)
    if docs is not None:
        write_text(docs, page(found))
    print(f"{sum(len(one['parts']) == len(PARTS) for one in found['networks'])} of {len(known)} networks are finished")


def report(known: dict[str, Any], rows: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """The results file: every network of the catalogue with its parts, measured or not."""
    from edgepress.benchmarks.experiments.peers.accuracy import package_version
    from edgepress.benchmarks.measure.environment import environment

    libraries = ("torchvision", "timm", "segmentation-models-pytorch", "torch-pruning")
    return {
        "schema": 1,
        "command": "python -m edgepress.benchmarks.experiments.networks",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
        "libraries": {name: package_version(name) for name in libraries},
        "networks": [
            {
                "name": name,
                "group": network.group,
                "source": network.source,
                "shapes": [list(shape) for shape in network.shapes],
                "parts": {part: _portable(row) for (owner, part), row in rows.items() if owner == name},
            }
            for name, network in known.items()
        ],
    }


def _portable(row: dict[str, Any]) -> dict[str, Any]:
    """Without what the list says already, and without the folders of this machine."""
    found = {key: value for key, value in row.items() if key not in ("network", "part")}
    if "error" in found:
        found["error"] = re.sub(r"[\w.+-]*(/[\w.+-]+){2,}/", "", found["error"])
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    from multiprocessing import util

    util.get_temp_dir()  # of this process, outside the scratch folder, which is gone when the server of processes ends
    app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_command(app)
