# SPDX-License-Identifier: Apache-2.0
"""ATen operators as `Op`: the numbers that the counting rules need, from the shapes of a traced graph."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from edgepress.models.cost.aten_names import (
    ACTIVATIONS,
    ADAPTIVE_POOLS,
    BATCH_NORMS,
    CONVOLUTIONS,
    MOVING,
    POOLS,
    RECURRENT,
    RECURRENT_CELLS,
)
from edgepress.models.cost.graph import Graph, Node, Ref
from edgepress.models.cost.op_costs import Op, convolution, dense, einsum_products, transposed_convolution


def op_of(graph: Graph, node: Node) -> Op:
    """The operator as the rules see it, before folding and without what torchinfo sees of it."""
    if node.op in MOVING:
        return Op("move", output_elements=_elements(node))
    reader = _READERS.get(node.op)
    if reader:
        return reader(graph, node)
    kind = "activation" if node.op in ACTIVATIONS else "other"
    return Op(kind, input_elements=prod(_shape(graph, node, 0) or ()), output_elements=_elements(node))


def weight_of(graph: Graph, node: Node) -> Node | None:
    """The node that holds an operator's weight; None if it has none or computes it from its input."""
    name = _argument_name(node.arguments.get("weight", node.arguments.get("mat2")))
    return graph.by_name[name] if name in graph.constant else None


def bias_of(graph: Graph, node: Node) -> Node | None:
    """The node that holds an operator's bias, or None."""
    name = _argument_name(node.arguments.get("bias"))
    if node.op == "addmm":
        name = _argument_name(node.arguments.get("self"))
    return graph.by_name[name] if name is not None else None


def data_input(graph: Graph, node: Node) -> Node | None:
    """The first input that is no constant: the activation that an operator works on."""
    for name in node.inputs:
        if name not in graph.constant:
            return graph.by_name[name]
    return None


def is_transposed(node: Node) -> bool:
    """Whether a convolution is a transposed one."""
    return node.op.startswith("conv_transpose") or node.arguments.get("transposed") is True


def _elements(node: Node) -> int:
    return node.elements if node.shape is not None else sum(prod(shape) for shape in node.shapes if shape is not None)


def _argument_name(value: Any) -> str | None:
    return value.name if isinstance(value, Ref) else None


def _shape(graph: Graph, node: Node, argument: str | int) -> tuple[int, ...] | None:
    if isinstance(argument, int):
        return graph.by_name[node.inputs[argument]].shape if len(node.inputs) > argument else None
    name = _argument_name(node.arguments.get(argument))
    return graph.by_name[name].shape if name is not None else None


def _convolution(graph: Graph, node: Node) -> Op:
    weight, data = _shape(graph, node, "weight"), _shape(graph, node, "input")
    assert weight is not None
    assert data is not None
    assert node.shape is not None
    bias, groups = node.arguments.get("bias") is not None, node.arguments.get("groups", 1)
    if is_transposed(node):
        return transposed_convolution(weight, data, node.shape, groups=groups, bias=bias)
    return convolution(weight, node.shape, groups=groups, bias=bias)


def _linear(graph: Graph, node: Node) -> Op:
    weight = _shape(graph, node, "weight")
    assert weight is not None
    assert node.shape is not None
    out_features, in_features = (1, *weight)[-2:]
    return dense(
        in_features,
        out_features,
        node.elements // out_features if out_features else 0,
        bias=node.arguments.get("bias") is not None,
    )


def _product(graph: Graph, node: Node, left: str, right: str, added: bool = False) -> Op:
    """A matrix product: dense where one side is a constant of two dimensions, else a product of activations."""
    a, b = _shape(graph, node, left), _shape(graph, node, right)
    assert a is not None
    assert b is not None
    inner = a[-1] if a else 1
    outputs = node.elements
    names = [_argument_name(node.arguments.get(side)) for side in (left, right)]
    constant = [name in graph.constant for name in names]
    if constant[0] != constant[1]:
        weights = prod(b if constant[1] else a)
        products = outputs * inner
        rows = products // weights if weights else 0
        bias_node = graph.by_name.get(_argument_name(node.arguments.get("self")) or "") if added else None
        bias = bias_node.elements if bias_node is not None and bias_node.name in graph.constant else 0
        return Op(
            "dense",
            weights=weights,
            positions=rows,
            bias=bias,
            bias_positions=outputs // bias if bias else 0,
            output_elements=outputs,
        )
    return Op("attention", products=outputs * inner, output_elements=outputs)


def _attention(graph: Graph, node: Node) -> Op:
    """scaled_dot_product_attention: queries with keys, probabilities with values (grouped queries share keys)."""
    query, key, value = (_shape(graph, node, name) for name in ("query", "key", "value"))
    assert query is not None
    assert key is not None
    assert value is not None
    rows = prod(query[:-1])
    return Op(
        "attention",
        products=rows * key[-2] * (query[-1] + value[-1]),
        output_elements=node.elements,
        softmax_elements=rows * key[-2],
    )


