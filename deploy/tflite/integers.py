"""A float TFLite file rewritten with integer parameters. One rule: an operator works in the integers of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgepress.compress.quantize.scheme import (
    Integers,
    bias_scales,
    constant_integers,
    quantize_bias,
    quantize_weight,
    weight_scales,
)
from edgepress.deploy.tflite.objects import constant, operator_name, operator_names, read_objects
from edgepress.deploy.tflite.writer import pack, schema
from edgepress.models.errors import UsageError

#: Operator with weights -> positions of input, weight and bias, and the axis of the output channels.
_LAYERS = {
    "CONV_2D": (0, 1, 2, 0),
    "DEPTHWISE_CONV_2D": (0, 1, 2, 3),
    "FULLY_CONNECTED": (0, 1, 2, 0),
    "TRANSPOSE_CONV": (2, 1, 3, 0),
}
#: Operators whose kernels demand equal parameters of input and output.
_SAME = {
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
    "CONCATENATION",
    "RESHAPE",
    "TRANSPOSE",
    "PAD",
    "PADV2",
    "MIRROR_PAD",
    "SLICE",
    "STRIDED_SLICE",
    "SQUEEZE",
    "EXPAND_DIMS",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "SPLIT",
    "SPLIT_V",
    "GATHER",
    "PACK",
    "UNPACK",
    "BROADCAST_TO",
    "TILE",
    "DEPTH_TO_SPACE",
    "SPACE_TO_DEPTH",
    "MAXIMUM",
    "MINIMUM",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "REVERSE_V2",
}
#: Operators with integer kernels and output parameters of their own.
_COMPUTED = {
    "ADD",
    "SUB",
    "MUL",
    "MEAN",
    "SUM",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "LOGISTIC",
    "TANH",
    "SOFTMAX",
    "HARD_SWISH",
    "LEAKY_RELU",
    "RSQRT",
    "PRELU",
    "SQUARED_DIFFERENCE",
    "BATCH_MATMUL",
}
_RELUS = {"RELU", "RELU6", "RELU_N1_TO_1"}
#: First version of each operator's definition with int8 tensors, where it isn't 1; int16 in the second place.
_VERSIONS = {
    "CONV_2D": (3, 4),
    "DEPTHWISE_CONV_2D": (3, 5),
    "FULLY_CONNECTED": (4, 7),
    "ADD": (2, 4),
    "SUB": (2, 5),
    "MUL": (2, 4),
    "AVERAGE_POOL_2D": (2, 3),
    "MAX_POOL_2D": (2, 3),
    "CONCATENATION": (2, 3),
    "PAD": (2, 3),
    "PADV2": (2, 3),
    "MEAN": (2, 3),
    "SOFTMAX": (2, 3),
    "LOGISTIC": (2, 3),
    "TANH": (2, 3),
    "RELU": (2, 3),
    "RELU6": (2, 3),
    "TRANSPOSE": (2, 4),
    "SLICE": (2, 4),
    "STRIDED_SLICE": (2, 4),
    "QUANTIZE": (1, 2),
    "DEQUANTIZE": (2, 3),
    "LEAKY_RELU": (2, 2),
    "RSQRT": (2, 2),
    "SPLIT": (2, 4),
    "GATHER": (2, 4),
    "MAXIMUM": (2, 4),
    "MINIMUM": (2, 4),
    "TRANSPOSE_CONV": (3, 4),
    "RESIZE_BILINEAR": (2, 3),
    "RESIZE_NEAREST_NEIGHBOR": (2, 3),
    "PACK": (2, 3),
    "UNPACK": (2, 4),
    "SUM": (2, 2),
    "BATCH_MATMUL": (2, 3),
}


@dataclass(frozen=True)
class Rewritten:
    """The integer file, its activation parameters by tensor name, and the operators left in float."""

    data: bytes
    ranges: dict[str, dict[str, float]]
    islands: list[str]


def rewrite(data: bytes, names: dict[int, list[str]], quantized: Any, float_io: bool = False) -> Rewritten:
    """Write a float file anew with integer tensors.

    Args:
        data: float TFLite file with one subgraph.
        names: tensor index -> nodes of the network with the same value, nearest first.
        quantized: edgepress.compress.quantize Quantized, whose parameters are taken.
        float_io: keep inputs and outputs in float.

    Raises:
        UsageError: a value has no range and the network declares no float island, or an operator has no known kernel.
    """
    return _Rewriter(read_objects(data), names, quantized).rewrite(float_io)


class _Rewriter:
    def __init__(self, model: Any, names: dict[int, list[str]], quantized: Any):
        self.old, self.names, self.quantized = model, names, quantized
        self.graph = model.subgraphs[0]
        self.types = schema().TensorType
        self.keys = {name: point.key for name, point in quantized.points.of_node().items()}
        # A value that only the converter has -> the one whose integers it takes.
        self.taken_from: dict[int, int] = {}
        self.integers = self._resolve()
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema().BufferT()]
        self.operators: list[Any] = []
        self.codes: dict[tuple[str, int], int] = {}
        # (old tensor, integers or None for float) -> new tensor
        self.made: dict[tuple[int, Integers | None], int] = {}
        self.islands: list[str] = []

    def rewrite(self, float_io: bool) -> Rewritten:
        inputs, outputs = [], []
        for index in map(int, self.graph.inputs):
            inputs.append(self._activation(index, None if float_io else self.integers.get(index)))
        for operator in self.graph.operators:
            self._operator(operator)
        for index in map(int, self.graph.outputs):
            wanted = None if float_io else self.integers.get(index)
            outputs.append(self._need(index, wanted))
        self._signatures(inputs, outputs)
        return Rewritten(self._pack(inputs, outputs), self._ranges(), self.islands)

    # Which integers each tensor of the file has.

    def _resolve(self) -> dict[int, Integers]:
        known = self.quantized.integers()
        found: dict[int, Integers] = {}
        for index, names in self.names.items():
            for name in names:
                if name in known:
                    found[index] = known[name]
                    break
        changed = True
        while changed:  # values that only the converter has: padded, reshaped, not yet clipped
            changed = False
            for operator in self.graph.operators:
                kind = operator_name(self.old, operator)
                sources = [i for i in map(int, operator.inputs) if i >= 0 and self._is_float(i)]
                results = [int(i) for i in operator.outputs]
                if kind in _SAME or kind in _RELUS:
                    pairs = [(a, b) for a in sources for b in results]
                    if kind in _SAME:
                        pairs += [(b, a) for a, b in pairs]
                    for target, given in pairs:
                        if target not in found and given in found and not self._declared_float(target):
                            found[target], self.taken_from[target] = found[given], given
                            changed = True
        return found

    def _declared_float(self, index: int) -> bool:
        return any(name in self.quantized.points.islands for name in self.names.get(index, []))

    def _is_float(self, index: int) -> bool:
        tensor = self.graph.tensors[index]
        return tensor.type == self.types.FLOAT32 and constant(self.old, tensor) is None

    # Writing.

    def _operator(self, operator: Any) -> None:
        kind = operator_name(self.old, operator)
        results = [int(i) for i in operator.outputs]
        float_results = [i for i in results if self.graph.tensors[i].type == self.types.FLOAT32]
        if not float_results or not self._works_on_integers(kind, operator, float_results):
            if float_results:
                self._island(kind, float_results[0])
            inputs = [self._need(int(i), None) if i >= 0 else -1 for i in operator.inputs]
            outputs = [self._activation(i, None) for i in results]
            self._emit(kind, inputs, outputs, operator, 1)
            return
        own = self.integers[float_results[0]]
        if kind in _LAYERS:
            inputs = self._layer_inputs(kind, operator, own)
        else:
            inputs = [self._operand(kind, int(i), own) for i in operator.inputs]
        outputs = [self._activation(i, self.integers.get(i)) for i in results]
        self._emit(kind, inputs, outputs, operator, own.bits)

    def _works_on_integers(self, kind: str, operator: Any, results: list[int]) -> bool:
        if kind not in _LAYERS and kind not in _SAME and kind not in _COMPUTED:
            return False
        if any(i not in self.integers or self._declared_float(i) for i in results):
            return False
        return all(i in self.integers for i in map(int, operator.inputs) if i >= 0 and self._is_float(i))

    def _island(self, kind: str, index: int) -> None:
        if not self.quantized.points.islands:
            raise UsageError(
                f"{kind} of the converted file would stay in float (value {self._name(index)!r}): no "
                "value of the network equals it, or no integer kernel covers it; name its layer in "
                "exceptions as 'float' to accept this, or write the network with other operators"
            )
        self.islands.append(f"{kind} ({self._name(index)})")

    def _layer_inputs(self, kind: str, operator: Any, own: Integers) -> list[int]:
        at_input, at_weight, at_bias, axis = _LAYERS[kind]
        indices = [int(i) for i in operator.inputs]
        given = self._as(self.integers[indices[at_input]], indices[at_input], own.bits)
        inputs = [-1] * len(indices)
        for position, index in enumerate(indices):
            if position not in (at_input, at_weight, at_bias):
                inputs[position] = self._need(index, None)
        inputs[at_input] = self._need(indices[at_input], given)
        weight = constant(self.old, self.graph.tensors[indices[at_weight]])
        if weight is None:
            raise UsageError(
                f"{kind} {self._name(int(operator.outputs[0]))!r} computes its weights; only constant "
                "weights have integer scales"
            )
        bias_index = indices[at_bias] if len(indices) > at_bias else -1
        bias = constant(self.old, self.graph.tensors[bias_index]) if bias_index >= 0 else None
        channels: int | None = axis
        if kind == "FULLY_CONNECTED" and self.quantized.per_tensor_dense:
            channels = None
        scales = weight_scales(weight, channels, bias, given.scale)
        name = self._name(int(operator.outputs[0]))
        inputs[at_weight] = self._add_constant(
            f"{name}.weight",
            quantize_weight(weight, scales, channels),
            self.types.INT8,
            scales,
            np.zeros(len(scales), np.int64),
            axis,
        )
        if bias is not None:
            steps = bias_scales(given.scale, scales)
            inputs[at_bias] = self._add_constant(
                f"{name}.bias",
                quantize_bias(bias, steps, own.bits, name=f"bias of {name}"),
                self.types.INT32 if own.bits == 8 else self.types.INT64,
                steps,
                np.zeros(len(steps), np.int64),
                0,
            )
        return inputs

    def _operand(self, kind: str, index: int, own: Integers) -> int:
        if index < 0:
            return -1
        tensor = self.graph.tensors[index]
        values = constant(self.old, tensor)
        if values is not None and tensor.type == self.types.FLOAT32:
            integers = own if kind in _SAME else constant_integers(values, own.bits)
            return self._add_constant(
                self._name(index),
                integers.quantize(values),
                self._type_of(integers),
                np.array([integers.scale], np.float32),
                np.array([integers.zero_point]),
                0,
            )
        if index not in self.integers:
            return self._need(index, None)
        return self._need(index, own if kind in _SAME else self._as(self.integers[index], index, own.bits))

    def _as(self, integers: Integers, index: int, bits: int) -> Integers:
        """The parameters of a value for an operator of another width."""
        if integers.bits == bits:
            return integers
        while index in self.taken_from:
            index = self.taken_from[index]
        of_node = self.quantized.points.of_node()
        point = next(of_node[name] for name in self.names[index] if name in of_node)
        return self.quantized.quantizer(point).integers(bits)

    def _need(self, index: int, wanted: Integers | None) -> int:
        """The new tensor that holds an old one in the wanted form; converts where it isn't there yet."""
        if (index, wanted) in self.made:
            return self.made[index, wanted]
        tensor = self.graph.tensors[index]
        if constant(self.old, tensor) is not None or tensor.type != self.types.FLOAT32:
            return self._copy(index)
        present = [form for made, form in self.made if made == index]
        given = next((form for form in present if form is not None), None)
        source = self.made[index, given]
        result = self._activation(index, wanted)
        self._emit(
            "DEQUANTIZE" if wanted is None else "QUANTIZE",
            [source],
            [result],
            None,
            max((form.bits for form in (given, wanted) if form is not None), default=8),
        )
        return result

    def _activation(self, index: int, integers: Integers | None) -> int:
        old = self.graph.tensors[index]
        if integers is None or old.type != self.types.FLOAT32:
            return self._copy(index)
        own = self.integers.get(index)
        name = self._name(index) if own == integers else f"{self._name(index)}.int{integers.bits}"
        tensor = self._new_tensor(
            name,
            old.shape,
            self._type_of(integers),
            np.array([integers.scale], np.float32),
            np.array([integers.zero_point], np.int64),
            0,
        )
        self.made[index, integers] = len(self.tensors) - 1
        return tensor

    def _copy(self, index: int) -> int:
        """A tensor as it is."""
        if (index, None) not in self.made:
            old = self.graph.tensors[index]
            values = constant(self.old, old)
            position = self._new_tensor(self._name(index), old.shape, old.type, None, None, 0)
            if values is not None:
                self.tensors[position].buffer = self._new_buffer(values)
            self.made[index, None] = position
        return self.made[index, None]

    def _type_of(self, integers: Integers) -> int:
        return self.types.INT8 if integers.bits == 8 else self.types.INT16

    def _name(self, index: int) -> str:
        for name in self.names.get(index, []):
            return self.keys.get(name, name)
        return f"tensor_{index}"

    def _add_constant(
        self, name: str, values: np.ndarray, kind: int, scales: np.ndarray, zeros: np.ndarray, axis: int
    ) -> int:
        position = self._new_tensor(name, values.shape, kind, scales, zeros, axis)
        self.tensors[position].buffer = self._new_buffer(values)
        return position

    def _new_tensor(
        self, name: str, shape: Any, kind: int, scales: np.ndarray | None, zeros: np.ndarray | None, axis: int
    ) -> int:
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

    def _new_buffer(self, values: np.ndarray) -> int:
        buffer = schema().BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def _emit(self, kind: str, inputs: list[int], outputs: list[int], like: Any, bits: int) -> None:
        operator = schema().OperatorT()
        operator.inputs, operator.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
        version = 1
        if like is not None:
            operator.builtinOptions, operator.builtinOptionsType = like.builtinOptions, like.builtinOptionsType
            operator.builtinOptions2, operator.builtinOptions2Type = like.builtinOptions2, like.builtinOptions2Type
            operator.customOptions = like.customOptions
            version = self.old.operatorCodes[like.opcodeIndex].version
        else:
            options = {"QUANTIZE": "QuantizeOptions", "DEQUANTIZE": "DequantizeOptions"}[kind]
            operator.builtinOptions = getattr(schema(), f"{options}T")()
            operator.builtinOptionsType = getattr(schema().BuiltinOptions, options)
        if kind in _VERSIONS and any(self.tensors[i].quantization is not None for i in (*inputs, *outputs) if i >= 0):
            version = max(version, _VERSIONS[kind][0 if bits == 8 else 1])
        operator.opcodeIndex = self.codes.setdefault((kind, version), len(self.codes))
        self.operators.append(operator)

    def _signatures(self, inputs: list[int], outputs: list[int]) -> None:
        for signature in self.old.signatureDefs or []:
            moved: dict[int, int] = dict(zip(map(int, self.graph.inputs), inputs, strict=True))
            moved.update(zip(map(int, self.graph.outputs), outputs, strict=True))
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = moved[entry.tensorIndex]

    def _pack(self, inputs: list[int], outputs: list[int]) -> bytes:
        model, graph = schema().ModelT(), schema().SubGraphT()
        number = {name: code for code, name in operator_names().items()}
        model.version, model.description = self.old.version, b"edgepress"
        for kind, version in self.codes:
            code = schema().OperatorCodeT()
            code.builtinCode, code.version = number[kind], version
            code.deprecatedBuiltinCode = min(number[kind], 127)
            model.operatorCodes = [*(model.operatorCodes or []), code]
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
        graph.name = self.graph.name
        model.subgraphs, model.buffers, model.signatureDefs = [graph], self.buffers, self.old.signatureDefs
        return pack(model)

    def _ranges(self) -> dict[str, dict[str, float]]:
        return {
            tensor.name.decode(): {
                "scale": float(tensor.quantization.scale[0]),
                "zero_point": int(tensor.quantization.zeroPoint[0]),
            }
            for tensor in self.tensors
            if tensor.quantization is not None and tensor.buffer == 0
        }
