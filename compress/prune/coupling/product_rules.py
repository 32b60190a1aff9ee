# SPDX-License-Identifier: Apache-2.0
"""What products (convolutions, dense layers, matrix products) do to channel labels.

A contraction is an element-wise meeting in the space of all its indices, followed by a sum; that one description gives
every coupling rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepress.compress.prune.coupling.grids import in_groups, separated
from edgepress.compress.prune.coupling.labels import Labelled, at_axis, drop_axes, reshaped
from edgepress.compress.prune.coupling.propagation import Propagation, Result, RuleTable, optional, required
from edgepress.models.cost.graph import Node

RULES = RuleTable()


def contract(
    state: Propagation,
    node: Node,
    values: Sequence[Labelled],
    axes: Sequence[Sequence[int]],
    rank: int,
    summed: Sequence[int],
) -> Labelled:
    """Meet in the space of all indices, then sum.

    Args:
        axes: for each value, the index (0 to rank - 1) that each of its axes is.
        summed: indices that the result no longer has.
    """
    lifted = []
    for value, own in zip(values, axes, strict=True):
        order = np.argsort(own)
        shape = [1] * rank
        for axis, index in enumerate(own):
            shape[index] = value.shape[axis]
        planes = []
        for plane in value.planes:
            size = [1] * rank
            for axis, index in enumerate(own):
                size[index] = plane.shape[axis]
            planes.append(plane.transpose(order).reshape(size))
        alone = Labelled(tuple(shape), tuple(planes))
        # A plane over summed and other indices must first depend on one kind only.
        lifted.append(separated(state, alone, summed, node))
    cause = state.cause(node, "multiplied with a tensor of fixed width")
    met = state.space.merge(lifted, cause)
    return drop_axes(state.space.reduce(met, summed, cause), sorted(summed))


@RULES.rule("linear")
def _linear(state: Propagation, node: Node) -> Result:
    x, weight = required(state, node, "input"), required(state, node, "weight")
    rank = len(x.shape) + 1  # leading axes, out, in
    leading = list(range(len(x.shape) - 1))
    if len(weight.shape) == 1:
        return contract(state, node, [x, weight], [[*leading, rank - 2], [rank - 2]], rank - 1, [rank - 2])
    result = contract(state, node, [x, weight], [[*leading, rank - 1], [rank - 2, rank - 1]], rank, [rank - 1])
    return _plus_bias(state, node, result, optional(state, node, "bias"), len(result.shape) - 1)


def _plus_bias(state: Propagation, node: Node, result: Labelled, bias: Labelled | None, axis: int) -> Labelled:
    if bias is None:
        return result
    if len(bias.shape) == 1:
        bias = at_axis(bias, len(result.shape), axis)
    return state.space.merge([result, bias], state.cause(node, "meets a bias of fixed width"))


@RULES.rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "inner")
def _matmul(state: Propagation, node: Node) -> Result:
    names = {
        "addmm": ("mat1", "mat2"),
        "baddbmm": ("batch1", "batch2"),
        "mv": ("self", "vec"),
        "dot": ("self", "tensor"),
        "mm": ("self", "mat2"),
        "bmm": ("self", "mat2"),
    }.get(node.op, ("self", "other"))
    left, right = (required(state, node, name) for name in names)
    batch = max(len(left.shape), len(right.shape), 2) - 2
    row, column, inner, rank = batch, batch + 1, batch + 2, batch + 3
    own_left = [inner] if len(left.shape) == 1 else [*range(batch - len(left.shape) + 2, batch), row, inner]
    own_right = [inner] if len(right.shape) == 1 else [*range(batch - len(right.shape) + 2, batch), inner, column]
    result = contract(state, node, [left, right], [own_left, own_right], rank, [inner])
    gone = [axis for axis, value in ((row, left), (column, right)) if len(value.shape) == 1]
    result = drop_axes(result, gone)
    if node.op in ("addmm", "baddbmm"):
        result = state.space.merge([result, required(state, node, "self")], state.cause(node, "meets a fixed width"))
    return result


@RULES.rule("einsum")
def _einsum(state: Propagation, node: Node) -> Result:
    equation = node.arguments["equation"].replace(" ", "")
    values = [state.value(ref.name) for ref in node.arguments["tensors"]]
    terms, _, target = equation.partition("->")
    inputs = terms.split(",")
    if "." in equation or "->" not in equation or any(len(set(term)) != len(term) for term in inputs):
        return state.unknown(node, "this form of einsum is not analysed")
    letters = list(target) + sorted(set(terms) - set(target) - {","})
    where = {letter: number for number, letter in enumerate(letters)}
    return contract(
        state,
        node,
        values,
        [[where[letter] for letter in term] for term in inputs],
        len(letters),
        [where[letter] for letter in letters if letter not in target],
    )


@RULES.rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _convolution(state: Propagation, node: Node) -> Result:
    x, weight = required(state, node, "input"), required(state, node, "weight")
    transposed = "transpose" in node.op or bool(node.arguments.get("transposed"))
    groups, spatial = node.arguments.get("groups", 1), len(weight.shape) - 2
    leading = len(x.shape) - spatial - 1
    fixed = state.cause(node, "labels along pixels or kernel positions")
    x = state.space.collapse(x, range(leading + 1, len(x.shape)), fixed)
    weight = state.space.collapse(weight, range(2, len(weight.shape)), fixed)
    assert node.shape is not None
    pixels = tuple(range(leading + 1, len(x.shape)))
    x = Labelled(x.shape[: leading + 1], tuple(p.squeeze(pixels) for p in x.planes))
    weight = Labelled(weight.shape[:2], tuple(p.reshape(p.shape[:2]) for p in weight.planes))
    if transposed:  # weight [in, out / groups] -> [out, in / groups], as in a plain convolution
        weight = _plain_layout(state, weight, groups)
    result = _grouped(state, node, x, weight, groups, leading)
    planes = tuple(p.reshape(p.shape + (1,) * spatial) for p in result.planes)
    return _plus_bias(state, node, Labelled(node.shape, planes), optional(state, node, "bias"), leading)


def _plain_layout(state: Propagation, weight: Labelled, groups: int) -> Labelled:
    inputs, per_group = weight.shape
    grid = reshaped(state.space, weight, (groups, inputs // groups, per_group))
    turned = Labelled((groups, per_group, inputs // groups), tuple(p.swapaxes(1, 2) for p in grid.planes))
    if groups == 1:
        return reshaped(state.space, turned, (per_group, inputs))
    return turned  # [groups, out / groups, in / groups]


def _grouped(state: Propagation, node: Node, x: Labelled, weight: Labelled, groups: int, leading: int) -> Labelled:
    lead = list(range(leading))
    if groups == 1:
        return contract(
            state, node, [x, weight], [[*lead, leading + 1], [leading, leading + 1]], leading + 2, [leading + 1]
        )
    if len(weight.shape) == 2:
        weight = reshaped(state.space, weight, (groups, weight.shape[0] // groups, weight.shape[1]))
    _, out, inner = weight.shape
    mode = "group" if groups > min(inner, out) else "index"
    state.mode[node.name] = mode
    x = in_groups(state, x, leading, groups, mode, node)
    x = reshaped(state.space, x, (*x.shape[:leading], groups, inner))
    cause = state.cause(node, "one group cannot lose channels alone")
    if mode == "index":
        weight = state.space.collapse(weight, [0], cause)
    else:
        weight = state.space.collapse(weight, [1, 2], cause)
    # Indices: leading, group, out, in.
    result = contract(
        state,
        node,
        [x, weight],
        [[*lead, leading, leading + 2], [leading, leading + 1, leading + 2]],
        leading + 3,
        [leading + 2],
    )
    return reshaped(state.space, result, (*x.shape[:leading], groups * out))


@RULES.rule("_weight_norm", "_weight_norm_interface")
def _weight_norm(state: Propagation, node: Node) -> Result:
    # The norm over removed inputs is kept by scaling g at removal, so nothing couples but equal positions.
    v, g = required(state, node, "v"), required(state, node, "g")
    result = state.space.merge([v, g], state.cause(node, "meets a fixed width"))
    return (result, None) if node.shapes else result
