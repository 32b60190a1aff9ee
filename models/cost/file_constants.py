# SPDX-License-Identifier: Apache-2.0
"""Constants of a file that are no weights: paddings, axes, shapes and orders that its operators read.

NeSsi, the counter of the DCASE challenges, counts the bytes of every constant that an operator reads; a network that is
pruned to the memory of such a challenge needs room for these.
"""

from __future__ import annotations

from edgepress.models.cost.activations import ActivationPlan, activation_plan
from edgepress.models.cost.aten_names import ADAPTIVE_POOLS, RESHAPING
from edgepress.models.cost.graph import Graph, Node

_INT32 = 4
#: TFLite's paddings are [4, 2] for images, as which one axis is written too.
_PADDING_BYTES = 8 * _INT32
#: A function of one variable without a kernel of integers becomes a table.
_TABLE_BYTES = 256
_TABLES = frozenset(
    {
        *("gelu", "silu", "mish", "elu", "selu", "celu", "softplus", "softsign", "log_sigmoid", "logsigmoid", "erf"),
        *("hardsigmoid", "exp", "expm1", "log", "log2", "log10", "log1p", "log_softmax", "sqrt", "rsqrt", "reciprocal"),
        *("pow", "sin", "cos", "tan", "atan", "sinh", "cosh"),
    }
)
_REDUCTIONS = frozenset(
    {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "argmax", "argmin", "norm", "logsumexp"}
)
_ORDERS = frozenset({"permute", "transpose", "movedim", "t", "swapaxes", "numpy_T", "mT"})
#: Begins, ends and strides, or sizes.
_SLICES = frozenset({"slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "tensor_split"})
_RESIZES = frozenset(
    {"upsample_nearest1d", "upsample_nearest2d", "upsample_linear1d", "upsample_bilinear2d", "expand", "repeat", "tile"}
)


def file_constant_bytes(graph: Graph, plan: ActivationPlan | None = None) -> int:
    """At most so many bytes of constants does the int8 .tflite of a network hold beside weights and biases.

    Exact for paddings and means, which is what published networks have; for what an exporter may write in one way or
    another, the longer one.

    Args:
        graph: of a network.
        plan: its activations (`edgepress.models.cost.activations.activation_plan`), with the paddings that become
            operators; computed where it is not given.
    """
    plan = plan or activation_plan(graph)
    own = sum(name.endswith(".padded") for name in plan.steps) * _PADDING_BYTES
    steps = set(plan.steps)
    return own + sum(_bytes(node, node.name in steps) for node in graph.nodes if _is_operator(graph, node))


def _is_operator(graph: Graph, node: Node) -> bool:
    return node.kind == "call" and node.name not in graph.constant


def _bytes(node: Node, is_step: bool) -> int:
    rank = max(len(node.shape or ()), 4)
    if node.op in RESHAPING or node.op in _ORDERS:
        # Only what moves elements is an operator of its own; a view behind a mean becomes part of it.
        return rank * _INT32 if is_step or node.op in ("view", "reshape", "flatten", "unflatten") else 0
    if node.op in ("pad", "constant_pad_nd"):
        return _PADDING_BYTES + _INT32 if is_step else 0
    if node.op in ADAPTIVE_POOLS or node.op in _REDUCTIONS:
        axes = node.arguments.get("dim")
        return ADAPTIVE_POOLS.get(node.op, len(axes) if isinstance(axes, list | tuple) else rank) * _INT32
    if node.op in _SLICES:
        return 3 * rank * _INT32
    if node.op in _RESIZES:
        return rank * _INT32
    return _TABLE_BYTES if node.op in _TABLES else 0
