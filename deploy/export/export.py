# SPDX-License-Identifier: Apache-2.0
"""One call from a network to a proven file: convert, compare with torch on every runtime, and only then write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgepress.deploy.artifact import SUFFIXES, Artifact, manifest_path, write_manifest
from edgepress.deploy.converted import ConversionError, ConvertedFile
from edgepress.deploy.export.borders import named_onnx, named_tflite
from edgepress.deploy.export.comparison import compare_with_torch, must_run
from edgepress.deploy.export.culprit import find_culprit
from edgepress.deploy.onnx_files.integer_types import integer_types
from edgepress.models.atomic import write_bytes
from edgepress.models.errors import UsageError

#: Noise around the example, where no samples are given.
_SAMPLES = 16
_RUNTIMES = {
    "tflite": ("litert-reference", "litert", "tflm"),
    "onnx": ("onnxruntime",),
    "executorch": ("executorch",),
}


def export_model(
    model: Any,
    example_inputs: Any,
    path: str | Path,
    format: str | None = None,
    overwrite: bool = False,
    *,
    float_io: bool = False,
    per_tensor_dense: bool | None = None,
    onnx_integers: str = "u8u8",
    samples: Any = None,
    runtimes: Sequence[str] | None = None,
    device: str | None = None,
    verify: bool = True,
    spec: Any = None,
) -> Artifact:
    """Write a network as a file for devices, with its manifest beside it.

    Args:
        model: a Quantized (an integer file), a float nn.Module (an fp32 file), or a program of torch.export: with
            quantize and dequantize pairs (PT2E, torchao) an integer file with its ranges, without them an fp32 file.
        example_inputs: a tensor or a tuple of tensors with a batch dimension.
        path: the file to write.
        format: "tflite" (batch 1, images NHWC), "onnx" (QDQ for integers, free batch, NCHW), "executorch" (.pte for
            XNNPACK, batch 1, NCHW) or "c"; None takes it from the suffix of `path`.
        overwrite: replace an existing file.
        float_io: TFLite only: float32 inputs and outputs instead of int8.
        per_tensor_dense: one weight scale per fully connected layer (old TFLite Micro); None keeps the model's choice.
        onnx_integers: ONNX only: types of 8-bit activations and weights, the same real values to the bit: "u8u8" is
            right on every CPU; "u8s8" (faster on x86 with VNNI) and "s8s8" (for TensorRT) saturate in ONNX Runtime's
            kernels for x86 without VNNI.
        samples: inputs on which file and torch are compared, a batch like `example_inputs`; None makes noise around the
            example.
        runtimes: which to compare on, each of which must run the file; None takes all that are installed.
        device: device class whose runtime must run the file; None means LiteRT for TFLite, ONNX Runtime
            for ONNX and ExecuTorch for its own files.
        verify: False skips the comparison; the manifest then has no parity figures.
        spec: ModelSpec for the manifest.

    Returns:
        Artifact; its manifest holds ranges, float islands and parity figures.

    Raises:
        UsageError: unknown format, or not that of the suffix; existing file, or a network that cannot be converted.
        ParityError: a runtime departs too far, see `compare_with_torch`; nothing is written then.
        RuntimeFailure: a runtime that must run the file cannot; nothing is written then.
    """
    from edgepress.compress.quantize.fold import in_single_precision
    from edgepress.models.cost.graph import as_inputs

    path = Path(path)
    format = _format_of(path, format)
    integer_types(onnx_integers)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already; choose another name or allow overwriting")
    inputs = in_single_precision(as_inputs(example_inputs))
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
    made = _convert(network, one, format, float_io, onnx_integers)
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
        draft = Path(folder) / (path.name if path.suffix else f"{path.name}{SUFFIXES[format]}")
        draft.write_bytes(made.data)
        write_manifest(draft, manifest)
        if verify:
            batch = in_single_precision(as_inputs(samples)) if samples is not None else _noise(one)
            manifest["parity"] = compare_with_torch(
                draft,
                network.reference,
                batch,
                runtimes or _RUNTIMES[format],
                network.original,
                scales=network.steps,
                required=must_run(format, runtimes, device),
                fixed_batch=network.reference_batch,
                quantized=network.quantized if format == "tflite" and not _is_program(model) else None,
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
        float_module: what a float file is made of.
        quantized: edgepress.compress.quantize Quantized, or None for a float file.
        fixed_batch: 1 where the network's forward takes one sample only, else None.
        reference_batch: the only size of batch that `reference` takes, None for any.
        steps: real value of one step of each output, None for an output in float.
        inputs, outputs: names.
    """

    reference: Any
    original: Any
    float_module: Any
    quantized: Any
    fixed_batch: int | None
    reference_batch: int | None
    scheme: str
    steps: list[float | None]
    inputs: list[str]
    outputs: list[str]


