# SPDX-License-Identifier: Apache-2.0
"""Normalisation over features in sums, products and 1 / sqrt.

What follows from a mean takes 16 bits: 1 / sqrt spans too many orders of magnitude for 8, and an error in it moves a
whole row at once. LiteRT and TFLite Micro have 16-bit kernels for all of it.
"""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.graph.layers import argument, aten
from edgepress.compress.quantize.operators.build import Builder, shape_of


def layer_norm(build: Builder, node: fx.Node) -> fx.Node:
    """Over the last axes (Ba et al. 2016, arXiv 1607.06450, equation 4)."""
    x = node.args[0]
    axes = list(range(-len(argument(node, "normalized_shape")), 0))
    centred = build(aten.sub.Tensor, x, build(aten.mean.dim, x, axes, True, wide=True), wide=True)
    scaled = build(aten.mul.Tensor, centred, _inverse_deviation(build, centred, axes, argument(node, "eps")), wide=True)
    return _affine(build, node, scaled, argument(node, "weight"), argument(node, "bias"))


def rms_norm(build: Builder, node: fx.Node) -> fx.Node:
    """Without a mean (Zhang and Sennrich 2019, arXiv 1910.07467, equation 4)."""
    x = node.args[0]
    axes = list(range(-len(argument(node, "normalized_shape")), 0))
    eps = argument(node, "eps")
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    scaled = build(aten.mul.Tensor, x, _inverse_deviation(build, x, axes, eps), wide=True)
    return _affine(build, node, scaled, argument(node, "weight"), None)


def group_norm(build: Builder, node: fx.Node) -> fx.Node:
    """Over the positions and the channels of a group (Wu and He 2018, arXiv 1803.08494, equation 7)."""
    groups = int(argument(node, "num_groups"))
    return _over_positions(build, node, groups, argument(node, "eps"))


def instance_norm(build: Builder, node: fx.Node) -> fx.Node | None:
    """Group norm with one channel a group; with tracked statistics it is a batch norm, which is left."""
    if not argument(node, "use_input_stats"):
        return None
    return _over_positions(build, node, shape_of(node.args[0])[1], argument(node, "eps"))


