# SPDX-License-Identifier: Apache-2.0
"""One call from a network to a proven file: convert, compare with torch on every runtime, and only then write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgepress.deploy.artifact import FORMATS, SUFFIXES, Artifact, manifest_path, write_manifest
from edgepress.deploy.export.borders import named_onnx, named_tflite
from edgepress.deploy.export.comparison import compare_with_torch, must_run
from edgepress.deploy.export.converted import ConversionError, ConvertedFile
from edgepress.deploy.export.culprit import find_culprit
from edgepress.models.atomic import write_bytes
from edgepress.models.errors import UsageError

#: Noise around the example, where no samples are given.
_SAMPLES = 16
_RUNTIMES = {"tflite": ("litert-reference", "litert", "tflm"), "onnx": ("onnxruntime",)}


def export_model(
    model: Any,
    example_inputs: Any,
    path: str | Path,
    format: str | None = None,
    overwrite: bool = False,
    *,
    float_io: bool = False,
    per_tensor_dense: bool | None = None,
    unsigned: bool = False,
    samples: Any = None,
    runtimes: Sequence[str] | None = None,
    device: str | None = None,
    verify: bool = True,
    spec: Any = None,
) -> Artifact:
    """Write a network as a file for devices, with its manifest beside it.

    Args:
        model: a Quantized (an integer file), or a float nn.Module (an fp32 file).
        example_inputs: a tensor or a tuple of tensors with a batch dimension.
        path: the file to write.
        format: "tflite" (batch 1, images NHWC), "onnx" (QDQ for integers, free batch, NCHW) or "c"; None takes it from
            the suffix of `path`.
        overwrite: replace an existing file.
        float_io: TFLite only: float32 inputs and outputs instead of int8.
        per_tensor_dense: one weight scale per fully connected layer (old TFLite Micro); None keeps the model's choice.
        unsigned: ONNX only: 8-bit activations as uint8, which is faster on x86; the same values to the bit.
        samples: inputs on which file and torch are compared, a batch like `example_inputs`; None makes noise around the
            example.
        runtimes: which to compare on, each of which must run the file; None takes all that are installed.
        device: device class whose runtime must run the file; None means LiteRT for TFLite and ONNX Runtime for ONNX.
        verify: False skips the comparison; the manifest then has no parity figures.
        spec: ModelSpec for the manifest.

    Returns:
        Artifact; its manifest holds ranges, float islands and parity figures.

    Raises:
        UsageError: unknown format, or not that of the suffix; existing file, or a network that cannot be converted.
        ParityError: a runtime departs too far, see `compare_with_torch`; nothing is written then.
        RuntimeFailure: a runtime that must run the file cannot; nothing is written then.
    """
    from edgepress.models.cost.graph import as_inputs

    path = Path(path)
    format = _format_of(path, format)
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
            device=device,
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
        "names": {"inputs": network.inputs, "outputs": network.outputs},
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
                required=must_run(format, runtimes, device),
                fixed_batch=network.fixed_batch,
            )
    if path.exists():
        manifest_path(path).unlink(missing_ok=True)
    write_bytes(path, made.data)
    return Artifact(path, format, write_manifest(path, manifest))


@dataclass(frozen=True)
class _Network:
    """A network on its way into a file.

    Attributes:
        reference: what the file must give, in evaluation mode.
        original: the float network that `reference` quantizes, or None.
        quantized: edgepress.compress.quantize Quantized, or None for a float file.
        fixed_batch: 1 where the network's forward takes one sample only, else None.
        steps: real value of one step of each output, None for an output in float.
        inputs, outputs: names.
    """

    reference: Any
    original: Any
    quantized: Any
    fixed_batch: int | None
    scheme: str
    steps: list[float | None]
    inputs: list[str]
    outputs: list[str]


def _network(model: Any, inputs: tuple[Any, ...], per_tensor_dense: bool | None) -> _Network:
    from edgepress.compress.quantize.fold import fold
    from edgepress.compress.quantize.graph.outputs import named_nodes
    from edgepress.compress.quantize.model import Quantized

    if isinstance(model, Quantized):
        if per_tensor_dense is not None and per_tensor_dense != model.per_tensor_dense:
            model = model.with_dense(per_tensor_dense)
        found: Any = model.settled()
        reference, original, quantized, scheme = found.model.eval(), found.float_module(), found, found.scheme
    else:
        found = fold(model, inputs, for_integers=False)
        reference, original, quantized, scheme = found.module, None, None, "float32"
    graph = (original or reference).graph
    integers = quantized.integers() if quantized is not None else {}
    outputs = [(name, integers.get(leaf.name)) for name, leaf in named_nodes(graph)]
    network = _Network(
        reference,
        original,
        quantized,
        found.fixed_batch,
        scheme,
        [float(entry.scale) if entry is not None else None for _, entry in outputs],
        [str(node.target) for node in graph.nodes if node.op == "placeholder"],
        [name for name, _ in outputs],
    )
    if found.fixed_batch not in (None, 1):
        raise UsageError(
            f"a file runs one sample at a time, and the network does not: {found.fixed_by}. "
            "Give every input a first dimension for the batch, and write x.shape[0] or -1 for it in forward"
        )
    return network


def _convert(network: _Network, one: tuple[Any, ...], format: str, float_io: bool, unsigned: bool) -> ConvertedFile:
    """The file in memory; a refusal names the operator that the converter does not take."""
    from edgepress.compress.quantize.graph.outputs import flat
    from edgepress.deploy.export import to_onnx, to_tflite

    module, dynamic = network.original or network.reference, network.fixed_batch is None
    convert = (
        (lambda part: to_tflite.convert_float(part, one))
        if format == "tflite"
        else (lambda part: to_onnx.convert_float(part, one, dynamic))
    )
    try:
        if network.quantized is not None and format == "tflite":
            made = to_tflite.integer_tflite(network.quantized, one, float_io)
        elif network.quantized is not None:
            made = to_onnx.integer_onnx(network.quantized, one, unsigned)
        elif format == "tflite":
            made = to_tflite.float_tflite(module, one)
        else:
            made = to_onnx.float_onnx(module, one, dynamic)
    except ConversionError as error:
        place = find_culprit(flat(module)[0], convert)
        if not place:
            raise
        raise UsageError(
            f"{error}; it is {place} that it does not take: write it with other operators, or leave it to the program "
            "that runs the file"
        ) from error
    named = named_tflite if format == "tflite" else named_onnx
    return replace(made, data=named(made.data, network.inputs, network.outputs))


def _format_of(path: Path, format: str | None) -> str:
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}.get(path.suffix.lower())
    if format is None and by_suffix is None:
        known = ", ".join(SUFFIXES.values())
        raise UsageError(f"path = {str(path)!r} does not tell the format: end it in one of {known}, or give format")
    if format is not None and format not in FORMATS:
        raise UsageError(f"format = {format!r} is unknown: allowed are {', '.join(map(repr, FORMATS))}")
    if format is not None and by_suffix is not None and format != by_suffix:
        raise UsageError(
            f"format = {format!r} does not go with path = {str(path)!r}: leave format out, or end the path in "
            f"{SUFFIXES[format]}"
        )
    return format or str(by_suffix)


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
