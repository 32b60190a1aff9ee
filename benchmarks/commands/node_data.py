# SPDX-License-Identifier: Apache-2.0
"""`benchmarks node-data`: figures by operator, for Model Explorer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.benchmarks.commands.options import File, Overwrite, Run, Shape, Trust, as_json, keep_existing
from edgepress.benchmarks.defaults import model_of, shapes_of
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import DEFAULT_RUN, RunDirectory


def node_data_command(
    file: File = None,
    run: Run = DEFAULT_RUN,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the JSON files; default: FILE.nodes.")
    ] = None,
    rule: Annotated[str, typer.Option(help="Counting rule of the MACs.")] = "core",
    sensitivity: Annotated[
        Path | None, typer.Option(help="JSON of compress quantize --sensitivity; default: the run's for this file.")
    ] = None,
    layers: Annotated[bool, typer.Option(help="Run the file and compare its operators, in LSB.")] = True,
    data: Annotated[str | None, typer.Option(help="Real inputs for that; default: noise.")] = None,
    shape: Shape = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> None:
    """Figures by operator as node data of Model Explorer: MACs, bytes, LSB between runtimes, sensitivity."""
    from edgepress.benchmarks.measure.node_data import node_data
    from edgepress.models.atomic import write_text

    path = model_of(file, run)
    folder = output if output is not None else path.with_name(path.name + ".nodes")
    keep_existing(folder, overwrite)
    found, notes = node_data(
        path,
        rule=rule,
        sensitivity=_sensitivity(sensitivity, path, run),
        layers=layers,
        data=data,
        shapes=shapes_of(shape),
        trust=trust,
    )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.json" for name in found]
    for place, figures in zip(written, found.values(), strict=True):
        write_text(place, as_json(figures))
        print(place)
    paths = ",".join(map(str, written))
    print(f"model-explorer {path} --node_data_paths={paths}", file=sys.stderr)


def _sensitivity(given: Path | None, file: Path, run: Path) -> list[dict[str, Any]]:
    """What was given, else what the run measured of the checkpoint that the file was made from."""
    from edgepress.benchmarks.measure.manifests import manifest_beside
    from edgepress.models.files.reading import read_json

    if given is None:
        checkpoint = (manifest_beside(file).get("checkpoint") or {}).get("path")
        if not isinstance(checkpoint, str) or not run.is_dir():
            return []
        given = RunDirectory(run).place("result", f"{Path(checkpoint).name}-sensitivity.json")
        if not given.is_file():
            return []
    value = read_json(given)
    entries = value.get("layers") if isinstance(value, dict) and value.get("kind") == "sensitivity" else None
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise UsageError(f"--sensitivity {given} is no JSON of `compress quantize --sensitivity`")
    return entries


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("key"), str)
        and entry.get("kind") in ("activations", "weights")
        and isinstance(entry.get("share"), int | float)
        and not isinstance(entry["share"], bool)
    )
