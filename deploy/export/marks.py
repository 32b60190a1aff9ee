# SPDX-License-Identifier: Apache-2.0
"""Converted files changed for being matched with their network by values: stand-ins told apart, and values given.

A leaky ReLU (see `stand_ins`) leaves what is positive as it is, so that its value could not be told from its input, nor
two from each other; and behind it may stand 1 / sqrt, which makes no number of what is negative. Network and file run
with a mark behind each: distinct for every slope, and positive.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from torch import fx

#: Keeps marked values away from 0.
_OFFSET = 0.5


def mark(value: Any, slope: float) -> Any:
    """(|value| + 1/2) * slope."""
    return (abs(value) + _OFFSET) * slope


def marked(module: fx.GraphModule, carried: Mapping[float, Any]) -> fx.GraphModule:
    """A network with stand-ins, with their marks.

    Args:
        module: of `stand_ins.with_stand_ins` or `with_tables`; untouched.
        carried: slope -> what it stands for.
    """
    from torch import fx

    changed = copy.deepcopy(module)
    for node in changed.graph.nodes:
        if len(node.args) == 2 and isinstance(node.args[1], float) and node.args[1] in carried:
            node.target = _marked_leaky_relu
    return fx.GraphModule(changed, changed.graph).eval()


def _marked_leaky_relu(x: Any, slope: float) -> Any:
    import torch

    return mark(torch.nn.functional.leaky_relu(x, slope), slope)


def marked_tflite(data: bytes, carried: Mapping[float, Any]) -> bytes:
    """A float TFLite file with the marks of its stand-ins."""
    from edgepress.deploy.tflite.objects import operator_name, read_objects
    from edgepress.deploy.tflite.writer import pack, schema

    model = read_objects(data)
    graph, kinds = model.subgraphs[0], schema()

    def code_of(kind: str) -> int:
        code = kinds.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(kinds.BuiltinOperator, kind.upper())
        code.version = 1
        model.operatorCodes.append(code)
        return len(model.operatorCodes) - 1

    def number(value: float) -> int:
        buffer, tensor = kinds.BufferT(), kinds.TensorT()
        buffer.data = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.shape, tensor.type, tensor.hasRank = np.zeros(0, np.int32), kinds.TensorType.FLOAT32, True
        tensor.buffer, tensor.name = len(model.buffers) - 1, b"number"
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    codes = {kind: code_of(kind) for kind in ("Abs", "Add", "Mul")} if carried else {}
    operators = []
    for operator in graph.operators:
        operators.append(operator)
        slope = float(operator.builtinOptions.alpha) if operator_name(model, operator) == "LEAKY_RELU" else None
        if slope is None or slope not in carried:
            continue
        result = value = int(operator.outputs[0])
        readers = [reader for reader in graph.operators if result in map(int, reader.inputs)]
        for kind, operand in (("Abs", None), ("Add", _OFFSET), ("Mul", slope)):
            made, step = copy.copy(graph.tensors[result]), kinds.OperatorT()
            read = [value] if operand is None else [value, number(operand)]
            made.name, value = b"marked", len(graph.tensors)
            graph.tensors.append(made)
            step.opcodeIndex, step.inputs = codes[kind], np.array(read, np.int32)
            step.outputs = np.array([value], np.int32)
            step.builtinOptions = getattr(kinds, f"{kind}OptionsT")()
            step.builtinOptionsType = getattr(kinds.BuiltinOptions, f"{kind}Options")
            operators.append(step)
        for reader in readers:
            reader.inputs = np.where(np.asarray(reader.inputs) == result, value, reader.inputs).astype(np.int32)
    graph.operators = operators
    return pack(model)


def given_tflite(data: bytes, values: Mapping[int, np.ndarray]) -> bytes:
    """A float TFLite file whose operators read `values` (tensor -> value, in its layout) in place of what is made."""
    if not values:
        return data
    from edgepress.deploy.tflite.objects import read_objects
    from edgepress.deploy.tflite.writer import pack, schema

    model, kinds = read_objects(data), schema()
    graph = model.subgraphs[0]
    for index, value in values.items():
        buffer, tensor = kinds.BufferT(), copy.copy(graph.tensors[index])
        buffer.data = np.frombuffer(np.ascontiguousarray(value, np.float32).tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.buffer, tensor.name = len(model.buffers) - 1, b"given"
        graph.tensors.append(tensor)
        for reader in graph.operators:
            read = np.asarray(reader.inputs)
            reader.inputs = np.where(read == index, len(graph.tensors) - 1, read).astype(np.int32)
    return pack(model)


def slopes_in(data: bytes, values: Mapping[int, np.ndarray]) -> dict[float, np.ndarray]:
    """Slope of each LEAKY_RELU of a TFLite file -> the value that it gives."""
    from edgepress.deploy.tflite.objects import operator_name, read_objects

    model = read_objects(data)
    return {
        float(operator.builtinOptions.alpha): values[int(operator.outputs[0])]
        for operator in model.subgraphs[0].operators
        if operator_name(model, operator) == "LEAKY_RELU"
    }


def marked_onnx(model: onnx.ModelProto, carried: Mapping[float, Any]) -> onnx.ModelProto:
    """A float ONNX model with the marks of its stand-ins; a copy."""
    from onnx import helper, numpy_helper

    changed = type(model).FromString(model.SerializeToString())
    nodes = []
    for node in list(changed.graph.node):
        nodes.append(node)
        slope = next((float(entry.f) for entry in node.attribute if entry.name == "alpha"), None)
        if node.op_type != "LeakyRelu" or slope not in carried:
            continue
        result = node.output[0]
        for what, value in (("offset", _OFFSET), ("slope", slope)):
            changed.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), f"{result}_{what}"))
        for other in changed.graph.node:
            for position, name in enumerate(other.input):
                if name == result:
                    other.input[position] = f"{result}_marked"
        nodes += [
            helper.make_node("Abs", [result], [f"{result}_size"]),
            helper.make_node("Add", [f"{result}_size", f"{result}_offset"], [f"{result}_away"]),
            helper.make_node("Mul", [f"{result}_away", f"{result}_slope"], [f"{result}_marked"]),
        ]
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def given_onnx(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A float ONNX model whose nodes read `values` (name -> value) in place of what is made; a copy, where there
    are any.
    """
    if not values:
        return model
    from onnx import numpy_helper

    changed = type(model).FromString(model.SerializeToString())
    for name, value in values.items():
        changed.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{name}_given"))
    for node in changed.graph.node:
        for position, name in enumerate(node.input):
            if name in values:
                node.input[position] = f"{name}_given"
    return changed