def _network(model: Any, inputs: tuple[Any, ...], per_tensor_dense: bool | None) -> _Network:
    from edgepress.compress.quantize.fold import fold
    from edgepress.compress.quantize.graph.outputs import named_nodes
    from edgepress.compress.quantize.model import Quantized

    program, batch = None, None
    if _is_program(model):
        from edgepress.deploy.pt2.foreign import network_of

        model, program, batch = network_of(model, inputs)
    if isinstance(model, Quantized):
        if per_tensor_dense is not None and per_tensor_dense != model.per_tensor_dense:
            model = model.with_dense(per_tensor_dense)
        found: Any = model.settled()
        reference, original, quantized, scheme = found.model.eval(), found.float_module(), found, found.scheme
    else:
        found = fold(model, inputs, for_integers=False)
        reference, original, quantized, scheme = found.module, None, None, "float32"
    graph = (original or reference).graph
    outputs = [name for name, _ in named_nodes(graph)]
    integers = quantized.output_integers() if quantized is not None else [None] * len(outputs)
    network = _Network(
        program or reference,  # a program is held to its own values, not to what became of them here
        original,
        reference,
        quantized,
        found.fixed_batch,
        batch if program is not None else found.fixed_batch,
        scheme,
        [float(entry.scale) if entry is not None else None for entry in integers],
        [str(node.target) for node in graph.nodes if node.op == "placeholder"],
        outputs,
    )
    if found.fixed_batch not in (None, 1):
        raise UsageError(
            f"a file runs one sample at a time, and the network does not: {found.fixed_by}. "
            "Give every input a first dimension for the batch, and write x.shape[0] or -1 for it in forward"
        )
    return network


def _is_program(model: Any) -> bool:
    """Whether it is what torch.export.export gives; torch.export is not imported to find out."""
    kind = type(model)
    return kind.__name__ == "ExportedProgram" and kind.__module__.startswith("torch.export")


def _convert(network: _Network, one: tuple[Any, ...], format: str, float_io: bool, onnx_integers: str) -> ConvertedFile:
    """The file in memory; a refusal names the operator that the converter does not take."""
    from edgepress.compress.quantize.graph.outputs import flat
    from edgepress.deploy.export import to_executorch, to_onnx, to_tflite

    module, dynamic = network.original or network.float_module, network.fixed_batch is None
    converters: dict[str, Callable[[Any], Any]] = {
        "tflite": lambda part: to_tflite.convert_float(part, one),
        "onnx": lambda part: to_onnx.convert_float(part, one, dynamic),
        "executorch": lambda part: to_executorch.lower(part, one, {}),
    }
    convert = converters[format]
    quantized = network.quantized
    try:
        if format == "tflite":
            made = (
                to_tflite.float_tflite(module, one)
                if quantized is None
                else to_tflite.integer_tflite(quantized, one, float_io)
            )
        elif format == "onnx":
            made = (
                to_onnx.float_onnx(module, one, dynamic)
                if quantized is None
                else to_onnx.integer_onnx(quantized, one, onnx_integers)
            )
        elif quantized is None:
            made = to_executorch.float_executorch(module, one)
        else:
            made = to_executorch.integer_executorch(quantized, one)
    except ConversionError as error:
        place = find_culprit(flat(module)[0], convert)
        if not place:
            raise
        raise UsageError(
            f"{error}; it is {place} that it does not take: write it with other operators, or leave it to the program "
            "that runs the file"
        ) from error
    if format == "executorch":  # its inputs and outputs have places, no names
        return made
    named = named_tflite if format == "tflite" else named_onnx
    return replace(made, data=named(made.data, network.inputs, network.outputs))


def _format_of(path: Path, format: str | None) -> str:
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}.get(path.suffix.lower())
    if format is None and by_suffix is None:
        known = ", ".join(SUFFIXES.values())
        raise UsageError(f"path = {str(path)!r} does not tell the format: end it in one of {known}, or give format")
    if format is not None and format not in SUFFIXES:
        raise UsageError(f"format = {format!r} is unknown: allowed are {', '.join(map(repr, SUFFIXES))}")
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
    """Inputs around the example, of its own spread; of whole numbers (tokens) its own in another order, the first as it
    is: others may have no meaning to the network.
    """
    import torch

    generator = torch.Generator().manual_seed(1)
    batch = []
    for x in example:
        x = x.detach().cpu()
        if not x.is_floating_point():
            drawn = torch.randint(0, max(1, x.numel()), (_SAMPLES, *x.shape[1:]), generator=generator)
            batch.append(torch.cat([x[:1], x.flatten()[drawn[1:]]]) if x.numel() else x.expand(_SAMPLES, *x.shape[1:]))
            continue
        spread = float(x.std(correction=0)) or 1.0
        noise = torch.randn((_SAMPLES, *x.shape[1:]), generator=generator)
        batch.append(x + spread * noise * torch.linspace(0, 1, _SAMPLES).reshape(-1, *[1] * (x.ndim - 1)))
    return tuple(batch)
