# SPDX-License-Identifier: Apache-2.0
"""Activations, powers, divisions and in-place changes in operators that have integer kernels."""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.graph.layers import argument, aten
from edgepress.compress.quantize.operators.build import Builder, shape_of
from edgepress.compress.quantize.operators.functions import is_whole_power, log_from_root

_PRODUCTS = {aten.matmul.default, aten.bmm.default, aten.mm.default, aten.baddbmm.default}
#: What scores of attention may go through before their softmax: scale, mask and bias.
_SCORED = {
    *(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.add.Tensor, aten.sub.Tensor),
    *(aten.masked_fill.Scalar, aten.clone.default, aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dims),
}


def silu(build: Builder, node: fx.Node) -> fx.Node:
    """x * sigmoid(x)."""
    (x,) = node.args
    return build(aten.mul.Tensor, x, build(aten.sigmoid.default, x))


def hardsigmoid(build: Builder, node: fx.Node) -> fx.Node:
    """min(max(x + 3, 0), 6) / 6: a sum with its activation, and a product."""
    return build(aten.mul.Tensor, build(aten.relu6.default, build(aten.add.Tensor, node.args[0], 3.0)), 1 / 6)


def power(build: Builder, node: fx.Node) -> fx.Node | None:
    """x ** 2, 3 and 4 as products; other powers are tables."""
    if not is_whole_power(node, 4):
        return None
    x, exponent = node.args
    if exponent == 1:
        return x  # type: ignore[return-value]
    squared = build(aten.mul.Tensor, x, x)
    if exponent == 2:
        return squared
    return build(aten.mul.Tensor, squared, x if exponent == 3 else squared)


def gated(build: Builder, node: fx.Node) -> fx.Node:
    """glu: the first half times the sigmoid of the second (Dauphin et al. 2017, arXiv 1612.08083)."""
    x, dim = node.args[0], int(argument(node, "dim"))
    half = shape_of(node)[dim]
    first, second = (build(aten.slice.Tensor, x, dim, i * half, (i + 1) * half) for i in (0, 1))
    return build(aten.mul.Tensor, first, build(aten.sigmoid.default, second))


def between_real_ends(build: Builder, node: fx.Node) -> fx.Node | None:
    """clamp of real numbers between real ends: of one written as 1 and one as 0.5, torch's ONNX exporter makes none."""
    ends = node.args[1:3]
    if not node.meta["val"].is_floating_point() or not any(type(end) is int for end in ends):
        return None
    return build(node.target, node.args[0], *(float(end) if type(end) is int else end for end in ends))


def mean_slope(build: Builder, node: fx.Node) -> fx.Node | None:
    """rrelu, whose slope is the middle of its ends in evaluation."""
    if argument(node, "training"):
        return None
    return build(
        aten.leaky_relu.default, node.args[0], (float(argument(node, "lower")) + float(argument(node, "upper"))) / 2
    )


def square(build: Builder, node: fx.Node) -> fx.Node:
    """x * x."""
    return build(aten.mul.Tensor, node.args[0], node.args[0])


def negative(build: Builder, node: fx.Node) -> fx.Node:
    """x * -1: an integer NEG exists in LiteRT alone."""
    return build(aten.mul.Tensor, node.args[0], -1.0)


def reverse_subtraction(build: Builder, node: fx.Node) -> fx.Node:
    """rsub: number - x."""
    other, x = argument(node, "other"), node.args[0]
    if argument(node, "alpha") != 1:
        x = build(aten.mul.Tensor, x, float(argument(node, "alpha")))
    if isinstance(other, fx.Node):
        return build(aten.sub.Tensor, other, x)
    return build(aten.add.Tensor, build(aten.mul.Tensor, x, -1.0), float(other))


def scaled_operand(build: Builder, node: fx.Node) -> fx.Node | None:
    """x + alpha * y with its product written out."""
    alpha = argument(node, "alpha")
    if alpha == 1 or not isinstance(node.args[1], fx.Node):
        return None
    return build(node.target, node.args[0], build(aten.mul.Tensor, node.args[1], float(alpha)))


def division(build: Builder, node: fx.Node) -> fx.Node | None:
    """x / y as x * (1 / y); no runtime for microcontrollers divides integers in 16 bits, LiteRT not in 8."""
    x, y = node.args[:2]
    if isinstance(y, (int, float)):
        return build(aten.mul.Tensor, x, 1 / y) if y else None
    divisor = y.meta["val"] if isinstance(y, fx.Node) else None
    if not isinstance(y, fx.Node) or not isinstance(divisor, torch.Tensor) or not divisor.is_floating_point():
        return None
    if y.target is aten.expand.default and len(shape_of(y)) == len(shape_of(y.args[0])):  # type: ignore[arg-type]
        y = y.args[0]  # the product broadcasts by itself
    if y.op == "get_attr":
        inverse = build.constant("inverse", 1 / build.tensor_of(y))
    else:
        inverse = build(aten.reciprocal.default, y)
    return inverse if x == 1 else build(aten.mul.Tensor, x, inverse)


