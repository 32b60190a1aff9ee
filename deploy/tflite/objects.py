# SPDX-License-Identifier: Apache-2.0
"""Small questions to the objects of the TFLite schema (see `writer`)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from edgepress.deploy.tflite.writer import schema


@cache
def operator_names() -> dict[int, str]:
    """Built-in operator code -> its name, such as "CONV_2D"."""
    return {value: name for name, value in vars(schema().BuiltinOperator).items() if not name.startswith("_")}


def operator_name(model: Any, operator: Any) -> str:
    """Name of an operator's kind."""
    code = model.operatorCodes[operator.opcodeIndex]
    return operator_names()[max(code.builtinCode, code.deprecatedBuiltinCode)]


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """The values of a constant tensor, or None for a computed one."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    types = schema().TensorType
    dtype = {
        types.FLOAT32: np.float32,
        types.INT32: np.int32,
        types.INT64: np.int64,
        types.INT8: np.int8,
        types.INT16: np.int16,
        types.BOOL: np.bool_,
        types.UINT8: np.uint8,
    }.get(tensor.type)
    if dtype is None:
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), dtype).reshape(_shape(tensor))


def operator_code(model: Any, kind: str) -> int:
    """Index of an operator's kind among the codes of a model, which it is added to where it is new."""
    number = {name: code for code, name in operator_names().items()}[kind]
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
            return index
    code = schema().OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_constant(model: Any, values: np.ndarray) -> int:
    """Index of a new constant tensor of the first subgraph: real numbers as float32, others as int32."""
    buffer, tensor, types, tensors = (
        schema().BufferT(),
        schema().TensorT(),
        schema().TensorType,
        model.subgraphs[0].tensors,
    )
    real = np.issubdtype(values.dtype, np.floating)
    values = np.ascontiguousarray(values, np.float32 if real else np.int32)
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.shape, tensor.type = np.array(values.shape, np.int32), types.FLOAT32 if real else types.INT32
    tensor.hasRank = True
    tensor.buffer, tensor.name = len(model.buffers) - 1, f"constant_{len(tensors)}".encode()
    tensors.append(tensor)
    return len(tensors) - 1


def _shape(tensor: Any) -> list[int]:
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]


def text(name: bytes | str | None) -> str:
    """A name of the schema, which may be bytes, text or absent."""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "")


def read_objects(data: bytes) -> Any:
    """The ModelT of a file that was made here; a file of unknown origin goes through `writer.unpack`."""
    return schema().ModelT.InitFromPackedBuf(bytearray(data), 0)
