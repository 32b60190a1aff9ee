# SPDX-License-Identifier: Apache-2.0
"""What is asked of an export, and the run directory: its checkpoints, and where files lie that are made of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.deploy.artifact import (
    MADE_FROM_ONNX,
    SUFFIX_OF,
    Artifact,
    find_manifest,
    manifest_path,
    sha256_of,
)
from edgepress.models.atomic import write_bytes, write_json
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory

#: A single value this far off is refused: a wrong scale or operator is farther, accumulated rounding is not.
REFUSED_LSB = 16.0


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported.

    Attributes:
        format: "tflite", "onnx", "executorch" or "c"; "ort" or "openvino", which are made of the ONNX file.
        scheme: "w8a8", or "float32" for no integers.
        data: source of calibration and verification data; None takes the task that the checkpoint names.
        shrink: apply the lossless steps to a TFLite file.
        verify: compare with torch before the file counts as done.
        float_io: TFLite with float32 inputs and outputs.
        onnx_integers: types of 8-bit activations and weights in ONNX files, as for `export_model`.
        max_lsb, mean_lsb: what the comparison allows.
        trust: allow a checkpoint or task to run code of its own.
    """

    format: str = "tflite"
    scheme: str = "w8a8"
    data: str | None = None
    shrink: bool = True
    verify: bool = True
    float_io: bool = False
    onnx_integers: str = "u8u8"
    max_lsb: float = REFUSED_LSB
    mean_lsb: float = 0.5
    device: str | None = None
    trust: bool = False

    def choices(self) -> dict[str, Any]:
        """What makes two files of one checkpoint differ, for the manifest."""
        chosen = {"float_io": self.float_io, "onnx_integers": self.onnx_integers}
        return chosen | ({"device": self.device} if self.device else {})

    def must_run(self) -> tuple[str, ...]:
        """The runtimes without which a file is not written: that of the device class, or those that all need."""
        from edgepress.deploy.export.comparison import must_run

        return must_run(self.first, None, self.device)

    @property
    def first(self) -> str:
        """The format that the network is converted to; a C array, .ort and OpenVINO's files are made of that."""
        return "tflite" if self.format == "c" else "onnx" if self.format in MADE_FROM_ONNX else self.format


@dataclass(frozen=True)
class Source:
    """A checkpoint to export, with its name and what the run directory knows about it."""

    path: Path
    name: str
    facts: dict[str, Any]


def find_checkpoint(path: Path | None, run: RunDirectory, want_float: bool) -> Source:
    """The given checkpoint, or the newest of the run (the newest float one for a float export).

    Raises:
        UsageError: it is none, or the run has none.
    """
    from edgepress.models.checkpoints.checkpoint import read_quantization

    entries = run.entries("checkpoint")
    if path is not None:
        known = [entry for entry in entries if entry["path"].resolve() == path.resolve()]
        read_quantization(path)  # says what is wrong with it
        return Source(path, known[-1]["name"] if known else path.resolve().name, known[-1] if known else {})
    if want_float:
        entry = run.newest(
            "checkpoint",
            lambda e: read_quantization(e["path"]) is None,
            wanted="float checkpoint",
            first="compress train",
        )
    else:
        entry = run.newest("checkpoint", wanted="checkpoint", first="compress train")
    return Source(entry["path"], entry["name"], entry)


def origin_of(path: Path) -> dict[str, Any]:
    """What a manifest says of the checkpoint."""
    return {"path": str(path.resolve()), "sha256": sha256_of(path)}


def _file_name(name: str, options: ExportOptions) -> str:
    if options.format == "c":
        stem = re.sub(r"\W", "_", name)
        return (stem if not stem[0].isdigit() else f"model_{stem}") + ".cc"
    return f"{name}{'-float32' if options.scheme == 'float32' else ''}{SUFFIX_OF[options.format]}"


def place_in(run: RunDirectory, name: str, options: ExportOptions) -> Path:
    """The artifact's place in the run; where another one has that name, the next free number."""
    first = run.place("artifact", _file_name(name, options))
    candidate, number = first, 2
    while candidate.exists():
        joint = "_" if options.format == "c" else "-"
        candidate = first.with_name(f"{first.stem}{joint}{number}{first.suffix}")
        number += 1
    return candidate


def already_there(run: RunDirectory, name: str, options: ExportOptions, origin: str) -> Artifact | None:
    """The same export of the same checkpoint, made before."""
    first = run.place("artifact", _file_name(name, options))
    for path in sorted(first.parent.glob(f"{first.stem}*{first.suffix}")) if first.parent.is_dir() else ():
        try:
            manifest = find_manifest(path)
        except UsageError:
            continue
        if (
            manifest
            and (manifest.get("checkpoint") or {}).get("sha256") == origin
            and (manifest["scheme"] == "float32") == (options.scheme == "float32")
            and manifest["format"] == options.format
            and manifest.get("choices", ExportOptions().choices()) == options.choices()
            and (manifest.get("shrink") is not None or not options.shrink or options.first != "tflite")
        ):
            return Artifact(path, options.format, manifest)
    return None


def move(artifact: Artifact, target: Path, checkpoint: Path | None, source: Path) -> None:
    """From the scratch folder to its place; the file last, so that it is never there without its manifest."""
    folder = target.resolve().parent
    # Relative to the artifact, so that a run directory can be moved. A calibration that wasn't kept has no path.
    origin = {**artifact.manifest["checkpoint"], "path": os.path.relpath(checkpoint, folder) if checkpoint else None}
    if checkpoint is None:
        origin["calibrated_from"] = os.path.relpath(source.resolve(), folder)
    for name in artifact.manifest.get("files") or {}:
        write_bytes(target.parent / name, (artifact.path.parent / name).read_bytes())
    write_json(manifest_path(target), {**artifact.manifest, "checkpoint": origin})
    write_bytes(target, artifact.path.read_bytes())


def _cost_facts(checkpoint: Path, trust: bool) -> dict[str, Any]:
    from edgepress.models.checkpoints.checkpoint import load_checkpoint
    from edgepress.models.cost.cost import cost_of

    model, spec = load_checkpoint(checkpoint, trust=trust)
    cost = cost_of(model, spec.example_inputs(), rule="dcase")
    return {"macs": cost.macs, "params": cost.params, "rule": "dcase"}


def register(run: RunDirectory, artifact: Artifact, source: Source, checkpoint: str, trust: bool) -> None:
    """Enter a file into the run's list."""
    facts: dict[str, Any] = {
        "format": artifact.format,
        "scheme": artifact.manifest.get("scheme"),
        "checkpoint": checkpoint,
        "file_bytes": artifact.file_bytes,
        "sha256": artifact.manifest.get("sha256"),
    }
    facts.update({key: source.facts[key] for key in ("macs", "params", "rule") if key in source.facts})
    if "macs" not in facts:
        facts.update(_cost_facts(source.path, trust))
    run.add("artifact", artifact.path.name, artifact.path, **facts)
