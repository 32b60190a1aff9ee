# SPDX-License-Identifier: Apache-2.0
"""What a program says of its borders: scale and zero point of the integers behind inputs and before outputs.

A program takes and gives float. Methods that give one number each (`forward_input0_scale`, `forward_output0_zp`), by
the names of ExecuTorch's own pass for integer inputs (`exir.passes.quantize_io_pass`), say what it rounds them to, so
that whoever has the file alone can count in steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepress.compress.quantize.scheme import Integers

_SIDES = ("input", "output")


def constant_methods(inputs: Sequence[Integers | None], outputs: Sequence[Integers | None]) -> dict[str, Any]:
    """Method -> number, for every input and output that is rounded."""
    told: dict[str, Any] = {}
    for side, found in zip(_SIDES, (inputs, outputs), strict=True):
        for index, integers in enumerate(found):
            if integers is not None:
                told[f"forward_{side}{index}_scale"] = float(integers.scale)
                told[f"forward_{side}{index}_zp"] = int(integers.zero_point)
    return told


def border_of(side: str, index: int, methods: Sequence[str], ask: Callable[[str], Any]) -> tuple[float, int] | None:
    """(scale, zero point) of an input or output; None where the program does not say.

    Args:
        side: "input" or "output".
        index: which.
        methods: names of the program's methods.
        ask: runs one of them.
    """
    names = [f"forward_{side}{index}_{key}" for key in ("scale", "zp")]
    if any(name not in methods for name in names):
        return None
    scale, zero = (ask(name) for name in names)
    return float(scale), int(zero)
