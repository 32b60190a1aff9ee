# SPDX-License-Identifier: Apache-2.0
"""Networks of int8 LSTM and dense layers in NumPy, with the one step that LiteRT and TFLite Micro do differently.

A gate is the sum of two products, of the input and of the hidden state, each brought to int16 with 12 fractional bits,
so that it reaches from -8 to 8. LiteRT adds the second to the saturated first and saturates the sum; TFLite Micro
saturates the second before it adds it (its FULLY_CONNECTED kernel gives int16). Where a hidden state has a product
beyond 8, the gates depart, and the states remember it. Sources: LiteRT, tflite/kernels/internal/reference/
portable_tensor_utils.cc, MatrixBatchVectorMultiplyAccumulate of int16; TFLite Micro, micro/kernels/lstm_eval.h,
CalculateLstmGate. Everything else is computed exactly and rounded once: both runtimes have some more roundings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgepress.deploy.tflite.reader import Operator, Tensor, read_tflite
from edgepress.models.errors import UsageError

#: Steps of a gate before its function and behind it.
_BEFORE, _BEHIND = 2.0**12, 2.0**15
_INT16 = (-32768, 32767)


def simulated(path: Path, q: np.ndarray, recurrent_saturates: bool) -> np.ndarray:
    """Outputs of one stream.

    Args:
        path: a .tflite file with one graph of UNIDIRECTIONAL_SEQUENCE_LSTM, FULLY_CONNECTED and LOGISTIC in a row.
        q: int8 [N, values of an input], its samples in their order; the states begin at 0.
        recurrent_saturates: as TFLite Micro does it; otherwise as LiteRT.

    Returns:
        int64 [N, values of an output].

    Raises:
        UsageError: the file has other operators.
    """
    (graph,) = read_tflite(path.read_bytes()).subgraphs
    states: dict[int, np.ndarray] = {}
    rows = []
    for sample in q.reshape(len(q), -1).astype(np.float64):
        value = sample
        for operator in graph.operators:
            if operator.code == "UNIDIRECTIONAL_SEQUENCE_LSTM":
                value = _lstm(graph.tensors, operator, value, states, recurrent_saturates)
            elif operator.code == "FULLY_CONNECTED":
                value = _dense(graph.tensors, operator, value)
            elif operator.code == "LOGISTIC":
                given, made = (graph.tensors[i] for i in (operator.inputs[0], operator.outputs[0]))
                value = _rounded(_logistic(_real(given, value)) / _scale(made) + _zero(made), -128, 127)
            else:
                raise UsageError(f"{path}: {operator.code} is not simulated; LSTM, dense layers and LOGISTIC are")
        rows.append(value)
    return np.array(rows).astype(np.int64)


def _lstm(
    tensors: Any, operator: Operator, x: np.ndarray, states: dict[int, np.ndarray], recurrent_saturates: bool
) -> np.ndarray:
    given, hidden, cell = (tensors[operator.inputs[i]] for i in (0, 18, 19))
    h = states.get(operator.inputs[18], np.full(hidden.shape[-1], _zero(hidden), np.float64))
    c = states.get(operator.inputs[19], np.zeros(cell.shape[-1]))
    gates = []
    for gate in range(4):  # input, forget, cell, output
        weights, recurrent, bias = (tensors[operator.inputs[i + gate]] for i in (1, 5, 12))
        first = weights.array().astype(np.float64) @ (x - _zero(given)) + bias.array()
        second = recurrent.array().astype(np.float64) @ (h - _zero(hidden))
        first = _rounded(first * _scale(given) * _scale(weights) * _BEFORE, *_INT16)
        second = np.rint(second * _scale(hidden) * _scale(recurrent) * _BEFORE)
        total = np.clip(first + (np.clip(second, *_INT16) if recurrent_saturates else second), *_INT16) / _BEFORE
        gates.append(_rounded((np.tanh(total) if gate == 2 else _logistic(total)) * _BEHIND, *_INT16) / _BEHIND)
    update, forget, new, out = gates
    c = np.clip(np.rint(forget * c) + np.rint(update * new / _scale(cell)), *_INT16)
    if (clip := operator.option("cell_clip", 0.0)) > 0:
        c = np.clip(c, -clip / _scale(cell), clip / _scale(cell))
    seen = _rounded(np.tanh(c * _scale(cell)) * _BEHIND, *_INT16) / _BEHIND
    h = _rounded(out * seen / _scale(hidden) + _zero(hidden), -128, 127)
    states[operator.inputs[18]], states[operator.inputs[19]] = h, c
    return h


def _dense(tensors: Any, operator: Operator, x: np.ndarray) -> np.ndarray:
    given, weights, bias = (tensors[i] for i in operator.inputs[:3])
    made = tensors[operator.outputs[0]]
    total = weights.array().astype(np.float64) @ (x - _zero(given)) + bias.array()
    return _rounded(total * _scale(given) * _scale(weights) / _scale(made) + _zero(made), -128, 127)


def _rounded(values: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.clip(np.rint(values), low, high)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _real(tensor: Tensor, q: np.ndarray) -> np.ndarray:
    return (q - _zero(tensor)) * _scale(tensor)


def _scale(tensor: Tensor) -> float:
    return float(tensor.quantization.scale[0])  # type: ignore[union-attr]


def _zero(tensor: Tensor) -> int:
    return int(tensor.quantization.zero_point[0])  # type: ignore[union-attr]
