# SPDX-License-Identifier: Apache-2.0
"""What operators that work element by element, or on one window of pixels, do to channel labels."""

from __future__ import annotations

from edgepress.compress.prune.coupling.labels import Labelled, at_axis
from edgepress.compress.prune.coupling.propagation import Propagation, Result, RuleTable, required
from edgepress.models.cost.graph import Node

RULES = RuleTable()


ELEMENTWISE = [
    "abs",
    "add",
    "addcmul",
    "addcdiv",
    "alias",
    "atan2",
    "bitwise_and",
    "bitwise_not",
    "bitwise_or",
    "bool",
    "ceil",
    "celu",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "clone",
    "contiguous",
    "copy",
    "cos",
    "detach",
    "detach_",
    "div",
    "dropout",
    "alpha_dropout",
    "feature_dropout",
    "elu",
    "eq",
    "erf",
    "exp",
    "expm1",
    "fake_quantize",
    "float",
    "floor",
    "floor_divide",
    "fmod",
    "ge",
    "gelu",
    "gt",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "heaviside",
    "isnan",
    "le",
    "leaky_relu",
    "lerp",
    "lift_fresh",
    "lift_fresh_copy",
    "log",
    "log10",
    "log1p",
    "log2",
    "log_sigmoid",
    "logical_and",
    "logical_not",
    "logical_or",
    "lt",
    "masked_fill",
    "maximum",
    "minimum",
    "mish",
    "mul",
    "ne",
    "neg",
    "nan_to_num",
    "polar",
    "pow",
    "prelu",
    "reciprocal",
    "relu",
    "relu6",
    "remainder",
    "round",
    "rrelu",
    "rsqrt",
    "rsub",
    "selu",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "softplus",
    "softshrink",
    "softsign",
    "sqrt",
    "square",
    "sub",
    "subtract",
    "multiply",
    "divide",
    "tanh",
    "tanhshrink",
    "threshold",
    "to",
    "_to_copy",
    "type_as",
    "where",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "squeeze_copy",
    "floor_",
    "xlogy",
    "exp2",
    "sinh",
    "cosh",
    "tan",
    "asin",
    "acos",
    "atan",
    "logit",
    "sigmoid_",
    "relu_",
    "__and__",
    "__or__",
    "fill",
    "arccos",
    "arcsin",
    "arctan",
    "true_divide",
]
POOLS = [
    "avg_pool",
    "max_pool",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "lp_pool",
    "upsample_nearest",
    "upsample_nearest_exact",
    "upsample_linear",
    "upsample_bilinear",
    "upsample_bicubic",
    "upsample_trilinear",
    "_upsample_nearest_exact",
    "max_pool_with_indices",
    "_upsample_bilinear_aa",
    "_upsample_bicubic_aa",
    "reflection_pad",
    "replication_pad",
]


def elementwise(state: Propagation, node: Node) -> Result:
    values = [state.value(name) for name in node.inputs]
    if not values:
        return Labelled(node.shape or ())
    return state.space.merge(values, state.cause(node, "meets a tensor of fixed width"), node.shape)


RULES.update(dict.fromkeys(ELEMENTWISE, elementwise))


@RULES.rule("prelu")
def _prelu(state: Propagation, node: Node) -> Result:
    x, slope = required(state, node, "self"), required(state, node, "weight")
    rank = len(x.shape)
    if len(slope.shape) == 1 and slope.shape[0] > 1 and rank > 1:
        slope = at_axis(slope, rank, 1)
    return state.space.merge([x, slope], state.cause(node, "meets a slope of fixed width"))


@RULES.rule("glu")
def _glu(state: Propagation, node: Node) -> Result:
    x = required(state, node, "self")
    dim = node.arguments.get("dim", -1) % len(x.shape)
    half = x.shape[dim] // 2
    halves = []
    for part in (slice(0, half), slice(half, None)):
        index = [slice(None)] * len(x.shape)
        index[dim] = part
        halves.append(
            Labelled(
                tuple(half if a == dim else s for a, s in enumerate(x.shape)),
                tuple(p[tuple(index)] if p.shape[dim] > 1 else p for p in x.planes),
            )
        )
    return state.space.merge(halves, state.cause(node, "its two halves must keep the same channels"))


@RULES.rule("embedding")
def _embedding(state: Propagation, node: Node) -> Result:
    weight = state.space.collapse(required(state, node, "weight"), [0], state.cause(node, "rows of a table"))
    assert node.shape is not None
    return Labelled(node.shape, tuple(p.reshape((1,) * (len(node.shape) - 1) + (p.size,)) for p in weight.planes))


def _pool(state: Propagation, node: Node) -> Result:
    x = state.value(node.inputs[0])
    spatial = int(node.op.split("d")[-2][-1]) if node.op[-2:-1].isdigit() else _pooled_axes(node.op)
    axes = range(len(x.shape) - spatial, len(x.shape))
    x = state.space.collapse(x, axes, state.cause(node, "pools or resizes over channels"))
    shapes = node.shapes or (node.shape,)
    results = tuple(Labelled(shape, x.planes) for shape in shapes if shape is not None)
    return results if node.shapes else results[0]


def _pooled_axes(op: str) -> int:
    return next((int(digit) for digit in "123" if f"{digit}d" in op), 2)


RULES.update(
    {f"{name}{rank}d{suffix}": _pool for name in POOLS for rank in (1, 2, 3) for suffix in ("", "_with_indices")}
)