def _over_positions(build: Builder, node: fx.Node, groups: int, eps: float) -> fx.Node:
    x = node.args[0]
    channels, rank = shape_of(x)[1], len(shape_of(x))

    def average(value: fx.Node) -> fx.Node:
        """Of each group, as [N, C, 1, 1], or [N, 1, 1, 1] where all channels are one group."""
        if rank == 2:
            mean = value
        elif rank == 4:
            mean = build(aten.adaptive_avg_pool2d.default, value, [1, 1], wide=True)
        else:
            mean = build(aten.mean.dim, value, list(range(2, rank)), True, wide=True)
        if groups == channels:
            return mean
        if groups == 1:
            return build(aten.mean.dim, mean, [1], True, wide=True)
        rows = build(aten.reshape.default, mean, [-1, groups, channels // groups])
        rows = build(aten.mean.dim, rows, [2], True, wide=True)
        ones = build.constant(f"ones_{len(build.made)}", torch.ones(1, 1, channels // groups))
        spread = build(aten.mul.Tensor, rows, ones, wide=True)
        return build(aten.reshape.default, spread, [-1, channels, *[1] * (rank - 2)])

    centred = build(aten.sub.Tensor, x, average(x), wide=True)
    variance = average(build(aten.mul.Tensor, centred, centred, wide=True))
    inverse = build(aten.rsqrt.default, build(aten.add.Tensor, variance, eps, wide=True), wide=True)
    scaled = build(aten.mul.Tensor, centred, inverse, wide=True)
    shape = [1, channels, *[1] * (rank - 2)]
    return _affine(build, node, scaled, argument(node, "weight"), argument(node, "bias"), shape)


def _inverse_deviation(build: Builder, centred: fx.Node, axes: list[int], eps: float) -> fx.Node:
    variance = build(aten.mean.dim, build(aten.mul.Tensor, centred, centred, wide=True), axes, True, wide=True)
    return build(aten.rsqrt.default, build(aten.add.Tensor, variance, float(eps), wide=True), wide=True)


def _affine(
    build: Builder, node: fx.Node, x: fx.Node, weight: Any, bias: Any, shape: list[int] | None = None
) -> fx.Node:
    """weight * x + bias."""
    for target, operand in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
        if operand is not None:
            if shape is not None:
                operand = build(aten.reshape.default, operand, shape)
            x = build(target, x, operand, wide=True)
    return x


def variance(build: Builder, node: fx.Node) -> fx.Node:
    """var and std over axes."""
    x, rank = node.args[0], len(shape_of(node.args[0]))
    axes = argument(node, "dim")
    axes = list(range(rank)) if axes is None else list(axes)
    count = 1
    for axis in axes:
        count *= shape_of(x)[axis]
    if node.target in (aten.var.correction, aten.std.correction):
        correction = argument(node, "correction")
        correction = 1 if correction is None else correction
    else:
        correction = 1 if argument(node, "unbiased") else 0
    centred = build(aten.sub.Tensor, x, build(aten.mean.dim, x, axes, True, wide=True), wide=True)
    squared = build(aten.mul.Tensor, centred, centred, wide=True)
    made = build(aten.mean.dim, squared, axes, bool(argument(node, "keepdim")), wide=True)
    if correction:
        made = build(aten.mul.Tensor, made, count / max(count - correction, 1e-12), wide=True)
    return _root(build, made) if node.target in (aten.std.correction, aten.std.dim) else made


def vector_norm(build: Builder, node: fx.Node) -> fx.Node | None:
    """Norms over axes: L1, L2 and the largest magnitude."""
    x, order, axes = node.args[0], argument(node, "ord"), argument(node, "dim")
    axes = list(range(len(shape_of(x)))) if axes is None else list(axes)
    kept = bool(argument(node, "keepdim"))
    if order == 1:
        mean = build(aten.mean.dim, build(aten.abs.default, x), axes, kept, wide=True)
        return build(aten.mul.Tensor, mean, float(_count(x, axes)), wide=True)
    if order == float("inf"):
        return build(aten.amax.default, build(aten.abs.default, x), axes, kept)
    return _length(build, x, axes, kept) if order == 2 else None


def cosine_similarity(build: Builder, node: fx.Node) -> fx.Node | None:
    """The sum of products of two values over one axis, each divided by its length."""
    x, y = node.args[:2]
    axis, least = int(argument(node, "dim")), float(argument(node, "eps"))
    if len(shape_of(x)) != len(shape_of(y)) or shape_of(x)[axis] != shape_of(y)[axis]:
        return None

    def unit(value: Any) -> fx.Node:
        length = build(aten.linalg_vector_norm.default, value, 2, [axis], True)
        inverse = build(aten.reciprocal.default, build(aten.clamp_min.default, length, least, wide=True))
        return build(aten.mul.Tensor, value, inverse, wide=True)

    product = build(aten.mul.Tensor, unit(x), unit(y), wide=True)
    mean = build(aten.mean.dim, product, [axis], False, wide=True)
    return build(aten.mul.Tensor, mean, float(_count(product, [axis])))


def _length(build: Builder, x: Any, axes: list[int], kept: bool) -> fx.Node:
    """sqrt(sum of squares), with the count under the root so that it fits 16 bits."""
    squared = build(aten.mul.Tensor, x, x, wide=True)
    power = build(aten.mean.dim, squared, axes, kept, wide=True)
    return build(aten.mul.Tensor, _root(build, power), _count(x, axes) ** 0.5, wide=True)


def _count(x: Any, axes: list[int]) -> int:
    return math.prod(shape_of(x)[axis] for axis in axes)


def _root(build: Builder, x: fx.Node) -> fx.Node:
    """sqrt(x) = x / sqrt(x): there is an integer 1 / sqrt, and no sqrt."""
    inverse = build(aten.rsqrt.default, build(aten.add.Tensor, x, 1e-12, wide=True), wide=True)
    return build(aten.mul.Tensor, x, inverse, wide=True)


REWRITES: dict[Any, Any] = {
    aten.layer_norm.default: layer_norm,
    aten.rms_norm.default: rms_norm,
    aten.group_norm.default: group_norm,
    aten.instance_norm.default: instance_norm,
    aten.var.correction: variance,
    aten.var.dim: variance,
    aten.std.correction: variance,
    aten.std.dim: variance,
    aten.linalg_vector_norm.default: vector_norm,
    aten.cosine_similarity.default: cosine_similarity,
}
