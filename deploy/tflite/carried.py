# SPDX-License-Identifier: Apache-2.0
"""Operators of the network that no converter writes with integers, written here: tables, and slopes by channel.

A table is a CAST of int8 to int32, an ADD of 128 and a GATHER from 256 constant integers: three operators which LiteRT,
its reference kernels and TFLite Micro all have, where kernels of their own for ELU, GELU, EXP and others are missing in
one or the other. It is exact: one rounding, for any function of one variable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgepress.compress.quantize.scheme import Integers, constant_integers
from edgepress.deploy.tflite.building import FileBuilder


@dataclass(frozen=True)
class Table:
    """A function of one variable: the node which it is, and real values in -> real values out."""

    name: str
    function: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Slopes:
    """PReLU: the node which it is, its slopes, and the axis of the channels in the file (None: one slope for all)."""

    name: str
    slopes: np.ndarray
    axis: int | None = None


@dataclass(frozen=True)
class Same:
    """Nothing: the value of a node, as it is."""

    name: str


Carried = Table | Slopes | Same


def table_of(function: Callable[[np.ndarray], np.ndarray], given: Integers, own: Integers) -> np.ndarray:
    """[256] integers of the result, by the integer of the input from the lowest to the highest."""
    values = function(given.dequantize(np.arange(given.lowest, given.highest + 1)))
    largest = float(np.finfo(np.float32).max) / 4  # below infinity after the division by a scale, which saturates
    return own.quantize(np.nan_to_num(values, nan=0.0, posinf=largest, neginf=-largest).clip(-largest, largest))


def write_carried(
    file: FileBuilder, carried: Carried, source: tuple[int, Integers], made: tuple[int, Integers]
) -> None:
    """Append the operators that compute one tensor from another.

    Args:
        file: to append to.
        carried: what is computed.
        source: the tensor which is read, and its integers (8 bits for a table).
        made: the tensor which is written, and its integers.
    """
    (read, given), (written, own) = source, made
    if isinstance(carried, Slopes):
        rank = len(file.tensors[read].shape)
        shape = [1] * max(1, rank - 1)
        if carried.axis is not None:
            shape[carried.axis - 1] = -1
        slopes = carried.slopes.reshape(shape)
        constant = file.constant_of(f"{carried.name}.slopes", slopes, constant_integers(slopes, own.bits))
        file.emit("PRELU", [read, constant], [written])
        return
    shape, types = file.tensors[read].shape, file.types
    index, shifted = (file.tensor(f"{carried.name}.{what}", shape, types.INT32) for what in ("integer", "index"))
    offset = file.constant("table_offset", np.array([-given.lowest], np.int32), types.INT32)
    scale, zero = np.array([own.scale], np.float32), np.array([own.zero_point], np.int64)
    assert isinstance(carried, Table)  # what is the same needs no operator
    values = table_of(carried.function, given, own)
    table = file.constant(f"{carried.name}.table", values, file.type_of(own), scale, zero)
    file.emit("CAST", [read], [index], "CastOptions", inDataType=types.INT8, outDataType=types.INT32)
    file.emit("ADD", [index, offset], [shifted], "AddOptions")
    file.emit("GATHER", [table, shifted], [written], "GatherOptions", axis=0)
