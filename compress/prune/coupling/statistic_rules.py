# SPDX-License-Identifier: Apache-2.0
"""What statistics over channels do to channel labels.

They couple nothing: the reference of the proof leaves removed channels out of them.
"""

from __future__ import annotations

from edgepress.compress.prune.coupling.elementwise_rules import elementwise
from edgepress.compress.prune.coupling.grids import in_finer_groups, separated
from edgepress.compress.prune.coupling.labels import at_axis
from edgepress.compress.prune.coupling.propagation import Propagation, Result, RuleTable, optional, required
from edgepress.models.cost.graph import Node

RULES = RuleTable()


#: Reductions whose removed channels simply take no part.
STATISTICS = [
    "mean",
    "sum",
    "var",
    "std",
    "amax",
    "amin",
    "prod",
    "norm",
    "linalg_vector_norm",
    "logsumexp",
    "var_mean",
    "std_mean",
    "frobenius_norm",
    "all",
    "any",
]


@RULES.rule(
    "batch_norm", "instance_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "native_batch_norm"
)
def _batch_norm(state: Propagation, node: Node) -> Result:
    x = required(state, node, "input")
    cause = state.cause(node, "meets normalisation parameters of fixed width")
    values = [x]
    for name in ("weight", "bias", "running_mean", "running_var"):
        vector = optional(state, node, name)
        if vector is not None:
            values.append(at_axis(vector, len(x.shape), 1))
    if node.op == "instance_norm":
        values[0] = state.space.collapse(x, range(2, len(x.shape)), cause)
    result = state.space.merge(values, cause)
    return (result, None, None) if node.shapes else result


@RULES.rule("layer_norm", "rms_norm", "native_layer_norm")
def _layer_norm(state: Propagation, node: Node) -> Result:
    # The statistic is over channels: the reference leaves removed channels out of it.
    values = [required(state, node, "input")]
    values += [v for name in ("weight", "bias") if (v := optional(state, node, name)) is not None]
    result = state.space.merge(values, state.cause(node, "meets normalisation parameters of fixed width"))
    return (result, None, None) if node.shapes else result


@RULES.rule("group_norm", "native_group_norm")
def _group_norm(state: Propagation, node: Node) -> Result:
    x = required(state, node, "input")
    cause = state.cause(node, "meets normalisation parameters of fixed width")
    values = [x] + [
        at_axis(v, len(x.shape), 1) for name in ("weight", "bias") if (v := optional(state, node, name)) is not None
    ]
    merged = state.space.merge(values, cause)
    merged = state.space.collapse(merged, range(2, len(x.shape)), cause)
    groups = node.arguments.get("num_groups", node.arguments.get("group"))
    if merged.planes and groups > 1:
        merged = in_finer_groups(state, merged, 1, groups, node)
    return (merged, None, None) if node.shapes else merged


@RULES.rule(*STATISTICS)
def _statistic(state: Propagation, node: Node) -> Result:
    x = required(state, node, "self")
    rank = len(x.shape)
    dims = node.arguments.get("dim")
    dims = range(rank) if dims is None or dims == () else [dims] if isinstance(dims, int) else dims
    keep = bool(node.arguments.get("keepdim", False))
    result = state.space.reduce(
        x,
        [dim % max(rank, 1) for dim in dims] if rank else [],
        state.cause(node, "a mean over channels and positions"),
        keep,
    )
    return (result,) * len(node.shapes) if node.shapes else result


@RULES.rule("cosine_similarity")
def _cosine(state: Propagation, node: Node) -> Result:
    """Masked channels add nothing to the product, nor to the lengths."""
    cause = state.cause(node, "must keep the same channels")
    merged = state.space.merge([required(state, node, name) for name in ("x1", "x2")], cause)
    return state.space.reduce(merged, [node.arguments.get("dim", 1)], cause, keep=False)


@RULES.rule("max", "min")
def _extreme(state: Propagation, node: Node) -> Result:
    if "other" in node.arguments:
        return elementwise(state, node)
    x = required(state, node, "self")
    dim = node.arguments.get("dim")
    dims = range(len(x.shape)) if dim is None else [dim]
    if node.shapes:  # (values, indices): an index over a labelled axis would change its meaning
        x = state.space.collapse(x, dims, state.cause(node, "the position of the maximum is a result"))
    result = state.space.reduce(
        x, dims, state.cause(node, "a maximum over channels and positions"), bool(node.arguments.get("keepdim", False))
    )
    return (result, result) if node.shapes else result


@RULES.rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def _softmax(state: Propagation, node: Node) -> Result:
    x = required(state, node, "self")
    dim = node.arguments["dim"] % len(x.shape)
    return separated(state, x, [dim], node)
