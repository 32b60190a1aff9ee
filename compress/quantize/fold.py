# SPDX-License-Identifier: Apache-2.0
"""The network as a graph of few operators, with batch normalisation folded into the layers before it.

Both exporters and fake quantization start from this graph, so that what is trained is what is exported.
"""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportGeneralTypeIssues=false
# pyright: reportArgumentType=false
from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from edgepress.compress.quantize.graph.constants import fetch, fold_constants, fold_what_follows_the_batch, store
from edgepress.compress.quantize.graph.layers import LAYERS, TRANSPOSED, channel_axis, groups_of, weight_and_bias
from edgepress.compress.quantize.graph.trace import quiet, trace
from edgepress.compress.quantize.operators.build import rewrite_operators
from edgepress.compress.quantize.operators.response_norm import pool_instead_of_mean, rewrite_response_norm
from edgepress.compress.quantize.operators.table import FOR_CONVERTERS, FOR_INTEGERS
from edgepress.models.checkpoints.copying import copied
from edgepress.models.cost.graph import as_inputs
from edgepress.models.cost.networks import plain_network

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
_BATCH_NORMS = {aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default}


@dataclass(frozen=True)
class Origin:
    """Where the tensors of a layer came from in the original module.

    Attributes:
        weight, bias: state-dict keys; bias is None where the layer had none.
        batch_norm: path of the batch norm folded into it, or None.
        writable: whether folded tensors can be written back to these keys: they belong to this layer alone.
        affine: the layer is a batch norm that had nothing to be folded into (a depthwise 1x1 convolution now).
    """

    weight: str
    bias: str | None = None
    batch_norm: str | None = None
    writable: bool = True
    affine: bool = False


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
        elif node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    fold_constants(traced)
    fold_what_follows_the_batch(traced)
    origins = {node.name: _origin(node) for node in graph.nodes if node.target in LAYERS}
    _separate_shared(traced, origins)
    for node in list(graph.nodes):
        if node.target in _BATCH_NORMS:
            _fold_batch_norm(traced, node, origins)
    rewrite_response_norm(traced)
    moved = rewrite_operators(traced, {**FOR_CONVERTERS, **FOR_INTEGERS} if for_integers else FOR_CONVERTERS)
    origins = _origins_after(graph, origins, moved)
    pool_instead_of_mean(traced)
    graph.eliminate_dead_code()
    graph.lint()
    module = fx.GraphModule(traced, graph, class_name="Folded").eval()
    return Folded(module, origins, found.fixed_batch, found.reason)


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


def _fold_batch_norm(module: fx.GraphModule, node: fx.Node, origins: dict[str, Origin]) -> None:
    """Replace y = (x - mean) / sqrt(var + eps) * gamma + beta by a changed layer before it, or by a depthwise 1x1."""
    source, gamma_node, beta_node, mean_node, var_node = node.args[:5]
    eps = float(node.args[6] if node.target is aten._native_batch_norm_legit_no_training.default else node.args[7])
    mean, var = fetch(module, mean_node.target).detach(), fetch(module, var_node.target).detach()
    gamma = fetch(module, gamma_node.target).detach() if gamma_node is not None else torch.ones_like(mean)
    beta = fetch(module, beta_node.target).detach() if beta_node is not None else torch.zeros_like(mean)
    path = str(mean_node.target).rpartition(".")[0]
    # A division, not rsqrt: with gamma = sqrt(1 + eps), var = 1 the factor is exactly 1, so that a folded network
    # which was written back into these tensors folds to itself.
    factor = gamma / torch.sqrt(var + eps)
    outputs = [user for user in node.users if user.target is operator.getitem] or [node]
    foldable = (
        isinstance(source, fx.Node)
        and source.name in origins
        and len(source.users) == 1
        and channel_axis(source) + (_dimensions(source) or 0) == 1  # a batch norm's channels are axis 1
        and not (source.target in TRANSPOSED and groups_of(source) != 1)
    )
    with module.graph.inserting_before(node):
        if foldable:
            _scale_layer(module, source, factor, beta - mean * factor, origins, path, gamma_node is not None)
            result = source
        else:
            own = gamma_node is not None and not _exists(module, f"{path}.affine_weight")
            result = _affine(module, node, source, factor, beta - mean * factor, origins, path, own)
    for output in outputs:
        output.replace_all_uses_with(result)
        if output is not node:
            module.graph.erase_node(output)
    module.graph.erase_node(node)


