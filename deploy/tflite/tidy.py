# SPDX-License-Identifier: Apache-2.0
"""Detours of a converted float TFLite file taken out: pairs of transposes, and paddings that a convolution does itself.

LiteRT-Torch moves images to channels last and back around an operator that it leaves in PyTorch's layout, such as a
padding whose input something else reads as well (the downsampling blocks of ResNet-8). Each detour is three operators
and two copies of an activation in the arena. What is left computes the same numbers: only elements are moved, and zeros
that a convolution pads by itself aren't written out before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.deploy.tflite.objects import constant, operator_name, operator_names
from edgepress.deploy.tflite.writer import schema
from edgepress.models.cost.activations import same_amounts

#: Convolution -> the axes of height and width in its weights.
_WEIGHT_AXES = {"CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2)}
#: Operators that give each element a function of itself: they may stand in any layout.
_ELEMENTWISE = frozenset({"LEAKY_RELU"})
_REDUCTIONS = frozenset({"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"})


def tidy(model: Any) -> None:
    """Take the detours out of a float model of one subgraph, in place.

    Args:
        model: ModelT, see `edgepress.deploy.tflite.objects.read_objects`.
    """
    _Tidy(model).run()


class _Tidy:
    def __init__(self, model: Any):
        self.model, self.graph = model, model.subgraphs[0]
        self.outputs = {int(index) for index in self.graph.outputs}
        self.producer: dict[int, Any] = {}
        for operator in self.graph.operators:
            self.producer.update((int(index), operator) for index in operator.outputs)

    def run(self) -> None:
        # In execution order: what an operator reads has been simplified before it.
        for operator in list(self.graph.operators):
            kind = operator_name(self.model, operator)
            if kind == "TRANSPOSE":
                self._transpose(operator)
            elif kind in _WEIGHT_AXES:
                self._convolution(kind, operator)
            elif kind in _REDUCTIONS:
                self._reduction(operator)
            elif kind in ("SELECT", "SELECT_V2"):
                self._leaky_relu(operator)
        self._drop_unread()

    def _transpose(self, operator: Any) -> None:
        """Join with the transpose before it, or exchange with the padding between the two."""
        order, padding = self._constant(operator, 1), self._before(operator, "PAD")
        function = self.producer.get(int(operator.inputs[0]))
        if function is not None and operator_name(self.model, function) in _ELEMENTWISE:
            inner = self._before(function, "TRANSPOSE")
            if order is not None and inner is not None and (inner[1][order] == np.arange(len(order))).all():
                self._become(operator, function.opcodeIndex, function.builtinOptions, function.builtinOptionsType)
                operator.inputs = np.array([int(inner[0].inputs[0])], np.int32)
            return
        inner = self._before(operator if padding is None else padding[0], "TRANSPOSE")
        if order is None or inner is None:
            return
        joined, source = inner[1][order], int(inner[0].inputs[0])
        if not (joined == np.arange(len(joined))).all():
            if padding is None:
                operator.inputs = np.array([source, self._new_constant(joined)], np.int32)
            return
        result = int(operator.outputs[0])
        if padding is not None:
            # The padding is done in the layout that the second transpose led to, where this operator was.
            like, amounts = padding
            self._become(operator, like.opcodeIndex, like.builtinOptions, like.builtinOptionsType)
            operator.inputs = np.array([source, self._new_constant(amounts[order])], np.int32)
        elif result not in self.outputs:
            self._read_instead(result, source)

    def _convolution(self, kind: str, operator: Any) -> None:
        """Pad inside of the convolution where that is what SAME means."""
        padding, options = self._before(operator, "PAD"), operator.builtinOptions
        if padding is None or options.padding != schema().Padding.VALID:
            return
        source, amounts = int(padding[0].inputs[0]), padding[1]
        shape, weight = self.graph.tensors[source].shape, self.graph.tensors[int(operator.inputs[1])].shape
        if len(shape) != 4 or amounts[[0, 3]].any():
            return
        geometry = zip(
            (1, 2),
            _WEIGHT_AXES[kind],
            (options.strideH, options.strideW),
            (options.dilationHFactor, options.dilationWFactor),
            strict=True,
        )
        if all(
            tuple(amounts[axis]) == same_amounts(int(shape[axis]), int(weight[kernel]), stride, dilation)
            for axis, kernel, stride, dilation in geometry
        ):
            options.padding = schema().Padding.SAME
            operator.inputs = np.array([source, *operator.inputs[1:]], np.int32)

    def _reduction(self, operator: Any) -> None:
        """Reduce the same axes where they were before a transpose that leaves the others in their order."""
        transpose, axes = self._before(operator, "TRANSPOSE"), self._constant(operator, 1)
        if transpose is None or axes is None or operator.builtinOptions.keepDims:
            return
        like, order = transpose
        if (np.diff(np.delete(order, axes)) > 0).all():
            operator.inputs = np.array([int(like.inputs[0]), self._new_constant(np.sort(order[axes]))], np.int32)

    def _leaky_relu(self, operator: Any) -> None:
        """max(x, 0) + slope * min(x, 0), which the converter writes out where several read the same x."""
        condition, x, scaled = (int(index) for index in operator.inputs)
        compared, product = self.producer.get(condition), self.producer.get(scaled)
        if compared is None or product is None or operator_name(self.model, product) != "MUL":
            return
        if operator_name(self.model, compared) not in ("GREATER", "GREATER_EQUAL"):
            return
        zero, slope = self._constant(compared, 1), self._constant(product, 1)
        if int(compared.inputs[0]) != x or int(product.inputs[0]) != x or zero is None or slope is None:
            return
        if zero.any() or slope.size != 1 or list(self.graph.tensors[x].shape) != list(self._shape(operator)):
            return
        options = schema().LeakyReluOptionsT()
        options.alpha = float(slope.reshape(-1)[0])
        self._become(operator, self._code("LEAKY_RELU"), options, schema().BuiltinOptions.LeakyReluOptions)
        operator.inputs = np.array([x], np.int32)

    def _shape(self, operator: Any) -> Any:
        return self.graph.tensors[int(operator.outputs[0])].shape

    def _become(self, operator: Any, code: int, options: Any, kind: Any) -> None:
        operator.opcodeIndex, operator.builtinOptions, operator.builtinOptionsType = code, options, kind

    def _code(self, kind: str) -> int:
        number = {name: code for code, name in operator_names().items()}[kind]
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
                return index
        code = schema().OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def _before(self, operator: Any, kind: str) -> tuple[Any, np.ndarray] | None:
        """The operator of that kind that writes the first input, with the constant that is its own second input."""
        before = self.producer.get(int(operator.inputs[0]))
        if before is None or operator_name(self.model, before) != kind:
            return None
        values = self._constant(before, 1)
        return None if values is None else (before, values)

    def _constant(self, operator: Any, position: int) -> np.ndarray | None:
        return constant(self.model, self.graph.tensors[int(operator.inputs[position])])

    def _new_constant(self, values: np.ndarray) -> int:
        buffer, tensor = schema().BufferT(), schema().TensorT()
        values = np.ascontiguousarray(values, np.int32)
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor.shape, tensor.type, tensor.hasRank = np.array(values.shape, np.int32), schema().TensorType.INT32, True
        tensor.buffer, tensor.name = len(self.model.buffers) - 1, f"constant_{len(self.graph.tensors)}".encode()
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _read_instead(self, old: int, new: int) -> None:
        for operator in self.graph.operators:
            operator.inputs = np.where(np.asarray(operator.inputs) == old, new, operator.inputs).astype(np.int32)

    def _drop_unread(self) -> None:
        read, kept = set(self.outputs), []
        for operator in reversed(self.graph.operators):
            if read.intersection(map(int, operator.outputs)):
                read.update(map(int, operator.inputs))
                kept.append(operator)
        self.graph.operators = kept[::-1]
