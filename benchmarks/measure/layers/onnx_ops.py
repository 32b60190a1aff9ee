# SPDX-License-Identifier: Apache-2.0
"""The operators of an .onnx file as the numbers that the counting rules need."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from edgepress.benchmarks.measure.layers.file_layers import Shape
from edgepress.deploy.onnx_files.reader import attributes
from edgepress.models.cost.op_costs import Op, convolution, einsum_products, transposed_convolution

if TYPE_CHECKING:
    from onnx import NodeProto

#: Name of a tensor -> its sizes.
ShapeOf = Callable[[str], Shape]
#: Operators that move or name data.
MOVING = frozenset(
    {
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "GatherElements",
        "GatherND",
        "Pad",
        "Expand",
        "Tile",
        "Cast",
        "CastLike",
        "Identity",
        "Shape",
        "Size",
        "Constant",
        "ConstantOfShape",
        "Range",
        "DepthToSpace",
        "SpaceToDepth",
        "Dropout",
        "Where",
        "ScatterND",
        "Resize",
        "ReverseSequence",
        "OneHot",
        "NonZero",
        "EyeLike",
        "Trilu",
        "ScatterElements",
        "Upsample",
        "ArgMax",
        "ArgMin",
    }
)
_ACTIVATIONS = frozenset(
    {
        "Relu",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Selu",
        "Celu",
        "Gelu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Softplus",
        "Softsign",
        "Clip",
        "Mish",
        "ThresholdedRelu",
        "Swish",
    }
)
#: Operators that pass a constant, or an activation without arithmetic of the network, on unchanged.
PASSING = frozenset(
    {
        "DequantizeLinear",
        "QuantizeLinear",
        "Identity",
        "Cast",
        "Transpose",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Dropout",
        "Flatten",
    }
)
#: ONNX Runtime's fused forms -> the operator of the standard whose products and inputs they have.
_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul", "TransposeMatMul": "MatMul"}
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def op_of(node: NodeProto, shape: ShapeOf, constant: Container[str], bias: int = 0) -> Op:
    """The numbers of a node that the counting rules need.

    Args:
        node: of the main graph, any but Constant.
        shape: name of a tensor -> its sizes, () where they are not known.
        constant: names whose values the file holds.
        bias: elements that a following Add brings to a product of matrices.
    """
    kind, options = _FUSED.get(node.op_type, node.op_type), attributes(node)
    written = prod(shape(node.output[0])) if node.output else 0
    read = prod(shape(node.input[0])) if node.input else 0
    if kind in MOVING or kind in PASSING:
        return Op("move", output_elements=written)
    if kind in ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"):
        return _convolution(node, shape, options, written)
    if kind in ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"):
        return _dense(node, shape, constant, bias, options, written)
    if kind in _RECURRENT:
        return _recurrent(node, shape, written)
    if kind == "Attention":
        return _attention(node, shape, options, written)
    if kind == "Einsum":
        products, summed = einsum_products(str(options.get("equation", "")), [shape(n) for n in node.input])
        return Op("attention" if summed else "mul", products=products if summed else 0, output_elements=written)
    if kind in ("AveragePool", "MaxPool", "LpPool"):
        window = prod(options.get("kernel_shape", ()))
        return Op("pool", input_elements=read, output_elements=written, window=window)
    if kind == "GlobalMaxPool":
        return Op("pool", input_elements=read, output_elements=written, window=read // written if written else 0)
    if kind == "BatchNormalization":
        channels = prod(shape(node.input[1]))
        return Op(
            "batch_norm",
            weights=channels,
            bias=channels,
            input_elements=read,
            output_elements=written,
            seen_parameters=2 * channels,
        )
    if kind in ("LayerNormalization", "GroupNormalization", "InstanceNormalization"):
        sizes = [prod(shape(name)) if name else 0 for name in node.input[1:3]]
        return Op(
            "norm",
            weights=sum(sizes[:1]),
            bias=sum(sizes[1:]),
            input_elements=read,
            output_elements=written,
            seen_parameters=sum(sizes),
        )
    simple = {
        "GlobalAveragePool": "mean",
        "ReduceMean": "mean",
        "Add": "add",
        "Mul": "mul",
        "Div": "mul",
        "Softmax": "softmax",
        "LogSoftmax": "softmax",
    }
    return Op(
        simple.get(kind, "activation" if kind in _ACTIVATIONS else "other"),
        input_elements=read,
        output_elements=written,
    )


def _convolution(node: NodeProto, shape: ShapeOf, options: dict[str, Any], written: int) -> Op:
    weight_place, bias_place = (3, 8) if node.op_type == "QLinearConv" else (1, 2)
    weight = shape(node.input[weight_place])
    bias = len(node.input) > bias_place and bool(node.input[bias_place])
    groups = int(options.get("group", 1))
    data, output = shape(node.input[0]), shape(node.output[0])
    if len(weight) < 3 or len(output) != len(weight) or len(data) != len(weight):
        return Op("other", output_elements=written)
    op = (
        transposed_convolution(weight, data, output, groups=groups, bias=bias)
        if node.op_type == "ConvTranspose"
        else convolution(weight, output, groups=groups, bias=bias)
    )
    return replace(op, seen_parameters=op.weights + op.bias, seen_positions=op.bias_positions)


def _dense(
    node: NodeProto, shape: ShapeOf, constant: Container[str], bias: int, options: dict[str, Any], written: int
) -> Op:
    left, right = (3 * place if node.op_type == "QLinearMatMul" else place for place in (0, 1))
    data = shape(node.input[left])
    if not data or len(node.input) <= right:
        return Op("other", output_elements=written)
    inner = data[0] if options.get("transA") and len(data) == 2 else data[-1]
    weight = next((node.input[place] for place in (right, left) if node.input[place] in constant), None)
    if weight is None or not prod(shape(weight)):
        return Op("attention", products=written * inner, output_elements=written)
    weights = prod(shape(weight))
    if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
        bias = prod(shape(node.input[2]))
    # torchinfo counts a dense layer once per parameter, whatever the number of rows of one sample.
    return Op(
        "dense",
        weights=weights,
        positions=written * inner // weights,
        bias=bias,
        bias_positions=written // bias if bias else 0,
        output_elements=written,
        seen_parameters=weights + bias,
        seen_positions=(shape(node.output[0]) or (1,))[0],
    )


def _recurrent(node: NodeProto, shape: ShapeOf, written: int) -> Op:
    """W [D, gates * hidden, in], R [D, gates * hidden, hidden], B [D, 2 * gates * hidden] for D directions."""
    data = shape(node.input[0])
    if len(data) != 3:
        return Op("other", output_elements=written)
    steps = prod(data[:2])
    weights = sum(prod(shape(name)) for name in node.input[1:3])
    bias = prod(shape(node.input[3])) if len(node.input) > 3 and node.input[3] else 0
    return Op(
        "recurrent",
        weights=weights,
        positions=steps,
        bias=bias,
        bias_positions=steps,
        output_elements=written,
        seen_parameters=weights + bias,
        seen_positions=steps,
    )


def _attention(node: NodeProto, shape: ShapeOf, options: dict[str, Any], written: int) -> Op:
    """[batch, heads, length, size], or [batch, length, heads * size] where the heads do not change the products."""
    if len(node.input) < 3:
        return Op("other", output_elements=written)
    query, key, value = (shape(name) for name in node.input[:3])
    if len(query) < 3 or len(key) != len(query) or len(value) != len(query):
        return Op("other", output_elements=written)
    shared = int(options.get("q_num_heads", 1)) // max(int(options.get("kv_num_heads", 1)), 1) or 1
    width = value[-1] * (shared if len(query) == 3 else 1)
    heads = int(options.get("q_num_heads", 1)) if len(query) == 3 else 1
    pairs = prod(query[:-1]) * key[-2]
    return Op(
        "attention", products=pairs * (query[-1] + width), output_elements=written, softmax_elements=pairs * heads
    )