def cubic(build: Builder, node: fx.Node) -> fx.Node:
    """addcmul: x + value * a * b."""
    x, a, b = node.args
    product = build(aten.mul.Tensor, a, b)
    value = argument(node, "value")
    return build(aten.add.Tensor, x, product if value == 1 else build(aten.mul.Tensor, product, float(value)))


def interpolation(build: Builder, node: fx.Node) -> fx.Node:
    """lerp: x + weight * (y - x)."""
    x, y, weight = node.args
    return build(aten.add.Tensor, x, build(aten.mul.Tensor, build(aten.sub.Tensor, y, x), weight))


def slice_assignment(build: Builder, node: fx.Node) -> fx.Node | None:
    """y[:, a:b] = source, as the pieces of y around the source, joined; a step of more than 1 by its indices."""
    x, source = node.args[:2]
    dim = int(argument(node, "dim") or 0)
    size = shape_of(x)[dim]  # type: ignore[arg-type]
    start, end, step = (argument(node, name) for name in ("start", "end", "step"))
    picked = range(*slice(start, end, step).indices(size))
    if len(picked) == size:
        return source  # type: ignore[return-value]
    if not picked:
        return x  # type: ignore[return-value]
    if picked.step == 1:
        pieces = []
        if picked.start:
            pieces.append(build(aten.slice.Tensor, x, dim, 0, picked.start))
        pieces.append(source)
        if picked.stop < size:
            pieces.append(build(aten.slice.Tensor, x, dim, picked.stop, size))
        return build(aten.cat.default, pieces, dim)
    pieces = []
    for i in range(size):
        given, position = (source, picked.index(i)) if i in picked else (x, i)
        pieces.append(build(aten.slice.Tensor, given, dim, position, position + 1))
    return build(aten.cat.default, pieces, dim)


def select_assignment(build: Builder, node: fx.Node) -> fx.Node | None:
    """y[:, i] = source."""
    x, source = node.args[:2]
    dim, index = int(argument(node, "dim")), int(argument(node, "index"))
    index %= shape_of(x)[dim]  # type: ignore[arg-type]
    wide = build(aten.unsqueeze.default, source, dim)
    return build(aten.slice_scatter.default, x, wide, dim, index, index + 1)


def clamp_to_ends(build: Builder, node: fx.Node) -> fx.Node | None:
    """clamp with tensors as limits: minimum and maximum."""
    x = node.args[0]
    low, high = argument(node, "min"), argument(node, "max")
    if isinstance(low, fx.Node):
        x = build(aten.maximum.default, x, low)
    if isinstance(high, fx.Node):
        x = build(aten.minimum.default, x, high)
    return x  # type: ignore[return-value]


def clamp_above(build: Builder, node: fx.Node) -> fx.Node:
    """clamp_max as clamp."""
    return build(aten.clamp.default, node.args[0], None, float(argument(node, "max")))


def copied(build: Builder, node: fx.Node) -> fx.Node | None:
    """copy: y[...] = source of the same shape; another shape or type is left."""
    x, source = node.args[:2]
    same = shape_of(x) == shape_of(source) and x.meta["val"].dtype == source.meta["val"].dtype  # type: ignore
    return source if same else None  # type: ignore[return-value]


def chosen(build: Builder, node: fx.Node) -> fx.Node:
    """where with a number for one or both of its values."""
    mask, *values = node.args
    made = [
        value if isinstance(value, fx.Node) else build.constant(f"value_{i}", torch.tensor(float(value)))  # type: ignore[arg-type]
        for i, value in enumerate(values)
    ]
    return build(aten.where.self, mask, *made)


def over_last_axis(build: Builder, node: fx.Node) -> fx.Node | None:
    """Over another axis than the last: kernels have the last one only. Over one value softmax is 1.

    Converters write that last one out in a subtraction, exp and a division, which have no integer kernels; a table of
    x ** 0 has. They do the same with the last axis of an image, which is not the last of a file with channels there:
    softmax is over the rows of a matrix.
    """
    x, rank = node.args[0], len(shape_of(node))
    dim = int(argument(node, "dim")) % rank
    if shape_of(node)[dim] == 1 and node.target is aten.softmax.int:
        return build(aten.pow.Tensor_Scalar, x, 0)
    if dim == rank - 1:
        if rank != 4 or node.target is not aten.softmax.int or _between_products(node):
            return None
        _, *sizes = shape_of(node)
        rows = build(aten.reshape.default, x, [-1, sizes[0] * sizes[1], sizes[2]])
        return build(aten.reshape.default, build(node.target, rows, -1), [-1, *sizes])
    order = [*(axis for axis in range(rank) if axis != dim), dim]
    made = build(node.target, build(aten.permute.default, x, order), rank - 1)
    return build(aten.permute.default, made, [order.index(axis) for axis in range(rank)])


