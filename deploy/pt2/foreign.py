# SPDX-License-Identifier: Apache-2.0
"""A quantized torch.export program (PT2E, torchao) as our network: its own ranges, its own weights.

The pairs are taken out of its graph, and each range goes to the value of our folded graph that is the same value: found
by running both, as everywhere (`verify.match`). What has no pair in the program stays in float in the file, too; its
inputs must have one. Values that have one range in a file (what is concatenated) get the widest of theirs: the file is
held to the program's own values, and refused where it departs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.fold import Folded, fold
from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.trace import quiet
from edgepress.compress.quantize.model import assemble
from edgepress.compress.quantize.points import FLOAT, Point, find_points, node_keys
from edgepress.deploy.verify.match import match_values, probe_around, record_values
from edgepress.models.errors import UsageError

_SCHEME = "w8a8"


@dataclass
class Foreign:
    """A program taken apart.

    Attributes:
        module: its float graph, without pairs; weights have the values that their integers stand for.
        reference: its graph as it came.
        ranges: name of a node of `module` -> (lowest, highest) real value of its 8 bits.
    """

    module: fx.GraphModule
    reference: fx.GraphModule
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


def network_of(
    program: torch.export.ExportedProgram, inputs: tuple[torch.Tensor, ...]
) -> tuple[Any, fx.GraphModule, int | None]:
    """A program as what `export_model` takes, and the graph that the file must give the values of.

    Args:
        program: float, or with pairs of `quantized_decomposed` (torchao's `convert_pt2e`); untouched.
        inputs: examples.

    Returns:
        (Quantized with the program's ranges, or the float graph of a program without pairs; the program's own graph;
        the only size of batch that this takes, None for any).

    Raises:
        UsageError: integers that no file here has (dynamic ranges, other than 8 bits), or a value without a range.
    """
    found = taken_apart(program)
    if not found.ranges:
        return found.module, found.reference, _batch_of(program)
    folded = fold(found.module, inputs)
    probe = probe_around(inputs)
    theirs = [(name, v) for name, v in record_values(found.module, probe).items() if name in found.ranges]
    names = match_values(record_values(folded.module, probe), theirs)
    ranges: dict[str, tuple[float, float]] = {}
    for name, equal in names.items():
        ranges.setdefault(equal[0], found.ranges[name])
    for name, equal in names.items():  # a reshape of a value is the same value
        for ours in equal[1:]:
            ranges.setdefault(ours, found.ranges[name])
    quantized = assemble(folded, _SCHEME, _left_in_float(folded, ranges), False, "pt2e")
    for point in quantized.points.points:
        if point.scheme != FLOAT:
            own = _ranges_of(point, ranges)
            quantized.quantizer(point).set_range(min(low for low, _ in own), max(high for _, high in own))
    quantized.set_range_mode("frozen")
    quantized.model.eval()
    return quantized, found.reference, _batch_of(program)


def _batch_of(program: torch.export.ExportedProgram) -> int | None:
    wanted = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]
    sizes = [value.shape[0] for value in values if isinstance(value, torch.Tensor) and value.ndim]
    return next((size for size in sizes if isinstance(size, int)), None)


def taken_apart(program: torch.export.ExportedProgram) -> Foreign:
    """The float graph of a program, and the ranges of its pairs.

    Raises:
        UsageError: integers that no file here has.
    """
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators

    with quiet():
        reference: Any = program.module(check_guards=False)
        module = copy.deepcopy(reference)
    operators = torch.ops.quantized_decomposed
    quantizing = {operators.quantize_per_tensor.default, operators.quantize_per_tensor.tensor}
    channels = {operators.quantize_per_channel.default}
    real = {
        operators.dequantize_per_tensor.default,
        operators.dequantize_per_tensor.tensor,
        operators.dequantize_per_channel.default,
    }
    found = Foreign(module, reference)
    for node in list(module.graph.nodes):
        if "choose_qparams" in str(node.target):
            raise UsageError(
                "the program chooses its ranges while it runs (dynamic quantization), and a file has them in it: "
                "prepare it with a static quantizer"
            )
        if node.target not in real:
            continue
        source: Any = node.args[0]
        value: Any = source.args[0] if source.target in quantizing | channels else source
        if value.op == "get_attr" or source.op == "get_attr":
            _keep_constant(module, node)
        elif source.target in quantizing:
            found.ranges.setdefault(value.name, _range(module, source))
            node.replace_all_uses_with(value)
        else:
            raise UsageError(f"the program reads integers from {source.name!r}, which is neither a pair nor a constant")
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return found


def _keep_constant(module: fx.GraphModule, node: fx.Node) -> None:
    """What a constant's integers stand for, in its place."""

    def value_of(given: Any) -> Any:
        if not isinstance(given, fx.Node):
            return given
        if given.op == "get_attr":
            return fetch(module, str(given.target)).detach()
        return given.target(*map(value_of, given.args), **given.kwargs)  # type: ignore[operator]

    name = f"dequantized_{node.name}"
    module.register_buffer(name, value_of(node).float().clone())
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta = dict(node.meta)
    node.replace_all_uses_with(constant)


def _range(module: fx.GraphModule, node: fx.Node) -> tuple[float, float]:
    """The real values at both ends of the 8 bits of a quantize."""
    given: list[Any] = [fetch(module, str(a.target)).item() if isinstance(a, fx.Node) else a for a in node.args[1:5]]
    scale, zero, low, high = float(given[0]), int(given[1]), int(given[2]), int(given[3])
    kind = node.args[5]
    if kind not in (torch.int8, torch.uint8) or not 253 <= high - low <= 255:
        raise UsageError(
            f"the program has {kind} in [{low}, {high}] at {node.name}; files here have activations of 8 bits: choose "
            "a quantizer of int8 or uint8 activations"
        )
    first = -128 if kind is torch.int8 else 0  # a symmetric range leaves one integer out, and has the same step
    return (first - zero) * scale, (first + 255 - zero) * scale


def _ranges_of(point: Point, ranges: dict[str, tuple[float, float]]) -> list[tuple[float, float]]:
    own = [ranges[name] for name in point.nodes if name in ranges]
    return own or [ranges[name] for name in point.followers if name in ranges]


def _left_in_float(folded: Folded, ranges: dict[str, tuple[float, float]]) -> dict[str, str]:
    """Exceptions for what has no range in the program.

    Raises:
        UsageError: an input has none, while what reads it has integers.
    """
    graph = folded.module.graph
    keys, exceptions = node_keys(graph), {}
    by_name = {node.name: node for node in graph.nodes}
    inputs = {name for name, node in by_name.items() if node.op == "placeholder"}
    while True:
        points = find_points(graph, _SCHEME, exceptions).points
        missing = [point for point in points if point.scheme != FLOAT and not _ranges_of(point, ranges)]
        makers = {keys[name] for point in missing for name in point.nodes if name not in inputs}
        # What computes it in float already is read by integers: these work in float, too, and are rounded after it.
        readers = {
            keys[user.name]
            for point in missing
            if not any(keys[name] not in exceptions for name in point.nodes if name not in inputs)
            for name in (*point.nodes, *point.followers)
            for user in by_name[name].users
            if user.op == "call_function" and user.name not in point.followers
        }
        new = dict.fromkeys(sorted((makers | readers) - set(exceptions)), FLOAT)
        if not new:
            if missing:
                raise UsageError(
                    f"the program has no pair at {missing[0].nodes[0]!r}, and integers are read from it: quantize it"
                )
            return exceptions
        exceptions.update(new)
