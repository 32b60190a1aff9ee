# SPDX-License-Identifier: Apache-2.0
"""From a .tflite file to kernel calls. Whatever has no exact kernel is refused by name, all reasons at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from edgepress.deploy.firmware.lowering.context import Refused, Rows
from edgepress.deploy.firmware.lowering.steps import Network, Step, Value
from edgepress.deploy.firmware.operators import (
    functions,
    layers,
    moves,
    products,
    rearranging,
    recurrent,
    reductions,
    resizing,
    values,
    wide,
)
from edgepress.deploy.firmware.operators.refusals import Refusals
from edgepress.deploy.firmware.operators.variables import Variables, initial_values
from edgepress.deploy.tflite.reader import Operator, Tensor, read_tflite
from edgepress.models.errors import UsageError

Rule = Callable[[Rows, Operator], None]


def _by_type(**rules: Rule) -> Rule:
    """A rule for each type of the first input; int8 where no other is named."""

    def rule(rows: Rows, operator: Operator) -> None:
        first = operator.inputs[0] if operator.inputs else -1
        dtype = rows.values[first].dtype if first >= 0 else "int8"
        rules.get(dtype, rules["int8"])(rows, operator)

    return rule


#: Operator -> its rule, which adds steps to `Rows` or raises `Refused` with a reason.
RULES: dict[str, Rule] = {
    "CONV_2D": _by_type(int8=layers.conv_2d, int16=wide.conv),
    "DEPTHWISE_CONV_2D": _by_type(int8=layers.depthwise_conv_2d, int16=wide.conv),
    "FULLY_CONNECTED": _by_type(int8=layers.fully_connected, int16=wide.fully_connected),
    "TRANSPOSE_CONV": products.transpose_conv,
    "BATCH_MATMUL": products.batch_matmul,
    "AVERAGE_POOL_2D": layers.pool,
    "MAX_POOL_2D": layers.pool,
    "MEAN": reductions.mean_or_sum,
    "SUM": reductions.mean_or_sum,
    "REDUCE_MAX": reductions.extreme,
    "REDUCE_MIN": reductions.extreme,
    "ARG_MAX": reductions.arg_extreme,
    "ARG_MIN": reductions.arg_extreme,
    "SOFTMAX": _by_type(int8=layers.softmax, int16=wide.softmax),
    "LOG_SOFTMAX": functions.log_softmax,
    "ADD": _by_type(int8=values.add_or_sub, int32=rearranging.add_to_index),
    "SUB": values.add_or_sub,
    "MUL": values.mul,
    "DIV": functions.divide,
    "SQUARED_DIFFERENCE": functions.squared_difference,
    "MAXIMUM": functions.extreme_of_two,
    "MINIMUM": functions.extreme_of_two,
    "PRELU": functions.prelu,
    "LOGISTIC": _by_type(int8=values.by_table, int16=wide.saturating),
    "TANH": _by_type(int8=values.by_table, int16=wide.saturating),
    "HARD_SWISH": values.by_table,
    "RELU": _by_type(int8=values.by_table, int16=wide.two_slopes),
    "RELU6": _by_type(int8=values.by_table, int16=wide.two_slopes),
    "LEAKY_RELU": _by_type(int8=values.by_table, int16=wide.two_slopes),
    "ABS": values.by_table,
    "ELU": values.by_table,
    "RSQRT": _by_type(int8=values.by_table, int16=wide.rsqrt),
    "QUANTIZE": values.quantize,
    "DEQUANTIZE": values.dequantize,
    "CAST": rearranging.cast,
    "PAD": moves.pad,
    "PADV2": moves.pad,
    "MIRROR_PAD": moves.mirror_pad,
    "CONCATENATION": moves.concatenation,
    "SPLIT": moves.split,
    "SPLIT_V": moves.split,
    "SLICE": rearranging.slice_,
    "STRIDED_SLICE": moves.strided_slice,
    "PACK": rearranging.pack,
    "UNPACK": rearranging.unpack,
    "GATHER": rearranging.gather,
    "GATHER_ND": rearranging.gather_nd,
    "BROADCAST_TO": rearranging.broadcast_to,
    "REVERSE_V2": rearranging.reverse,
    "DEPTH_TO_SPACE": rearranging.depth_and_space,
    "SPACE_TO_DEPTH": rearranging.depth_and_space,
    "SPACE_TO_BATCH_ND": rearranging.batches_and_space,
    "BATCH_TO_SPACE_ND": rearranging.batches_and_space,
    "TRANSPOSE": moves.transpose,
    "RESIZE_NEAREST_NEIGHBOR": resizing.resize_nearest,
    "RESIZE_BILINEAR": resizing.resize_bilinear,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": recurrent.lstm,
    "RESHAPE": moves.alias,
    "SQUEEZE": moves.alias,
    "EXPAND_DIMS": moves.alias,
}
#: Types that an activation may have.
_TYPES = ("int8", "int16", "int32", "float32")
#: Operators that take float32 as well: those that move, and those that lead to integers and back.
_MOVES = frozenset(
    re.findall(
        r"\w+",
        """RESHAPE SQUEEZE EXPAND_DIMS PAD PADV2 CONCATENATION SPLIT SPLIT_V SLICE STRIDED_SLICE PACK UNPACK TRANSPOSE
        GATHER GATHER_ND MIRROR_PAD BROADCAST_TO REVERSE_V2 DEPTH_TO_SPACE SPACE_TO_DEPTH SPACE_TO_BATCH_ND
        BATCH_TO_SPACE_ND QUANTIZE DEQUANTIZE""",
    )
)
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
    try:
        variables = Variables(initial_values(model))
    except Refused as reason:
        raise UsageError(f"{model.name} cannot become C for firmware: {reason}") from None
    rules = RULES | {
        "CALL_ONCE": variables.call_once,
        "VAR_HANDLE": variables.handle,
        "READ_VARIABLE": variables.read,
        "ASSIGN_VARIABLE": variables.assign,
    }
    tensors = {tensor.index: _value(tensor) for tensor in model.tensors}
    inputs, outputs = model.subgraphs[0].inputs, model.subgraphs[0].outputs
    rows, refusals = Rows(tensors, inputs, outputs, model.tensors, model.operators), Refusals(model.tensors)
    for operator in model.operators:
        try:
            _check_activations(model.tensors, operator)
            if operator.code not in rules:
                raise Refused("there is no kernel in C")
            rows.start(operator)
            rules[operator.code](rows, operator)
        except Refused as reason:
            refusals.add(operator, str(reason))
    _check_ends(model.operators, rows, refusals)
    if refusals:
        raise UsageError(f"{model.name} cannot become C for firmware: {refusals.text()}")
    return Network(
        rows.values,
        tuple(rows.steps),
        tuple(inputs),
        tuple(outputs),
        dict(rows.aliases),
        len(model.operators),
        rows.states,
    )


def _value(tensor: Tensor) -> Value:
    quantization = tensor.quantization
    single = quantization is not None and quantization.scale.size == 1
    data = None
    if tensor.constant and tensor.dtype in ("int8", "int16", "int32", "int64", "float32") and not tensor.sparse:
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
    computed = [tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0 and not tensors[i].constant]
    for tensor in (tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0):
        if tensor.sparse or (tensor.variable and operator.code != "UNIDIRECTIONAL_SEQUENCE_LSTM"):
            raise Refused(f"tensor {tensor.name!r} is {'a variable' if tensor.variable else 'sparse'}")
        if tensor.dtype == "resource":
            continue
        if any(size < 0 for size in tensor.shape_signature) and tensor.shape_signature[1:] != tensor.shape[1:]:
            raise Refused(f"tensor {tensor.name!r} has a shape that is only known at run time")
        if tensor.dtype == "uint8" and operator.code == "QUANTIZE":
            continue
        if not tensor.constant and tensor.dtype not in _TYPES:
            raise Refused(f"tensor {tensor.name!r} is {tensor.dtype}; activations may be {_listed(_TYPES)}")
        if tensor.size_bytes > _LARGEST_TENSOR or not all(tensor.shape):
            raise Refused(f"tensor {tensor.name!r} has the shape {list(tensor.shape)}")
    if operator.code not in _MOVES and any(tensor.dtype == "float32" for tensor in computed):
        raise Refused("it computes in float32, for which there is no kernel in C")


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _check_ends(operators: Sequence[Operator], rows: Rows, refusals: Refusals) -> None:
    """Inputs and outputs that C could not give or take, as far as no operator was refused for them."""
    touched = {index for operator in operators for index in (*operator.inputs, *operator.outputs)}
    made = {index for operator in operators for index in operator.outputs}
    for kind, tensors in (("input", rows.inputs), ("output", rows.outputs)):
        for index in tensors:
            value = rows.values[index]
            if index not in touched and value.dtype not in _TYPES:
                refusals.add_end(kind, index, f"is {value.dtype}; possible are {_listed(_TYPES)}")
    for index in rows.outputs:
        if index not in made and index not in rows.inputs:
            refusals.add_end("output", index, "is not made by any operator")
    if not rows.inputs or not rows.outputs:
        refusals.add_end("", -1, "it has no input or no output")
    if len({rows.home(i) for i in rows.inputs}) != len(rows.inputs):
        refusals.add_end("", -1, "an input is listed twice")


def macs_by_operator(network: Network) -> dict[int, int]:
    """Operator -> multiply-accumulates."""
    found: dict[int, int] = {}
    for step in network.steps:
        found[step.operator] = found.get(step.operator, 0) + step.macs
    return found


__all__ = ["RULES", "Network", "Step", "Value", "lower", "macs_by_operator"]
