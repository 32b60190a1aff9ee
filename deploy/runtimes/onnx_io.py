# SPDX-License-Identifier: Apache-2.0
"""The integers at the border of an ONNX QDQ file, which itself takes and gives float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgepress.deploy.runtimes.engine import Engine, Stateless
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import UsageError


def parse_onnx(model: bytes) -> Any:
    """The ONNX ModelProto of some bytes.

    Raises:
        UsageError: they are none.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        parsed = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise UsageError(f"the ONNX file is damaged: {error}") from error
    if not parsed.graph.node:
        raise UsageError("the ONNX file is damaged: its graph has no node")
    return parsed


class OuterScales(Stateless):
    """An engine with the integers of the QuantizeLinear after each input and the DequantizeLinear before each output.

    The way through float is exact: for an integer n and a float32 scale s, rounding (n * s) / s gives n again.
    """

    def __init__(self, engine: Engine, inputs: Sequence[TensorDetails], outputs: Sequence[TensorDetails]):
        self._engine = engine
        self.inputs: tuple[TensorDetails, ...] = tuple(inputs)
        self.outputs: tuple[TensorDetails, ...] = tuple(outputs)

    @classmethod
    def around(cls, engine: Engine, model: bytes) -> Engine:
        """The engine itself, where not every input and output is quantized by the file."""
        if any(details.dtype != "float32" for details in (*engine.inputs, *engine.outputs)):
            return engine
        graph = parse_onnx(model).graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        constants.update(
            {
                node.output[0]: attribute.t
                for node in graph.node
                if node.op_type == "Constant"
                for attribute in node.attribute
                if attribute.name == "value"
            }
        )
        made_by = {name: node for node in graph.node for name in node.output}
        inputs, outputs = [], []
        for details in engine.inputs:
            users = [node for node in graph.node if details.name in node.input]
            found = {_parameters(node, constants) for node in users if node.op_type == "QuantizeLinear"}
            if len(found) != 1 or any(node.op_type != "QuantizeLinear" for node in users):
                return engine
            inputs.append(_with(details, found.pop()))
        for details in engine.outputs:
            node = made_by.get(details.name)
            if node is None or node.op_type != "DequantizeLinear":
                return engine
            outputs.append(_with(details, _parameters(node, constants)))
        if any(details.scale is None for details in (*inputs, *outputs)):
            return engine
        return cls(engine, inputs, outputs)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        floats = [details.dequantize(array) for array, details in zip(arrays, self.inputs, strict=True)]
        return [details.quantize(value) for value, details in zip(self._engine.run(floats), self.outputs, strict=True)]

    def arena(self) -> dict[str, int]:
        return self._engine.arena()

    def close(self) -> None:
        self._engine.close()


def _parameters(node: Any, constants: dict[str, Any]) -> tuple[float, int, str] | None:
    from onnx import numpy_helper

    if len(node.input) < 2 or node.input[1] not in constants:
        return None
    scale = numpy_helper.to_array(constants[node.input[1]])
    if scale.size != 1:
        return None
    if len(node.input) < 3 or not node.input[2]:
        return float(scale.reshape(())), 0, "uint8"
    if node.input[2] not in constants:
        return None
    zero = numpy_helper.to_array(constants[node.input[2]])
    return float(scale.reshape(())), int(zero.reshape(-1)[0]), zero.dtype.name


def _with(details: TensorDetails, parameters: tuple[float, int, str] | None) -> TensorDetails:
    if parameters is None:
        return details
    scale, zero_point, dtype = parameters
    return replace(details, scale=scale, zero_point=zero_point, dtype=dtype)
