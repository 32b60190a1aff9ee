# SPDX-License-Identifier: Apache-2.0
"""Quantization pairs in a float ONNX model: the integers of a network, where its TFLite file has them, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.quantize.scheme import (
    Integers,
    bias_scales,
    constant_integers,
    quantize_bias,
    quantize_weight,
    weight_scales,
)
from edgepress.deploy.onnx_files.differences import differences_as_sums
from edgepress.deploy.onnx_files.integer_types import in_type, integer_types
from edgepress.deploy.tflite.carried import Carried, Table, table_of

if TYPE_CHECKING:
    import onnx

    from edgepress.compress.quantize.model import Quantized

#: Operator with weights -> axis of the output channels of its weight ("Gemm" with transB=1).
_LAYERS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0, "MatMul": 1}
_SAME = {
    *("MaxPool", "AveragePool", "Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Pad", "Slice"),
    *("Split", "Gather", "Resize", "Expand", "DepthToSpace", "SpaceToDepth"),
    *("Max", "Min", "ReduceMax", "ReduceMin", "Where"),
}
#: Which of their inputs hold values of the result; of the others, the first.
_READ = {"Where": slice(1, 3), "Max": slice(None), "Min": slice(None), "Concat": slice(None)}
#: Operators that give no real values: shapes, truth values, indices.
_NOT_COMPUTING = {
    *("Shape", "Constant", "Gather", "Concat", "Cast", "ConstantOfShape"),
    *("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "ArgMax", "ArgMin"),
}
#: Operators whose constant operands are stored as integers of their own range.
_WITH_CONSTANTS = {"Add", "Sub", "Mul", "Div", "PRelu"}
#: Operators before which no integers stand where they are the only reader: with that one, they are one operator.
_CLIPPING = {"Relu", "Clip"}


@dataclass(frozen=True)
class Written:
    """Activation parameters by the name of the integer tensor, and the operators left in float."""

    ranges: dict[str, dict[str, float]]
    islands: list[str]


def write_integers(
    model: onnx.ModelProto,
    names: dict[str, list[str]],
    quantized: Quantized,
    carried: Mapping[float, Carried],
    types: str = "u8u8",
) -> Written:
    """Put quantization pairs into a float model, in place; what has no range stays in float.

    Args:
        model: ModelProto.
        names: value of the model -> nodes of the network with the same value, nearest first.
        quantized: edgepress.compress.quantize Quantized, whose parameters are taken.
        carried: slope of a LeakyRelu -> the table which it stands for.
        types: one of `integer_types.TYPES`.
    """
    writer = _Writer(model, names, quantized, carried, types)
    writer.write()
    return Written(writer.ranges, writer.islands)


class _Writer:
    def __init__(
        self,
        model: onnx.ModelProto,
        names: dict[str, list[str]],
        quantized: Quantized,
        carried: Mapping[float, Carried],
        types: str,
    ):
        from onnx import numpy_helper

        (self.type, self.weight_type), names = integer_types(types), dict(names)
        # Output of an operator that stands for a table of the network -> that one.
        self.carried: dict[str, Table] = {}
        for node in model.graph.node:
            slope = next((entry.f for entry in node.attribute if entry.name == "alpha"), None)
            found = carried.get(float(slope)) if node.op_type == "LeakyRelu" and slope is not None else None
            if isinstance(found, Table):
                self.carried[node.output[0]] = found
                names[node.output[0]] = [found.name]
        self.model, self.graph, self.names, self.quantized = model, model.graph, names, quantized
        self.constants = {entry.name: numpy_helper.to_array(entry) for entry in self.graph.initializer}
        known = quantized.integers()
        self.integers: dict[str, Integers] = {}
        for value, nodes in names.items():
            found = next((known[name] for name in nodes if name in known), None)
            if found is not None:
                self.integers[value] = found
        differences_as_sums(self.graph, self.integers, self.constants, self._stays_float)
        self.readers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.nodes: list[Any] = []
        self.stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.real: dict[tuple[tuple[str, str, str], int | None], str] = {}
        self.made: dict[tuple[str, Integers], str] = {}
        self.quantized_as: dict[tuple[str, Integers], str] = {}
        self.ranges: dict[str, dict[str, float]] = {}
        self.islands: list[str] = []
        outputs = [value.name for value in self.graph.output]
        self.outputs = dict(zip(outputs, quantized.output_integers(), strict=True))

    def write(self) -> None:
        self._melt_clipping()
        self._melt_roots()
        old = list(self.graph.node)
        self._spread(old)
        for value in self.graph.input:
            if value.name in self.integers:
                self._pair(value.name, value.name, self.integers[value.name])
        for node in old:
            self._node(node)
        for node in self.nodes:
            if node.name == f"node_{node.output[0]}":  # torch's; it says no more than the output's and costs as much
                node.name = ""
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.graph.node for name in node.input}
        kept = [entry for entry in self.graph.initializer if entry.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        del self.graph.value_info[:]

    def _melt_clipping(self) -> None:
        """Drop each ReLU and ReLU6 whose work saturation does: the lowest integer means 0, the highest at most 6.

        The result is the same to the bit, and ONNX Runtime melts a convolution or sum with its pairs only without them.
        """
        producers = {name: node for node in self.graph.node for name in node.output}
        for node in list(self.graph.node):
            integers = self.integers.get(node.output[0])
            producer = producers.get(node.input[0]) if node.op_type in _CLIPPING else None
            if (
                integers is None
                or producer is None
                or node.input[0] in self.integers
                or node.input[0] in self.outputs
                or len(self.readers[node.input[0]]) != 1
                or integers.bits != 8
                or integers.zero_point != integers.lowest
            ):
                continue
            if node.op_type == "Clip":
                low, high = (self.constants.get(name) for name in node.input[1:3])
                if low is None or high is None or float(low) > 0 or float(high) < float(integers.dequantize(127)):
                    continue
            producer.output[0] = node.output[0]
            self.graph.node.remove(node)

    def _melt_roots(self) -> None:
        """1 / sqrt(x), two operators of the exporter, becomes one power, rounded once as everywhere else."""
        for root in list(self.graph.node):
            name, readers = root.output[0], self.readers.get(root.output[0], [])
            if root.op_type != "Sqrt" or name in self.outputs or [node.op_type for node in readers] != ["Reciprocal"]:
                continue
            [inverse], given = readers, root.input[0]
            inverse.op_type = "Pow"
            inverse.input[:] = [given, self._store("power/-0.5", np.asarray(-0.5, np.float32))]
            self.readers[given] = [inverse if node is root else node for node in self.readers[given]]
            self.graph.node.remove(root)

    def _spread(self, nodes: list[Any]) -> None:
        """Values that only the exporter has, between operators which keep integers as they are."""
        for _ in nodes:
            before = len(self.integers)
            for node in nodes:
                if node.op_type in _SAME:
                    read = list(node.input)[_READ.get(node.op_type, slice(1))]
                    sources = [name for name in read if name and name not in self.constants]
                    # The second result of a pooling says where the values of the first one were.
                    made = node.output[:1] if node.op_type == "MaxPool" else node.output
                    for a, b in [(a, b) for a in sources for b in made]:
                        for given, target in ((a, b), (b, a)):
                            if (
                                given in self.integers
                                and target not in self.integers
                                and not self._stays_float(target)
                                and (target in self.names or self._is_computed(target))
                            ):
                                self.integers[target] = self.integers[given]
            if len(self.integers) == before:
                return

    def _holds_floats(self, name: str) -> bool:
        return name in self.constants and self.constants[name].dtype == np.float32

    def _is_computed(self, name: str) -> bool:
        return name not in self.constants and name not in self.graph.input

    def _node(self, node: Any) -> None:
        own = self._own(node)
        if node.output[0] in self.carried and own is not None and node.input[0] in self.integers:
            self._table(node, own)
            return
        if own is not None and node.op_type in _LAYERS and node.input[1] in self.constants:
            own = own if node.input[0] in self.integers else None
        inputs = list(node.input)
        if (
            own is None
            and node.op_type not in _NOT_COMPUTING
            and (node.op_type in _LAYERS or any(name in self.integers for name in inputs))
        ):
            self.islands.append(f"{node.op_type} ({self._name(node.output[0])})")
        for position, name in enumerate(inputs):
            if name in self.integers:
                given = self.integers[name]
                if own is not None and node.op_type in _SAME:
                    given = own
                elif own is not None and own.bits != given.bits:
                    given = self._of_bits(name, own.bits)
                inputs[position] = self._pair(name, name, given)
        if own is not None and node.op_type in _LAYERS:
            self._layer(node, inputs, own)
        elif own is not None and node.op_type == "Gather" and self._holds_floats(inputs[0]):
            values = own.quantize(self.constants[inputs[0]])  # rows of a table: the integers of the result
            inputs[0] = self._constant(
                f"{node.output[0]}_table", self._as_stored(values), np.asarray(own.scale), self._zero_point(own), None
            )
        elif own is not None and node.op_type in _WITH_CONSTANTS:
            for position, name in enumerate(inputs):
                values = self.constants.get(name)
                if values is not None and values.dtype == np.float32:
                    integers = constant_integers(values, own.bits)
                    stored = self._as_stored(integers.quantize(values))
                    inputs[position] = self._constant(
                        f"{node.output[0]}_operand{position}",
                        stored,
                        np.asarray(integers.scale),
                        self._zero_point(integers),
                        None,
                    )
        del node.input[:]
        node.input.extend(inputs)
        outputs = list(node.output)
        for position, name in enumerate(outputs):
            if name in self.outputs and name in self.integers:  # the file's output keeps its name, behind the pair
                outputs[position] = f"{name}_float"
        del node.output[:]
        node.output.extend(outputs)
        self.nodes.append(node)
        for name, given in zip(
            outputs, [n.removesuffix("_float") if n not in self.integers else n for n in outputs], strict=True
        ):
            if given in self.integers:
                self._rounded(given, name)

    def _rounded(self, value: str, source: str) -> None:
        """The pair of a value behind its operator, and that of the network's output where it has fewer bits."""
        own, wanted = self.integers[value], self.outputs.get(value)
        if wanted is None or wanted == own:
            self._pair(value, source, own)
            return
        whole = f"{value}_inside"
        inside = self._pair(whole, source, own)
        self._pair(value, inside, wanted)
        self.made[value, own], self.quantized_as[value, own] = (
            self.made.pop((whole, own)),
            self.quantized_as[whole, own],
        )

    def _table(self, node: Any, own: Integers) -> None:
        """Integers of the input as indices into the integers of the result; negative ones count from the end."""
        from onnx import TensorProto, helper

        source, result = node.input[0], node.output[0]
        given = self.integers[source] if self.integers[source].bits == 8 else self._of_bits(source, 8)
        self._pair(source, source, given)
        values = table_of(self.carried[result].function, given, own)
        table = self._store(
            f"{result}_table", self._as_stored(values if self.type == np.uint8 else np.roll(values, 128))
        )
        index = f"{result}_index"
        self.nodes.append(helper.make_node("Cast", [self.quantized_as[source, given]], [index], to=TensorProto.INT32))
        integers = f"{result}_looked_up"
        self.nodes.append(helper.make_node("Gather", [table, index], [integers], axis=0))
        scale = self._store(f"{result}_scale", np.asarray(own.scale, np.float32))
        zero = self._zero(self._zero_point(own))
        self.nodes.append(helper.make_node("DequantizeLinear", [integers, scale, zero], [result]))
        self.made[result, own], self.quantized_as[result, own] = result, integers
        self.ranges[integers] = {"scale": float(own.scale), "zero_point": int(self._zero_point(own))}

    def _own(self, node: Any) -> Integers | None:
        """The integers in which a node works: those of its output, or of what it melts with."""
        name = node.output[0]
        if name in self.integers:
            return None if self._stays_float(name) else self.integers[name]
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type in _CLIPPING and name not in self.outputs:
            melted = readers[0].output[0]
            return None if self._stays_float(melted) else self.integers.get(melted)
        return None

    def _stays_float(self, value: str) -> bool:
        """Whether the operator behind a value is to work in float; the value may be rounded after it all the same."""
        return any(name in self.quantized.points.islands for name in self.names.get(value, []))

    def _layer(self, node: Any, inputs: list[str], own: Integers) -> None:
        weight = self.constants.get(node.input[1])
        if weight is None:
            return  # a product of two computed values
        source = self.integers[node.input[0]]
        given = source if source.bits == own.bits else self._of_bits(node.input[0], own.bits)
        axis: int | None = _LAYERS[node.op_type]
        if node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute):
            axis = 1
        if node.op_type in ("Gemm", "MatMul") and self.quantized.per_tensor_dense:
            axis = None
        bias = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        later = self._bias_after(node) if node.op_type == "MatMul" else None
        scales = weight_scales(weight, axis, bias if later is None else later, given.scale)
        name = node.output[0]
        stored = quantize_weight(weight, scales, axis)
        if given.bits == 8:
            stored = in_type(stored, self.weight_type)
        inputs[1] = self._constant(
            f"{name}_weight",
            stored,
            scales if axis is not None else scales[0],
            128 if stored.dtype == np.uint8 else 0,
            axis,
        )
        if bias is not None:
            steps = bias_scales(given.scale, scales)
            integers = quantize_bias(bias, steps, 8, name=f"bias of {name}")
            inputs[2] = self._constant(
                f"{name}_bias", integers, steps if axis is not None else steps[0], 0, 0 if axis is not None else None
            )

    def _bias_after(self, node: Any) -> np.ndarray | None:
        readers = self.readers.get(node.output[0], [])
        if len(readers) == 1 and readers[0].op_type == "Add":
            for name in readers[0].input:
                if name in self.constants:
                    return self.constants[name]
        return None

    def _of_bits(self, name: str, bits: int) -> Integers:
        of_node = self.quantized.points.of_node()
        point = next(of_node[node] for node in self.names[name] if node in of_node)
        return self.quantized.quantizer(point).integers(bits)

    def _pair(self, value: str, source: str, integers: Integers) -> str:
        """Quantize and dequantize a value; gives the name of the result."""
        from onnx import helper

        if (value, integers) in self.made:
            return self.made[value, integers]
        first = not any(made == value for made, _ in self.made)
        if not first:
            source = next(name for (made, _), name in self.made.items() if made == value)
        suffix = "" if first else f"_{integers.bits}_{len(self.made)}"
        result = value if source != value and first else f"{value}_dq{suffix}"
        scale = self._store(f"{value}_scale{suffix}", np.asarray(integers.scale, np.float32))
        zero = self._zero(self._zero_point(integers))
        quantized = f"{value}_q{suffix}"
        self.nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [quantized]))
        self.nodes.append(helper.make_node("DequantizeLinear", [quantized, scale, zero], [result]))
        self.made[value, integers], self.quantized_as[value, integers] = result, quantized
        self.ranges[quantized] = {"scale": float(integers.scale), "zero_point": int(self._zero_point(integers))}
        return result

    def _zero_point(self, integers: Integers) -> np.ndarray:
        return self._as_stored(np.asarray(integers.zero_point, integers.dtype))

    def _as_stored(self, values: np.ndarray) -> np.ndarray:
        """int8 activations in the type that was asked for."""
        return in_type(values, self.type) if values.dtype == np.int8 else values

    def _constant(self, name: str, integers: np.ndarray, scale: np.ndarray, zero_point: Any, axis: int | None) -> str:
        from onnx import helper

        stored = self._store(f"{name}_q", integers)
        scale_name = self._store(f"{name}_scale", np.asarray(scale, np.float32))
        zero = self._zero(np.full(np.shape(scale), zero_point, integers.dtype))
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        read = stored, scale_name, zero
        if (read, axis) not in self.real:  # a recurrent layer has one for all of its steps
            self.real[read, axis] = f"{name}_dq"
            self.nodes.append(helper.make_node("DequantizeLinear", read, [f"{name}_dq"], **attributes))
        return self.real[read, axis]

    def _zero(self, values: np.ndarray) -> str:
        """Zero points, all equal, by a short name: unrolled networks read them thousands of times."""
        name = "/".join(["zero", str(values.flat[0]), *map(str, values.shape)])
        return self._store(name if values.dtype == self.type else f"{name}/{values.dtype}", values)

    def _store(self, name: str, values: np.ndarray) -> str:
        """An initializer; equal ones are stored once."""
        from onnx import numpy_helper

        values = np.array(values, order="C")
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self.stored:
            self.graph.initializer.append(numpy_helper.from_array(values, name))
            self.stored[key] = name
        return self.stored[key]

    def _name(self, value: str) -> str:
        keys = {name: point.key for name, point in self.quantized.points.of_node().items()}
        return next((keys.get(name, name) for name in self.names.get(value, [])), value)
