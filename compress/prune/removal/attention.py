# SPDX-License-Identifier: Apache-2.0
"""Attention that divides by the root of its width: narrower heads keep the scores of the dense network.

`scaled_dot_product_attention` without a scale divides by sqrt(width). Where heads lose positions, the rows that make
the queries are multiplied by sqrt(width kept / width), so that an edited copy computes what the reference does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.compress.prune.removal.edits import Removal
from edgepress.models.cost.graph import Node, Ref

#: Operators that hand a query on as it is, in another shape.
_MOVING = frozenset(
    {
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "contiguous",
        "clone",
        "select",
        "slice",
        "narrow",
        "squeeze",
        "unsqueeze",
        "unbind",
        "chunk",
        "split",
        "split_with_sizes",
        "getitem",
        "dropout",
        "to",
    }
)


def query_factors(removal: Removal, kept: dict[str, dict[int, np.ndarray]]) -> list[dict[str, Any]]:
    """What to multiply: "tensor", its "rows" after the cut, "factor"; an attention whose queries cannot be followed to
    a layer is left out, and the proof notices.

    Args:
        removal: the selection on the traced network.
        kept: tensor -> axis -> kept indices.
    """
    factors = []
    for node in removal.graph.nodes:
        query = removal.value(node, "query") if node.op == "scaled_dot_product_attention" else None
        if query is None or node.arguments.get("scale") is not None:
            continue
        width, left = query.shape[-1], removal.shape(query)[-1]
        layer, moves = _producer(removal, node) if left != width else (None, [])
        if layer is None:
            continue
        rows = _rows(removal, layer, moves)
        for name in ("weight", "bias"):
            ref = layer.arguments.get(name)
            tensor = removal.graph.by_name[ref.name] if isinstance(ref, Ref) else None
            if tensor is not None and tensor.kind == "parameter":
                indices = kept.get(tensor.source, {}).get(0, np.arange((tensor.shape or (0,))[0]))
                factors.append(
                    {
                        "tensor": tensor.source,
                        "rows": np.flatnonzero(np.isin(indices, rows)).tolist(),
                        "factor": (left / width) ** 0.5,
                    }
                )
    return factors


def _producer(removal: Removal, attention: Node) -> tuple[Node | None, list[Node]]:
    """The layer whose output becomes the queries, and the operators between, the last one first."""
    moves: list[Node] = []
    node = removal.graph.by_name[attention.arguments["query"].name]
    while node.op in _MOVING and len(node.inputs) == 1:
        moves.append(node)
        node = removal.graph.by_name[node.inputs[0]]
    makes = node.op in ("linear", "conv1d", "conv2d", "layer_norm") and node.shape is not None
    return (node if makes else None), moves


def _rows(removal: Removal, layer: Node, moves: list[Node]) -> np.ndarray:
    """Which outputs of the layer are queries: their numbers are moved as the values are."""
    import torch
    from torch.fx.node import map_arg

    assert layer.shape is not None
    assert removal.graph.program is not None
    axis = 1 if layer.op.startswith("conv") else len(layer.shape) - 1
    view = [-1 if a == axis else 1 for a in range(len(layer.shape))]
    value: Any = torch.arange(layer.shape[axis]).reshape(view).expand(layer.shape)
    nodes = {node.name: node for node in removal.graph.program.graph.nodes}
    for move in reversed(moves):
        recorded, moved = nodes[move.name], value
        if move.op in ("to", "dropout", "clone"):
            continue
        value = recorded.target(
            *map_arg(recorded.args, lambda _, moved=moved: moved),
            **map_arg(recorded.kwargs, lambda _, moved=moved: moved),
        )
    return np.unique(value.numpy())
