# SPDX-License-Identifier: Apache-2.0
"""Which operator a converter cannot take: found by converting less and less of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgepress.models.errors import UsageError


def find_culprit(module: Any, convert: Callable[[Any], Any]) -> str:
    """The first operator without which a converter takes a network, with its module; "" where none stands out.

    Args:
        module: GraphModule which `convert` refuses.
        convert: raises UsageError for what it cannot take.
    """
    from edgepress.compress.quantize.graph.trace import place_of

    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    taken, refused = 0, len(nodes)  # so many operators from the first on
    while refused - taken > 1:
        middle = (taken + refused) // 2
        if _is_taken(_first(module, nodes[:middle]), convert):
            taken = middle
        else:
            refused = middle
    return place_of(nodes[refused - 1]) if nodes and not _is_taken(_first(module, nodes[:refused]), convert) else ""


def _is_taken(module: Any, convert: Callable[[Any], Any]) -> bool:
    try:
        convert(module)
    except UsageError:
        return False
    return True


def _first(module: Any, nodes: list[Any]) -> Any:
    """The part of a network which ends after some of its operators; it returns what nothing in it reads."""
    import torch
    from torch import fx

    kept, graph, copied = set(nodes), fx.Graph(), {}
    for node in module.graph.nodes:
        if node.op in ("placeholder", "get_attr") or node in kept:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    ends = [
        copied[node]
        for node in nodes
        if not any(user in kept for user in node.users) and isinstance(node.meta.get("val"), torch.Tensor)
    ]
    graph.output(tuple(ends))
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph).eval()
