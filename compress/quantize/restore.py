# SPDX-License-Identifier: Apache-2.0
"""Quantized networks as checkpoints: folded tensors under the original key names, beside quantization.json.

`unfold` writes folded tensors back so that folding again gives exactly them: a batch norm becomes the identity with
the folded bias (mean 0, variance 1, gamma sqrt(1 + eps), beta = bias), so its factor is exactly 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from edgepress.compress.quantize.fold import Origin, fold
from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.layers import weight_and_bias
from edgepress.compress.quantize.model import Quantized, assemble
from edgepress.compress.quantize.scheme import FLOAT, SCHEMES, holds_values, written_range
from edgepress.models.errors import UsageError

SCHEMA = 1


def quantization_json(quantized: Quantized) -> dict[str, Any]:
    """What `restore_quantized` needs beside the tensors: scheme, ranges by value and options; JSON-able."""
    return {
        "schema": SCHEMA,
        "scheme": quantized.scheme,
        "method": quantized.method,
        "ranges": _written_ranges(quantized),
        "exceptions": dict(quantized.exceptions),
        "per_tensor_dense": quantized.per_tensor_dense,
    }


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
        quantization: the content of quantization.json; it is checked, since it may come from a stranger.

    Returns:
        Quantized with the same outputs, to the bit, as the one that was saved; ranges frozen.

    Raises:
        UsageError: damaged, of a newer schema, or made for another network.
    """
    _check(quantization)
    folded = fold(model, example_inputs)
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
        A copy of `model`; folded and quantized again it gives the same outputs to the bit.

    Raises:
        UsageError: a layer's tensors have no place in the original: it is used twice, or its weights are computed.
    """
    result = copy.deepcopy(model)
    state = dict(result.state_dict(keep_vars=False))
    layers = {node.name: node for node in quantized.float_module().graph.nodes}
    changed = _constants(quantized)
    with torch.no_grad():
        for name, origin in quantized.origins.items():
            weight_node, bias_node = weight_and_bias(layers[name])
            weight = fetch(quantized.model, str(weight_node.target)).detach()
            bias = fetch(quantized.model, str(bias_node.target)).detach() if bias_node is not None else None
            if not origin.writable:
                raise UsageError(
                    f"layer {name!r} cannot be written back to {origin.weight!r}: its tensors are shared "
                    "with another layer or computed from others; such a network has no int8 checkpoint, "
                    "but it exports directly"
                )
            _write(result, state, origin, weight, bias)
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
    elif bias is not None:
        raise UsageError(f"layer {origin.weight!r} had no bias and got one; there is no place for it in the original")


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
