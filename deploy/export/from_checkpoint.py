# SPDX-License-Identifier: Apache-2.0
"""Checkpoint -> proven file: calibrate where it is float, export, shrink, verify, and only then put it in its place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgepress.deploy.artifact import SUFFIXES, Artifact, find_manifest, manifest_path, sha256_of, write_manifest
from edgepress.models.atomic import write_bytes, write_json
from edgepress.models.errors import ParityError, RuntimeFailure, UsageError
from edgepress.models.run_directory import RunDirectory

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgepress.compress.quantize.model import Quantized
    from edgepress.models.checkpoints.spec import ModelSpec

#: Calibration needs the spread of the activations, not a whole split.
CALIBRATION_SAMPLES = 256
_BATCH = 32
Say = Callable[[str], None]


#: Rounding alone, kernel against kernel, usually stays within this at the outputs; more is said, with the layer.
EXPECTED_LSB = 3.0
#: A single value this far off is refused: a wrong scale or operator is farther, accumulated rounding is not.
REFUSED_LSB = 16.0


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported.

    Attributes:
        format: "tflite", "onnx" or "c".
        scheme: "w8a8", or "float32" for no integers.
        data: source of calibration and verification data; None takes the task that the checkpoint names.
        shrink: apply the lossless steps to a TFLite file.
        verify: compare with torch before the file counts as done.
        float_io: TFLite with float32 inputs and outputs.
        unsigned: ONNX with uint8 activations.
        max_lsb, mean_lsb: what the comparison allows.
        trust: allow a checkpoint or task to run code of its own.
    """

    format: str = "tflite"
    scheme: str = "w8a8"
    data: str | None = None
    shrink: bool = True
    verify: bool = True
    float_io: bool = False
    unsigned: bool = False
    max_lsb: float = REFUSED_LSB
    mean_lsb: float = 0.5
    trust: bool = False

    def choices(self) -> dict[str, bool]:
        """What makes two files of one checkpoint differ, for the manifest."""
        return {"float_io": self.float_io, "unsigned": self.unsigned}


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


