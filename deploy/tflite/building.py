# SPDX-License-Identifier: Apache-2.0
"""A TFLite file under construction: tensors, constants and operators, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.compress.quantize.scheme import Integers
from edgepress.deploy.tflite.integer_kernels import VERSIONS
from edgepress.deploy.tflite.objects import operator_names
from edgepress.deploy.tflite.writer import pack, schema


class FileBuilder:
    """Collects the parts of a file with one subgraph; tensors are numbers."""

    def __init__(self) -> None:
        self.types = schema().TensorType
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema().BufferT()]
        self.operators: list[Any] = []
        self.codes: dict[tuple[str, int], int] = {}

    def type_of(self, integers: Integers) -> int:
        """Element type of activations."""
        return self.types.INT8 if integers.bits == 8 else self.types.INT16

    def activation(self, name: str, shape: Any, integers: Integers) -> int:
        """A computed tensor of integers."""
        scale, zero = np.array([integers.scale], np.float32), np.array([integers.zero_point], np.int64)
        return self.tensor(name, shape, self.type_of(integers), scale, zero, 0)

    def constant_of(self, name: str, values: np.ndarray, integers: Integers) -> int:
        """A constant tensor, given as real numbers and stored with these parameters."""
        scale, zero = np.array([integers.scale], np.float32), np.array([integers.zero_point], np.int64)
        return self.constant(name, integers.quantize(values), self.type_of(integers), scale, zero, 0)

    def constant(
        self,
        name: str,
        values: np.ndarray,
        kind: int,
        scales: np.ndarray | None = None,
        zeros: np.ndarray | None = None,
        axis: int = 0,
    ) -> int:
        """A constant tensor, its values as they are stored."""
        position = self.tensor(name, values.shape, kind, scales, zeros, axis)
        self.fill(position, values)
        return position

    def fill(self, tensor: int, values: np.ndarray) -> None:
        """Make a tensor constant."""
        buffer = schema().BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.buffers.append(buffer)
        self.tensors[tensor].buffer = len(self.buffers) - 1

    def tensor(
        self,
        name: str,
        shape: Any,
        kind: int,
        scales: np.ndarray | None = None,
        zeros: np.ndarray | None = None,
        axis: int = 0,
    ) -> int:
        """A tensor of any type; `scales` of more than one lie along `axis`."""
        tensor = schema().TensorT()
        tensor.name, tensor.type, tensor.buffer = name.encode(), kind, 0
        tensor.shape = np.asarray(shape if shape is not None else [], np.int32)
        tensor.hasRank = True
        if scales is not None:
            tensor.quantization = schema().QuantizationParametersT()
            tensor.quantization.scale = np.asarray(scales, np.float32)
            tensor.quantization.zeroPoint = np.asarray(zeros, np.int64)
            tensor.quantization.quantizedDimension = axis if len(scales) > 1 else 0
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def emit(self, kind: str, inputs: list[int], outputs: list[int], options: str = "", **fields: Any) -> None:
        """Append an operator with options of the given class, such as "CastOptions"."""
        operator = schema().OperatorT()
        if options:
            operator.builtinOptions = getattr(schema(), f"{options}T")()
            operator.builtinOptionsType = getattr(schema().BuiltinOptions, options)
            for field, value in fields.items():
                setattr(operator.builtinOptions, field, value)
        self._append(operator, kind, inputs, outputs, 1)

    def emit_like(self, like: Any, version: int, kind: str, inputs: list[int], outputs: list[int]) -> None:
        """Append an operator with the options of another one."""
        operator = schema().OperatorT()
        operator.builtinOptions, operator.builtinOptionsType = like.builtinOptions, like.builtinOptionsType
        operator.builtinOptions2, operator.builtinOptions2Type = like.builtinOptions2, like.builtinOptions2Type
        operator.customOptions = like.customOptions
        self._append(operator, kind, inputs, outputs, version)

    def _append(self, operator: Any, kind: str, inputs: list[int], outputs: list[int], version: int) -> None:
        operator.inputs, operator.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
        tensors = [self.tensors[i] for i in (*inputs, *outputs) if i >= 0]
        if kind in VERSIONS and any(tensor.quantization is not None for tensor in tensors):
            wide = any(tensor.type == self.types.INT16 for tensor in tensors)
            version = max(version, VERSIONS[kind][1 if wide else 0])
        operator.opcodeIndex = self.codes.setdefault((kind, version), len(self.codes))
        self.operators.append(operator)

    def finished(self, inputs: list[int], outputs: list[int], like: Any) -> bytes:
        """The file, with version, name and signatures of another one of the same inputs and outputs."""
        model, graph = schema().ModelT(), schema().SubGraphT()
        number = {name: code for code, name in operator_names().items()}
        model.version, model.description = like.version, b"edgepress"
        for kind, version in self.codes:
            code = schema().OperatorCodeT()
            code.builtinCode, code.version = number[kind], version
            code.deprecatedBuiltinCode = min(number[kind], 127)
            model.operatorCodes = [*(model.operatorCodes or []), code]
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
        graph.name = like.subgraphs[0].name
        model.subgraphs, model.buffers, model.signatureDefs = [graph], self.buffers, like.signatureDefs
        return pack(model)

    def ranges(self) -> dict[str, dict[str, float]]:
        """Name of each computed tensor of integers -> its parameters."""
        return {
            tensor.name.decode(): {
                "scale": float(tensor.quantization.scale[0]),
                "zero_point": int(tensor.quantization.zeroPoint[0]),
            }
            for tensor in self.tensors
            if tensor.quantization is not None and tensor.buffer == 0
        }
