# SPDX-License-Identifier: Apache-2.0
"""Norms that were written as sums and products, whole again for ONNX: of layers, groups and instances, and lengths.

TFLite has no operator for them, and integers take their place (`compress.quantize.operators.norms`). ONNX has one for
each, and ONNX Runtime no kernel for 16-bit integers: there the parts would be up to ten operators in float with
roundings between them, where one operator in float, rounded where it leaves, is faster and nearer to the network.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from edgepress.compress.quantize.graph.layers import aten
from edgepress.compress.quantize.operators.build import PART_OF, Whole

if TYPE_CHECKING:
    from torch import fx

_WHOLE = (
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.instance_norm.default,
    aten.linalg_vector_norm.default,
    aten.log_softmax.int,
    aten.logsumexp.default,
)


def make_norms_whole(module: fx.GraphModule, islands: Collection[str]) -> list[str]:
    """Put each norm of a folded network back that is still there in all its parts, in place.

    Args:
        module: float GraphModule of a quantized network.
        islands: names of nodes that stay in float; a norm with one of them stays as it is.

    Returns:
        Names of the nodes that are norms now: those that gave the norms' results.
    """
    wholes: dict[str, Whole] = {}
    parts: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        whole = next((one for one in node.meta.get(PART_OF, ()) if one.target in _WHOLE), None)
        if whole is not None:
            wholes[whole.name] = whole
            parts.setdefault(whole.name, []).append(node)
    made = []
    for name, nodes in parts.items():
        whole = wholes[name]
        found = _ends(nodes)
        if found is None or any(node.name in islands for node in nodes):
            continue
        source, result = found
        weight, bias = _operand(nodes, aten.mul.Tensor), _operand(nodes, aten.add.Tensor)
        with module.graph.inserting_before(result):
            if whole.target is aten.group_norm.default:
                _by_instances(module.graph, result, source, whole, weight, bias)
            else:
                _one(module.graph, result, source, whole, weight, bias)
        made.append(result.name)
    _drop_unread(module.graph)
    return made


def _one(graph: fx.Graph, result: fx.Node, source: Any, whole: Whole, weight: Any, bias: Any) -> None:
    """The norm's own operator in place of the last of its parts."""
    if whole.target is aten.instance_norm.default:  # of each channel, where the parts have them along an axis
        weight, bias = (
            operand and graph.call_function(aten.reshape.default, (operand, [-1])) for operand in (weight, bias)
        )
    given = {**whole.options, "weight": weight, "bias": bias}
    entries = whole.target._schema.arguments[1:]
    result.target = whole.target
    result.args = (source, *(given.get(entry.name) for entry in entries if not entry.kwarg_only))
    result.kwargs = {entry.name: given.get(entry.name) for entry in entries if entry.kwarg_only}


def _by_instances(graph: fx.Graph, result: fx.Node, source: Any, whole: Whole, weight: Any, bias: Any) -> None:
    """Group norm as instance norm of its groups, which ONNX Runtime has a kernel for."""
    sizes, groups = list(source.meta["val"].shape[1:]), whole.options["num_groups"]
    rows = graph.call_function(aten.reshape.default, (source, [-1, groups, math.prod(sizes) // groups]))
    eps = whole.options.get("eps", 1e-5)
    normed = graph.call_function(aten.instance_norm.default, (rows, None, None, None, None, True, 0.0, eps, False))
    last: Any = (aten.reshape.default, (normed, [-1, *sizes]))
    for target, operand in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
        if operand is not None:
            last = (target, (graph.call_function(*last), operand))
    result.target, result.args = last
    result.kwargs = {}


def _ends(nodes: list[fx.Node]) -> tuple[Any, Any] | None:
    """What a norm reads and the node that gives its result; None where it is not whole."""
    inside = set(nodes)
    sources = {source for node in nodes for source in node.all_input_nodes if source not in inside}
    sources = {source for source in sources if source.op != "get_attr"}
    results = [node for node in nodes if any(user not in inside for user in node.users)]
    squares = [node for node in nodes if node.target is aten.rsqrt.default]
    if len(sources) != 1 or len(results) != 1 or len(squares) != 1:
        return None
    return sources.pop(), results[0]


def _operand(nodes: list[Any], target: Any) -> Any:
    """The constant tensor that the norm multiplies with, or adds, at its end: behind the root."""
    for node in reversed(nodes):
        if node.target is aten.rsqrt.default:
            break
        if node.target is target:
            constants = [source for source in node.all_input_nodes if _is_constant(source)]
            if constants:
                return constants[0]
    return None


def _is_constant(node: Any) -> bool:
    return node.op == "get_attr" or (node.target is aten.reshape.default and _is_constant(node.args[0]))


def _drop_unread(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and node.meta.get(PART_OF) is not None:
            graph.erase_node(node)
