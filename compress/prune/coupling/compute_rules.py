"""What operators that compute do to channel labels: which positions must vanish together.

Contractions (convolution, dense layer, matrix product) are an element-wise meeting in the space of all their indices,
followed by a sum; that one description gives every coupling rule. Statistics over channels (normalisations, means)
couple nothing: the reference of the proof leaves removed channels out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgepress.compress.prune.coupling.labels import Labelled, drop_axes, reshaped
from edgepress.compress.prune.coupling.propagate import Propagation
from edgepress.models.cost.graph import Node, Ref

Result = Labelled | tuple[Labelled | None, ...]
Rule = Callable[[Propagation, Node], Result]
COMPUTE_RULES: dict[str, Rule] = {}

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


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        COMPUTE_RULES.update(dict.fromkeys(names, function))
        return function

    return register


def optional(state: Propagation, node: Node, name: str) -> Labelled | None:
    ref = node.arguments.get(name)
    return state.value(ref.name) if isinstance(ref, Ref) else None


def required(state: Propagation, node: Node, name: str) -> Labelled:
    value = optional(state, node, name)
    assert value is not None, f"{node.op} without {name}"
    return value


def at_axis(value: Labelled, rank: int, axis: int) -> Labelled:
    """A vector [C], seen along `axis` of a value of `rank`."""
    size = [1] * rank
    size[axis] = value.shape[0]
    return Labelled(
        tuple(size),
        tuple(plane.reshape([plane.size if a == axis else 1 for a in range(rank)]) for plane in value.planes),
    )


def elementwise(state: Propagation, node: Node) -> Result:
    values = [state.value(name) for name in node.inputs]
    if not values:
        return Labelled(node.shape or ())
    return state.space.merge(values, state.cause(node, "meets a tensor of fixed width"), node.shape)


COMPUTE_RULES.update(dict.fromkeys(ELEMENTWISE, elementwise))


@rule("prelu")
def _prelu(state: Propagation, node: Node) -> Result:
    x, slope = required(state, node, "self"), required(state, node, "weight")
    rank = len(x.shape)
    if len(slope.shape) == 1 and slope.shape[0] > 1 and rank > 1:
        slope = at_axis(slope, rank, 1)
    return state.space.merge([x, slope], state.cause(node, "meets a slope of fixed width"))


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "native_batch_norm")
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


@rule("layer_norm", "rms_norm", "native_layer_norm")
def _layer_norm(state: Propagation, node: Node) -> Result:
    # The statistic is over channels: the reference leaves removed channels out of it.
    values = [required(state, node, "input")]
    values += [v for name in ("weight", "bias") if (v := optional(state, node, name)) is not None]
    result = state.space.merge(values, state.cause(node, "meets normalisation parameters of fixed width"))
    return (result, None, None) if node.shapes else result


@rule("group_norm", "native_group_norm")
def _group_norm(state: Propagation, node: Node) -> Result:
    x = required(state, node, "input")
    cause = state.cause(node, "meets normalisation parameters of fixed width")
    values = [x] + [
        at_axis(v, len(x.shape), 1) for name in ("weight", "bias") if (v := optional(state, node, name)) is not None
    ]
    merged = state.space.merge(values, cause)
    merged = state.space.collapse(merged, range(2, len(x.shape)), cause)
    groups = node.arguments.get("num_groups", node.arguments.get("group"))
    width = x.shape[1] // groups
    if merged.planes and groups > 1:
        # Equal counts in every group, or whole groups: whichever leaves more to choose from.
        mode = "index" if width >= groups else "group"
        state.mode[node.name] = mode
        merged = _in_groups(state, merged, 1, groups, mode, node)
    return (merged, None, None) if node.shapes else merged


def _in_groups(state: Propagation, value: Labelled, axis: int, groups: int, mode: str, node: Node) -> Labelled:
    """Couple channels (groups x width) along `axis`: the same index in every group, or whole groups."""
    split = (*value.shape[:axis], groups, value.shape[axis] // groups, *value.shape[axis + 1 :])
    grid = reshaped(state.space, value, split)
    away = axis if mode == "index" else axis + 1
    cause = state.cause(node, "one group cannot lose channels alone")
    kept = [plane for plane in grid.planes if plane.shape[axis] > 1 or plane.shape[axis + 1] > 1]
    rest = tuple(plane for plane in grid.planes if plane.shape[axis] == 1 and plane.shape[axis + 1] == 1)
    planes = []
    for plane in kept:
        full = np.broadcast_to(plane, [split[a] if a in (axis, axis + 1) else s for a, s in enumerate(plane.shape)])
        first = full.take([0], away)
        state.space.unify(full, first, cause)
        planes.append(first)
    return reshaped(state.space, Labelled(split, state.space.compacted(planes) + rest), value.shape)


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
        lifted.append(_separated(state, alone, summed, node))
    cause = state.cause(node, "multiplied with a tensor of fixed width")
    met = state.space.merge(lifted, cause)
    return drop_axes(state.space.reduce(met, summed, cause), sorted(summed))


def _separated(state: Propagation, value: Labelled, summed: Sequence[int], node: Node) -> Labelled:
    cause = state.cause(node, "unequal counts per head or group")
    planes = []
    for plane in value.planes:
        inside = [axis for axis in summed if plane.shape[axis] > 1]
        outside = [axis for axis in range(plane.ndim) if plane.shape[axis] > 1 and axis not in summed]
        if inside and outside:
            finer_inside = np.prod([plane.shape[a] for a in inside]) > np.prod([plane.shape[a] for a in outside])
            planes += state.space.collapse(
                Labelled(value.shape, (plane,)), outside if finer_inside else inside, cause
            ).planes
        else:
            planes.append(plane)
    return Labelled(value.shape, tuple(planes))


@rule("linear")
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


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "inner")
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


@rule("einsum")
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


@rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
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
    x = _in_groups(state, x, leading, groups, mode, node)
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


@rule(*STATISTICS)
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


@rule("max", "min")
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


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def _softmax(state: Propagation, node: Node) -> Result:
    x = required(state, node, "self")
    dim = node.arguments["dim"] % len(x.shape)
    return _separated(state, x, [dim], node)


@rule("glu")
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


COMPUTE_RULES.update(
    {f"{name}{rank}d{suffix}": _pool for name in POOLS for rank in (1, 2, 3) for suffix in ("", "_with_indices")}
)


@rule("embedding")
def _embedding(state: Propagation, node: Node) -> Result:
    weight = state.space.collapse(required(state, node, "weight"), [0], state.cause(node, "rows of a table"))
    assert node.shape is not None
    return Labelled(node.shape, tuple(p.reshape((1,) * (len(node.shape) - 1) + (p.size,)) for p in weight.planes))


@rule("_weight_norm", "_weight_norm_interface")
def _weight_norm(state: Propagation, node: Node) -> Result:
    # The norm over removed inputs is kept by scaling g at removal, so nothing couples but equal positions.
    v, g = required(state, node, "v"), required(state, node, "g")
    result = state.space.merge([v, g], state.cause(node, "meets a fixed width"))
    return (result, None) if node.shapes else result
