# SPDX-License-Identifier: Apache-2.0
"""What stands directly behind a layer and changes its channels by numbers, taken into its weight and bias.

Batch norms; and scales and shifts that are the same for every input: frozen batch norms, layer scale (Touvron et al.,
"Going deeper with image transformers", ICCV 2021), attention's 1 / sqrt(d), a constant factor. In integers each of them
would round once more, and a file's converter takes some of them into the layer on its own.
"""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportGeneralTypeIssues=false
# pyright: reportArgumentType=false
from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from edgepress.compress.quantize.graph.constants import fetch, store
from edgepress.compress.quantize.graph.layers import (
    LAYERS,
    TRANSPOSED,
    argument,
    channel_axis,
    groups_of,
    weight_and_bias,
)

aten = torch.ops.aten
_BATCH_NORMS = {aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default}
_MUL = {aten.mul.Tensor, aten.mul.Scalar}
_DIV = {aten.div.Tensor, aten.div.Scalar}
_ADD = {aten.add.Tensor, aten.add.Scalar}
_SUB = {aten.sub.Tensor, aten.sub.Scalar}
_RSUB = {aten.rsub.Tensor, aten.rsub.Scalar}


@dataclass(frozen=True)
class Origin:
    """Where the tensors of a layer came from in the original module.

    Attributes:
        weight, bias: state-dict keys; bias is None where the layer had none.
        batch_norm: path of the batch norm folded into it, or None.
        writable: whether folded tensors can be written back to these keys: they belong to this layer alone, and nothing
            but a batch norm was taken into them.
        affine: the layer is a batch norm that had nothing to be folded into (a depthwise 1x1 convolution now).
    """

    weight: str
    bias: str | None = None
    batch_norm: str | None = None
    writable: bool = True
    affine: bool = False


def absorb(module: fx.GraphModule, origins: dict[str, Origin], constants: bool) -> None:
    """Take what stands behind the layers into them, in place.

    Args:
        module: whose constants are folded (`constants.fold_constants`).
        origins: of its layers; brought up to date.
        constants: also scales and shifts, not only batch norms.
    """
    for node in list(module.graph.nodes):
        if node.target in _BATCH_NORMS:
            _fold_batch_norm(module, node, origins)
        elif constants:
            _fold_constant(module, node, origins)


def _fold_constant(module: fx.GraphModule, node: fx.Node, origins: dict[str, Origin]) -> None:
    """Replace y = x * scale + shift, one of them given, behind a layer that gives x to nothing else."""
    found = _scale_and_shift(module, node, origins)
    if found is None:
        return
    layer, scale, shift = found
    _scale_layer(module, layer, scale, shift, origins, origins[layer.name].batch_norm, affine=False)
    node.replace_all_uses_with(layer)
    module.graph.erase_node(node)


def _scale_and_shift(
    module: fx.GraphModule, node: fx.Node, origins: dict[str, Origin]
) -> tuple[fx.Node, torch.Tensor, torch.Tensor] | None:
    """(layer, scale [C], shift [C]) of an operator that does no more than that; None of all others."""
    if not any(node.target in kind for kind in (_MUL, _DIV, _ADD, _SUB, _RSUB)):
        return None
    first, second = node.args[:2]
    turned = not (isinstance(first, fx.Node) and first.name in origins)
    layer, constant = (second, first) if turned else (first, second)
    if not (isinstance(layer, fx.Node) and _can_absorb(layer, origins)):
        return None
    value = _by_channel(module, constant, node, layer)
    if value is None:
        return None
    one, zero = torch.ones_like(value), torch.zeros_like(value)
    if node.target in _MUL:
        return layer, value, zero
    if node.target in _DIV:
        return None if turned or bool((value == 0).any()) else (layer, 1 / value, zero)
    factor = argument(node, "alpha")  # of the second of both
    if node.target in _ADD:
        return (layer, one * factor, value) if turned else (layer, one, value * factor)
    if node.target in _SUB:
        return (layer, -one * factor, value) if turned else (layer, one, -value * factor)
    return (layer, one, -value * factor) if turned else (layer, -one * factor, value)


def _by_channel(module: fx.GraphModule, constant: Any, node: fx.Node, layer: fx.Node) -> torch.Tensor | None:
    """[C] finite numbers of a constant that differs between channels at most; None of another."""
    value = layer.meta.get("val")
    if not isinstance(value, torch.Tensor) or tuple(node.meta["val"].shape) != tuple(value.shape):
        return None
    axis = value.dim() + channel_axis(layer)
    size = int(value.shape[axis])
    if isinstance(constant, (int, float)) and not isinstance(constant, bool):
        numbers = torch.full((size,), float(constant))
    elif isinstance(constant, fx.Node) and constant.op == "get_attr":
        tensor = fetch(module, str(constant.target))
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.dim() > value.dim():
            return None
        shape = [1] * (value.dim() - tensor.dim()) + list(tensor.shape)
        if any(n != 1 for i, n in enumerate(shape) if i != axis):
            return None
        numbers = tensor.detach().float().reshape(-1).expand(size)
    else:
        return None
    return numbers if bool(torch.isfinite(numbers).all()) else None


def _can_absorb(layer: fx.Node, origins: dict[str, Origin]) -> bool:
    grouped_transposed = layer.target in TRANSPOSED and groups_of(layer) != 1
    return layer.name in origins and len(layer.users) == 1 and not grouped_transposed


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
        and _can_absorb(source, origins)
        and channel_axis(source) + (_dimensions(source) or 0) == 1  # a batch norm's channels are axis 1
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
    path: str | None,
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
    origins[layer.name] = replace(
        origin, batch_norm=path, writable=origin.writable and origin.batch_norm is None and affine
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
