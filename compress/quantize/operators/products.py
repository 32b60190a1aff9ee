# SPDX-License-Identifier: Apache-2.0
"""Matrix products, and attention, which is made of them."""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportReturnType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportOptionalIterable=false
from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.graph.layers import argument, aten
from edgepress.compress.quantize.operators.attention import LEAST
from edgepress.compress.quantize.operators.build import Builder, shape_of


def product(build: Builder, node: fx.Node) -> fx.Node | None:
    """A product with a constant matrix, or a constant vector, is a fully connected layer."""
    a, b = node.args[:2]
    if b.op == "get_attr" and len(shape_of_any(build, b)) == 1 and len(shape_of(a)) >= 2:
        made = build(aten.linear.default, a, build.constant("weight", build.tensor_of(b).detach().reshape(1, -1)))
        return build(aten.reshape.default, made, [-1, *shape_of(a)[1:-1]])
    if b.op == "get_attr" and len(shape_of_any(build, b)) == 2:
        return build(aten.linear.default, a, build.constant("weight", build.tensor_of(b).detach().T.contiguous()))
    if a.op == "get_attr" and len(shape_of_any(build, a)) == 2 and len(shape_of(b)) >= 2:
        turned = build(aten.transpose.int, b, -2, -1)
        weight = build.constant("weight", build.tensor_of(a))
        return build(aten.transpose.int, build(aten.linear.default, turned, weight), -2, -1)
    return None


def product_and_sum(build: Builder, node: fx.Node) -> fx.Node | None:
    """addmm, baddbmm: beta * x + alpha * a @ b."""
    x, a, b = node.args[:3]
    if argument(node, "beta") != 1 or argument(node, "alpha") != 1:
        return None
    return build(aten.add.Tensor, build(aten.matmul.default, a, b), x)


def attention(build: Builder, node: fx.Node) -> fx.Node | None:
    """softmax(q k^T * scale + mask) v (Vaswani et al. 2017, arXiv 1706.03762, equation 1)."""
    q, k, v = node.args[:3]
    mask, scale = argument(node, "attn_mask"), argument(node, "scale")
    if argument(node, "enable_gqa"):
        return None
    hidden = _hidden(build, mask, shape_of(q)[-2], shape_of(k)[-2]) if argument(node, "is_causal") or mask else None
    if hidden is None and mask is not None and not mask.meta["val"].is_floating_point():
        return None
    scale = float(scale) if scale is not None else shape_of(q)[-1] ** -0.5
    # The scale goes to the smaller operand, before the product, whose range 8 bits then hold.
    scores = build(aten.matmul.default, build(aten.mul.Tensor, q, scale), build(aten.transpose.int, k, -2, -1))
    if hidden is not None:  # 16 bits hold what is far below all scores, and the scores
        scores = build(aten.add.Tensor, scores, build.constant("mask", hidden), wide=True)
        return build(aten.matmul.default, build(aten.softmax.int, scores, -1, wide=True), v)
    if mask is not None:
        scores = build(aten.add.Tensor, scores, mask)
    return build(aten.matmul.default, build(aten.softmax.int, scores, -1), v)


def _hidden(build: Builder, mask: Any, rows: int, columns: int) -> torch.Tensor | None:
    """What is added to the scores of a mask that the network holds, or of a causal one; None where there is none.

    exp of the least is 0 in any float beside exp of a score; minus infinity would leave a range no steps.
    """
    if mask is None:
        return torch.full((rows, columns), LEAST).triu(1)
    if mask.op != "get_attr":
        return None
    values = build.tensor_of(mask).detach()
    if values.dtype == torch.bool:
        return torch.zeros(values.shape).masked_fill(~values, LEAST)
    return values.clamp(min=LEAST) if bool((values < LEAST).any()) else None


def bilinear(build: Builder, node: fx.Node) -> fx.Node:
    """y_o = x^T W_o z + b_o: one fully connected layer of z for every x and o, and a product with x."""
    x, z, weight = node.args[:3]
    bias = argument(node, "bias")
    outputs, left, right = shape_of_any(build, weight)
    rows = build.constant("weight", build.tensor_of(weight).detach().reshape(outputs * left, right))
    shape = [-1, *shape_of(z)[1:-1], outputs, left]
    turned = build(aten.reshape.default, build(aten.linear.default, z, rows), shape)
    made = build(aten.sum.dim_IntList, build(aten.mul.Tensor, turned, build(aten.unsqueeze.default, x, -2)), [-1])
    return made if bias is None else build(aten.add.Tensor, made, bias)


def einsum(build: Builder, node: fx.Node) -> fx.Node | None:
    """Of two tensors without repeated letters: axes in order, one matrix product, axes in order again."""
    equation, operands = str(node.args[0]).replace(" ", ""), list(node.args[1])
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    letters = "".join(terms)
    if len(operands) != 2 or "." in letters or not output or any(len(set(t)) != len(t) for t in terms):
        return None
    a, b = terms
    batch = [c for c in a if c in b and c in output]
    summed = [c for c in a if c in b and c not in output]
    left, right = [c for c in a if c not in b], [c for c in b if c not in a]
    if any(c not in output for c in left + right):
        return None
    shapes = [shape_of_any(build, x) for x in operands]
    sizes = {c: n for term, shape in zip(terms, shapes, strict=True) for c, n in zip(term, shape, strict=True)}
    samples = next((term[0] for term, x in zip(terms, operands, strict=True) if x.op != "get_attr"), "")

    def extent(letters: list[str]) -> int:
        return -1 if samples in letters else math.prod(sizes[c] for c in letters)

    def matrix(what: str, x: fx.Node, term: str, order: list[str], rows: list[str], columns: list[str]) -> fx.Node:
        axes, shape = [term.index(c) for c in order], [*(extent([c]) for c in batch), extent(rows), extent(columns)]
        if x.op == "get_attr":
            return build.constant(what, build.tensor_of(x).detach().permute(axes).reshape(shape))
        return build(aten.reshape.default, _permuted(build, x, axes), shape)

    made = build(
        aten.matmul.default,
        matrix("left", operands[0], a, [*batch, *left, *summed], left, summed),
        matrix("right", operands[1], b, [*batch, *summed, *right], summed, right),
    )
    order = [*batch, *left, *right]
    whole = build(aten.reshape.default, made, [extent([c]) for c in order])
    return _permuted(build, whole, [order.index(c) for c in output])


def _permuted(build: Builder, x: fx.Node, order: list[int]) -> fx.Node:
    return x if order == sorted(order) else build(aten.permute.default, x, order)


def shape_of_any(build: Builder, node: fx.Node) -> tuple[int, ...]:
    """Sizes of a node that may be a constant."""
    return tuple(build.tensor_of(node).shape) if node.op == "get_attr" else shape_of(node)


REWRITES: dict[Any, Any] = {
    aten.matmul.default: product,
    aten.bmm.default: product,
    aten.mm.default: product,
    aten.addmm.default: product_and_sum,
    aten.baddbmm.default: product_and_sum,
    aten.einsum.default: einsum,
    aten.bilinear.default: bilinear,
    aten.scaled_dot_product_attention.default: attention,
}