def _einsum(graph: Graph, node: Node) -> Op:
    operands = [graph.by_name[name] for name in node.inputs]
    products, summed = einsum_products(str(node.arguments["equation"]), [operand.shape or () for operand in operands])
    if not summed:  # an outer or elementwise product: nothing is accumulated
        return Op("mul", input_elements=_elements(operands[0]), output_elements=node.elements)
    constant = [operand.name in graph.constant for operand in operands]
    if len(operands) == 2 and constant[0] != constant[1]:
        weights = operands[constant.index(True)].elements
        if weights and products % weights == 0:
            return Op("dense", weights=weights, positions=products // weights, output_elements=node.elements)
    return Op("attention", products=products, output_elements=node.elements)


def _bilinear(graph: Graph, node: Node) -> Op:
    weight = _shape(graph, node, "weight")
    assert weight is not None
    rows = node.elements // weight[0]
    return Op(
        "dense",
        weights=prod(weight),
        positions=rows,
        bias=weight[0] if node.arguments.get("bias") else 0,
        bias_positions=rows,
        output_elements=node.elements,
    )


def _tensordot(graph: Graph, node: Node) -> Op:
    first: tuple[int, ...] = _shape(graph, node, "self") or ()
    inner = prod([first[int(dim)] for dim in node.arguments.get("dims_self", ())])
    return Op("attention", products=node.elements * inner, output_elements=node.elements)


def _recurrent(graph: Graph, node: Node) -> Op:
    """Gate products times steps, over all layers and directions; both bias vectors are added at every step."""
    data = _shape(graph, node, "input" if "input" in node.arguments else "data")
    assert data is not None
    # Two dimensions: packed steps ("data"), or one sequence without a batch ("input").
    steps = data[0] if len(data) == 2 else data[0] * data[1]
    shapes = [graph.by_name[ref.name].shape or () for ref in node.arguments["params"]]
    weights = sum(prod(shape) for shape in shapes if len(shape) == 2)
    biases = sum(prod(shape) for shape in shapes if len(shape) == 1)
    return Op(
        "recurrent",
        weights=weights,
        positions=steps,
        bias=biases,
        bias_positions=steps,
        output_elements=_elements(node),
    )


def _recurrent_cell(graph: Graph, node: Node) -> Op:
    data = _shape(graph, node, "input") or ()
    rows = data[0] if len(data) == 2 else 1
    shapes = [_shape(graph, node, name) or () for name in ("w_ih", "w_hh")]
    biases = [_shape(graph, node, name) for name in ("b_ih", "b_hh")]
    return Op(
        "recurrent",
        weights=sum(prod(shape) for shape in shapes),
        positions=rows,
        bias=sum(prod(shape) for shape in biases if shape is not None),
        bias_positions=rows,
        output_elements=_elements(node),
    )


def _pool(graph: Graph, node: Node) -> Op:
    kernel = node.arguments.get("kernel_size", ())
    dimensions = POOLS[node.op]
    kernel = (kernel,) if isinstance(kernel, int) else kernel
    window = prod(kernel) if len(kernel) == dimensions else kernel[0] ** dimensions
    outputs = node.elements if node.shape is not None else prod(node.shapes[0] or ())
    return Op("pool", window=window, input_elements=prod(_shape(graph, node, 0) or ()), output_elements=outputs)


def _adaptive_pool(graph: Graph, node: Node) -> Op:
    dimensions, data = ADAPTIVE_POOLS[node.op], _shape(graph, node, 0) or ()
    output = node.shape if node.shape is not None else node.shapes[0] or ()
    if prod(output[-dimensions:]) == 1 and "avg" in node.op:
        return Op("mean", input_elements=prod(data), output_elements=prod(output))
    # The largest window: floor and ceil of the bounds differ by at most one element.
    window = prod(
        -(-size // out) if out else 0 for size, out in zip(data[-dimensions:], output[-dimensions:], strict=True)
    )
    return Op("pool", window=window, input_elements=prod(data), output_elements=prod(output))


def _batch_norm(graph: Graph, node: Node) -> Op:
    """Scale and shift per channel; statistics are part of them. Without affine parameters they are still needed."""
    data = _shape(graph, node, "input") or _shape(graph, node, 0) or ()
    if node.op == "instance_norm":
        return _norm(graph, node)
    channels = data[1] if len(data) > 1 else prod(data)
    return Op("batch_norm", weights=channels, bias=channels, input_elements=prod(data), output_elements=prod(data))


def _norm(graph: Graph, node: Node) -> Op:
    weight, bias = (_shape(graph, node, name) for name in ("weight", "bias"))
    elements = node.elements if node.shape is not None else prod(node.shapes[0] or ())
    return Op(
        "norm",
        weights=prod(weight) if weight is not None else 0,
        bias=prod(bias) if bias is not None else 0,
        input_elements=elements,
        output_elements=elements,
    )


def _elementwise(kind: str) -> Callable[[Graph, Node], Op]:
    def read(graph: Graph, node: Node) -> Op:
        return Op(kind, input_elements=prod(_shape(graph, node, 0) or ()), output_elements=_elements(node))

    return read


_READERS: dict[str, Callable[[Graph, Node], Op]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(RECURRENT, _recurrent),
    **dict.fromkeys(RECURRENT_CELLS, _recurrent_cell),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(ADAPTIVE_POOLS, _adaptive_pool),
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm"), _norm),
    "add": _elementwise("add"),
    **dict.fromkeys(("mul", "div", "multiply", "true_divide"), _elementwise("mul")),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "softmin"), _elementwise("softmax")),
    "mean": _elementwise("mean"),
    "linear": _linear,
    "einsum": _einsum,
    "bilinear": _bilinear,
    "tensordot": _tensordot,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("mm", "bmm"), lambda graph, node: _product(graph, node, "self", "mat2")),
    "mv": lambda graph, node: _product(graph, node, "self", "vec"),
    **dict.fromkeys(("matmul", "inner"), lambda graph, node: _product(graph, node, "self", "other")),
    **dict.fromkeys(("dot", "vdot"), lambda graph, node: _product(graph, node, "self", "tensor")),
    "addmm": lambda graph, node: _product(graph, node, "mat1", "mat2", added=True),
    "addmv": lambda graph, node: _product(graph, node, "mat", "vec", added=True),
    **dict.fromkeys(("baddbmm", "addbmm"), lambda graph, node: _product(graph, node, "batch1", "batch2", added=True)),
}
