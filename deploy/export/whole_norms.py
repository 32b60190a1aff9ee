# SPDX-License-Identifier: Apache-2.0
"""Layer norms that were written as sums and products, whole again for ONNX.

TFLite has no operator for them, and integers take their place (`compress.quantize.operators.norms`). ONNX has one, and
ONNX Runtime no kernel for 16-bit integers: there the parts would be ten operators in float with roundings between them,
where one operator in float, rounded where it leaves, is faster and nearer to the network.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from edgepress.compress.quantize.graph.layers import aten
from edgepress.compress.quantize.operators.build import PART_OF, Whole

if TYPE_CHECKING:
    from torch import fx


def make_norms_whole(module: fx.GraphModule, islands: Collection[str]) -> list[str]:
    """Put each layer norm of a folded network back that is still there in all its parts, in place.

    Args:
        module: float GraphModule of a quantized network.
        islands: names of nodes that stay in float; a norm with one of them stays as it is.

    Returns:
        Names of the nodes that are norms now: those that gave the norms' results.
    """
    wholes: dict[str, Whole] = {}
    parts: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        whole = node.meta.get(PART_OF)
        if whole is not None and whole.target is aten.layer_norm.default:
            wholes[whole.name] = whole
            parts.setdefault(whole.name, []).append(node)
    made = []
    for name, nodes in parts.items():
        whole = wholes[name]
        found = _ends(nodes)
        if found is None or any(node.name in islands for node in nodes):
            continue
        source, result = found
        options = {"weight": _operand(nodes, aten.mul.Tensor), "bias": _operand(nodes, aten.add.Tensor)}
        order = [entry.name for entry in whole.target._schema.arguments][1:]
        arguments = {**whole.options, **{name: value for name, value in options.items() if value is not None}}
        result.target, result.kwargs = whole.target, {}
        result.args = (source, *(arguments.get(argument) for argument in order))
        made.append(result.name)
    _drop_unread(module.graph)
    return made


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
    """The constant tensor that the norm multiplies with, or adds, at its end; what goes into the root is none."""
    for node in nodes:
        if node.target is target and not any(user.target is aten.rsqrt.default for user in node.users):
            constants = [source for source in node.all_input_nodes if source.op == "get_attr"]
            if constants:
                return constants[0]
    return None


def _drop_unread(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and node.meta.get(PART_OF) is not None:
            graph.erase_node(node)
