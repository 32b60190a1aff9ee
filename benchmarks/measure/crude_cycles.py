# SPDX-License-Identifier: Apache-2.0
"""Crude cycles: Arm's published timings of the Cortex-M4 laid over the instructions that an emulated one executed.

A model to compare kernels with, never a time: wait states of flash, the prefetch buffer, alignment of branches and what
pairs with what are not in it, and no figure of it was ever compared with silicon. `python -m
edgepress.benchmarks.measure.crude_cycles FILES` prints a line for each network.

The rules (after the Cortex-M4 Technical Reference Manual, table 3-1): an instruction takes 1; a load 2, but 1 directly
behind another load or store; LDRD, STRD and what loads or stores N registers 1 + N; a division 7, of 2 to 12; and a
branch that is taken 2 more.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgepress.deploy.firmware.emulated import EmulatedCore
from edgepress.deploy.firmware.instructions import Block
from edgepress.deploy.firmware.sources import Firmware, firmware, random_sample
from edgepress.models.errors import EdgepressError, RuntimeFailure

#: The core whose timings these are.
CORE = "cortex-m4"
_LINE = re.compile(r"^\s*([0-9a-f]+):\t[0-9a-f ]+\t(\S+)(?:\t([^;@\n]*))?", re.M)
_DIVISION = 7
_REGISTER = re.compile(r"(?:r|s|d)(\d+)(?:-(?:r|s|d)(\d+))?|[a-z]{2,3}")


@dataclass(frozen=True)
class CrudeCycles:
    """Of one inference.

    Attributes:
        cycles: by the model of this module.
        instructions: executed, exact.
        macs: multiply-accumulates, rule `core`.
    """

    cycles: int
    instructions: int
    macs: int

    @property
    def per_mac(self) -> float:
        """Crude cycles for each multiply-accumulate."""
        return self.cycles / self.macs


def crude_cycles(made: Firmware, arrays: Sequence[np.ndarray] | None = None) -> CrudeCycles:
    """Of one inference on an emulated Cortex-M4.

    Args:
        made: the network.
        arrays: one sample, [1, *shape] each; None takes a random one.

    Raises:
        RuntimeFailure: a tool is missing, or the run failed.
    """
    with EmulatedCore(made, CORE) as core:
        blocks, disassembly = core.executed(arrays if arrays is not None else random_sample(made.network))
    code = _instructions(disassembly)
    cycles = instructions = 0
    for block in blocks:
        inside = _of_block(code, block)
        instructions += block.times * len(inside)
        cycles += block.times * cost(inside) + 2 * block.left
    return CrudeCycles(cycles, instructions, made.network.macs)


def cost(instructions: Sequence[tuple[str, str]]) -> int:
    """Cycles of (name, operands) that are executed one after the other, without what a taken branch adds."""
    cycles, behind_memory = 0, False
    for full_name, operands in instructions:
        name = full_name.split(".")[0]
        several = name.startswith(("ldm", "stm", "push", "pop", "vldm", "vstm", "vpush", "vpop"))
        load = name.startswith(("ldr", "vldr"))
        if several:
            cycles += 1 + _registers(operands)
        elif name.startswith(("ldrd", "strd")):
            cycles += 3
        elif load:
            cycles += 1 if behind_memory else 2
        elif name.startswith(("sdiv", "udiv")):
            cycles += _DIVISION
        else:
            cycles += 1
        behind_memory = several or load or name.startswith(("str", "vstr"))
    return cycles


def _registers(operands: str) -> int:
    """How many are in the braces of `{r4, r6-r8, lr}`."""
    inside = operands[operands.index("{") + 1 : operands.index("}")] if "{" in operands else operands
    return sum(int(m[2]) - int(m[1]) + 1 if m[2] else 1 for m in _REGISTER.finditer(inside))


def _instructions(disassembly: str) -> dict[int, tuple[int, str, str]]:
    """Address -> (bytes, name, operands)."""
    found = {}
    for match in _LINE.finditer(disassembly):
        width = len(re.sub(r"\s", "", match[0].split("\t")[1])) // 2
        found[int(match[1], 16)] = (width, match[2], match[3] or "")
    return found


def _of_block(code: Mapping[int, tuple[int, str, str]], block: Block) -> list[tuple[str, str]]:
    at, found = block.start & ~1, []
    for _ in range(block.instructions):
        if at not in code:
            raise RuntimeFailure(f"the disassembly has no instruction at {at:#x}")
        width, name, operands = code[at]
        found.append((name, operands))
        at += width
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m edgepress.benchmarks.measure.crude_cycles`; the exit code is the project's."""
    parser = argparse.ArgumentParser(
        prog="python -m edgepress.benchmarks.measure.crude_cycles", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("files", nargs="+", type=Path, help=".tflite files")
    print("crude cycles: a model of the Cortex-M4 that was never compared with silicon", file=sys.stderr)
    try:
        for file in parser.parse_args(arguments).files:
            found = crude_cycles(firmware(file))
            print(
                f"{file.name}: {found.cycles:,} crude cycles, {found.per_mac:.2f} per MAC, "
                f"of {found.instructions:,} instructions"
            )
    except EdgepressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
