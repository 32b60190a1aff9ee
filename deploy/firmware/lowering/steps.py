# SPDX-License-Identifier: Apache-2.0
"""What lowering makes of a .tflite file: a list of kernel calls with all their numbers, independent of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

#: Kinds of kernels of convolutions, and the switches in C that choose them: the plainest C, tiles in portable C, tiles
#: of the DSP instructions of Cortex-M4, M7, M33 and M55, tiles of the vectors of Cortex-M55 and M85.
KERNELS = {
    "plain": {"EP_FAST": 0},
    "tiled": {"EP_FAST": 1, "EP_DSP": 0},
    "dsp": {"EP_FAST": 1, "EP_DSP": 1, "EP_MVE": 0},
    "mve": {"EP_FAST": 1, "EP_DSP": 1, "EP_MVE": 1},
}
#: Those that any machine can run; vectors are not emulated in C.
PORTABLE_KERNELS = ("plain", "tiled", "dsp")

#: Value of a field of a kernel's structure: a number, a row of numbers, or the name of an array of the step.
FieldValue = int | tuple[int, ...] | str


@dataclass(frozen=True)
class Value:
    """An activation or a constant.

    Attributes:
        index: tensor number in the file.
        name: as in the file.
        shape, dtype: "int8" or "float32" for activations.
        size_bytes: of its elements.
        scale, zero_point: None where it holds no quantized integers.
        data: the constant's values, else None.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    scale: float | None
    zero_point: int | None
    data: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Step:
    """One kernel call.

    Attributes:
        operator: number in the file; several steps may come from one.
        code: the schema's name, such as "CONV_2D".
        summary: sizes for the comment above the call.
        kernel: C function.
        fast_kernel: C function that takes its place where EP_FAST is 1; it takes scratch after the output.
        structure: C type of its constant argument, or empty: then `arguments` come first, as they are.
        fields: of that structure.
        arguments: C expressions before the pointers, where there is no structure.
        arrays: constant arrays by name.
        inputs, output: tensor numbers.
        macs: multiply-accumulates under the rule `core`.
        scratch_bytes: by kind of kernels, of the fast kernel, or of the only one; empty where it needs none.
    """

    operator: int
    code: str
    summary: str
    kernel: str
    structure: str
    fields: Mapping[str, FieldValue]
    inputs: tuple[int, ...]
    output: int
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    arguments: tuple[str, ...] = ()
    macs: int = 0
    fast_kernel: str | None = None
    scratch_bytes: Mapping[str, int] = field(default_factory=dict)


def one_byte(values: np.ndarray) -> bool:
    """Whether all bytes of an array are equal."""
    return len(set(values.tobytes())) <= 1


@dataclass(frozen=True)
class Network:
    """A lowered file.

    Attributes:
        values: by tensor number; those that share memory with another one are in `aliases` too.
        steps: in the order of execution.
        inputs, outputs: tensor numbers.
        aliases: tensor -> the tensor whose memory it is (RESHAPE and its like move nothing).
        macs: of all steps.
        operators: number of operators in the file.
        states: variables, which outlive an inference -> the values they start with, of their type.
    """

    values: Mapping[int, Value]
    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    aliases: Mapping[int, int]
    operators: int
    states: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def macs(self) -> int:
        """Multiply-accumulates under the rule `core`."""
        return sum(step.macs for step in self.steps)

    @property
    def constant_bytes(self) -> int:
        """Bytes of all constant arrays of the steps and of constant operands."""
        used = {index for step in self.steps for index in step.inputs}
        operands = sum(v.size_bytes for i, v in self.values.items() if v.data is not None and i in used)
        operands += sum(values.nbytes for values in self.states.values() if not one_byte(values))
        return operands + sum(array.nbytes for step in self.steps for array in step.arrays.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases."""
        return sum(
            array.nbytes for step in self.steps for name, array in step.arrays.items() if name in ("weights", "bias")
        )

    def home(self, tensor: int) -> int:
        """The tensor whose memory this one uses."""
        while tensor in self.aliases:
            tensor = self.aliases[tensor]
        return tensor
