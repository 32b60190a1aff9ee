# SPDX-License-Identifier: Apache-2.0
"""A float TFLite file rewritten with integer parameters. One rule: an operator works in the integers of its output."""

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
from edgepress.deploy.tflite.building import FileBuilder
from edgepress.deploy.tflite.carried import Carried, Same, Table, write_carried
from edgepress.deploy.tflite.integer_kernels import CLIPPINGS, COMPUTED, LAYERS, NOT_RESCALING, READING, RELUS, SAME
from edgepress.deploy.tflite.objects import constant, operator_name, read_objects

if TYPE_CHECKING:
    from edgepress.compress.quantize.model import Quantized


@dataclass(frozen=True)
class Rewritten:
    """The integer file, its activation parameters by tensor name, and the operators left in float."""

    data: bytes
    ranges: dict[str, dict[str, float]]
    islands: list[str]


def rewrite(
    data: bytes,
    names: dict[int, list[str]],
    quantized: Quantized,
    float_io: bool = False,
    carried: Mapping[float, Carried] | None = None,
) -> Rewritten:
    """Write a float file anew with integer tensors; what has no range or no integer kernel stays in float.

    Args:
        data: float TFLite file with one subgraph.
        names: tensor index -> nodes of the network with the same value, nearest first.
        quantized: edgepress.compress.quantize Quantized, whose parameters are taken.
        float_io: keep inputs and outputs in float.
        carried: slope of a LEAKY_RELU -> the operator of the network which it stands for.
    """
    return _Rewriter(read_objects(data), names, quantized, carried or {}).rewrite(float_io)


