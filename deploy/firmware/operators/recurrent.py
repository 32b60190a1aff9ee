# SPDX-License-Identifier: Apache-2.0
"""Lowering of UNIDIRECTIONAL_SEQUENCE_LSTM, int8 or int16 with int8 weights and a cell of int16."""

from __future__ import annotations

from math import prod

import numpy as np

from edgepress.deploy.firmware.lowering.context import Refused, Rows, described, fixed
from edgepress.deploy.firmware.lowering.steps import KERNELS, FieldValue, Value
from edgepress.deploy.firmware.lowering.tables import sigmoid_16
from edgepress.deploy.firmware.operators.wide import narrowed, power_of_two
from edgepress.deploy.tflite.reader import Operator

#: Positions of weights of the input, of the hidden state, and of biases, by gate: input, forget, cell, output.
_INPUT_WEIGHTS, _HIDDEN_WEIGHTS, _BIASES = (1, 2, 3, 4), (5, 6, 7, 8), (12, 13, 14, 15)
_HIDDEN, _CELL = 18, 19
#: Inputs that TFLite Micro has no kernel for: peepholes, projections, normalisation.
_ABSENT = (9, 10, 11, 16, 17, 20, 21, 22, 23)
#: A gate has 12 fractional bits before its function, and 15 behind it.
_BEFORE, _BEHIND = 2.0**-12, 2.0**-15
_LARGEST_SUM = 1 << 31


def lstm(rows: Rows, operator: Operator) -> None:
    """All steps of all sequences; both states outlive the inference, as in TFLite Micro."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    dtype = "int16" if x.dtype == "int16" else "int8"
    in_scale, in_zero = rows.quantized(x, dtype)
    rows.quantized(y, dtype)
    hidden, cell = (rows.values[operator.inputs[i]] for i in (_HIDDEN, _CELL))
    hidden_scale, hidden_zero = rows.quantized(hidden, dtype)
    cell_scale, _ = rows.quantized(cell, "int16")
    if any(len(operator.inputs) > i and operator.inputs[i] >= 0 for i in _ABSENT):
        raise Refused("it has peepholes, a projection or normalisation")
    if operator.option("fused_activation", "NONE") != "TANH":
        raise Refused(f"its activation is {operator.option('fused_activation', 'NONE')}, not TANH")
    major = operator.option("time_major", False)
    if len(x.shape) != 3 or len(y.shape) != 3 or x.shape[:2] != y.shape[:2]:
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    batches, steps = (x.shape[1], x.shape[0]) if major else x.shape[:2]
    size, inputs = y.shape[2], x.shape[2]
    if prod(hidden.shape) != batches * size or prod(cell.shape) != batches * size:
        raise Refused(f"states {list(hidden.shape)} and {list(cell.shape)} do not fit {list(y.shape)}")
    power = power_of_two(cell_scale)
    if power is None or not -15 <= power <= -6:
        raise Refused(f"the scale of its cell, {cell_scale:g}, is no power of 2 between 2^-15 and 2^-6")
    gates = [
        _gate(rows, operator, gate, (in_scale, in_zero, inputs), (hidden_scale, hidden_zero, size), size)
        for gate in range(4)
    ]
    stacked = {name: np.stack([gate[name] for gate in gates]) for name in gates[0]}
    arrays = {"table": sigmoid_16(), **stacked}
    forget, forget_shift = fixed(_BEHIND * float(cell_scale) / float(cell_scale))
    update, update_shift = fixed(_BEHIND * _BEHIND / float(cell_scale))
    output, output_shift = fixed(_BEHIND * _BEHIND / float(hidden_scale))
    if max(forget_shift, update_shift, output_shift) > 0:
        raise Refused("the scale of a state is too small")
    clip = float(np.float32(operator.option("cell_clip", 0.0)))
    # tanh takes 12 fractional bits: the cell is shifted to the left, or, where it has more of them, to the right.
    left = 15 + power - 3
    fields: dict[str, FieldValue] = {
        **{name: name for name in arrays},
        "batches": batches,
        "steps": steps,
        "inputs": inputs,
        "size": size,
        "in_zero": in_zero,
        "hidden_zero": hidden_zero,
        "forget": forget,
        "forget_shift": forget_shift,
        "update": update,
        "update_shift": update_shift,
        "output": output,
        "output_shift": output_shift,
        "clip": int(min(max(clip / float(cell_scale), -32768.0), 32767.0)) if clip > 0 else 0,
        "tanh_multiplier": 3 << left if left >= 0 else 3,
        "tanh_shift": max(0, -left),
        "time_major": int(major),
    }
    states = [rows.state(value, _initial(value)) for value in (hidden, cell)]
    rows.add(
        "ep_lstm" if dtype == "int8" else "ep_lstm_16",
        f"ep_lstm_{'narrow' if dtype == 'int8' else 'wide'}",
        fields,
        [x.index, *states],
        y.index,
        f"{described(x.shape)} -> {described(y.shape)}",
        arrays=arrays,
        macs=4 * batches * steps * size * (inputs + size),
        scratch_bytes=dict.fromkeys(KERNELS, 8 * size),
    )


def _initial(value: Value) -> np.ndarray:
    """As TFLite Micro fills variable tensors: every byte with the zero point."""
    return np.full(value.size_bytes, value.zero_point or 0, np.int8).view(value.dtype)


def _gate(
    rows: Rows,
    operator: Operator,
    gate: int,
    given: tuple[np.float32, int, int],
    kept: tuple[np.float32, int, int],
    size: int,
) -> dict[str, np.ndarray]:
    """Weights, biases with the zero points folded in, and factors of one gate."""
    found: dict[str, np.ndarray] = {}
    wide = rows.values[operator.inputs[0]].dtype == "int16"
    for name, position, (scale, zero, count) in (
        ("input", _INPUT_WEIGHTS[gate], given),
        ("hidden", _HIDDEN_WEIGHTS[gate], kept),
    ):
        weights = rows.operand(operator, position, constant=True)
        weight_scale, weight_zero = rows.int8(weights)
        if weights.shape != (size, count) or weight_zero != 0 or weights.data is None:
            raise Refused(f"weights {weights.name!r} have the shape {list(weights.shape)} or a zero point")
        multiplier, shift = fixed(float(scale * weight_scale) / _BEFORE)
        data = weights.data.astype(np.int64)
        bias = np.zeros(size, np.int64)
        if name == "input":
            value = rows.operand(operator, _BIASES[gate], constant=True)
            if value.data is None or value.data.size != size or value.dtype not in ("int32", "int64"):
                raise Refused(f"bias {value.name!r} is {value.dtype} {list(value.shape)}")
            bias = value.data.reshape(-1).astype(np.int64)
        reach = np.abs(bias) + (32768 if wide else 255) * np.abs(data).sum(1)
        if not wide and int(reach.max()) * 2 ** max(0, shift) >= _LARGEST_SUM:
            raise Refused(f"a sum of a gate may reach {int(reach.max()):,}, which overflows 32 bits")
        if wide:
            multiplier, shift = narrowed(multiplier, shift)
        found[f"{name}_weights"] = weights.data.copy(order="C")
        folded = bias - zero * data.sum(1)
        found[f"{name}_bias"] = folded if wide else folded.astype(np.int32)
        found[f"{name}_factor"] = np.array([multiplier, shift], np.int32)
    return found
