"""Tiny .tflite and .onnx files, one idea each, written from their schemas."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from edgepress.deploy.tflite.writer import pack, schema


def unary(operator: str, element: str = "INT8", shape: Sequence[int] = (1, 4, 4, 8)) -> bytes:
    """A file of one operator with one input and one output of the same shape."""
    model, graph = _empty()
    graph.tensors = [_tensor(element, shape, name="x"), _tensor(element, shape, name="y")]
    _operator(model, graph, operator, [0], [1])
    return _finished(model, graph, [0], [1])


def chain(sizes: Sequence[int]) -> bytes:
    """int8 vectors of these sizes, each made from the one before by SLICE, PAD or (for equal sizes) RELU."""
    model, graph = _empty()
    graph.tensors = [_tensor("INT8", (1, size), name=f"value {i}") for i, size in enumerate(sizes)]
    for i, (before, after) in enumerate(pairwise(sizes)):
        if after == before:
            _operator(model, graph, "RELU", [i], [i + 1])
        elif after < before:
            _operator(
                model,
                graph,
                "SLICE",
                [i, _constant(model, graph, [0, 0]), _constant(model, graph, [1, after])],
                [i + 1],
                "SliceOptions",
            )
        else:
            _operator(
                model, graph, "PAD", [i, _constant(model, graph, [[0, 0], [0, after - before]])], [i + 1], "PadOptions"
            )
    return _finished(model, graph, [0], [len(sizes) - 1])


def sequence(shape: Sequence[int], layers: Sequence[tuple[Any, ...]]) -> bytes:
    """int8 layers one after the other, weights zero, "same" padding.

    Args:
        shape: of the input, NHWC or [1, N].
        layers: ("conv", channels, kernel, stride), ("depthwise", kernel, stride), ("average" or "max", height, width),
            ("dense", outputs), ("softmax",).
    """
    model, graph = _empty()
    kinds = schema()
    graph.tensors = [_tensor("INT8", shape, name="x")]
    value, shape = 0, tuple(shape)
    for number, (kind, *numbers) in enumerate(layers):
        inputs, channels = [value], shape[-1]
        if kind in ("conv", "depthwise"):
            outputs, (kernel, stride) = (numbers[0], numbers[1:]) if kind == "conv" else (channels, numbers)
            name = "CONV_2D" if kind == "conv" else "DEPTHWISE_CONV_2D"
            weights = (outputs, kernel, kernel, channels) if kind == "conv" else (1, kernel, kernel, channels)
            shape = (1, -(-shape[1] // stride), -(-shape[2] // stride), outputs)
            options = "Conv2DOptions" if kind == "conv" else "DepthwiseConv2DOptions"
            values = {
                "strideH": stride,
                "strideW": stride,
                "dilationHFactor": 1,
                "dilationWFactor": 1,
                **({} if kind == "conv" else {"depthMultiplier": 1}),
            }
        elif kind == "dense":
            name, outputs, weights = "FULLY_CONNECTED", numbers[0], (numbers[0], int(np.prod(shape)))
            shape, options, values = (1, outputs), "FullyConnectedOptions", {}
        elif kind == "softmax":
            name, options, values = "SOFTMAX", "SoftmaxOptions", {"beta": 1.0}
        else:
            name, options = {"average": "AVERAGE_POOL_2D", "max": "MAX_POOL_2D"}[kind], "Pool2DOptions"
            height, width = numbers
            shape = (1, shape[1] // height, shape[2] // width, channels)
            values = {
                "filterHeight": height,
                "filterWidth": width,
                "strideH": height,
                "strideW": width,
                "padding": kinds.Padding.VALID,
            }
        if kind in ("conv", "depthwise", "dense"):
            inputs += [
                _constant(model, graph, np.zeros(weights, np.int8)),
                _constant(model, graph, np.zeros(outputs, np.int32)),
            ]
        graph.tensors.append(_tensor("INT8", shape, name=f"layer {number}"))
        if kind == "softmax":
            graph.tensors[-1].quantization.scale[:], graph.tensors[-1].quantization.zeroPoint[:] = 1 / 256, -128
        value = len(graph.tensors) - 1
        _operator(model, graph, name, inputs, [value], options)
        for key, given in values.items():
            setattr(graph.operators[-1].builtinOptions, key, given)
    return _finished(model, graph, [0], [value])


def qdq_onnx(scale_in: float = 0.5, zero_in: int = 3, scale_out: float = 0.25, zero_out: int = -7) -> bytes:
    """float x -> int8 -> float -> x + x -> int8 -> float."""
    import onnx
    from onnx import TensorProto, helper

    def scalar(name: str, value: float, kind: int) -> Any:
        return helper.make_tensor(name, kind, [], [value])

    constants = [
        scalar("s0", scale_in, TensorProto.FLOAT),
        scalar("z0", zero_in, TensorProto.INT8),
        scalar("s1", scale_out, TensorProto.FLOAT),
        scalar("z1", zero_out, TensorProto.INT8),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s0", "z0"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s0", "z0"], ["xf"]),
        helper.make_node("Add", ["xf", "xf"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "s1", "z1"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "s1", "z1"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _empty() -> tuple[Any, Any]:
    kinds = schema()
    model, graph = kinds.ModelT(), kinds.SubGraphT()
    model.version, model.operatorCodes, model.buffers = 3, [], [kinds.BufferT()]
    model.description, graph.name, graph.operators = "made by a test", "main", []
    return model, graph


def _finished(model: Any, graph: Any, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
    graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    model.subgraphs = [graph]
    return pack(model)


def _tensor(element: str, shape: Sequence[int], buffer: int = 0, name: str = "") -> Any:
    kinds = schema()
    tensor = kinds.TensorT()
    tensor.shape, tensor.type, tensor.buffer = np.array(shape, np.int32), getattr(kinds.TensorType, element), buffer
    tensor.name = name.encode()
    if element in ("INT8", "INT16"):
        tensor.quantization = kinds.QuantizationParametersT()
        tensor.quantization.scale = np.array([1 / 128], np.float32)
        tensor.quantization.zeroPoint = np.array([0], np.int64)
        tensor.quantization.min, tensor.quantization.max = np.array([-1.0], np.float32), np.array([1.0], np.float32)
    return tensor


def _constant(model: Any, graph: Any, values: Any) -> int:
    array = np.asarray(values) if isinstance(values, np.ndarray) else np.array(values, np.int32)
    buffer = schema().BufferT()
    buffer.data = np.frombuffer(array.tobytes(), np.uint8)
    model.buffers.append(buffer)
    graph.tensors.append(_tensor(array.dtype.name.upper(), array.shape, len(model.buffers) - 1))
    return len(graph.tensors) - 1


def _operator(
    model: Any, graph: Any, name: str, inputs: Sequence[int], outputs: Sequence[int], options: str | None = None
) -> None:
    kinds = schema()
    value = getattr(kinds.BuiltinOperator, name)
    codes = [code.builtinCode for code in model.operatorCodes]
    if value not in codes:
        code = kinds.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = value, min(value, 127)
        code.version = 2 if name in ("SLICE", "PAD", "RELU") else 1
        model.operatorCodes.append(code)
        codes.append(value)
    operator = kinds.OperatorT()
    operator.opcodeIndex = codes.index(value)
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    if options:
        operator.builtinOptions = getattr(kinds, f"{options}T")()
        operator.builtinOptionsType = getattr(kinds.BuiltinOptions, options)
    graph.operators.append(operator)
