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

from edgepress.deploy.tflite.objects import add_constant, constant, operator_code, operator_name
from edgepress.deploy.tflite.writer import schema
from edgepress.models.cost.activations import same_amounts

#: Convolution -> the axes of height and width in its weights.
_WEIGHT_AXES = {"CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2)}
#: Operators that work element by element: they may stand in any layout that their operands share.
_ELEMENTWISE = frozenset(
    {
        *("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE"),
        *("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "ELU", "GELU", "HARD_SWISH"),
        *("LOGISTIC", "TANH", "ABS", "NEG", "EXP", "LOG", "SQRT", "RSQRT", "SQUARE", "SIN", "COS", "FLOOR", "SIGN"),
    }
)
#: So many operators on elements in a row are looked through.
_DEEPEST = 50
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
        """Join with the transpose before it, or exchange with the padding or the functions between the two."""
        order, padding = self._constant(operator, 1), self._before(operator, "PAD")
        function = self.producer.get(int(operator.inputs[0]))
        if function is not None and operator_name(self.model, function) in _ELEMENTWISE:
            inner = self._order_behind(int(operator.inputs[0]))
            if order is not None and inner is not None and (inner[order] == np.arange(len(order))).all():
                self._move_behind(int(operator.inputs[0]), inner)
                function.outputs = operator.outputs
                self.producer[int(operator.outputs[0])] = function
                self.graph.operators = [kept for kept in self.graph.operators if kept is not operator]
            return
        inner = self._before(operator if padding is None else padding[0], "TRANSPOSE")
        if order is None or inner is None:
            return
        joined, source = inner[1][order], int(inner[0].inputs[0])
        if not (joined == np.arange(len(joined))).all():
            if padding is None:
                operator.inputs = np.array([source, add_constant(self.model, joined)], np.int32)
            return
        result = int(operator.outputs[0])
        if padding is not None:
            # The padding is done in the layout that the second transpose led to, where this operator was.
            like, amounts = padding
            self._become(operator, like.opcodeIndex, like.builtinOptions, like.builtinOptionsType)
            operator.inputs = np.array([source, add_constant(self.model, amounts[order])], np.int32)
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
        order, axes = self._order_behind(int(operator.inputs[0])), self._constant(operator, 1)
        if order is None or axes is None or operator.builtinOptions.keepDims:
            return
        if (np.diff(np.delete(order, axes)) > 0).all():
            source = self._move_behind(int(operator.inputs[0]), order)
            operator.inputs = np.array([source, add_constant(self.model, np.sort(order[axes]))], np.int32)

    def _order_behind(self, index: int, depth: int = 0) -> np.ndarray | None:
        """The order of axes in which transposes give a value, directly or by way of operators on elements.

        None where it has another source as well, or where something else reads what lies between.
        """
        operator = self.producer.get(index)
        if operator is None or depth > _DEEPEST:
            return None
        if operator_name(self.model, operator) == "TRANSPOSE":
            return self._constant(operator, 1)
        if operator_name(self.model, operator) not in _ELEMENTWISE or self._readers(index) != 1:
            return None
        found: list[np.ndarray] = []
        for operand in self._spread(operator):
            order = self._order_behind(operand, depth + 1)
            if order is None and constant(self.model, self.graph.tensors[operand]) is None:
                return None
            found += [] if order is None else [order]
        ranks = {len(self.graph.tensors[operand].shape) for operand in self._spread(operator)}
        return found[0] if len({tuple(order) for order in found}) == 1 and ranks == {len(found[0])} else None

    def _move_behind(self, index: int, order: np.ndarray) -> int:
        """A value of `_order_behind` in the layout that it had before its transposes."""
        back = np.argsort(order)
        operator, tensor = self.producer.get(index), self.graph.tensors[index]
        if operator is None:
            values = constant(self.model, tensor)
            assert values is not None  # see `_order_behind`
            return add_constant(self.model, np.transpose(values, back))
        if operator_name(self.model, operator) == "TRANSPOSE":
            return int(operator.inputs[0])
        moved = {i: self._move_behind(i, order) for i in dict.fromkeys(self._spread(operator))}
        operator.inputs = np.array([moved.get(i, i) for i in map(int, operator.inputs)], np.int32)
        tensor.shape, tensor.shapeSignature = np.asarray(tensor.shape)[back].astype(np.int32), None
        return index

    def _spread(self, operator: Any) -> list[int]:
        """What an operator on elements reads that is more than one number."""
        return [i for i in map(int, operator.inputs) if np.prod(self.graph.tensors[i].shape) != 1]

    def _readers(self, index: int) -> int:
        return (index in self.outputs) + sum(index in map(int, operator.inputs) for operator in self.graph.operators)

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
        self._become(
            operator, operator_code(self.model, "LEAKY_RELU"), options, schema().BuiltinOptions.LeakyReluOptions
        )
        operator.inputs = np.array([x], np.int32)

    def _shape(self, operator: Any) -> Any:
        return self.graph.tensors[int(operator.outputs[0])].shape

    def _become(self, operator: Any, code: int, options: Any, kind: Any) -> None:
        operator.opcodeIndex, operator.builtinOptions, operator.builtinOptionsType = code, options, kind

    def _before(self, operator: Any, kind: str) -> tuple[Any, np.ndarray] | None:
        """The operator of that kind that writes the first input, with the constant that is its own second input."""
        before = self.producer.get(int(operator.inputs[0]))
        if before is None or operator_name(self.model, before) != kind:
            return None
        values = self._constant(before, 1)
        return None if values is None else (before, values)

    def _constant(self, operator: Any, position: int) -> np.ndarray | None:
        return constant(self.model, self.graph.tensors[int(operator.inputs[position])])

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
