# SPDX-License-Identifier: Apache-2.0
"""What the rules of lowering share: the steps so far, questions about tensors, strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from edgepress.deploy.firmware.lowering.fixedpoint import quantize_multiplier
from edgepress.deploy.firmware.lowering.steps import FieldValue, Step, Value
from edgepress.deploy.firmware.lowering.tables import round_away
from edgepress.deploy.tflite.reader import Operator, Quantization, Tensor

#: As in the C header.
DIMS = 5


class Refused(Exception):
    """An operator cannot be lowered exactly; the text says why."""


class Rows:
    """The steps so far, while a file is lowered.

    Attributes:
        values: tensor -> Value.
        steps, aliases: see `edgepress.deploy.firmware.lowering.steps.Network`.
        paddings: output of a PAD that is not made -> (its input, rows above, columns to the left).
        states: variables, which outlive an inference -> the values they start with.
        indices: int32 that is not made, since it only chooses from tables -> (the int8 it comes from, what is added).
    """

    def __init__(
        self,
        values: Mapping[int, Value],
        inputs: Sequence[int],
        outputs: Sequence[int],
        tensors: Sequence[Tensor],
        operators: Sequence[Operator] = (),
    ):
        self._tensors, self._operators = tensors, operators
        self.paddings: dict[int, tuple[Value, int, int]] = {}
        self.indices: dict[int, tuple[Value, int]] = {}
        self.states: dict[int, np.ndarray] = {}
        self.values: dict[int, Value] = dict(values)
        self.inputs: tuple[int, ...] = tuple(inputs)
        self.outputs: tuple[int, ...] = tuple(outputs)
        self.steps: list[Step] = []
        self.aliases: dict[int, int] = {}
        self._operator: Operator | None = None

    def start(self, operator: Operator) -> None:
        """The operator that the next steps come from."""
        self._operator = operator

    def add(
        self,
        kernel: str,
        structure: str,
        fields: Mapping[str, FieldValue],
        inputs: Sequence[int],
        output: int,
        summary: str = "",
        **more: Any,
    ) -> None:
        """Append a step."""
        operator = self._operator
        assert operator is not None, "start() comes first"
        self.steps.append(
            Step(operator.index, operator.code, summary, kernel, structure, dict(fields), tuple(inputs), output, **more)
        )

    def state(self, like: Value, initial: np.ndarray) -> int:
        """A new variable of the type and size of a tensor."""
        number = max(self.values) + 1
        self.values[number] = replace(like, index=number, data=None)
        self.states[number] = initial
        return number

    def quantization(self, tensor: int) -> Quantization | None:
        """All scales of a tensor."""
        return self._tensors[tensor].quantization

    def home(self, tensor: int) -> int:
        """The tensor whose memory this one uses."""
        while tensor in self.aliases:
            tensor = self.aliases[tensor]
        return tensor

    def only_convolved(self, tensor: int) -> bool:
        """Whether nothing but convolutions reads a tensor, and these as their image."""
        return tensor not in self.outputs and all(
            reader.code in ("CONV_2D", "DEPTHWISE_CONV_2D") and tuple(reader.inputs).index(tensor) == 0
            for reader in self.readers(tensor)
        )

    def readers(self, tensor: int) -> list[Operator]:
        """Operators that take a tensor."""
        return [operator for operator in self._operators if tensor in operator.inputs]

    def operand(self, operator: Operator, position: int, *, constant: bool | None = None) -> Value:
        """An input that must be there; `constant` says whether it must be in the file."""
        if position >= len(operator.inputs) or operator.inputs[position] < 0:
            raise Refused(f"input {position} is missing")
        value = self.values[operator.inputs[position]]
        if constant is not None and (value.data is not None) != constant:
            raise Refused(f"{value.name!r} must be {'a constant' if constant else 'computed'}")
        return value

    def optional(self, operator: Operator, position: int) -> Value | None:
        """An input that may be left out."""
        there = position < len(operator.inputs) and operator.inputs[position] >= 0
        return self.operand(operator, position, constant=True) if there else None

    def int8(self, value: Value) -> tuple[np.float32, int]:
        """Scale and zero point of an int8 tensor."""
        return self.quantized(value, "int8")

    def quantized(self, value: Value, dtype: str) -> tuple[np.float32, int]:
        """Scale and zero point of a tensor of int8, uint8 or int16; the last one's zero point must be 0."""
        if value.dtype != dtype:
            raise Refused(f"{value.name!r} is {value.dtype}, not {dtype}")
        if value.scale is None or value.zero_point is None or not 0 < value.scale < float("inf"):
            raise Refused(f"{value.name!r} has no single scale and zero point")
        limits = np.iinfo(dtype)
        if not limits.min <= value.zero_point <= limits.max:
            raise Refused(f"{value.name!r} has the zero point {value.zero_point}")
        if dtype == "int16" and value.zero_point != 0:
            raise Refused(f"{value.name!r} is int16 with the zero point {value.zero_point}, not 0")
        return np.float32(value.scale), value.zero_point

    def integers(self, operator: Operator, position: int) -> list[int]:
        """The values of a constant input of int32 or int64."""
        value = self.operand(operator, position, constant=True)
        if value.dtype not in ("int32", "int64") or value.data is None:
            raise Refused(f"{value.name!r} is {value.dtype}, not int32")
        return [int(v) for v in value.data.reshape(-1)]


def activation_range(kind: str, scale: np.float32, zero: int, dtype: str = "int8") -> tuple[int, int]:
    """Smallest and largest integer after a fused activation (CalculateActivationRangeQuantized)."""
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max

    def at(real: float) -> int:
        return zero + round_away(float(np.float32(real) / scale))

    ranges = {"NONE": (least, most), "RELU": (at(0), most), "RELU6": (at(0), at(6)), "RELU_N1_TO_1": (at(-1), at(1))}
    if kind not in ranges:
        raise Refused(f"the fused activation {kind} has no integer kernel")
    low, high = ranges[kind]
    return max(least, low), min(most, high)


def fixed(real: float) -> tuple[int, int]:
    """Multiplier and shift of a real factor."""
    try:
        return quantize_multiplier(real)
    except (ValueError, OverflowError) as error:
        raise Refused(str(error)) from None


def strides(shape: Sequence[int]) -> list[int]:
    """Elements between neighbours along each dimension."""
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def merged(sizes: Sequence[int], *steps: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Sizes and rows of strides with neighbouring dimensions merged where every row allows it, filled up to `DIMS`.

    Raises:
        Refused: more than `DIMS` are left.
    """
    kept: list[list[int]] = []
    for entry in zip(sizes, *steps, strict=True):
        if entry[0] == 1:
            continue
        if kept and all(outer == inner * entry[0] for outer, inner in zip(kept[-1][1:], entry[1:], strict=True)):
            kept[-1] = [kept[-1][0] * entry[0], *entry[1:]]
        else:
            kept.append(list(entry))
    if len(kept) > DIMS:
        raise Refused(f"it walks over {len(kept)} dimensions that cannot be merged; {DIMS} are possible")
    filled = [[1, *[0] * len(steps)]] * (DIMS - len(kept)) + kept
    if not kept:  # a single element: contiguous
        filled[-1] = [1, *[1] * len(steps)]
    return tuple(tuple(column) for column in zip(*filled, strict=True))


def described(shape: Sequence[int]) -> str:
    """[1, 25, 5, 64] as 1x25x5x64."""
    return "x".join(map(str, shape)) or "scalar"
