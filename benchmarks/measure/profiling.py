# SPDX-License-Identifier: Apache-2.0
"""Every count of a model under every rule, its bytes, its memory over time and its layers, without running it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.benchmarks.measure.compiled import COMPILED, compiled_profile
from edgepress.benchmarks.measure.layers.file_layers import (
    FileContent,
    FileLayer,
    FileTensor,
    live_bytes,
    uncountable_operators,
    uncountable_sentences,
    uncounted_operators,
)
from edgepress.benchmarks.measure.manifests import manifest_beside
from edgepress.benchmarks.measure.profile_text import format_profile as format_profile
from edgepress.benchmarks.measure.profiles import Profile, ProfiledLayer, ProfiledTensor, named
from edgepress.models.cost.op_costs import RULES, macs, why_not
from edgepress.models.errors import EdgepressError, UsageError
from edgepress.models.files.reading import file_sha256
from edgepress.models.terminal.installation import how_to_install

if TYPE_CHECKING:
    from edgepress.models.cost.cost import Cost

SCHEMA = 1
_WHY_LIVE = (
    "the largest sum of tensors alive at once, and so a lower bound: TFLite Micro's planner lays whole "
    "tensors into one block and leaves gaps, and its arena also holds structures of tensors and operators, "
    "quantization data of each channel, and scratch memory of kernels"
)


def profile(
    path: str | Path,
    *,
    arena: bool = False,
    trust: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Profile:
    """Count a .tflite file, an .onnx file or a checkpoint directory (only the last needs torch).

    Of a compiled file (.pte, .ort, OpenVINO's .xml) there are the bytes alone.

    Args:
        arena: whether to measure TFLite Micro's arena in a child process.
        trust: whether a checkpoint may run the code of its own factory.
        shapes: input -> sizes, in place of those that the file leaves open.

    Returns:
        The counts; `notes` has the reason of every null by its key. `uncountable` are operators with weights that a
        rule cannot count (see `Uncountable`), `refused` is runtime -> what it does not run -> why.

    Raises:
        UsageError: missing, damaged, or not a model.
    """
    path = Path(path)
    if path.is_dir():
        return _profile_checkpoint(path, trust)
    if path.suffix.lower() in COMPILED:
        return compiled_profile(path, SCHEMA)
    content = read_content(path, shapes)
    found = _of_file(path, content)
    found["arena_bytes"], reason, refused = _arena(path, content.format, arena)
    if reason:
        found["notes"]["arena"] = reason
    runtimes = found.get("refused", {})
    if refused and not runtimes.get("tflm"):
        found["refused"] = {**runtimes, "tflm": {"the file": reason}}
    found["notes"]["peak_activation_bytes"] = _why_less(found)
    return found


def profile_of(
    path: str | Path, arena: bool = True, shapes: Mapping[str, Sequence[int]] | None = None, trust: bool = False
) -> Profile:
    """The profile of a model file, with its path in it.

    Args:
        path: a .tflite or .onnx file or a checkpoint directory.
        arena: whether TFLite Micro's arena is measured, which starts a second process.
        shapes: input -> sizes, in place of those that the file leaves open.
        trust: whether a checkpoint may run the code of its own factory.

    Raises:
        UsageError: missing, damaged, or not a model.
    """
    path = Path(path)
    # Neither pipes nor devices: opening one could wait forever.
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise UsageError(f"there is no model {path}: name an existing .tflite, .onnx or checkpoint")
    found: Profile = {"file": str(path), **profile(path, arena=arena, shapes=shapes, trust=trust)}
    return named(found, manifest_beside(path))


def read_content(path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None) -> FileContent:
    """Layers and tensors of a .tflite or .onnx file, told apart by what is in it.

    Args:
        shapes: input -> sizes, in place of those that the file leaves open.

    Raises:
        UsageError: missing, damaged, or neither; `shapes` does not fit.
    """
    from edgepress.deploy.tflite.reader import LARGEST_FILE_BYTES, read_tflite
    from edgepress.models.files.reading import open_bytes

    start = bytes(open_bytes(path, LARGEST_FILE_BYTES)[:8])
    if start[4:8] == b"TFL3" or Path(path).suffix != ".onnx":
        from edgepress.benchmarks.measure.layers.tflite_layers import tflite_content

        model = read_tflite(path)
        if shapes:
            from edgepress.benchmarks.measure.layers.tflite_shapes import with_shapes

            model = with_shapes(path, model, shapes)
        return tflite_content(model)
    from edgepress.benchmarks.measure.layers.onnx_layers import onnx_content
    from edgepress.deploy.onnx_files.reader import read_onnx

    return onnx_content(read_onnx(path, shapes))


def _of_file(path: Path, content: FileContent) -> Profile:
    counts: dict[str, int | None] = {}
    notes: dict[str, str] = {}
    # What no rule can count makes every sum too small; what only one leaves out is that rule's own affair.
    entries = [asdict(found) for found in uncountable_operators(content)]
    lacking = "; ".join(uncountable_sentences([entry for entry in entries if len(entry["rules"]) == len(RULES)]))
    for rule in RULES:
        reason = why_not(rule, "torch" if content.unfolded else content.format)
        rest = 0 if reason else sum(macs(layer.op, rule) for layer in content.layers)
        if not reason and lacking:
            reason = f"{lacking}; the rest is {rest:,} MACs"
        counts[rule] = None if reason else rest
        if reason:
            notes[rule] = reason
    if content.dynamic:
        notes["dynamic"] = content.dynamic
    if content.open_sizes:
        notes["open_sizes"] = f"the file leaves sizes open: give {content.open_sizes}"
    alive = live_bytes(content)
    core = counts["core"] or 0
    rules = tuple(rule for rule in RULES if not why_not(rule, "torch" if content.unfolded else content.format))
    return {
        "schema": SCHEMA,
        "format": content.format,
        "sha256": file_sha256(path),
        "file_bytes": path.stat().st_size,
        "arena_bytes": {"tflm": None},
        "macs": counts,
        "params": sum(layer.params for layer in content.layers) + content.hidden_params,
        "weight_bytes": sum(layer.weight_bytes for layer in content.layers) + content.hidden_weight_bytes,
        "constant_bytes": content.constant_bytes,
        "peak_activation_bytes": None if content.open_sizes else max(alive, default=0),
        "inputs": [_border(tensor) for tensor in content.inputs],
        "outputs": [_border(tensor) for tensor in content.outputs],
        "layers": [_layer(layer, rules, core, alive[step]) for step, layer in enumerate(content.layers)],
        "memory": [
            {"step": step, "layer": layer.name, "operator": layer.operator, "live_bytes": alive[step]}
            for step, layer in enumerate(content.layers)
        ],
        "uncounted": [*uncounted_operators(content, rules), *content.remarks],
        "uncountable": [asdict(found) for found in uncountable_operators(content, rules)],
        "nessi_memory_bytes": content.nessi_memory_bytes,
        "refused": {runtime: dict(reasons) for runtime, reasons in content.refused.items()},
        "facts": dict(content.facts),
        "notes": notes,
    }


def _layer(layer: FileLayer, rules: tuple[str, ...], core: int, alive: int) -> ProfiledLayer:
    counts = {rule: macs(layer.op, rule) for rule in rules}
    return {
        "name": layer.name,
        "operator": layer.operator,
        "kind": layer.op.kind,
        "macs": counts,
        "params": layer.params,
        "weight_bytes": layer.weight_bytes,
        "input_shape": list(layer.input_shape),
        "output_shape": list(layer.output_shape),
        "activation_bytes": layer.output_bytes,
        "live_bytes": alive,
        "share": counts["core"] / core if core else 0.0,
    }


def _border(tensor: FileTensor) -> ProfiledTensor:
    return {
        "name": tensor.name.split(":", 1)[-1],
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "scale": tensor.scale,
        "zero_point": tensor.zero_point,
    }


def _arena(path: Path, kind: str, wanted: bool) -> tuple[dict[str, int | None], str, bool]:
    """The arena or the reason why there is none, and whether that is that TFLite Micro does not run the file."""
    if kind != "tflite":
        return {"tflm": None}, f"TFLite Micro runs .tflite files, not .{kind}", True
    if not wanted:
        return {"tflm": None}, "not measured: it was not asked for", False
    from edgepress.deploy.runtimes.registry import available_runtimes
    from edgepress.deploy.runtimes.sessions import open_session

    missing = available_runtimes(kind)["tflm"]
    try:
        with open_session(path, "tflm") as session:
            measured = session.arena_bytes()
    except EdgepressError as error:
        return {"tflm": None}, str(error), missing is None
    return {"tflm": measured["total"], "head": measured["head"], "tail": measured["tail"]}, "", False


def _why_less(found: Profile) -> str:
    arena = found["arena_bytes"]
    if found["peak_activation_bytes"] is None:
        return found["notes"]["open_sizes"]
    if arena["tflm"] is None:
        return _WHY_LIVE
    alive, head, tail = found["peak_activation_bytes"], arena["head"] or 0, arena["tail"] or 0
    return (
        f"{_WHY_LIVE}. Here: {alive:,} alive + {head - alive:,} gaps and scratch = "
        f"{head:,} (head), + {tail:,} (tail) = {arena['tflm']:,}"
    )


def _profile_checkpoint(path: Path, trust: bool) -> Profile:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"profiling the checkpoint {path} needs torch, which is not installed: "
            f"{how_to_install('torch')}, or profile an exported .tflite or .onnx file"
        ) from error
    from edgepress.models.checkpoints.checkpoint import WEIGHTS, load_checkpoint
    from edgepress.models.cost.activations import activation_plan
    from edgepress.models.cost.cost import cost_of_graph
    from edgepress.models.cost.graph import trace_one_sample

    model, spec = load_checkpoint(path, trust=trust)
    graph = trace_one_sample(model, spec.example_inputs())
    costs = {rule: cost_of_graph(graph, rule) for rule in RULES}
    core, plan = costs["core"], activation_plan(graph)
    timeline = plan.timeline().tolist()
    at = {name: int(size) for name, size in zip(plan.steps, timeline, strict=True)}
    stored = path / WEIGHTS
    by_name = {rule: {layer.name: layer.macs for layer in cost.layers} for rule, cost in costs.items()}
    layers: list[ProfiledLayer] = [
        {
            "name": layer.name,
            "operator": layer.operator,
            "kind": layer.operator,
            "macs": {rule: by_name[rule].get(layer.name, 0) for rule in RULES},
            "params": layer.params,
            "weight_bytes": layer.weight_bytes,
            "input_shape": list(layer.input_shape),
            "output_shape": list(layer.output_shape),
            "activation_bytes": layer.activation_bytes,
            "live_bytes": None,
            "share": layer.macs / core.macs if core.macs else 0.0,
        }
        for layer in core.layers
    ]
    return {
        "schema": SCHEMA,
        "format": "checkpoint",
        "macs": {rule: cost.macs for rule, cost in costs.items()},
        "params": core.params,
        "params_unfolded": costs["torchinfo"].params,
        "weight_bytes": core.weight_bytes,
        "constant_bytes": None,
        "file_bytes": stored.stat().st_size,
        "sha256": file_sha256(stored),
        "arena_bytes": {"tflm": None},
        "peak_activation_bytes": core.peak_activation_bytes,
        "inputs": [
            {"name": node.name, "shape": list(node.shape or ()), "dtype": node.dtype, "scale": None, "zero_point": None}
            for node in graph.nodes
            if node.kind == "input"
        ],
        "outputs": [
            {
                "name": name,
                "shape": list(graph.by_name[name].shape or ()),
                "dtype": graph.by_name[name].dtype,
                "scale": None,
                "zero_point": None,
            }
            for name in graph.outputs
        ],
        "layers": layers,
        "memory": [
            {
                "step": step,
                "layer": name,
                "operator": graph.by_name[name].op if name in graph.by_name else "pad",
                "live_bytes": size,
            }
            for step, (name, size) in enumerate(at.items())
        ],
        "uncounted": list(_uncounted(costs)),
        "facts": {"spec": spec.factory},
        "notes": {
            "arena": "TFLite Micro runs .tflite files: export the checkpoint first",
            "weight_bytes": "under the scheme w8a8: int8 weights and int32 biases after folding",
            "constant_bytes": "a checkpoint is no file for a device",
            "peak_activation_bytes": _WHY_LIVE,
        },
    }


def _uncounted(costs: Mapping[str, Cost]) -> dict[str, None]:
    """What each rule leaves out, one line for each, rules together."""
    rules: dict[str, list[str]] = {}
    for rule, cost in costs.items():
        for entry in cost.uncounted:
            rules.setdefault(entry, []).append(rule)
    return dict.fromkeys(
        entry if len(named) == len(costs) else f"{entry}: not in {', '.join(named)}" for entry, named in rules.items()
    )