def export_checkpoint(
    source: Source,
    options: ExportOptions,
    run: RunDirectory,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> tuple[Artifact, bool]:
    """Export a checkpoint.

    Args:
        source: what.
        options: how.
        run: where artifacts are collected when `output` is None, and where a newly calibrated checkpoint is kept.
        output: the file; an existing one is only replaced with `overwrite`.
        say: gets one sentence for each step.

    Returns:
        (the artifact, whether it was made now: False where the run already held the same one).

    Raises:
        UsageError: a bad checkpoint, no calibration data, or an existing output. ParityError: the file departs from the
        checkpoint; nothing is written then.
    """
    if options.format not in SUFFIXES:
        raise UsageError(f"format = {options.format!r} is unknown: allowed are {', '.join(SUFFIXES)}")
    if options.format == "c" and options.scheme == "float32":
        raise UsageError("a C array is made from int8: leave --float out, or export a float .tflite")
    if options.unsigned and options.format != "onnx":
        raise UsageError("--uint8 belongs to --format onnx: TFLite's kernels take int8 activations")
    if options.float_io and options.format != "tflite":
        raise UsageError("--float-io belongs to --format tflite: an ONNX file takes and gives float anyway")
    if output is not None and output.exists() and not overwrite:
        raise UsageError(f"{output} exists already; choose another name or allow overwriting with --overwrite")
    with TemporaryDirectory(prefix="edgepress-") as scratch:
        model, spec, origin, name = _integers(source, options, run, output is None, Path(scratch), say)
        target = output or _place(run, name, options)
        if output is None:
            same = _already_there(run, name, options, origin["sha256"])
            if same is not None:
                _register(run, same, source, name, options.trust)
                return same, False
        folder = Path(scratch) / "new"
        folder.mkdir()
        artifact = _make(model, spec, options, origin, folder / target.name, say)
        kept = output is None or Path(origin["path"]).parent != Path(scratch).resolve()
        _move(artifact, target, Path(origin["path"]) if kept else None, source.path)
    final = Artifact(target, options.format, find_manifest(target) or {})
    if output is None:
        _register(run, final, source, name, options.trust)
    return final, True


def _integers(
    source: Source, options: ExportOptions, run: RunDirectory, keep: bool, scratch: Path, say: Say
) -> tuple[nn.Module | Quantized, ModelSpec, dict[str, Any], str]:
    """(module or Quantized, spec, origin {"path", "sha256"}, name) of what is exported."""
    from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_quantization, save_checkpoint

    quantization = read_quantization(source.path)
    model, spec = load_checkpoint(source.path, trust=options.trust)
    if options.scheme == "float32":
        if quantization is not None:
            raise UsageError(f"{source.path} is an int8 checkpoint: export it without --float, or name the float one")
        return model, spec, _origin(source.path), source.name
    from edgepress.compress.quantize import quantization_json, quantize_model, restore_quantized, unfold

    examples = spec.example_inputs()
    if quantization is not None:
        return restore_quantized(model, examples, quantization), spec, _origin(source.path), source.name
    name = f"{source.name}-{options.scheme}"
    home = run.place("checkpoint", name) if keep else scratch / name
    made_from = {"checkpoint": sha256_of(source.path), "data": options.data or spec.task, "scheme": options.scheme}
    if home.is_dir():
        from edgepress.models.checkpoints.checkpoint import read_metrics

        if read_metrics(home).get("calibrated_from") == made_from:
            say(f"{source.path} is float: its calibration is already there, {home}")
            reloaded, _ = load_checkpoint(home, trust=options.trust)
            return restore_quantized(reloaded, examples, read_quantization(home) or {}), spec, _origin(home), name
        number = 2
        while (home := run.place("checkpoint", f"{name}-{number}")).exists():
            number += 1
        name = home.name
    batches, where, count = _calibration(spec, options)
    say(f"{source.path} is float: calibrating {options.scheme} on {count} clips of {where}")
    quantized = quantize_model(model, examples, calibration=batches, scheme=options.scheme)
    save_checkpoint(
        home, unfold(quantized, model), spec, {"calibrated_from": made_from}, quantization=quantization_json(quantized)
    )
    if keep:
        from edgepress.compress.pipeline.entries import facts_of

        run.add("checkpoint", name, home, **{**facts_of(source.facts), "scheme": options.scheme})
        say(f"the calibrated checkpoint is {home}")
    # The verification opens what was saved: it would show a checkpoint that does not give back these integers.
    return quantized, spec, _origin(home), name


def _calibration(spec: ModelSpec, options: ExportOptions) -> tuple[list[tuple[torch.Tensor, ...]], str, int]:
    import numpy as np
    import torch

    from edgepress.models.tasks import load_task
    from edgepress.models.tasks.front_ends.log_mel import LogMel

    source = options.data or spec.task
    if source is None:
        raise UsageError(
            "a float checkpoint is calibrated before it becomes int8, and this one names no task: "
            "give --data, run `compress quantize` first, or export fp32 with --float"
        )
    front_end = LogMel.from_json(spec.front_end) if spec.front_end and not Path(source).is_file() else None
    task = load_task(source, front_end=front_end, trust=options.trust)
    split = next((name for name in ("calibration", "train", "validation", "test") if task.has(name)), "calibration")
    features = task.features(split)
    chosen = np.sort(np.random.default_rng(0).permutation(len(features))[:CALIBRATION_SAMPLES])
    x = torch.from_numpy(np.array(features[chosen], np.float32))
    return [(part,) for part in x.split(_BATCH)], f"the {split} split of {task.name}", len(chosen)


def _make(
    model: nn.Module | Quantized,
    spec: ModelSpec,
    options: ExportOptions,
    origin: dict[str, Any],
    path: Path,
    say: Say,
) -> Artifact:
    """Everything in a scratch folder: export, shrink, verify, manifest."""
    from edgepress.deploy.export.export import export_model

    inner = path if options.format != "c" else path.with_suffix(".tflite")
    say(f"exporting {options.scheme} {'TFLite' if inner.suffix == '.tflite' else 'ONNX'}")
    exported = export_model(
        model,
        spec.example_inputs(),
        inner,
        format="onnx" if options.format == "onnx" else "tflite",
        float_io=options.float_io,
        unsigned=options.unsigned,
        verify=False,
        spec=spec,
    )  # compared below, after shrinking
    manifest = {**exported.manifest, "checkpoint": origin, "choices": options.choices()}
    if inner.suffix == ".tflite" and options.shrink:
        from edgepress.deploy.verify.shrink import shrink_model

        shrunk = shrink_model(inner.read_bytes())
        inner.write_bytes(shrunk.model)
        manifest["shrink"] = shrunk.report
        before, after = shrunk.report["before"], shrunk.report["after"]
        say(
            f"shrunk from {before['file_bytes']:,} to {after['file_bytes']:,} bytes, outputs equal to the bit"
            + (f"; arena {before['arena_bytes']:,} to {after['arena_bytes']:,} bytes" if after["arena_bytes"] else "")
        )
    write_manifest(inner, manifest)
    if options.verify:
        manifest["parity"] = _verified(inner, options, say)
        write_manifest(inner, manifest)
    if options.format != "c":
        return Artifact(path, options.format, find_manifest(path) or {})
    from edgepress.deploy.export.to_c import write_c

    source, header, made = write_c(inner.read_bytes(), path)
    write_manifest(
        source,
        {
            **manifest,
            "format": "c",
            "files": {header.name: sha256_of(header)},
            "c": {
                "operators": list(made.operators),
                "arena_bytes": made.arena_bytes,
                "model_sha256": sha256_of(inner),
                "model_bytes": inner.stat().st_size,
            },
        },
    )
    return Artifact(source, "c", find_manifest(source) or {})


def _verified(path: Path, options: ExportOptions, say: Say) -> dict[str, Any]:
    from edgepress.deploy.export.comparison import MUST_RUN
    from edgepress.deploy.verify.parity import Thresholds, summary, verify

    report = verify(
        path,
        data=options.data,
        samples=200,
        random_samples=16,
        trust=options.trust,
        only_torch=True,
        thresholds=Thresholds(options.max_lsb, options.mean_lsb),
    )
    if not any("torch" in (pair["a"], pair["b"]) for pair in report["pairs"]):
        raise ParityError(f"the export could not be compared with torch: {'; '.join(report['notes'])}")
    for runtime, entry in report["runtimes"].items():
        if not entry["ran"] and runtime in MUST_RUN["onnx" if options.format == "onnx" else "tflite"]:
            raise RuntimeFailure(f"{runtime} cannot run {path.name}, so that it was not written: {entry['reason']}")
        if not entry["ran"]:
            say(f"note: {runtime} does not run the file: {entry['reason']}")
    if not report["passed"]:
        raise ParityError(
            f"the {options.format} file departs from its checkpoint, so that it is not written: "
            f"{summary(report)}{_first_layer(path, options)}; --max-lsb and --mean-lsb allow more"
        )
    say(f"verified on {report['inputs']['samples']} inputs ({report['inputs']['source']}): {summary(report)}")
    largest = max((pair["max_lsb"] or 0 for pair in report["pairs"] if pair["a"] == "torch"), default=0)
    usual = EXPECTED_LSB * 2 ** ((report["output_bits"] or 8) - 8)
    if largest > usual:
        say(f"note: {largest:g} LSB is more than the usual {usual:g}{_first_layer(path, options)}")
    return {key: report[key] for key in ("inputs", "pairs", "random_pairs", "runtimes", "passed")}


def _first_layer(path: Path, options: ExportOptions) -> str:
    if path.suffix != ".tflite":
        return ""
    from edgepress.deploy.verify.layers import layer_report
    from edgepress.models.errors import EdgepressError

    try:
        found = layer_report(path, options.data, trust=options.trust)
    except EdgepressError:
        return ""
    named = [
        f"{runtime} first departs from {found['reference']} at operator {layer['step']} ({layer['operator']})"
        for runtime, layer in found["first"].items()
        if layer
    ]
    return f"; {', '.join(named)}" if named else f"; all agree with {found['reference']} layer by layer"


def _origin(path: Path) -> dict[str, Any]:
    return {"path": str(path.resolve()), "sha256": sha256_of(path)}


def _file_name(name: str, options: ExportOptions) -> str:
    if options.format == "c":
        stem = re.sub(r"\W", "_", name)
        return (stem if not stem[0].isdigit() else f"model_{stem}") + ".cc"
    return f"{name}{'-float32' if options.scheme == 'float32' else ''}{SUFFIXES[options.format]}"


def _place(run: RunDirectory, name: str, options: ExportOptions) -> Path:
    """The artifact's place in the run; where another one has that name, the next free number."""
    first = run.place("artifact", _file_name(name, options))
    candidate, number = first, 2
    while candidate.exists():
        joint = "_" if options.format == "c" else "-"
        candidate = first.with_name(f"{first.stem}{joint}{number}{first.suffix}")
        number += 1
    return candidate


def _already_there(run: RunDirectory, name: str, options: ExportOptions, origin: str) -> Artifact | None:
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
            and (manifest.get("shrink") is not None or not options.shrink or options.format == "onnx")
        ):
            return Artifact(path, options.format, manifest)
    return None


def _move(artifact: Artifact, target: Path, checkpoint: Path | None, source: Path) -> None:
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


def _register(run: RunDirectory, artifact: Artifact, source: Source, checkpoint: str, trust: bool) -> None:
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
