# SPDX-License-Identifier: Apache-2.0
"""What is known of every operator of a file, as node data of Model Explorer, which colours its graph by them.

The format is that of ai-edge-model-explorer 0.1.34 (`GraphNodeData` of its `node_data_builder`): one JSON a figure,
with a value for each node and a gradient of colours. Nodes of a .tflite are found by the name of their output, or by
the number of the operator where the file has no such name or has it twice; nodes of an .onnx by their own name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.measure.profiles import layer_macs
from edgepress.models.errors import EdgepressError, UsageError

#: From little to much: colours that people with colour-blindness can tell apart, and whose text stays readable.
_GRADIENT = [{"stop": 0, "bgColor": "#ffffff"}, {"stop": 0.5, "bgColor": "#f4c98b"}, {"stop": 1, "bgColor": "#d55e00"}]
_SAMPLES = 8


def node_data(
    path: str | Path,
    *,
    rule: str = "core",
    sensitivity: Sequence[Mapping[str, Any]] = (),
    layers: bool = True,
    data: str | Path | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    trust: bool = False,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Figures by operator of a .tflite or .onnx file.

    Args:
        path: the file.
        rule: the counting rule of MACs.
        sensitivity: `layers` of what `compress quantize --sensitivity` wrote.
        layers: also run a .tflite on every runtime and compare each operator, in LSB of its own output.
        data: real inputs for that; None takes noise.
        shapes: input -> sizes, in place of those that the file leaves open.
        trust: the data may name code.

    Returns:
        File name without its suffix -> JSON of Model Explorer; notes on what is missing.

    Raises:
        UsageError: the file is missing, damaged or neither kind, or the rule is unknown.
    """
    from edgepress.benchmarks.measure.profiling import profile
    from edgepress.models.cost.op_costs import check_rule

    path, rule = Path(path), check_rule(rule)
    if path.is_dir():
        raise UsageError(f"{path} is a checkpoint: Model Explorer shows files; export it first")
    found = profile(path, shapes=shapes)
    operators = found["layers"]
    keys, names = _nodes(path, operators)
    figures: dict[str, dict[str, float]] = {
        "macs": {keys[i]: layer_macs(layer, rule) for i, layer in enumerate(operators) if layer_macs(layer, rule)},
        "weight_bytes": {keys[i]: layer["weight_bytes"] for i, layer in enumerate(operators) if layer["weight_bytes"]},
        "live_bytes": {keys[i]: layer["live_bytes"] or 0 for i, layer in enumerate(operators)},
    }
    titles = {
        "macs": f"MACs, rule {rule}",
        "weight_bytes": "bytes of weights and biases",
        "live_bytes": "bytes of activations alive",
    }
    notes = []
    for runtime, values, reference in _differences(path, data, trust, notes) if layers else ():
        figures[f"lsb_{runtime}"] = {keys[step]: value for step, value in values.items()}
        titles[f"lsb_{runtime}"] = f"LSB between {reference} and {runtime}, mean"
    # The inputs are rounded too; their node has their names.
    by_value = {tensor["name"]: tensor["name"] for tensor in found["inputs"] if tensor["name"]}
    by_value |= {name: keys[i] for i, name in enumerate(names) if name}
    for kind in ("activations", "weights"):
        entries = [entry for entry in sensitivity if entry["kind"] == kind]
        values = {
            by_value[str(e.get("value") or e["key"])]: 100 * float(e["share"]) for e in entries if _known(e, by_value)
        }
        lost = [str(entry["key"]) for entry in entries if not _known(entry, by_value)]
        if lost and len(lost) < len(entries):
            notes.append(f"sensitivity of {kind}: no operator gives {', '.join(lost)}")
        if entries and not values:
            notes.append(f"sensitivity of {kind}: it names no operator of this file; is it of another network?")
        if values:
            figures[f"sensitivity_{kind}"] = values
            titles[f"sensitivity_{kind}"] = f"error from rounding {kind} alone, % of the outputs"
    return {name: _graph_data(titles[name], values) for name, values in figures.items() if values}, notes


def _known(entry: Mapping[str, Any], by_value: Mapping[str, str]) -> bool:
    return str(entry.get("value") or entry["key"]) in by_value


def _graph_data(title: str, values: Mapping[str, float]) -> dict[str, Any]:
    return {"name": title, "results": {key: {"value": value} for key, value in values.items()}, "gradient": _GRADIENT}


def _nodes(path: Path, layers: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """(key of each operator in Model Explorer, name of the value that it gives), in the order of the layers."""
    if path.suffix.lower() == ".onnx":
        names = [str(layer["name"]) for layer in layers]
        return names, names
    from edgepress.benchmarks.measure.manifests import manifest_beside
    from edgepress.deploy.tflite.reader import read_tflite

    graph = read_tflite(path).subgraphs[0]
    uses = Counter(tensor.name for tensor in graph.tensors)
    stored = [graph.tensors[operator.outputs[0]].name if operator.outputs else "" for operator in graph.operators]
    keys = [name if name and uses[name] == 1 else str(index) for index, name in enumerate(stored)]
    # What shrinking took out of the file still tells which value an operator gives.
    kept = (manifest_beside(path).get("shrink") or {}).get("tensor_names") or []
    names = [
        name or (str(kept[operator.outputs[0]]) if operator.outputs and operator.outputs[0] < len(kept) else "")
        for name, operator in zip(stored, graph.operators, strict=True)
    ]
    return keys, names


def _differences(
    path: Path, data: str | Path | None, trust: bool, notes: list[str]
) -> list[tuple[str, dict[int, float], str]]:
    """(runtime, operator -> mean difference in LSB, reference) of each runtime; notes say why there are none."""
    if path.suffix.lower() == ".onnx":
        notes.append("differences in LSB by operator are of .tflite files")
        return []
    from edgepress.deploy.verify.layers import layer_report

    try:
        report = layer_report(path, data, samples=_SAMPLES, trust=trust)
    except EdgepressError as error:
        notes.append(f"no differences in LSB: {error}")
        return []
    notes += [f"no differences in LSB on {runtime}: {reason}" for runtime, reason in report["not_run"].items()]
    runtimes = [runtime for runtime in report["first"] if any(runtime in row for row in report["layers"])]
    return [
        (
            runtime,
            {row["step"]: row[runtime]["mean_lsb"] for row in report["layers"] if row["bits"] is not None},
            report["reference"],
        )
        for runtime in runtimes
    ]
