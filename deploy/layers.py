"""Which layer departs first: every activation of a .tflite file, compared between runtimes.

The file is written anew with every activation as an output, so that each runtime, XNNPACK included, must produce it;
no runtime needs a debug mode for that. Fusions across layers, where a runtime makes any, are thereby given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from deploy.runtimes import open_session
from deploy.tflite_objects import operator_name
from deploy.tflite_writer import pack, unpack
from models.bars import bars_svg
from models.errors import EdgepressError, UsageError


def expose_activations(model: bytes) -> tuple[bytes, list[dict[str, Any]]]:
    """A file that also gives its activations.

    Returns:
        (its bytes, one {"step", "operator", "tensor", "name", "scale"} for each output in order).

    Raises:
        UsageError: the file is damaged or has several graphs.
    """
    unpacked = unpack(model)
    if len(unpacked.subgraphs) != 1:
        raise UsageError("per-layer differences need a file with one graph")
    graph = unpacked.subgraphs[0]
    layers: list[dict[str, Any]] = []
    seen: set[int] = set()
    for step, operator in enumerate(graph.operators or ()):
        for tensor in map(int, operator.outputs):
            if tensor < 0 or tensor in seen:
                continue
            seen.add(tensor)
            details = graph.tensors[tensor]
            scales = details.quantization.scale if details.quantization is not None else None
            name = details.name.decode(errors="replace") if isinstance(details.name, bytes) else details.name or ""
            layers.append(
                {
                    "step": step,
                    "operator": operator_name(unpacked, operator),
                    "tensor": tensor,
                    "name": name,
                    "scale": float(scales[0]) if scales is not None and len(scales) == 1 else None,
                }
            )
    graph.outputs = np.array([layer["tensor"] for layer in layers], np.int32)
    # Signatures would no longer fit the outputs, an arena plan no longer the lifetimes.
    unpacked.signatureDefs = None
    unpacked.metadata = [entry for entry in unpacked.metadata or () if entry.name == b"COMPRESSION_METADATA"] or None
    return pack(unpacked), layers


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
        {"reference", "samples", "layers": [{"step", "operator", "tensor", "name", RUNTIME: {"max_lsb", "mean_lsb",
        "equal"}}], "first": {RUNTIME: the first layer that departs, or null}, "not_run": {RUNTIME: reason}}.
        Activations without a scale are compared in absolute values.

    Raises:
        UsageError: the file is damaged. RuntimeFailure: the reference does not run.
    """
    exposed, layers = expose_activations(Path(path).read_bytes())
    values: dict[str, list[np.ndarray]] = {}
    not_run: dict[str, str] = {}
    with TemporaryDirectory(prefix="edgepress-") as folder, ExitStack() as stack:
        file = Path(folder) / "layers.tflite"
        file.write_bytes(exposed)
        for runtime in (reference, *runtimes):
            try:
                session = stack.enter_context(open_session(file, runtime))
                made = session.run_integer(*inputs)
                values[runtime] = list(made) if isinstance(made, tuple) else [made]
            except EdgepressError as error:
                if runtime == reference:
                    raise
                not_run[runtime] = str(error)
    table: list[dict[str, Any]] = []
    first: dict[str, dict[str, Any] | None] = {runtime: None for runtime in values if runtime != reference}
    for index, layer in enumerate(layers):
        name = layer["name"] or (names[layer["tensor"]] if names and layer["tensor"] < len(names) else "")
        row: dict[str, Any] = {key: layer[key] for key in ("step", "operator", "tensor")} | {"name": name}
        for runtime in first:
            step = 1.0 if np.asarray(values[reference][index]).dtype.kind in "iu" else (layer["scale"] or 1.0)
            difference = (
                np.abs(values[runtime][index].astype(np.float64) - values[reference][index].astype(np.float64)) / step
            )
            row[runtime] = {
                "max_lsb": float(difference.max(initial=0)),
                "mean_lsb": float(difference.mean()),
                "equal": float((difference == 0).mean()),
            }
            if first[runtime] is None and row[runtime]["max_lsb"] > 0:
                first[runtime] = {key: row[key] for key in ("step", "operator", "tensor", "name")} | row[runtime]
        table.append(row)
    return {"reference": reference, "samples": len(inputs[0]), "layers": table, "first": first, "not_run": not_run}


def layers_figure(found: dict[str, Any], title: str) -> str:
    """What `layer_differences` gave as an SVG: mean difference of each layer, a colour for each runtime."""
    rows = [
        (f"{row['step']} {row['operator']}", runtime, row[runtime]["mean_lsb"])
        for row in found["layers"]
        for runtime in found["first"]
    ]
    return bars_svg(rows, f"{title}: departures from {found['reference']}", "mean difference, LSB of the layer")
