# SPDX-License-Identifier: Apache-2.0
"""Global response normalisation, and means over images, in operators that have integer kernels."""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportGeneralTypeIssues=false
# pyright: reportArgumentType=false, reportOptionalIterable=false, reportReturnType=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.graph.layers import aten
from edgepress.compress.quantize.operators.build import Builder

#: Keeps 1 / sqrt(0) finite; below the smallest step of any 16-bit range.
_TINY = 1e-12


def rewrite_response_norm(module: fx.GraphModule) -> int:
    """Write global response normalisation without norm and division.

    gamma * (x * n) + beta + x with n = |x| / (mean_c |x| + eps), |x| the L2 norm over height and width (ConvNeXt V2,
    Woo et al. 2023, arXiv 2301.00808, equations 1 to 3), becomes x * (1 + gamma * n) + beta, where
    |x| / sqrt(HW) = m / sqrt(m), m = mean(x * x), and 1 / a = 1 / sqrt(a * a). TFLite Micro, LiteRT and their reference
    kernels have integer multiplication, mean and 1 / sqrt, but no integer norm, square root or division. What is left
    of full size are one square, one product and one sum, in 8 bits like their surroundings: rounding errors of squares
    average out over positions, and int16 has plain loops only, several times slower than all of the rest on XNNPACK.
    What follows from the mean, one number per channel, takes 16 bits: 1 / sqrt spans too many orders of magnitude for
    8, and an error in it moves a whole channel at once.

    Returns:
        How many were rewritten.
    """
    count, graph = 0, module.graph
    for division in list(graph.nodes):
        match = _response_norm(division)
        if match is None:
            continue
        norm, _mean, _plus, eps = match
        x = norm.args[0]
        height, width = (int(size) for size in x.meta["val"].shape[2:])
        with graph.inserting_before(division):
            build = Builder(module, division)
            # A pool and a view, not mean(2, 3): converters keep these in the channels-last layout without transposing.
            channels = int(x.meta["val"].shape[1])
            square = build(aten.mul.Tensor, x, x)
            pooled = build(aten.adaptive_avg_pool2d.default, square, [1, 1])
            power = build(aten.view.default, pooled, [-1, channels])
            guarded = build(aten.add.Tensor, power, _TINY, wide=True)
            size = build(aten.mul.Tensor, power, build(aten.rsqrt.default, guarded, wide=True), wide=True)
            average = build(
                aten.add.Tensor,
                build(aten.mean.dim, size, [1], True, wide=True),
                eps / (height * width) ** 0.5,
                wide=True,
            )
            inverse = build(aten.rsqrt.default, build(aten.mul.Tensor, average, average, wide=True), wide=True)
            flat = build(aten.mul.Tensor, size, inverse, wide=True)
        tail = _residual(division, x)
        if tail is None:
            with graph.inserting_before(division):
                division.replace_all_uses_with(build(aten.view.default, flat, [-1, channels, 1, 1]))
        else:
            gamma, beta, last = tail
            with graph.inserting_before(last):
                build = Builder(module, last)
                factor = build(aten.add.Tensor, build(aten.mul.Tensor, flat, gamma, wide=True), 1.0, wide=True)
                factor = build(aten.view.default, factor, [-1, channels, 1, 1], wide=True)
                if isinstance(beta, fx.Node):  # of four dimensions: beside others, converters give up channels-last
                    beta = build(aten.view.default, beta, [1, 1, 1, 1])
                last.replace_all_uses_with(build(aten.add.Tensor, build(aten.mul.Tensor, x, factor), beta))
        count += 1
    graph.eliminate_dead_code()
    return count


def pool_instead_of_mean(module: fx.GraphModule) -> None:
    """Means over height and width as global pooling, which converters keep in the channels-last layout.

    LiteRT-Torch puts a TRANSPOSE of the whole activation before a plain mean (its layout pass favours a cut there).
    """
    graph = module.graph
    for node in list(graph.nodes):
        x = node.args[0] if node.target is aten.mean.dim else None
        value = x.meta.get("val") if isinstance(x, fx.Node) else None
        if (
            not isinstance(value, torch.Tensor)
            or value.dim() != 4
            or node.args[1] is None
            or sorted(axis % 4 for axis in node.args[1]) != [2, 3]
            or not isinstance(value.shape[1], int)
        ):
            continue
        with graph.inserting_before(node):
            build = Builder(module, node)
            pooled = build(aten.adaptive_avg_pool2d.default, x, [1, 1])
            if not (len(node.args) > 2 and node.args[2]):
                pooled = build(aten.view.default, pooled, [-1, value.shape[1]])
        node.replace_all_uses_with(pooled)
        graph.erase_node(node)


def _response_norm(division: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node, float] | None:
    """norm / (mean over channels of norm + eps) -> (norm, mean, sum, eps)."""
    if division.target is not aten.div.Tensor or not all(isinstance(a, fx.Node) for a in division.args):
        return None
    norm, plus = division.args
    eps = 0.0
    mean = plus
    if plus.target is aten.add.Tensor and isinstance(plus.args[1], float):
        mean, eps = plus.args
    if (
        norm.target is not aten.linalg_vector_norm.default
        or mean.target is not aten.mean.dim
        or mean.args[0] is not norm
        or list(mean.args[1]) not in ([1], [-3])
    ):
        return None
    order = norm.args[1] if len(norm.args) > 1 else 2
    axes = sorted(axis % 4 for axis in norm.args[2]) if len(norm.args) > 2 and norm.args[2] is not None else []
    kept = len(norm.args) > 3 and bool(norm.args[3])
    value = norm.args[0].meta.get("val")
    sizes: Sequence[Any] = value.shape[2:] if isinstance(value, torch.Tensor) and value.dim() == 4 else ()
    if order != 2 or axes != [2, 3] or not kept or not sizes or not all(isinstance(size, int) for size in sizes):
        return None
    return norm, mean, plus, eps


def _residual(division: fx.Node, x: fx.Node) -> tuple[Any, Any, fx.Node] | None:
    """gamma * (x * share) + beta + x -> (gamma, beta, the last sum)."""
    node, gamma, beta = division, None, None
    for _ in range(4):
        if len(node.users) != 1:
            return None
        user = next(iter(node.users))
        other = next((a for a in user.args if a is not node), None)
        if user.target is aten.mul.Tensor and gamma is None:
            if other is not x:
                if not _is_scalar(other):
                    return None
                gamma = other
        elif user.target is aten.add.Tensor and gamma is not None:
            if other is x:
                return (gamma, beta, user) if beta is not None else None
            if beta is not None or not _is_scalar(other):
                return None
            beta = other
        else:
            return None
        node = user
    return None


def _is_scalar(value: Any) -> bool:
    if isinstance(value, fx.Node):
        tensor = value.meta.get("val")
        return value.op == "get_attr" and isinstance(tensor, torch.Tensor) and tensor.numel() == 1
    return isinstance(value, (int, float))
