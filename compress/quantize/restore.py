# SPDX-License-Identifier: Apache-2.0
"""Quantized networks as checkpoints: folded tensors under the original key names, beside quantization.json.

`unfold` writes folded tensors back so that folding again gives exactly them: a batch norm becomes the identity with
the folded bias (mean 0, variance 1, gamma sqrt(1 + eps), beta = bias), so its factor is exactly 1. Layers whose tensors
have no such place (a module that is called twice, weights that are computed, a layer with a scale behind it) leave the
original's as they are; theirs are kept beside the ranges.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from edgepress.compress.quantize.fold import Folded, fold
from edgepress.compress.quantize.graph.absorb import Origin
from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.layers import weight_and_bias
from edgepress.compress.quantize.model import Quantized, assemble, without_rounding
from edgepress.compress.quantize.scheme import FLOAT, SCHEMES, holds_values, written_range
from edgepress.models.errors import UsageError

SCHEMA = 1


def quantization_json(quantized: Quantized) -> dict[str, Any]:
    """What `restore_quantized` needs beside the tensors of `unfold`: scheme, ranges by value and options; JSON-able.

    Where layers have tensors that `unfold` can't write back, these are in it, too, under "tensors": "LAYER.weight" and
    "LAYER.bias" -> a tensor; `save_checkpoint` writes them into a file of their own.
    """
    kept = {
        f"{layer}.{part}": tensor.cpu().clone(memory_format=torch.contiguous_format)
        for layer, tensors in _tensors_by_layer(quantized)
        if not _has_place(quantized.origins[layer], tensors)
        for part, tensor in tensors.items()
    }
    return {
        **({"tensors": kept} if kept else {}),
        "schema": SCHEMA,
        "scheme": quantized.scheme,
        "method": quantized.method,
        "ranges": _written_ranges(quantized),
        "exceptions": dict(quantized.exceptions),
        "per_tensor_dense": quantized.per_tensor_dense,
    }


def _tensors_by_layer(quantized: Quantized) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """Layer -> its "weight" and, where it has one, its "bias"; the network's own tensors."""
    layers, found = {node.name: node for node in without_rounding(quantized.model).graph.nodes}, []
    for name in quantized.origins:
        parts = zip(("weight", "bias"), weight_and_bias(layers[name]), strict=True)
        tensors = {part: fetch(quantized.model, str(node.target)) for part, node in parts if node is not None}
        found.append((name, {part: tensor.detach() for part, tensor in tensors.items()}))
    return found


