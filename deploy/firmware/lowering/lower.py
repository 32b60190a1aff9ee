# SPDX-License-Identifier: Apache-2.0
"""From a .tflite file to kernel calls. Whatever has no exact kernel is refused by name, all reasons at once."""

from __future__ import annotations

import re
from pathlib import Path

from edgepress.deploy.firmware.lowering import layers as lower_layers
from edgepress.deploy.firmware.lowering import moves as lower_moves
from edgepress.deploy.firmware.lowering import values as lower_values
from edgepress.deploy.firmware.lowering.context import Refused, Rows
from edgepress.deploy.firmware.lowering.steps import Network, Step, Value
from edgepress.deploy.tflite.reader import Operator, Tensor, read_tflite
from edgepress.models.errors import UsageError

#: Operator -> its rule, which adds steps to `Rows` or raises `Refused` with a reason.
RULES = {
    "CONV_2D": lower_layers.conv_2d,
    "DEPTHWISE_CONV_2D": lower_layers.depthwise_conv_2d,
    "FULLY_CONNECTED": lower_layers.fully_connected,
    "AVERAGE_POOL_2D": lower_layers.pool,
    "MAX_POOL_2D": lower_layers.pool,
    "MEAN": lower_layers.mean,
    "SOFTMAX": lower_layers.softmax,
    "ADD": lower_values.add_or_sub,
    "SUB": lower_values.add_or_sub,
    "MUL": lower_values.mul,
    "LOGISTIC": lower_values.by_table,
    "TANH": lower_values.by_table,
    "HARD_SWISH": lower_values.by_table,
    "RELU": lower_values.by_table,
    "RELU6": lower_values.by_table,
    "LEAKY_RELU": lower_values.by_table,
    "QUANTIZE": lower_values.quantize,
    "DEQUANTIZE": lower_values.dequantize,
    "PAD": lower_moves.pad,
    "CONCATENATION": lower_moves.concatenation,
    "SPLIT": lower_moves.split,
    "STRIDED_SLICE": lower_moves.strided_slice,
    "TRANSPOSE": lower_moves.transpose,
    "RESIZE_NEAREST_NEIGHBOR": lower_moves.resize_nearest,
    "RESHAPE": lower_moves.alias,
    "SQUEEZE": lower_moves.alias,
    "EXPAND_DIMS": lower_moves.alias,
}
#: Types that an activation may have.
_TYPES = ("int8", "float32")
#: The largest number of bytes that the kernels' 32-bit offsets are used for.
_LARGEST_TENSOR = 1 << 28


def lower(source: str | Path | bytes) -> Network:
    """Read a .tflite file and lower it.

    Args:
        source: a file, or its bytes.

    Raises:
        UsageError: the file is damaged, or something in it has no exact kernel: every reason, by operator.
    """
    model = read_tflite(source)
    if len(model.subgraphs) != 1:
        raise UsageError(
            f"{model.name} has {len(model.subgraphs)} subgraphs; C for firmware is generated from a single one"
        )
    reasons: list[str] = []
    values = {tensor.index: _value(tensor) for tensor in model.tensors}
    inputs, outputs = model.subgraphs[0].inputs, model.subgraphs[0].outputs
    rows = Rows(values, inputs, outputs, model.tensors, model.operators)
    for operator in model.operators:
        name = f"CUSTOM {operator.custom_code}" if operator.code == "CUSTOM" else operator.code
        where = f"operator {operator.index} ({name})"
        if operator.code not in RULES:
            reasons.append(f"{where} has no kernel in C")
            continue
        try:
            _check_activations(model.tensors, operator)
            rows.start(operator)
            RULES[operator.code](rows, operator)
        except Refused as reason:
            reasons.append(f"{where}: {reason}")
    reasons += _wrong_ends(values, inputs, outputs, rows)
    if reasons:
        text = "; ".join(dict.fromkeys(reasons))
        text = re.sub(r"'[^']*([^']{40})'", r"'...\1'", text)  # converters write names of hundreds of letters
        raise UsageError(f"{model.name} cannot become C for firmware: {text}")
    return Network(values, tuple(rows.steps), tuple(inputs), tuple(outputs), dict(rows.aliases), len(model.operators))


def _value(tensor: Tensor) -> Value:
    quantization = tensor.quantization
    single = quantization is not None and quantization.scale.size == 1
    data = None
    if tensor.constant and tensor.dtype in ("int8", "int32", "int64", "float32") and not tensor.sparse:
        data = tensor.array()
    return Value(
        tensor.index,
        tensor.name,
        tensor.shape,
        tensor.dtype,
        tensor.size_bytes,
        float(quantization.scale[0]) if single and quantization is not None else None,
        int(quantization.zero_point[0]) if single and quantization is not None else None,
        data,
    )


def _check_activations(tensors: tuple[Tensor, ...], operator: Operator) -> None:
    for index in (*operator.inputs, *operator.outputs):
        if index < 0:
            continue
        tensor = tensors[index]
        if tensor.variable or tensor.sparse:
            raise Refused(f"tensor {tensor.name!r} is {'a variable' if tensor.variable else 'sparse'}")
        if any(size < 0 for size in tensor.shape_signature) and tensor.shape_signature[1:] != tensor.shape[1:]:
            raise Refused(f"tensor {tensor.name!r} has a shape that is only known at run time")
        if not tensor.constant and tensor.dtype not in _TYPES:
            raise Refused(f"tensor {tensor.name!r} is {tensor.dtype}; activations must be int8")
        if tensor.size_bytes > _LARGEST_TENSOR or not all(tensor.shape):
            raise Refused(f"tensor {tensor.name!r} has the shape {list(tensor.shape)}")


def _wrong_ends(values: dict[int, Value], inputs: tuple[int, ...], outputs: tuple[int, ...], rows: Rows) -> list[str]:
    """Inputs and outputs that C could not give or take."""
    made = {rows.home(step.output) for step in rows.steps}
    reasons = [
        f"input {values[i].name!r} is {values[i].dtype}; int8 and float32 are possible"
        for i in inputs
        if values[i].dtype not in _TYPES
    ]
    for index in outputs:
        home = rows.home(index)
        if values[index].dtype not in _TYPES:
            reasons.append(f"output {values[index].name!r} is {values[index].dtype}; int8 and float32 are possible")
        elif home not in made and home not in inputs:
            reasons.append(f"output {values[index].name!r} is not made by any operator")
    if not inputs or not outputs:
        reasons.append("it has no input or no output")
    if len({rows.home(i) for i in inputs}) != len(inputs):
        reasons.append("an input is listed twice")
    return reasons


def macs_by_operator(network: Network) -> dict[int, int]:
    """Operator -> multiply-accumulates."""
    found: dict[int, int] = {}
    for step in network.steps:
        found[step.operator] = found.get(step.operator, 0) + step.macs
    return found


__all__ = ["RULES", "Network", "Step", "Value", "lower", "macs_by_operator"]
