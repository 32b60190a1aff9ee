# SPDX-License-Identifier: Apache-2.0
"""What TFLite Micro's kernels take at most: five axes of a transpose, ten tensors of a concatenation.

Axes of one element, and axes that stay side by side, are no axes of their own: windows of an image (Swin), [1, 4, 7, 4,
7, 32] in the order (0, 1, 3, 2, 4, 5), are [4, 7, 4, 224] in the order (0, 2, 1, 3). Most such transposes stand between
two reshapes, whose sizes then change; elsewhere reshapes are put around them. All steps of a recurrent layer, and
DenseNet's blocks, are concatenations of concatenations.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from edgepress.deploy.tflite.objects import add_constant, constant, operator_code, operator_name, read_objects
from edgepress.deploy.tflite.writer import pack, schema

#: Of TFLite Micro's TRANSPOSE.
HIGHEST_RANK = 5
#: Of its CONCATENATION.
MOST_JOINED = 10


def merged(shape: Sequence[int], order: Sequence[int]) -> tuple[list[int], list[int]]:
    """The shape and the order with as few axes as possible that move the same elements to the same places."""
    runs: list[list[int]] = []
    for axis in (axis for axis in order if shape[axis] != 1):
        # Side by side also where only axes of one element stood between them.
        if runs and all(shape[between] == 1 for between in range(runs[-1][-1] + 1, axis)) and axis > runs[-1][-1]:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    places = sorted(range(len(runs)), key=lambda run: runs[run][0])
    return [prod(shape[axis] for axis in runs[run]) for run in places], [places.index(run) for run in range(len(runs))]


def lower_ranks(model: Any) -> None:
    """Rewrite the transposes of a model of one subgraph that have more than `HIGHEST_RANK` axes, in place.

    Args:
        model: ModelT, see `edgepress.deploy.tflite.objects.read_objects`.
    """
    graph = model.subgraphs[0]
    for operator in list(graph.operators):
        if operator_name(model, operator) != "TRANSPOSE":
            continue
        source, order = graph.tensors[int(operator.inputs[0])], constant(model, graph.tensors[int(operator.inputs[1])])
        if order is None or order.size <= HIGHEST_RANK:
            continue
        shape, few = merged([int(size) for size in source.shape], [int(axis) for axis in order])
        if 0 < len(few) <= HIGHEST_RANK:
            _Lowered(model, operator).write(shape, few)


def split_concatenations(data: bytes) -> bytes:
    """A file whose concatenations have at most `MOST_JOINED` inputs; the same values come out.

    Args:
        data: a file of one subgraph; the inputs of a concatenation of integers have the scale of its output.
    """
    model = read_objects(data)
    graph, activations = model.subgraphs[0], schema().ActivationFunctionType
    long = [
        operator
        for operator in graph.operators
        if operator_name(model, operator) == "CONCATENATION"
        and len(operator.inputs) > MOST_JOINED
        and operator.builtinOptions.fusedActivationFunction == activations.NONE
    ]
    if not long:
        return data
    for operator in long:
        parts = [int(index) for index in operator.inputs]
        while len(parts) > MOST_JOINED:
            cut = [parts[at : at + MOST_JOINED] for at in range(0, len(parts), MOST_JOINED)]
            parts = [part[0] if len(part) == 1 else _joined(graph, operator, part) for part in cut]
        operator.inputs = np.array(parts, np.int32)
    return pack(model)


def _joined(graph: Any, whole: Any, parts: Sequence[int]) -> int:
    """A concatenation of some of another one's inputs, before it; the index of what it writes."""
    axis, shapes = int(whole.builtinOptions.axis), [np.array(graph.tensors[index].shape) for index in parts]
    shape = shapes[0].copy()
    shape[axis] = sum(one[axis] for one in shapes)
    operator = schema().OperatorT()
    operator.opcodeIndex, operator.builtinOptionsType = whole.opcodeIndex, whole.builtinOptionsType
    operator.builtinOptions = whole.builtinOptions
    made = add_tensor_like(graph, int(whole.outputs[0]), shape.tolist())
    operator.inputs, operator.outputs = np.array(parts, np.int32), np.array([made], np.int32)
    graph.operators.insert(graph.operators.index(whole), operator)
    return made


def add_tensor_like(graph: Any, index: int, shape: Sequence[int]) -> int:
    """A new tensor of another one's type and scale."""
    tensor, old = schema().TensorT(), graph.tensors[index]
    tensor.type, tensor.quantization, tensor.hasRank, tensor.buffer = old.type, old.quantization, True, 0
    tensor.shape, tensor.name = np.array(shape, np.int32), f"part_{len(graph.tensors)}".encode()
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


class _Lowered:
    """One transpose on its way to fewer axes."""

    def __init__(self, model: Any, operator: Any):
        self.model, self.graph, self.operator = model, model.subgraphs[0], operator
        self.ends = {int(index) for index in (*self.graph.inputs, *self.graph.outputs)}

    def write(self, shape: list[int], order: list[int]) -> None:
        source, result = int(self.operator.inputs[0]), int(self.operator.outputs[0])
        before = next((one for one in self.graph.operators if source in map(int, one.outputs)), None)
        if before is not None and self._is_reshape(before) and self._readers(source) == [self.operator]:
            self._resize(source, shape)
            self._aim(before, shape)
        else:
            source = self._reshaped(source, shape, self.graph.operators.index(self.operator))
        self.operator.inputs = np.array([source, add_constant(self.model, np.array(order))], np.int32)
        turned = [shape[axis] for axis in order]
        if result not in self.ends and all(map(self._is_reshape, self._readers(result))):
            self._resize(result, turned)
            return
        self.operator.outputs = np.array([add_tensor_like(self.graph, result, turned)], np.int32)
        place = self.graph.operators.index(self.operator) + 1
        self._reshaped(int(self.operator.outputs[0]), list(map(int, self.graph.tensors[result].shape)), place, result)

    def _is_reshape(self, operator: Any) -> bool:
        return operator_name(self.model, operator) == "RESHAPE"

    def _readers(self, index: int) -> list[Any]:
        readers = [one for one in self.graph.operators if index in map(int, one.inputs)]
        return [*readers, None] if index in self.ends else readers

    def _resize(self, index: int, shape: list[int]) -> None:
        tensor = self.graph.tensors[index]
        tensor.shape, tensor.shapeSignature = np.array(shape, np.int32), None

    def _aim(self, reshape: Any, shape: list[int]) -> None:
        """Let a reshape make another shape."""
        reshape.inputs = np.array([int(reshape.inputs[0]), add_constant(self.model, np.array(shape))], np.int32)
        reshape.builtinOptions = schema().ReshapeOptionsT()
        reshape.builtinOptions.newShape = np.array(shape, np.int32)
        reshape.builtinOptionsType = schema().BuiltinOptions.ReshapeOptions

    def _reshaped(self, source: int, shape: list[int], place: int, result: int | None = None) -> int:
        """A new reshape at a place of the order of execution; the index of what it writes."""
        reshape = schema().OperatorT()
        reshape.opcodeIndex, reshape.inputs = operator_code(self.model, "RESHAPE"), np.array([source], np.int32)
        self._aim(reshape, shape)
        made = add_tensor_like(self.graph, source, shape) if result is None else result
        reshape.outputs = np.array([made], np.int32)
        self.graph.operators.insert(place, reshape)
        return made