def _has_place(origin: Origin, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether folding gives these tensors again, once they are written to where the layer's came from."""
    somewhere = origin.affine or origin.batch_norm is not None or origin.bias is not None or "bias" not in tensors
    return origin.writable and somewhere


def _written_ranges(quantized: Quantized) -> dict[str, dict[str, float]]:
    bits = {point.key: SCHEMES[point.scheme] for point in quantized.points.points if point.scheme != FLOAT}
    return {
        key: dict(zip(("min", "max"), written_range(ends["min"], ends["max"], bits[key]), strict=True))
        for key, ends in quantized.ranges.items()
    }


def restore_quantized(
    model: nn.Module, example_inputs: tuple[torch.Tensor, ...] | torch.Tensor, quantization: Mapping[str, Any]
) -> Quantized:
    """Put the ranges of an int8 checkpoint onto its network.

    Args:
        model: the network with the tensors that `unfold` gave; untouched.
        example_inputs: a tensor or a tuple of tensors.
        quantization: what `quantization_json` gave; it is checked, since it may come from a stranger.

    Returns:
        Quantized with the same outputs, to the bit, as the one that was saved; ranges frozen.

    Raises:
        UsageError: damaged, of a newer schema, or made for another network.
    """
    _check(quantization)
    folded = fold(model, example_inputs)
    _put(folded, quantization.get("tensors", {}))
    quantized = assemble(
        folded,
        quantization["scheme"],
        dict(quantization.get("exceptions", {})),
        bool(quantization.get("per_tensor_dense", False)),
        str(quantization.get("method", "mse")),
    )
    ranges = quantization["ranges"]
    wanted = {point.key: point for point in quantized.points.points if point.scheme != FLOAT}
    if missing := sorted(set(wanted) ^ set(ranges)):
        raise UsageError(
            f"the quantization was made for another network: {len(missing)} of {len(wanted)} values have "
            f"no counterpart, such as {missing[0]!r}; quantize this network anew"
        )
    for key, point in wanted.items():
        quantized.quantizer(point).set_range(ranges[key]["min"], ranges[key]["max"])
    return quantized


def unfold(quantized: Quantized, model: nn.Module) -> nn.Module:
    """The original network with the quantized one's current tensors under its own key names.

    Args:
        quantized: made from `model`.
        model: the network it was made from; untouched.

    Returns:
        A copy of `model`; restored with what `quantization_json` says it gives the same outputs to the bit.
    """
    result = copy.deepcopy(model)
    state = dict(result.state_dict(keep_vars=False))
    changed = _constants(quantized)
    with torch.no_grad():
        for name, tensors in _tensors_by_layer(quantized):
            origin = quantized.origins[name]
            if _has_place(origin, tensors):
                _write(result, state, origin, tensors["weight"], tensors.get("bias"))
            changed |= {origin.weight, origin.bias or ""}
        for key, value in quantized.model.named_parameters():
            if key in state and key not in changed and state[key].shape == value.shape:
                state[key].copy_(value)
    return result


def _write(
    model: nn.Module, state: dict[str, torch.Tensor], origin: Origin, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    if origin.affine:
        norm = model.get_submodule(origin.batch_norm or "")
        _identity_norm(norm, bias, unit_root=True)
        norm.weight.copy_(weight.reshape(-1))  # type: ignore[operator]
        return
    state[origin.weight].copy_(weight)
    if origin.batch_norm is not None:
        _identity_norm(model.get_submodule(origin.batch_norm), bias)
        if origin.bias is not None:
            state[origin.bias].zero_()
    elif origin.bias is not None:
        state[origin.bias].copy_(cast("torch.Tensor", bias))  # a layer whose bias has an origin has one


def _identity_norm(norm: Any, bias: Any, unit_root: bool = False) -> None:
    """A batch norm that adds `bias`. With `unit_root` its divisor is exactly 1 and its weight stays free."""
    norm.running_mean.zero_()
    if unit_root:
        variance = torch.ones_like(norm.running_var) - norm.eps
        below = torch.nextafter(variance, torch.zeros_like(variance))
        above = torch.nextafter(variance, torch.full_like(variance, 2.0))
        for candidate in (variance, below, above):
            if bool((torch.sqrt(candidate + norm.eps) == 1).all()):
                norm.running_var.copy_(candidate)
                break
        else:
            raise UsageError(f"a batch norm with eps = {norm.eps} cannot be written as a plain scale")
    else:
        norm.running_var.fill_(1)
        norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
    norm.bias.copy_(bias)


def _put(folded: Folded, tensors: Mapping[str, Any]) -> None:
    """Give layers the tensors that were kept for them, in place."""
    layers = {node.name: node for node in folded.module.graph.nodes if node.name in folded.origins}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        nodes = weight_and_bias(layers[layer]) if layer in layers else (None, None)
        node = nodes[0] if part == "weight" else nodes[1] if part == "bias" else None
        target = fetch(folded.module, str(node.target)) if node is not None else None
        if target is None or target.shape != tensor.shape or target.dtype != tensor.dtype:
            raise UsageError(
                f"the quantization was made for another network: it holds {name!r:.100} with the shape "
                f"{list(tensor.shape)}, which has no counterpart; quantize this network anew"
            )
        target.data.copy_(tensor)


def _constants(quantized: Quantized) -> set[str]:
    return {
        key for key, _ in quantized.model.named_parameters() if key.startswith(("activation_quantizers.", "folded_"))
    }


def _check(quantization: Any) -> None:
    problem = None
    if not isinstance(quantization, Mapping):
        problem = "it is no object"
    elif quantization.get("schema") != SCHEMA:
        problem = f"its schema is {quantization.get('schema')!r}, known is {SCHEMA}"
    elif not isinstance(quantization.get("scheme"), str) or not isinstance(quantization.get("ranges"), Mapping):
        problem = "it lacks scheme or ranges"
    elif not isinstance(quantization.get("exceptions", {}), Mapping):
        problem = "its exceptions are no object"
    elif not _are_tensors(quantization.get("tensors", {})):
        problem = "its tensors are none"
    else:
        for key, entry in quantization["ranges"].items():
            ends: list[Any] = [entry.get("min"), entry.get("max")] if isinstance(entry, Mapping) else [None]
            if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in ends):
                problem = f"the range of {key!r} has no finite min and max"
                break
            if not holds_values(*ends):
                problem = f"the range of {key!r} is [{ends[0]:g}, {ends[1]:g}], which holds no values"
                break
    if problem:
        raise UsageError(f"quantization.json is damaged: {problem}; quantize the network anew")


def _are_tensors(tensors: Any) -> bool:
    return isinstance(tensors, Mapping) and all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
