# SPDX-License-Identifier: Apache-2.0
"""Operators of the network that no converter writes with integers, written here: tables, and slopes by channel.

A table is a CAST of int8 to int32, an ADD of 128 and a GATHER from 256 constant integers: three operators which LiteRT,
its reference kernels and TFLite Micro all have, where kernels of their own for ELU, GELU, EXP and others are missing in
one or the other. It is exact: one rounding, for any function of one variable. Of a 16-bit value, what 8 bits leave of
it is multiplied with the slope between two entries, from a second table, and added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgepress.compress.quantize.scheme import Integers, constant_integers, integers_of_range
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


def slopes_of(function: Callable[[np.ndarray], np.ndarray], given: Integers, own: Integers) -> np.ndarray:
    """[256] how steep a function is about each integer of the input: between half a step before it and behind it.

    0 where its value is beyond the integers of the result: 1 / x about 0 would leave no bits for the other slopes.
    """
    middle, half = given.dequantize(np.arange(given.lowest, given.highest + 1)), given.scale / np.float32(2)
    with np.errstate(all="ignore"):
        slopes = (function(middle + half).astype(np.float64) - function(middle - half)) / float(given.scale)
        values = function(middle)
    low, high = own.dequantize(own.lowest), own.dequantize(own.highest)
    inside = np.isfinite(slopes) & (values >= low) & (values <= high)
    return np.where(inside, slopes, 0.0).clip(-1e9, 1e9).astype(np.float32)


def write_carried(
    file: FileBuilder, carried: Carried, source: tuple[int, Integers], made: tuple[int, Integers], coarse: Integers
) -> None:
    """Append the operators that compute one tensor from another.

    Args:
        file: to append to.
        carried: what is computed.
        source: the tensor which is read, and its integers.
        made: the tensor which is written, and its integers.
        coarse: the input's integers in 8 bits, in which a table is looked up.
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
    assert isinstance(carried, Table)  # what is the same needs no operator
    if given.bits == 8:
        _Lookup(file, carried.name, read, given).write("", table_of(carried.function, given, own), written, own)
        return
    _interpolate(file, carried, (read, given), (written, own), coarse)


class _Lookup:
    """Appends the operators that read tables of 256 entries, by the 8-bit integers of one tensor."""

    def __init__(self, file: FileBuilder, name: str, read: int, given: Integers):
        self.file, self.name, self.shape = file, name, file.tensors[read].shape
        types = file.types
        index, self.index = (file.tensor(f"{name}.{what}", self.shape, types.INT32) for what in ("integer", "index"))
        offset = file.constant("table_offset", np.array([-given.lowest], np.int32), types.INT32)
        file.emit("CAST", [read], [index], "CastOptions", inDataType=types.INT8, outDataType=types.INT32)
        file.emit("ADD", [index, offset], [self.index], "AddOptions")

    def write(self, what: str, values: np.ndarray, written: int, own: Integers) -> None:
        """Write a tensor of the integers `values`.

        TFLite Micro gathers 8 bits: 16 are 257 times what one table holds, and what another one holds.
        """
        if own.bits == 16:
            parts = []
            upper = np.clip(np.rint(values / 257), -127, 127)
            for part, integers, scale in (
                ("upper", upper, 257 * own.scale),
                ("lower", values - 257 * upper, own.scale),
            ):
                coarse = Integers(np.float32(scale), 0)
                small = self.file.activation(f"{self.name}.{what}{part}8", self.shape, coarse)
                self.write(f"{what}{part}", integers.clip(-128, 127).astype(np.int8), small, coarse)
                parts.append(self.file.activation(f"{self.name}.{what}{part}", self.shape, own))
                self.file.emit("QUANTIZE", [small], [parts[-1]], "QuantizeOptions")
            self.file.emit("ADD", parts, [written], "AddOptions", potScaleInt16=False)
            return
        scale, zero = np.array([own.scale], np.float32), np.array([own.zero_point], np.int64)
        table = self.file.constant(f"{self.name}.{what}table", values, self.file.types.INT8, scale, zero)
        self.file.emit("GATHER", [table, self.index], [written], "GatherOptions", axis=0)


def _interpolate(
    file: FileBuilder, carried: Table, source: tuple[int, Integers], made: tuple[int, Integers], coarse: Integers
) -> None:
    """f(x) = f(x8) + f'(x8) * (x - x8), x8 the nearest of 256 values."""
    (read, given), (written, own), shape = source, made, file.tensors[source[0]].shape

    def value(what: str, integers: Integers) -> int:
        return file.activation(f"{carried.name}.{what}", shape, integers)

    slopes = slopes_of(carried.function, coarse, own)
    slope = constant_integers(slopes)
    step = float(coarse.scale)  # the last integers of 16 bits lie up to a step away from the last of 8
    steepest = max(float(np.abs(slopes).max()), 1e-6)
    nearest, start, rising, rising16 = (
        value(what, integers)
        for what, integers in (("nearest", coarse), ("start", own), ("slope", slope), ("slope16", _wide(steepest)))
    )
    back, rest, added = (
        value(what, integers)
        for what, integers in (("nearest16", given), ("rest", _wide(step)), ("added", _wide(steepest * step)))
    )
    file.emit("QUANTIZE", [read], [nearest], "QuantizeOptions")
    tables = _Lookup(file, carried.name, nearest, coarse)
    tables.write("", table_of(carried.function, coarse, own), start, own)
    tables.write("slopes.", slope.quantize(slopes), rising, slope)
    file.emit("QUANTIZE", [rising], [rising16], "QuantizeOptions")
    file.emit("QUANTIZE", [nearest], [back], "QuantizeOptions")
    file.emit("SUB", [read, back], [rest], "SubOptions", potScaleInt16=False)
    file.emit("MUL", [rising16, rest], [added], "MulOptions")
    file.emit("ADD", [start, added], [written], "AddOptions", potScaleInt16=False)


def _wide(largest: float) -> Integers:
    return integers_of_range(-largest, largest, 16)
