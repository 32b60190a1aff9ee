# SPDX-License-Identifier: Apache-2.0
"""The network as a graph of few operators, with batch normalisation folded into the layers before it.

Both exporters and fake quantization start from this graph, so that what is trained is what is exported.
"""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportGeneralTypeIssues=false
# pyright: reportArgumentType=false
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from edgepress.compress.quantize.graph.absorb import Origin, absorb
from edgepress.compress.quantize.graph.constants import fetch, fold_constants, fold_what_follows_the_batch, store
from edgepress.compress.quantize.graph.layers import LAYERS, argument, weight_and_bias
from edgepress.compress.quantize.graph.trace import place_of, quiet, trace
from edgepress.compress.quantize.operators.attention import rewrite_masks, widen_long_softmax
from edgepress.compress.quantize.operators.build import rewrite_operators
from edgepress.compress.quantize.operators.response_norm import pool_instead_of_mean, rewrite_response_norm
from edgepress.compress.quantize.operators.table import FOR_CONVERTERS, FOR_INTEGERS
from edgepress.compress.quantize.operators.written_norms import rewrite_written_norms
from edgepress.models.checkpoints.copying import copied
from edgepress.models.cost.graph import as_inputs
from edgepress.models.cost.networks import plain_network
from edgepress.models.errors import UsageError

aten = torch.ops.aten
#: Operators which do nothing in inference.
_IDENTITIES = {
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
}
#: Batch norms without statistics of their own.
_OF_BATCHES = {aten._native_batch_norm_legit.default, aten._native_batch_norm_legit.no_stats}
#: Operators which only refuse values: no file has a place for them.
_CHECKS = {aten._assert_tensor_metadata.default, aten._assert_async.default, aten._assert_async.msg}


@dataclass(frozen=True)
class Folded:
    """A traced network.

    Attributes:
        module: GraphModule without batch norm, dropout or in-place operators; a copy, trainable.
        origins: name of the layer's node -> where its tensors came from.
        fixed_batch: the only size of batch that the network's own forward takes; None means any.
        fixed_by: which operator of which module fixes it.
    """

    module: fx.GraphModule
    origins: dict[str, Origin] = field(default_factory=dict)
    fixed_batch: int | None = None
    fixed_by: str = ""

    @property
    def dynamic_batch(self) -> bool:
        """Whether the network takes batches of any size."""
        return self.fixed_batch is None


def fold(model: nn.Module, example_inputs: Any, for_integers: bool = True) -> Folded:
    """Trace a network in evaluation mode and fold its batch norms.

    Args:
        model: untouched; its tensors are copied.
        example_inputs: a tensor or a tuple of tensors with a batch dimension.
        for_integers: write operators without integer kernels as others which have them.

    Raises:
        UsageError: torch.export cannot trace it; the message carries its first line.
    """
    inputs = in_single_precision(as_inputs(example_inputs))
    with quiet():
        found = trace(copied(plain_network(model)).float().eval(), inputs)
    traced, graph = found.module, found.module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _IDENTITIES:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target in _CHECKS:
            graph.erase_node(node)
    fold_constants(traced)
    _refuse_statistics_of_batches(graph)
    fold_what_follows_the_batch(traced)
    origins = {node.name: _origin(node) for node in graph.nodes if node.target in LAYERS}
    _separate_shared(traced, origins)
    absorb(traced, origins, constants=for_integers)
    rewrite_response_norm(traced)
    if for_integers:
        rewrite_masks(traced)
        rewrite_written_norms(traced)
    moved = rewrite_operators(traced, {**FOR_CONVERTERS, **FOR_INTEGERS} if for_integers else FOR_CONVERTERS)
    if for_integers:
        widen_long_softmax(traced)
    origins = _origins_after(graph, origins, moved)
    pool_instead_of_mean(traced)
    graph.eliminate_dead_code()
    graph.lint()
    module = fx.GraphModule(traced, graph, class_name="Folded").eval()
    return Folded(module, origins, found.fixed_batch, found.reason)


def _refuse_statistics_of_batches(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.target in _OF_BATCHES or (node.target is aten.batch_norm.default and argument(node, "training")):
            raise UsageError(
                f"{place_of(node)} takes its mean and variance from the batch, in evaluation too "
                f"(track_running_stats=False), and a device runs one sample at a time: train it with running "
                f"statistics, or take GroupNorm or InstanceNorm"
            )


def in_single_precision(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Real numbers as float32, in which a network is folded and calibrated whatever it was trained in."""
    return tuple(x.float() if x.is_floating_point() else x for x in tensors)


def _origins_after(graph: fx.Graph, origins: dict[str, Origin], moved: dict[str, str]) -> dict[str, Origin]:
    """The origins once operators were written as others; layers that these are made of belong to the network, too."""
    found = {}
    for node in graph.nodes:
        if node.target not in LAYERS:
            continue
        name = moved.get(node.name, node.name)
        weight, bias = weight_and_bias(node)
        made = any(n is not None and str(n.target).startswith("folded_") for n in (weight, bias))
        if name in origins:
            found[node.name] = origins[name]
        elif not made:
            found[node.name] = _origin(node)
    return found


def _origin(node: fx.Node) -> Origin:
    weight, bias = weight_and_bias(node)
    folded = weight.op != "get_attr" or str(weight.target).startswith("folded_")
    return Origin(str(weight.target), str(bias.target) if bias is not None else None, writable=not folded)


def _separate_shared(module: fx.GraphModule, origins: dict[str, Origin]) -> None:
    """Give every layer tensors of its own: folding and ranges differ where a module is called twice."""
    seen: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.name not in origins:
            continue
        shared = False
        for index in (1, 2):
            tensor = node.args[index] if len(node.args) > index else None
            if not isinstance(tensor, fx.Node) or tensor.op != "get_attr":
                continue
            target = str(tensor.target)
            if target in seen:
                shared = True
                copied = f"{target}_{node.name}".replace(".", "_")
                store(module, copied, fetch(module, target))
                with module.graph.inserting_before(node):
                    node.update_arg(index, module.graph.get_attr(copied))
                first = seen[target]
                origins[first] = Origin(origins[first].weight, origins[first].bias, writable=False)
            else:
                seen[target] = node.name
        if shared:
            origins[node.name] = Origin(origins[node.name].weight, origins[node.name].bias, writable=False)
