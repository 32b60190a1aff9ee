# SPDX-License-Identifier: Apache-2.0
"""Which batch normalisations are part of the convolution or dense layer before them, and which cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgepress.models.cost.aten import bias_of, data_input, weight_of
from edgepress.models.cost.aten_names import BATCH_NORMS, FOLDABLE
from edgepress.models.cost.graph import Graph, Node


@dataclass(frozen=True)
class Folding:
    """The result of `fold_batch_norms`.

    Attributes:
        producer: folded batch normalisation -> the convolution or dense layer that takes it up, by node name.
        unfolded: batch normalisation that stays -> why.
    """

    producer: Mapping[str, str]
    unfolded: Mapping[str, str]


def fold_batch_norms(graph: Graph) -> Folding:
    """Decide for every batch normalisation of an evaluated network whether it folds.

    It folds into the layer that produces its input where nothing else reads that layer's output, the layer's weight is
    a constant, and a weight that is used several times is followed by the same normalisation each time.
    """
    producer: dict[str, str] = {}
    unfolded: dict[str, str] = {}
    for node in graph.nodes:
        if node.op in BATCH_NORMS:
            source = data_input(graph, node)
            reason = _obstacle(graph, node, source)
            if reason is None and source is not None:
                producer[node.name] = source.name
            else:
                unfolded[node.name] = reason or "it has no input"
    # A layer that is called twice has one weight: it can take up only what follows it each time.
    norm_after = {layer: norm for norm, layer in producer.items()}
    calls: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op in FOLDABLE:
            weight = weight_of(graph, node)
            if weight is not None:
                calls.setdefault(weight.name, []).append(node.name)
    for layers in calls.values():
        followers = {_statistics(graph, norm_after.get(layer)) for layer in layers}
        if len(followers) > 1:
            for layer in layers:
                norm = norm_after.get(layer)
                if norm is not None:
                    del producer[norm]
                    unfolded[norm] = f"{_title(graph.by_name[layer])} is used several times and followed by others"
    return Folding(producer, unfolded)


def _obstacle(graph: Graph, node: Node, source: Node | None) -> str | None:
    if node.op == "instance_norm":
        return "its statistics depend on the input"
    if node.arguments.get("training") is True:
        return "it computes its statistics from the input even in evaluation"
    if node.arguments.get("running_mean", "") is None:
        return "it keeps no running statistics"
    if source is None or source.op not in FOLDABLE:
        return f"{_title(source) if source else 'nothing'} before it is no convolution or dense layer"
    if graph.users[source.name] != (node.name,) or source.name in graph.outputs:
        return f"something else reads the output of {_title(source)} too"
    if weight_of(graph, source) is None:
        return f"the weight of {_title(source)} is computed from the input"
    bias = bias_of(graph, source)
    if bias is not None and bias.name not in graph.constant:
        return f"the bias of {_title(source)} is computed from the input"
    channels_last = source.op in ("linear", "addmm") and source.shape is not None and len(source.shape) > 2
    return f"{_title(source)} has its features in another dimension" if channels_last else None


def _statistics(graph: Graph, norm: str | None) -> tuple[str, ...] | None:
    return graph.by_name[norm].inputs[1:] if norm is not None else None


def _title(node: Node) -> str:
    return node.module or node.op or node.name
