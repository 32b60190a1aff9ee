# SPDX-License-Identifier: Apache-2.0
"""Checkpoint -> proven file: calibrate where it is float, export, shrink, verify, and only then put it in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgepress.deploy.artifact import (
    FORMATS,
    MADE_FROM_ONNX,
    SUFFIXES,
    Artifact,
    find_manifest,
    sha256_of,
    write_manifest,
)
from edgepress.deploy.export.in_run import ExportOptions, Source, already_there, move, origin_of, place_in, register
from edgepress.deploy.onnx_files.integer_types import integer_types
from edgepress.models.errors import ParityError, RuntimeFailure, UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.progress import working

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgepress.compress.quantize.model import Quantized
    from edgepress.models.checkpoints.spec import ModelSpec

#: Calibration needs the spread of the activations, not a whole split.
CALIBRATION_SAMPLES = 256
_BATCH = 32
_TITLES = {".tflite": "TFLite", ".onnx": "ONNX", ".pte": "ExecuTorch"}
Say = Callable[[str], None]
#: Rounding alone, kernel against kernel, usually stays within this at the outputs; more is said, with the layer.
EXPECTED_LSB = 3.0


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
    if options.format not in FORMATS:
        raise UsageError(f"format = {options.format!r} is unknown: allowed are {', '.join(FORMATS)}")
    if options.format == "c" and options.scheme == "float32":
        raise UsageError("a C array is made from int8: leave --float out, or export a float .tflite")
    integer_types(options.onnx_integers)
    if options.onnx_integers != "u8u8" and options.first != "onnx":
        raise UsageError(f"--onnx-integers {options.onnx_integers} belongs to --format onnx: TFLite's kernels are s8s8")
    if options.float_io and options.format != "tflite":
        raise UsageError("--float-io belongs to --format tflite: other files take and give float anyway")
    if options.device is not None and not options.verify:
        raise UsageError(
            f"--device {options.device} says what must run the file, so that it has to run: leave --no-verify out"
        )
    options.must_run()
    if output is not None and output.exists() and not overwrite:
        raise UsageError(f"{output} exists already; choose another name or allow overwriting with --overwrite")
    with TemporaryDirectory(prefix="edgepress-") as scratch:
        model, spec, origin, name = _integers(source, options, run, output is None, Path(scratch), say)
        target = output or place_in(run, name, options)
        if output is None:
            same = already_there(run, name, options, origin["sha256"])
            if same is not None:
                register(run, same, source, name, options.trust)
                return same, False
        folder = Path(scratch) / "new"
        folder.mkdir()
        artifact = _make(model, spec, options, origin, folder / target.name, say)
        kept = output is None or Path(origin["path"]).parent != Path(scratch).resolve()
        move(artifact, target, Path(origin["path"]) if kept else None, source.path)
    final = Artifact(target, options.format, find_manifest(target) or {})
    if output is None:
        register(run, final, source, name, options.trust)
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
        return model, spec, origin_of(source.path), source.name
    from edgepress.compress.quantize import quantization_json, quantize_model, restore_quantized, unfold

    examples = spec.example_inputs()
    if quantization is not None:
        return restore_quantized(model, examples, quantization), spec, origin_of(source.path), source.name
    name = f"{source.name}-{options.scheme}"
    home = run.place("checkpoint", name) if keep else scratch / name
    made_from = {"checkpoint": sha256_of(source.path), "data": options.data or spec.task, "scheme": options.scheme}
    if home.is_dir():
        from edgepress.models.checkpoints.checkpoint import read_metrics

        if read_metrics(home).get("calibrated_from") == made_from:
            say(f"{source.path} is float: its calibration is already there, {home}")
            reloaded, _ = load_checkpoint(home, trust=options.trust)
            return restore_quantized(reloaded, examples, read_quantization(home) or {}), spec, origin_of(home), name
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
    return quantized, spec, origin_of(home), name


def _calibration(spec: ModelSpec, options: ExportOptions) -> tuple[list[tuple[torch.Tensor, ...]], str, int]:
    import numpy as np
    import torch

    from edgepress.models.tasks import load_task
    from edgepress.models.tasks.sources.load import front_end_for

    source = options.data or spec.task
    if source is None:
        raise UsageError(
            "a float checkpoint is calibrated before it becomes int8, and this one names no task: "
            "give --data, run `compress quantize` first, or export fp32 with --float"
        )
    front_end = front_end_for(source, spec.front_end)
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

    inner = path.with_suffix(SUFFIXES[options.first])
    say(f"exporting {options.scheme} {_TITLES[inner.suffix]}")
    with working("exporting"):
        exported = export_model(
            model,
            spec.example_inputs(),
            inner,
            format=options.first,
            float_io=options.float_io,
            onnx_integers=options.onnx_integers,
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
    if options.format in MADE_FROM_ONNX:
        _of_onnx(options.format)(inner, path)
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


def _of_onnx(format: str) -> Callable[[Path, Path], Any]:
    """What writes ONNX Runtime's or OpenVINO's own files from an ONNX file."""
    if format == "ort":
        from edgepress.deploy.verify.ort import ort_file

        return ort_file
    from edgepress.deploy.openvino_ir.convert import openvino_files

    return openvino_files


def _verified(path: Path, options: ExportOptions, say: Say) -> dict[str, Any]:
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
        if not entry["ran"] and runtime in options.must_run():
            what = f", the runtime of {options.device}," if options.device else ""
            raise RuntimeFailure(
                f"{runtime}{what} cannot run {path.name}, so that it was not written: {entry['reason']}"
            )
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