def one_hot(build: Builder, node: fx.Node) -> fx.Node | None:
    """Where a number is that of a class; torch's own also asserts that it is any, for which no file has a place."""
    x, classes = node.args[0], int(argument(node, "num_classes"))
    if classes < 1:
        return None
    numbers = build.constant("classes", torch.arange(classes))
    return build(aten.to.dtype, build(aten.eq.Tensor, build(aten.unsqueeze.default, x, -1), numbers), torch.int64)


def _between_products(softmax: fx.Node) -> bool:
    """Whether scores of attention go in and weights of it come out: no layer gives that an order of its axes."""
    source: Any = softmax.args[0]
    while isinstance(source, fx.Node) and source.target in _SCORED:
        source = source.args[0]
    given = isinstance(source, fx.Node) and source.target in _PRODUCTS
    return given and all(user.target in _PRODUCTS for user in softmax.users)


def log_softmax(build: Builder, node: fx.Node) -> fx.Node:
    """x - max x - log(sum exp(x - max x)): the kernels' own steps are 1/16 wide, whatever the values are."""
    made = over_last_axis(build, node)
    if made is not None:
        return made
    centred = _below_largest(build, node.args[0], -1)
    return build(aten.sub.Tensor, centred, _log_of_sum(build, centred, -1), wide=True)


def log_of_sum(build: Builder, node: fx.Node) -> fx.Node | None:
    """logsumexp over one axis: max x + log(sum exp(x - max x))."""
    x, dims, kept = node.args[0], list(argument(node, "dim")), bool(argument(node, "keepdim"))
    if len(dims) != 1:
        return None
    (dim,) = dims
    largest = build(aten.amax.default, x, [dim], True)
    made = build(aten.add.Tensor, largest, _log_of_sum(build, _below_largest(build, x, dim, largest), dim), wide=True)
    return made if kept else build(aten.squeeze.dim, made, dim)


def _below_largest(build: Builder, x: Any, dim: int, largest: fx.Node | None = None) -> fx.Node:
    largest = build(aten.amax.default, x, [dim], True) if largest is None else largest
    return build(aten.sub.Tensor, x, largest, wide=True)


def _log_of_sum(build: Builder, centred: fx.Node, dim: int) -> fx.Node:
    """log(sum exp x) of what is at most 0, from 1 / sqrt of the mean.

    The root keeps entries of a table apart where the sum is small beside the number of its terms.
    """
    count = shape_of(centred)[dim]
    mean = build(aten.mean.dim, build(aten.exp.default, centred), [dim], True, wide=True)
    root = build(aten.rsqrt.default, mean, wide=True)
    return build(log_from_root, root, int(count), wide=True)


#: What converters cannot take otherwise, in float either.
ALWAYS: dict[Any, Any] = {
    aten.clamp.default: between_real_ends,
    aten.rrelu.default: mean_slope,
}
REWRITES: dict[Any, Any] = {
    aten.silu.default: silu,
    aten.glu.default: gated,
    aten.hardsigmoid.default: hardsigmoid,
    aten.pow.Tensor_Scalar: power,
    aten.square.default: square,
    aten.neg.default: negative,
    aten.rsub.Scalar: reverse_subtraction,
    aten.rsub.Tensor: reverse_subtraction,
    aten.add.Tensor: scaled_operand,
    aten.sub.Tensor: scaled_operand,
    aten.div.Tensor: division,
    aten.div.Scalar: division,
    aten.addcmul.default: cubic,
    aten.lerp.Scalar: interpolation,
    aten.lerp.Tensor: interpolation,
    aten.slice_scatter.default: slice_assignment,
    aten.select_scatter.default: select_assignment,
    aten.clamp.Tensor: clamp_to_ends,
    aten.clamp_max.default: clamp_above,
    aten.copy.default: copied,
    aten.one_hot.default: one_hot,
    aten.softmax.int: over_last_axis,
    aten.log_softmax.int: log_softmax,
    aten.logsumexp.default: log_of_sum,
    aten.where.ScalarSelf: chosen,
    aten.where.ScalarOther: chosen,
}
