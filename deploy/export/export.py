# SPDX-License-Identifier: Apache-2.0
"""One call from a network to a proven file: convert, compare with torch on every runtime, and only then write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgepress.deploy.artifact import FORMATS, Artifact, manifest_path, write_manifest
from edgepress.deploy.export.converted import ConvertedFile
from edgepress.deploy.verify.differences import compare
from edgepress.deploy.verify.parity import Thresholds, violations
from edgepress.models.atomic import write_bytes
from edgepress.models.errors import ParityError, RuntimeFailure, UsageError

#: Noise around the example, where no samples are given.
_SAMPLES = 16
#: A flip among a few samples of noise is no verdict; `deploy verify` counts labels on real inputs.
_THRESHOLDS = Thresholds(label_agreement=None)
_RUNTIMES = {"tflite": ("litert-reference", "litert", "tflm"), "onnx": ("onnxruntime",)}


def export_model(
    model: Any,
    example_inputs: Any,
    path: str | Path,
    format: str = "tflite",
    overwrite: bool = False,
    *,
    float_io: bool = False,
    per_tensor_dense: bool | None = None,
    unsigned: bool = False,
    samples: Any = None,
    runtimes: Sequence[str] | None = None,
    verify: bool = True,
    spec: Any = None,
) -> Artifact:
    """Write a network as a file for devices, with its manifest beside it.

    Args:
        model: a Quantized (an integer file), or a float nn.Module (an fp32 file).
        example_inputs: a tensor or a tuple of tensors with a batch dimension.
        path: the file to write.
        format: "tflite" (batch 1, images NHWC), "onnx" (QDQ for integers, free batch, NCHW) or "c".
        overwrite: replace an existing file.
        float_io: TFLite only: float32 inputs and outputs instead of int8.
        per_tensor_dense: one weight scale per fully connected layer (old TFLite Micro); None keeps the model's choice.
        unsigned: ONNX only: 8-bit activations as uint8, which is faster on x86; the same values to the bit.
        samples: inputs on which file and torch are compared, a batch like `example_inputs`; None makes noise around the
            example.
        runtimes: which to compare on; None takes all that are installed.
        verify: False skips the comparison; the manifest then has no parity figures.
        spec: ModelSpec for the manifest.

    Returns:
        Artifact; its manifest holds ranges, float islands and parity figures.

    Raises:
        UsageError: unknown format, existing file, or a network that cannot be converted.
        ParityError: a runtime departs too far, see `compare_with_torch`; nothing is written then.
    """
    from edgepress.models.cost.graph import as_inputs

    path = Path(path)
    if format not in FORMATS:
        raise UsageError(f"format = {format!r} is unknown: allowed are {', '.join(map(repr, FORMATS))}")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already; choose another name or allow overwriting")
    inputs = as_inputs(example_inputs)
    if format == "c":
        return _export_c(
            model,
            inputs,
            path,
            overwrite,
            per_tensor_dense=per_tensor_dense,
            samples=samples,
            runtimes=runtimes,
            verify=verify,
            spec=spec,
        )
    network = _network(model, inputs, per_tensor_dense)
    one = tuple(x[:1] for x in inputs)
    made = _convert(network, one, format, float_io, unsigned)
    manifest = {
        "format": format,
        "scheme": network.scheme,
        "ranges": made.ranges,
        "float_islands": made.islands,
        "layouts": made.layouts,
        "spec": spec.to_json() if hasattr(spec, "to_json") else spec,
    }
    with TemporaryDirectory(prefix="edgepress-") as folder:
        draft = Path(folder) / (path.name if path.suffix else f"{path.name}.{format}")
        draft.write_bytes(made.data)
        write_manifest(draft, manifest)
        if verify:
            batch = as_inputs(samples) if samples is not None else _noise(one)
            manifest["parity"] = compare_with_torch(
                draft,
                network.reference,
                batch,
                runtimes or _RUNTIMES[format],
                network.original,
                scales=network.steps,
                required=runtimes is not None,
                fixed_batch=network.fixed_batch,
            )
    if path.exists():
        manifest_path(path).unlink(missing_ok=True)
    write_bytes(path, made.data)
    return Artifact(path, format, write_manifest(path, manifest))


def compare_with_torch(
    path: Path,
    reference: Any,
    batch: tuple[Any, ...],
    runtimes: Sequence[str],
    original: Any = None,
    *,
    scales: Sequence[float | None] = (),
    required: bool = False,
    fixed_batch: int | None = None,
) -> dict[str, Any]:
    """Run a file and its network on the same inputs.

    Some kernels round twice where they scale a sum (docs/integers.md): about one value in 500 of each layer comes out
    one step away. Most networks damp this; deep ones with little redundancy (the published CP-Mobile) amplify it, as
    they do every rounding, so that two exact implementations differ by several LSB. A departure beyond the usual
    thresholds is therefore accepted, and noted as "amplified", where it is smaller (root mean square) than what
    quantization itself does to the outputs: then it is rounding. A wrong scale or operator is far larger.

    Args:
        path: the file, with its manifest.
        reference: module in evaluation mode.
        batch: tensors of N samples.
        runtimes: names for `open_session`.
        original: the float network that `reference` quantizes; None holds every file to the limits themselves.
        scales: real value of one step of each output; without them differences are absolute.
        required: whether a runtime that is missing or fails is an error; otherwise it is noted.
        fixed_batch: the only size of batch that `reference` takes; None means any.

    Returns:
        {"samples", "runtimes": {name: figures of `parity.compare` or {"skipped": reason}}}.

    Raises:
        ParityError: a runtime departs too far. RuntimeFailure: none of the runtimes could run the file.
    """
    from edgepress.compress.quantize.graph.trace import run_in_pieces
    from edgepress.deploy.runtimes.sessions import open_session

    expected = [y.cpu().numpy() for y in run_in_pieces(reference, batch, fixed_batch)]
    unrounded = expected
    if original is not None:
        unrounded = [y.cpu().numpy() for y in run_in_pieces(original, batch, fixed_batch)]
    noise = _rms(unrounded, expected)
    figures: dict[str, Any] = {}
    departed, ran = [], 0
    for runtime in runtimes:
        try:
            with open_session(path, runtime) as session:
                given = session.run(*(x.cpu().numpy() for x in batch))
        except (RuntimeFailure, UsageError) as error:
            if required:
                raise
            figures[runtime] = {"skipped": str(error)}
            continue
        ran += 1
        got = list(given) if isinstance(given, (tuple, list)) else [given]
        figures[runtime] = _figures(got, expected, scales or [None] * len(expected))
        missed = violations([{"a": "torch", "b": runtime, **figures[runtime]}], _THRESHOLDS)
        if missed and noise and _rms(got, expected) < noise:
            figures[runtime]["amplified"] = True
        else:
            departed += missed
    if departed:
        reasons = "; ".join(
            f"{v['b']} by {v['metric']} {v['value']:.3g} (allowed are {v['limit']:g})" for v in departed
        )
        raise ParityError(f"{path.name} departs from the network: {reasons}; it was not written")
    if not ran:
        reasons = "; ".join(f"{name}: {entry['skipped']}" for name, entry in figures.items())
        raise RuntimeFailure(f"no runtime could run {path.name} for the comparison with torch: {reasons}")
    return {"samples": len(batch[0]), "runtimes": figures}


@dataclass(frozen=True)
class _Network:
    """A network on its way into a file.

    Attributes:
        reference: what the file must give, in evaluation mode.
        original: the float network that `reference` quantizes, or None.
        quantized: edgepress.compress.quantize Quantized, or None for a float file.
        fixed_batch: 1 where the network's forward takes one sample only, else None.
        steps: real value of one step of each output, None for an output in float.
    """

    reference: Any
    original: Any
    quantized: Any
    fixed_batch: int | None
    scheme: str
    steps: list[float | None]


def _network(model: Any, inputs: tuple[Any, ...], per_tensor_dense: bool | None) -> _Network:
    from edgepress.compress.quantize.fold import fold
    from edgepress.compress.quantize.model import Quantized

    if isinstance(model, Quantized):
        if per_tensor_dense is not None and per_tensor_dense != model.per_tensor_dense:
            model = model.with_dense(per_tensor_dense)
        found: Any = model
        network = _Network(
            model.model.eval(), model.float_module(), model, model.fixed_batch, model.scheme, _output_scales(model)
        )
    else:
        found = fold(model, inputs, for_integers=False)
        network = _Network(found.module, None, None, found.fixed_batch, "float32", [])
    if found.fixed_batch not in (None, 1):
        raise UsageError(
            f"a file runs one sample at a time, and the network does not: {found.fixed_by}. "
            "Give every input a first dimension for the batch, and write x.shape[0] or -1 for it in forward"
        )
    return network


def _convert(network: _Network, one: tuple[Any, ...], format: str, float_io: bool, unsigned: bool) -> ConvertedFile:
    from edgepress.deploy.export.to_onnx import float_onnx, integer_onnx
    from edgepress.deploy.export.to_tflite import float_tflite, integer_tflite

    if network.quantized is not None:
        if format == "tflite":
            return integer_tflite(network.quantized, one, float_io)
        return integer_onnx(network.quantized, one, unsigned)
    if format == "tflite":
        return float_tflite(network.reference, one)
    return float_onnx(network.reference, one, network.fixed_batch is None)


def _export_c(model: Any, inputs: tuple[Any, ...], path: Path, overwrite: bool, **options: Any) -> Artifact:
    """A TFLite file, made and compared as ever, as C++ source."""
    from edgepress.deploy.artifact import sha256_of
    from edgepress.deploy.export.to_c import write_c

    with TemporaryDirectory(prefix="edgepress-") as folder:
        inner = export_model(model, inputs, Path(folder) / f"{path.stem}.tflite", format="tflite", **options)
        data = inner.path.read_bytes()
        source, header, made = write_c(data, path, overwrite=overwrite)
        manifest = {
            **inner.manifest,
            "format": "c",
            "files": {header.name: sha256_of(header)},
            "c": {
                "operators": list(made.operators),
                "arena_bytes": made.arena_bytes,
                "model_sha256": sha256_of(inner.path),
                "model_bytes": len(data),
            },
        }
    return Artifact(source, "c", write_manifest(source, manifest))


def _noise(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs around the example, of its own spread."""
    import torch

    generator = torch.Generator().manual_seed(1)
    batch = []
    for x in example:
        x = x.detach().cpu()
        if not x.is_floating_point():
            batch.append(x.expand(_SAMPLES, *x.shape[1:]).clone())
            continue
        spread = float(x.std(correction=0)) or 1.0
        noise = torch.randn((_SAMPLES, *x.shape[1:]), generator=generator)
        batch.append(x + spread * noise * torch.linspace(0, 1, _SAMPLES).reshape(-1, *[1] * (x.ndim - 1)))
    return tuple(batch)


def _output_scales(quantized: Any) -> list[float | None]:
    """Size of one step of each output; None for an output in float."""
    from edgepress.compress.quantize.graph.outputs import tensors

    integers = quantized.integers()
    found = [integers.get(node.name) for node in tensors(quantized.float_module().graph.output_node().args[0])]
    return [float(entry.scale) if entry is not None else None for entry in found]


def _figures(got: list[np.ndarray], expected: list[np.ndarray], scales: Sequence[float | None]) -> dict[str, Any]:
    """`parity.compare` of the output that departs farthest."""
    pairs = [
        compare(b, np.asarray(a).reshape(b.shape), scale) for a, b, scale in zip(got, expected, scales, strict=True)
    ]
    return max(pairs, key=lambda pair: pair["max_abs"] if pair["max_lsb"] is None else pair["max_lsb"])


def _rms(values: list[np.ndarray], expected: list[np.ndarray]) -> float:
    squares = [
        np.square(np.asarray(a, np.float64).reshape(b.shape) - b).ravel() for a, b in zip(values, expected, strict=True)
    ]
    return float(np.sqrt(np.concatenate(squares).mean()))
