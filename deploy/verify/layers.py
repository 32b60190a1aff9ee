# SPDX-License-Identifier: Apache-2.0
"""Which layer departs first: every activation of a .tflite file, compared between runtimes and fake quantization.

The file is written anew with every activation as an output, so that each runtime, XNNPACK included, must produce it;
no runtime needs a debug mode for that. Fusions across layers, where a runtime makes any, are thereby given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.tflite.names import ELEMENT_TYPES
from edgepress.deploy.tflite.objects import operator_name
from edgepress.deploy.tflite.writer import pack, unpack
from edgepress.models.bars import bars_svg
from edgepress.models.errors import EdgepressError

if TYPE_CHECKING:
    from edgepress.compress.quantize.model import Quantized

#: Where a value is, in every row of a table.
_PLACE = ("step", "operator", "tensor", "name", "bits")


def expose_activations(model: bytes) -> tuple[bytes, list[dict[str, Any]]]:
    """A file that also gives its activations.

    Returns:
        (its bytes, one {"step", "operator", "tensor", "name", "bits", "scale"} for each output in order); bits is null
        for what is no quantized integer.

    Raises:
        UsageError: the file is damaged.
    """
    unpacked = unpack(model)
    graph = unpacked.subgraphs[0]  # others belong to its operators: the comparison of a sort, the body of a loop
    layers: list[dict[str, Any]] = []
    seen: set[int] = set()
    for step, operator in enumerate(graph.operators or ()):
        for tensor in map(int, operator.outputs):
            if tensor < 0 or tensor in seen:
                continue
            seen.add(tensor)
            details = graph.tensors[tensor]
            scales = details.quantization.scale if details.quantization is not None else None
            scale = float(scales[0]) if scales is not None and len(scales) == 1 else None
            name = details.name.decode(errors="replace") if isinstance(details.name, bytes) else details.name or ""
            layers.append(
                {
                    "step": step,
                    "operator": operator_name(unpacked, operator),
                    "tensor": tensor,
                    "name": name,
                    "bits": ELEMENT_TYPES[details.type][1] if scale is not None else None,
                    "scale": scale,
                }
            )
    graph.outputs = np.array([layer["tensor"] for layer in layers], np.int32)
    # Signatures would no longer fit the outputs, an arena plan no longer the lifetimes.
    unpacked.signatureDefs = None
    unpacked.metadata = [entry for entry in unpacked.metadata or () if entry.name == b"COMPRESSION_METADATA"] or None
    return pack(unpacked), layers


def layer_report(
    path: str | Path, data: str | Path | None = None, *, samples: int = 8, trust: bool = False
) -> dict[str, Any]:
    """`departures_from_torch` where the checkpoint that a file was made from is still there, else `layer_differences`.

    Args:
        path: a .tflite file.
        data: real inputs (`edgepress.deploy.verify.inputs.load_inputs`); None takes noise.
        samples: how many.
        trust: the data may name code.

    Raises:
        UsageError: the file or the data is missing or damaged. RuntimeFailure: the reference kernels do not run it.
    """
    from edgepress.deploy.artifact import find_manifest
    from edgepress.deploy.verify.inputs import load_inputs, random_inputs
    from edgepress.deploy.verify.parity import checkpoint_of

    path = Path(path)
    manifest = find_manifest(path) or {}
    names = (manifest.get("shrink") or {}).get("tensor_names")
    with open_session(path, "litert-reference") as session:
        front_end = (manifest.get("spec") or {}).get("front_end")
        inputs = (
            random_inputs(session, samples)
            if data is None
            else load_inputs(data, session, samples=samples, trust=trust, front_end=front_end)
        )
        raw = session.quantize(*inputs.arrays)
    checkpoint = checkpoint_of(path, manifest, [])
    quantized = None
    if checkpoint is not None:
        from edgepress.deploy.runtimes.torch_engine import TorchEngine

        quantized = TorchEngine(checkpoint, trust=trust).quantized
    if quantized is None:
        return layer_differences(path, raw, names=names)
    return departures_from_torch(path, raw, quantized, inputs.arrays, names=names)


def layer_differences(
    path: str | Path,
    inputs: Sequence[np.ndarray],
    *,
    reference: str = "litert-reference",
    runtimes: Sequence[str] = ("tflm", "litert"),
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Differences of every activation against the reference, in LSB of its own scale.

    Args:
        path: a .tflite file.
        inputs: raw arrays [N, ...] in the file's type and layout; a few samples are enough.
        reference, runtimes: who is compared.
        names: tensor names by index, for a file whose names were stripped.

    Returns:
        {"reference", "samples", "layers": [{"step", "operator", "tensor", "name", "bits", RUNTIME: {"max_lsb",
        "mean_lsb", "equal"}}], "first": {RUNTIME: the first layer that departs, or null}, "not_run": {RUNTIME:
        reason}}. Activations without a scale are compared in absolute values.

    Raises:
        UsageError: the file is damaged. RuntimeFailure: the reference does not run.
    """
    layers, values, not_run = _activations(Path(path), inputs, (reference, *runtimes), names)
    if reference not in values:
        raise not_run[reference]
    table: list[dict[str, Any]] = []
    compared = [runtime for runtime in values if runtime != reference]
    for index, layer in enumerate(layers):
        row: dict[str, Any] = {key: layer[key] for key in _PLACE}
        for runtime in compared:
            step = 1.0 if np.asarray(values[reference][index]).dtype.kind in "iu" else (layer["scale"] or 1.0)
            difference = (
                np.abs(values[runtime][index].astype(np.float64) - values[reference][index].astype(np.float64)) / step
            )
            row[runtime] = {
                "max_lsb": float(difference.max(initial=0)),
                "mean_lsb": float(difference.mean()),
                "equal": float((difference == 0).mean()),
            }
        table.append(row)
    return _report(reference, len(inputs[0]), table, compared, not_run)