def _scale_layer(
    module: fx.GraphModule,
    layer: fx.Node,
    factor: torch.Tensor,
    shift: torch.Tensor,
    origins: dict[str, Origin],
    path: str,
    affine: bool,
) -> None:
    weight_node, bias_node = weight_and_bias(layer)
    weight = fetch(module, str(weight_node.target)).detach()
    shape = [1] * weight.ndim
    shape[LAYERS[layer.target].weight_axis] = -1
    store(module, str(weight_node.target), weight * factor.reshape(shape))
    if bias_node is not None:
        store(module, str(bias_node.target), fetch(module, str(bias_node.target)).detach() * factor + shift)
    else:
        name = str(weight_node.target).removesuffix("weight").rstrip(".") + ".bias"
        if name.startswith("folded_") or _exists(module, name):
            name = f"folded_bias_{layer.name}"
        store(module, name, shift)
        bias = module.graph.get_attr(name)
        layer.prepend(bias)
        arguments = list(layer.args) + [None] * (3 - len(layer.args))
        arguments[2] = bias
        layer.args = tuple(arguments)
    origin = origins[layer.name]
    origins[layer.name] = Origin(
        origin.weight, origin.bias, path, writable=origin.writable and origin.batch_norm is None and affine
    )


def _affine(
    module: fx.GraphModule,
    node: fx.Node,
    source: Any,
    factor: torch.Tensor,
    shift: torch.Tensor,
    origins: dict[str, Origin],
    path: str,
    gamma_is_own: bool,
) -> fx.Node:
    rank, channels = _dimensions(source), factor.numel()
    weight_name, bias_name = f"{path}.affine_weight", f"{path}.affine_bias"
    if _exists(module, weight_name):
        weight_name, bias_name = f"affine_weight_{node.name}", f"affine_bias_{node.name}"
    if rank == 4:
        store(module, weight_name, factor.reshape(-1, 1, 1, 1))
        store(module, bias_name, shift)
        weight, bias = module.graph.get_attr(weight_name), module.graph.get_attr(bias_name)
        made = module.graph.call_function(aten.conv2d.default, (source, weight, bias, [1, 1], [0, 0], [1, 1], channels))
        origins[made.name] = Origin(weight_name, bias_name, path, gamma_is_own, affine=True)
    else:
        shape = [1, -1, *([1] * ((rank or 2) - 2))]
        store(module, weight_name, factor.reshape(shape))
        store(module, bias_name, shift.reshape(shape))
        scaled = module.graph.call_function(aten.mul.Tensor, (source, module.graph.get_attr(weight_name)))
        made = module.graph.call_function(aten.add.Tensor, (scaled, module.graph.get_attr(bias_name)))
        scaled.meta.update(_inherited(node))
    made.meta.update(_inherited(node))
    return made


def _inherited(node: fx.Node) -> dict[str, Any]:
    meta = {key: node.meta[key] for key in ("nn_module_stack",) if key in node.meta}
    value = node.meta.get("val")
    if value is not None:
        meta["val"] = value[0] if isinstance(value, (tuple, list)) else value
    return meta


def _dimensions(node: Any) -> int | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dim() if isinstance(value, torch.Tensor) else None


def _exists(module: nn.Module, target: str) -> bool:
    try:
        fetch(module, target)
    except AttributeError:
        return False
    return True