class _Rewriter:
    def __init__(self, model: Any, names: dict[int, list[str]], quantized: Quantized, carried: Mapping[float, Carried]):
        self.old, self.names, self.quantized = model, dict(names), quantized
        self.graph = model.subgraphs[0]
        self.new = FileBuilder()
        self.types = self.new.types
        self.keys = {name: point.key for name, point in quantized.points.of_node().items()}
        # Position of an operator that stands for another one of the network -> that one.
        self.carried: dict[int, Carried] = {}
        for position, operator in enumerate(self.graph.operators):
            if operator_name(self.old, operator) == "LEAKY_RELU":
                found = carried.get(float(operator.builtinOptions.alpha))
                if found is not None:
                    self.carried[position] = found
                    self.names[int(operator.outputs[0])] = [found.name]
        # A value that only the converter has -> the one whose integers it takes.
        self.taken_from: dict[int, int] = {}
        self.integers = self._resolve()
        # (old tensor, integers or None for float) -> new tensor
        self.made: dict[tuple[int, Integers | None], int] = {}
        self.islands: list[str] = []

    def rewrite(self, float_io: bool) -> Rewritten:
        inputs, outputs = [], []
        for index in map(int, self.graph.inputs):
            inputs.append(self._activation(index, None if float_io else self.integers.get(index)))
        for position, operator in enumerate(self.graph.operators):
            self._operator(position, operator)
        for index, wanted in zip(map(int, self.graph.outputs), self.quantized.output_integers(), strict=True):
            outputs.append(self._need(index, None if float_io else wanted))
        self._signatures(inputs, outputs)
        return Rewritten(self.new.finished(inputs, outputs, self.old), self.new.ranges(), self.islands)

    # Which integers each tensor of the file has.

    def _resolve(self) -> dict[int, Integers]:
        known = self.quantized.integers()
        found: dict[int, Integers] = {}
        for index, names in self.names.items():
            for name in names:
                if name in known:
                    found[index] = known[name]
                    break
        for operator in reversed(self.graph.operators):  # a value between two limits ends where the second one does
            sources = self._computed(operator)
            if operator_name(self.old, operator) in ("MAXIMUM", "MINIMUM") and len(sources) == 1:
                target, given = sources[0], int(operator.outputs[0])
                if target not in found and given in found and not self._declared_float(target):
                    found[target], self.taken_from[target] = found[given], given
        changed = True
        while changed:  # values that only the converter has: padded, reshaped, not yet clipped
            changed = False
            for position, operator in enumerate(self.graph.operators):
                kind = operator_name(self.old, operator)
                if position in self.carried or (kind not in SAME and kind not in RELUS):
                    continue
                sources = [i for i in map(int, operator.inputs) if i >= 0 and self._is_float(i)]
                pairs = [(a, int(b)) for a in sources for b in operator.outputs]
                if kind in SAME:
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

    def _operator(self, position: int, operator: Any) -> None:
        kind = operator_name(self.old, operator)
        version = self.old.operatorCodes[operator.opcodeIndex].version
        results = [int(i) for i in operator.outputs]
        float_results = [i for i in results if self.graph.tensors[i].type == self.types.FLOAT32]
        if not float_results and kind in READING and self._read_as_integers(kind, operator, version):
            return
        if not float_results or not self._works_on_integers(kind, operator, float_results):
            if float_results:
                self.islands.append(f"{kind} ({self._name(float_results[0])})")
            inputs = [self._need(int(i), None) if i >= 0 else -1 for i in operator.inputs]
            self.new.emit_like(operator, version, kind, inputs, [self._activation(i, None) for i in results])
            return
        own = self.integers[float_results[0]]
        if isinstance(self.carried.get(position), Same) or self._saturates(kind, operator, own):
            self.made[results[0], own] = self._need(self._computed(operator)[0], own)
            return
        if position in self.carried:
            source, carried = int(operator.inputs[0]), self.carried[position]
            bits = min(self.quantized.points.looked_up.get(carried.name, own.bits), own.bits)
            if isinstance(carried, Table):
                bits = min(bits, self.integers[source].bits)
            given = self._as(self.integers[source], source, bits)
            coarse = self._as(self.integers[source], source, 8) if isinstance(carried, Table) else given
            made = self._activation(results[0], own)
            write_carried(self.new, carried, (self._need(source, given), given), (made, own), coarse)
            return
        if kind == "EMBEDDING_LOOKUP":
            self._rows_of_a_table(operator, own)
            return
        if kind in LAYERS and self._is_float(int(operator.inputs[LAYERS[kind][1]])):
            kind, inputs = "BATCH_MATMUL", [self._operand(kind, int(i), own) for i in operator.inputs[:2]]
            inputs[0] = self._rows(inputs[0], len(self.new.tensors[inputs[1]].shape))
            made = self._activation(results[0], own)
            shape = self.new.tensors[made].shape
            # Of operands with two axes runtimes make a product with two, whatever the file says.
            rows = made if len(shape) == len(self.new.tensors[inputs[1]].shape) else self._as_rows(made)
            self.new.emit(kind, inputs, [rows], "BatchMatMulOptions", adjX=False, adjY=True)
            if rows != made:
                sizes = self.new.constant("sizes", np.array(shape, np.int32), self.types.INT32)
                self.new.emit("RESHAPE", [rows, sizes], [made], "ReshapeOptions", newShape=np.array(shape, np.int32))
            return
        if kind in LAYERS:
            inputs = self._layer_inputs(kind, operator, own)
        else:
            inputs = [self._operand(kind, int(i), own) for i in operator.inputs]
        outputs = [self._activation(i, self.integers.get(i)) for i in results]
        if kind == "SELECT":
            self.new.emit("SELECT_V2", inputs, outputs, "SelectV2Options")
        else:
            self.new.emit_like(operator, version, kind, inputs, outputs)

    def _rows_of_a_table(self, operator: Any, own: Integers) -> None:
        """An embedding by the integers of its result: EMBEDDING_LOOKUP gives floats, GATHER what it reads."""
        numbers, table = map(int, operator.inputs)
        values = constant(self.old, self.graph.tensors[table])
        assert values is not None
        result = int(operator.outputs[0])
        stored = self.new.constant_of(f"{self._name(result)}.table", values, own)
        inputs = [stored, self._need(numbers, None)]
        self.new.emit("GATHER", inputs, [self._activation(result, own)], "GatherOptions", axis=0, batchDims=0)

    def _rows(self, tensor: int, rank: int) -> int:
        """A tensor of integers as rows, where it has another rank than the matrix that it is multiplied with."""
        if len(self.new.tensors[tensor].shape) == rank:
            return tensor
        made = self._as_rows(tensor)
        shape = np.array(self.new.tensors[made].shape, np.int32)
        sizes = self.new.constant("sizes", shape, self.types.INT32)
        self.new.emit("RESHAPE", [tensor, sizes], [made], "ReshapeOptions", newShape=shape)
        return made

    def _as_rows(self, tensor: int) -> int:
        """A new tensor for the same integers with two axes."""
        like = self.new.tensors[tensor]
        shape = np.array([int(np.prod(like.shape[:-1])), int(like.shape[-1])], np.int32)
        name = like.name.decode() if isinstance(like.name, bytes) else like.name
        return self.new.tensor(f"{name}.rows", shape, like.type, like.quantization.scale, like.quantization.zeroPoint)

    def _works_on_integers(self, kind: str, operator: Any, results: list[int]) -> bool:
        if kind not in LAYERS and kind not in SAME and kind not in COMPUTED:
            return False
        if any(i not in self.integers or self._declared_float(i) for i in results):
            return False
        if kind in LAYERS and self._is_float(int(operator.inputs[LAYERS[kind][1]])) and kind != "FULLY_CONNECTED":
            return False  # computed weights
        return all(i in self.integers for i in self._computed(operator))

    def _computed(self, operator: Any) -> list[int]:
        """Real values that an operator reads and that no constant gives."""
        return [i for i in map(int, operator.inputs) if i >= 0 and self._is_float(i)]

    def _read_as_integers(self, kind: str, operator: Any, version: int) -> bool:
        """Comparisons and argmax read int8 where there is some.

        Of int16 LiteRT chooses none, and compares the integers of two scales as they are; TFLite Micro knows neither.
        """
        given = [self.integers.get(i) for i in self._computed(operator)]
        own = given[0] if given else None
        if own is None or any(integers is None or integers.bits != 8 for integers in given):
            return False
        inputs = [self._operand(kind, int(i), own) for i in operator.inputs]
        outputs = [self._activation(int(i), None) for i in operator.outputs]
        self.new.emit_like(operator, version, kind, inputs, outputs)
        return True

    def _saturates(self, kind: str, operator: Any, own: Integers) -> bool:
        """Whether an operator only cuts values off where the integers of its result end anyway."""
        if kind in ("MAXIMUM", "MINIMUM"):
            limits = [
                constant(self.old, self.graph.tensors[int(i)]) for i in operator.inputs if not self._is_float(int(i))
            ]
            if len(limits) != 1 or limits[0] is None or limits[0].size != 1:
                return False
            limit = float(limits[0].reshape(-1)[0])
            low, high = (limit, None) if kind == "MAXIMUM" else (None, limit)
        elif kind in CLIPPINGS:
            low, high = CLIPPINGS[kind]
        else:
            return False
        return (low is None or int(own.quantize(low)) == own.lowest) and (
            high is None or int(own.quantize(high)) == own.highest
        )

    def _layer_inputs(self, kind: str, operator: Any, own: Integers) -> list[int]:
        at_input, at_weight, at_bias, axis = LAYERS[kind]
        indices = [int(i) for i in operator.inputs]
        given = self._as(self.integers[indices[at_input]], indices[at_input], own.bits)
        inputs = [-1] * len(indices)
        for position, index in enumerate(indices):
            if position not in (at_input, at_weight, at_bias) and index >= 0:
                inputs[position] = self._need(index, None)
        inputs[at_input] = self._need(indices[at_input], given)
        weight = constant(self.old, self.graph.tensors[indices[at_weight]])
        bias_index = indices[at_bias] if len(indices) > at_bias else -1
        bias = constant(self.old, self.graph.tensors[bias_index]) if bias_index >= 0 else None
        # One number for each channel, whatever shape the converter has left it in ([1, 1, 1, C] where a factor melted).
        bias = None if bias is None else bias.reshape(-1)
        channels: int | None = axis
        if kind == "FULLY_CONNECTED" and self.quantized.per_tensor_dense:
            channels = None
        assert weight is not None
        scales = weight_scales(weight, channels, bias, given.scale)
        name = self._name(int(operator.outputs[0]))
        zeros = np.zeros(len(scales), np.int64)
        inputs[at_weight] = self.new.constant(
            f"{name}.weight", quantize_weight(weight, scales, channels), self.types.INT8, scales, zeros, axis
        )
        if bias is not None:
            steps = bias_scales(given.scale, scales)
            inputs[at_bias] = self.new.constant(
                f"{name}.bias",
                quantize_bias(bias, steps, own.bits, name=f"bias of {name}"),
                self.types.INT32 if own.bits == 8 else self.types.INT64,
                steps,
                zeros,
                0,
            )
        return inputs

    def _operand(self, kind: str, index: int, own: Integers) -> int:
        if index < 0:
            return -1
        tensor = self.graph.tensors[index]
        values = constant(self.old, tensor)
        if values is not None and tensor.type == self.types.FLOAT32:
            integers = own if kind in SAME else constant_integers(values, own.bits)
            return self.new.constant_of(self._name(index), values, integers)
        if index not in self.integers:
            return self._need(index, None)
        return self._need(
            index, own if kind in SAME or kind in NOT_RESCALING else self._as(self.integers[index], index, own.bits)
        )

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
        kind, options = ("DEQUANTIZE", "DequantizeOptions") if wanted is None else ("QUANTIZE", "QuantizeOptions")
        self.new.emit(kind, [source], [result], options)
        return result

    def _activation(self, index: int, integers: Integers | None) -> int:
        old = self.graph.tensors[index]
        if integers is None or old.type != self.types.FLOAT32:
            return self._copy(index)
        own = self.integers.get(index)
        name = self._name(index) if own == integers else f"{self._name(index)}.int{integers.bits}"
        self.made[index, integers] = self.new.activation(name, old.shape, integers)
        return self.made[index, integers]

    def _copy(self, index: int) -> int:
        """A tensor as it is."""
        if (index, None) not in self.made:
            old = self.graph.tensors[index]
            values = constant(self.old, old)
            position = self.new.tensor(self._name(index), old.shape, old.type)
            if values is not None:
                self.new.fill(position, values)
            self.made[index, None] = position
        return self.made[index, None]

    def _name(self, index: int) -> str:
        for name in self.names.get(index, []):
            return self.keys.get(name, name)
        return f"tensor_{index}"

    def _signatures(self, inputs: list[int], outputs: list[int]) -> None:
        for signature in self.old.signatureDefs or []:
            moved: dict[int, int] = dict(zip(map(int, self.graph.inputs), inputs, strict=True))
            moved.update(zip(map(int, self.graph.outputs), outputs, strict=True))
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = moved[entry.tensorIndex]