def departures_from_torch(
    path: str | Path,
    inputs: Sequence[np.ndarray],
    quantized: Quantized,
    samples: Sequence[np.ndarray],
    *,
    runtimes: Sequence[str] = ("litert-reference", "tflm", "litert"),
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The same against fake quantization, and what each layer adds to it by itself.

    Args:
        path: a .tflite file.
        inputs: raw arrays in the file's type and layout.
        quantized: what the file was made from.
        samples: the same inputs, float in torch's layout.
        runtimes: who is compared.
        names: tensor names by index, for a file whose names were stripped.

    Returns:
        As `layer_differences`, with "torch" as reference and in each RUNTIME's figures "own_max_lsb", "own_mean_lsb"
        and "own_equal": the same where fake quantization gets what the runtime computed before this layer, so that
        rounding errors of earlier layers do not count. Activations that fake quantization doesn't round are left out.

    Raises:
        UsageError: the file is damaged.
    """
    from edgepress.deploy.verify.fed_layers import compared

    layers, values, not_run = _activations(Path(path), inputs, runtimes, names)
    found = {
        runtime: [compared(quantized, samples, layers, made, fed=fed) for fed in (False, True)]
        for runtime, made in values.items()
    }
    everywhere = set.intersection(*(free.keys() & fed.keys() for free, fed in found.values())) if found else set()
    table = [
        {key: layers[index][key] for key in _PLACE}
        | {
            runtime: free[index] | {f"own_{figure}": value for figure, value in fed[index].items()}
            for runtime, (free, fed) in found.items()
        }
        for index in sorted(everywhere)
    ]
    return _report("torch", len(inputs[0]), table, list(found), not_run)


def only_rounds(
    path: str | Path, runtime: str, quantized: Quantized, samples: Sequence[np.ndarray], max_lsb: float, mean_lsb: float
) -> bool:
    """Whether a runtime computes every layer right, up to so many 8-bit steps: what it departs by at the end is then
    rounding that the layers in between have amplified.

    Args:
        path: a .tflite file.
        runtime: which.
        quantized: what the file was made from.
        samples: float inputs in torch's layout.
        max_lsb, mean_lsb: of any layer that gets what the runtime itself computed before it.

    Returns:
        False, too, where an output of the file cannot be compared.
    """
    graph = unpack(Path(path).read_bytes()).subgraphs[0]
    before = {int(op.outputs[0]): int(op.inputs[0]) for op in graph.operators if len(op.inputs) == 1}
    with open_session(path, runtime) as session:
        raw = session.quantize(*samples)
    report = departures_from_torch(path, raw, quantized, samples, runtimes=(runtime,))
    right = {
        row["tensor"]
        for row in report["layers"]
        if row[runtime]["own_max_lsb"] <= max_lsb * 2 ** (row["bits"] - 8)
        and row[runtime]["own_mean_lsb"] <= mean_lsb * 2 ** (row["bits"] - 8)
    }
    # What is given in float is an integer value by way of one more operator.
    ends = {tensor if tensor in right else before.get(tensor) for tensor in map(int, graph.outputs)}
    return len(right) == len(report["layers"]) and ends <= right


def _report(
    reference: str,
    samples: int,
    table: list[dict[str, Any]],
    runtimes: Sequence[str],
    not_run: dict[str, EdgepressError],
) -> dict[str, Any]:
    departing = {runtime: next((row for row in table if row[runtime]["max_lsb"] > 0), None) for runtime in runtimes}
    first = {
        runtime: {key: row[key] for key in _PLACE} | row[runtime] if row else None for runtime, row in departing.items()
    }
    reasons = {runtime: str(error) for runtime, error in not_run.items()}
    return {"reference": reference, "samples": samples, "layers": table, "first": first, "not_run": reasons}


def _activations(
    path: Path, inputs: Sequence[np.ndarray], runtimes: Sequence[str], names: Sequence[str] | None
) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]], dict[str, EdgepressError]]:
    """(layers, all activations of each runtime that runs the file, what kept the others from it)."""
    exposed, layers = expose_activations(path.read_bytes())
    for layer in layers:
        if not layer["name"] and names and layer["tensor"] < len(names):
            layer["name"] = names[layer["tensor"]]
    values: dict[str, list[np.ndarray]] = {}
    not_run: dict[str, EdgepressError] = {}
    with TemporaryDirectory(prefix="edgepress-") as folder:
        file = Path(folder) / "layers.tflite"
        file.write_bytes(exposed)
        for runtime in runtimes:
            try:
                with open_session(file, runtime) as session:
                    made = session.run_integer(*inputs)
                    values[runtime] = list(made) if isinstance(made, tuple) else [made]
            except EdgepressError as error:
                not_run[runtime] = error
    return layers, values, not_run


def layers_figure(found: dict[str, Any], title: str) -> str:
    """What `layer_differences` gave as an SVG: mean difference of each layer, a colour for each runtime; 16-bit layers
    in steps of 8 bits, so that all have one axis."""
    rows = [
        (f"{row['step']} {row['operator']}", runtime, row[runtime]["mean_lsb"] / 2 ** ((row["bits"] or 8) - 8))
        for row in found["layers"]
        for runtime in found["first"]
    ]
    return bars_svg(rows, f"{title}: departures from {found['reference']}", "mean difference, 8-bit steps of the layer")
