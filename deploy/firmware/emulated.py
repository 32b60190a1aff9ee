# SPDX-License-Identifier: Apache-2.0
"""The runtimes cortex-m0plus to cortex-m55 and riscv32: real firmware, linked for the device class's memories, on an
emulated core.

Instructions are exact; they are no cycles. Flash and RAM are the linker's; stack is painted. The tools are optional.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from edgepress.deploy.firmware.boards import BOARDS, missing_tools
from edgepress.deploy.firmware.emit import layer_name, write_sources
from edgepress.deploy.firmware.host import (
    CompilerFailure,
    bytes_to_samples,
    kernel_objects,
    run_compiler,
    samples_to_bytes,
)
from edgepress.deploy.firmware.instructions import (
    Block,
    Instructions,
    by_layer,
    counted,
    executed_blocks,
    front_end_instructions,
)
from edgepress.deploy.firmware.sources import (
    EXACT,
    HOT_SOURCES,
    KERNEL_SOURCES,
    Firmware,
    compiled_sources,
    sources,
    substituted,
    switches,
    template,
)
from edgepress.models.children import bound
from edgepress.models.errors import RuntimeFailure, UsageError, VerdictError

if TYPE_CHECKING:
    from edgepress.deploy.firmware.front_end.emit import FrontEnd
    from edgepress.models.devices.device import DeviceClass

#: What must be left of the RAM; the kernels' own use is far below and is reported.
STACK_BYTES = 2048
_OVERFLOW = re.compile(r"region [`'](FLASH|RAM)' overflowed by (\d+) bytes")
_SIZE = re.compile(r"^(\.\S+)\s+(\d+)\s+\d+$", re.M)


class DoesNotFit(VerdictError):
    """The firmware is larger than the device class's memory: a verdict, with the bytes that are too many.

    Attributes:
        flash_over_bytes, ram_over_bytes: by how much; 0 where it fits.
    """

    def __init__(self, message: str, flash_over_bytes: int, ram_over_bytes: int):
        super().__init__(message)
        self.flash_over_bytes: int = flash_over_bytes
        self.ram_over_bytes: int = ram_over_bytes


@dataclass(frozen=True)
class Sizes:
    """Bytes of linked firmware.

    Attributes:
        flash: code, constants and initial values.
        ram: static: the arena and little else.
        arena: of which arena.
        constants: of the flash: weights, biases, multipliers, shifts, tables.
    """

    flash: int
    ram: int
    arena: int
    constants: int


@dataclass(frozen=True)
class Run:
    """What an emulated run gave: outputs [N, ...] each, bytes of stack, instructions where they were counted.

    `front_end_instructions`: of one clip, before its network; None where nothing was heard or counted.
    """

    outputs: list[np.ndarray]
    stack_bytes: int
    instructions: Instructions | None
    front_end_instructions: int | None = None


def memory_limits(runtime: str, device: DeviceClass | None = None) -> tuple[int, int]:
    """(flash, RAM) in bytes of a device class, else of the one that the runtime is named after, else of the board."""
    from edgepress.models.devices.classes import device_class

    board = BOARDS[runtime]
    found = device if device is not None else device_class(board.device_class) if board.device_class else None
    if found is None:
        return board.flash_bytes, board.ram_bytes
    rule = found.rules.get("flash")
    flash = int(rule.maximum) if rule is not None and rule.maximum is not None else board.flash_bytes
    return flash, found.ram_bytes or board.ram_bytes


class EmulatedCore:
    """Linked firmware for one core; a context manager.

    Args:
        made: the network.
        runtime: a key of `BOARDS`.
        kernels: a key of `KERNELS`; None takes what the core has instructions for.
        flash_bytes, ram_bytes: the linker's limits; None takes the device class's.
        timeout_s: of one emulated run.
        listening: with the network's front end: `hear` runs it, `run` does not.

    Raises:
        DoesNotFit: flash or RAM is too small. RuntimeFailure: a tool is missing.
    """

    def __init__(
        self,
        made: Firmware,
        runtime: str,
        *,
        kernels: str | None = None,
        flash_bytes: int | None = None,
        ram_bytes: int | None = None,
        timeout_s: float = 600.0,
        listening: bool = False,
    ):
        if runtime not in BOARDS:
            raise UsageError(f"runtime = {runtime!r} is no emulated core: allowed are {', '.join(BOARDS)}")
        if listening and made.front_end is None:
            raise UsageError("this network has no front end to listen through")
        if reason := missing_tools(runtime):
            raise RuntimeFailure(f"the runtime {runtime} cannot run: {reason}")
        self.made: Firmware = made
        self.runtime: str = runtime
        self._main: str = "core_listen_main.c" if listening else "core_main.c"
        self._board, self._timeout_s = BOARDS[runtime], timeout_s
        defaults = memory_limits(runtime)
        self._flash, self._ram = flash_bytes or defaults[0], ram_bytes or defaults[1]
        self.kernels: str = kernels or self._board.kernels
        self._temporary = TemporaryDirectory(prefix="edgepress-")
        self._folder = Path(self._temporary.name)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        board, made = self._board, self.made
        flash, ram = min(self._flash, board.flash_bytes), min(self._ram, board.ram_bytes)
        script = substituted(
            "core.ld",
            made,
            flash_origin=hex(board.flash_origin),
            ram_origin=hex(board.ram_origin),
            flash_bytes=str(flash),
            ram_bytes=str(ram),
            stack_bytes=str(STACK_BYTES),
        )
        write_sources(
            self._folder,
            {
                **sources(made, "a .tflite file"),
                self._main: substituted(self._main, made),
                "ep_semihosting.h": template("ep_semihosting.h"),
                board.family.startup: template(board.family.startup),
                "core.ld": script,
            },
        )
        program, flags = f"{board.family.tools}-gcc", self._flags()
        cold = tuple(name for name in KERNEL_SOURCES if name not in HOT_SOURCES)
        own = [name for name in compiled_sources(made) if name not in KERNEL_SOURCES]
        run_compiler([program, *flags, "-Os", "-c", *own], self._folder)
        command = [
            program,
            *flags,
            "-Os",
            "-nostartfiles",
            "-Wl,--gc-sections",
            "-Wl,--no-warn-rwx-segments",
            "-T",
            "core.ld",
            "-o",
            "firmware.elf",
            board.family.startup,
            self._main,
            *map(str, kernel_objects(program, (*flags, "-O2"), HOT_SOURCES)),
            *map(str, kernel_objects(program, (*flags, "-Os"), cold)),
            *(str(Path(name).with_suffix(".o")) for name in own),
            "-lm",
            "-lc",
            "-lgcc",
        ]
        try:
            run_compiler(command, self._folder)
        except CompilerFailure as error:
            over = {region: int(count) for region, count in _OVERFLOW.findall(error.said)}
            if not over:
                raise
            self._too_large(over, flash, ram, error)
        self.sizes: Sizes = self._sizes()

    def _flags(self) -> tuple[str, ...]:
        """Of the compiler, for everything but how far it optimises."""
        board = self._board
        sections = ("-ffunction-sections", "-fdata-sections")
        return ("-std=gnu99", *board.family.flags, *board.flags, EXACT, *sections, *switches(self.kernels))

    def _too_large(self, over: dict[str, int], flash: int, ram: int, cause: Exception) -> None:
        if (flash < self._flash and "FLASH" in over) or (ram < self._ram and "RAM" in over):
            raise RuntimeFailure(
                f"the emulated {self._board.machine} has only {flash:,} bytes of flash and {ram:,} of RAM, less "
                f"than {self.runtime}: this network cannot be run on it"
            ) from cause
        parts = [
            f"{what} by {over[region]:,} bytes (limit {limit:,})"
            for region, what, limit in (("FLASH", "flash", flash), ("RAM", "RAM", ram))
            if region in over
        ]
        raise DoesNotFit(
            f"the firmware does not fit {self.runtime}: it exceeds {' and '.join(parts)}; RAM holds the arena of "
            f"{self.arena_bytes:,} bytes and {STACK_BYTES:,} for the stack",
            over.get("FLASH", 0),
            over.get("RAM", 0),
        ) from cause

    @property
    def arena_bytes(self) -> int:
        """Of the arena with these kernels."""
        return self.made.layouts[self.kernels].arena_bytes

    def _sizes(self) -> Sizes:
        said = run_compiler([f"{self._board.family.tools}-size", "-A", "firmware.elf"], self._folder)
        sections = {name: int(size) for name, size in _SIZE.findall(re.sub(r"[ \t]+", " ", said))}
        data = sections.get(".data", 0)
        return Sizes(
            sections[".text"] + sections.get(".ARM.exidx", 0) + data,
            data + sections.get(".bss", 0),
            self.arena_bytes,
            self.made.network.constant_bytes,
        )

    def _symbols(self) -> dict[str, int]:
        said = run_compiler([f"{self._board.family.tools}-nm", "firmware.elf"], self._folder)
        rows = [line.split() for line in said.splitlines()]
        return {row[2]: int(row[0], 16) & ~1 for row in rows if len(row) == 3 and row[1] in "tT"}

    def run(self, arrays: Sequence[np.ndarray], *, count: bool = False) -> Run:
        """Run N samples on the emulated core; `count` also counts instructions (slower).

        Raises:
            RuntimeFailure: it faulted, took too long, or instructions cannot be counted here.
        """
        inputs = [self.made.network.values[t] for t in self.made.network.inputs]
        return self._execute(samples_to_bytes(inputs, arrays), len(arrays[0]), count)

    def hear(self, clips: np.ndarray, *, count: bool = False) -> Run:
        """Let N clips be heard, int16 [N, clip_samples], in pieces as a microphone gives them; one decision each.

        Raises:
            UsageError: other clips. RuntimeFailure: see `run`.
        """
        front_end = self.made.front_end
        wanted = 0 if front_end is None else front_end.clip_samples
        if clips.dtype != np.int16 or clips.ndim != 2 or clips.shape[1] != wanted:
            raise UsageError(f"clips must be int16 [N, {wanted}], not {clips.dtype} {list(clips.shape)}")
        return self._execute(np.ascontiguousarray(clips).tobytes(), len(clips), count)

    def _execute(self, given: bytes, samples: int, count: bool) -> Run:
        network = self.made.network
        (self._folder / "input.bin").write_bytes(given)
        output = self._folder / "output.bin"
        output.unlink(missing_ok=True)
        command = self._command()
        rows: list[tuple[int, int]] = []
        symbols: dict[str, int] = {}
        if count:
            symbols = self._symbols()
            names = [
                f"{self.made.name}_invoke",
                *(layer_name(i, s) for i, s in enumerate(network.steps)),
                "ep_inference_done",
                *(["ep_clip_begins"] if "ep_clip_begins" in symbols else []),
            ]
            code, rows = counted(command, self._folder, [symbols[name] for name in names], self._timeout_s)
        else:
            code = self._emulate(command)
        if code != 0:
            what = "a fault stopped it" if code == 99 else f"it ended with code {code}"
            raise RuntimeFailure(f"the firmware failed on the emulated {self.runtime}: {what}")
        data = output.read_bytes()
        heard = "listen" in self._main
        values = [network.values[t] for t in network.outputs][: 1 if heard else None]
        outputs = bytes_to_samples(values, data[:-4], samples)
        return Run(
            outputs,
            int.from_bytes(data[-4:], "little"),
            by_layer(self.made, symbols, rows) if count else None,
            front_end_instructions(self.made, symbols, rows) if count and heard else None,
        )

    def _command(self) -> list[str]:
        """What runs the firmware."""
        return [
            self._board.family.emulator,
            "-M",
            self._board.machine,
            *self._board.family.emulator_options,
            "-nographic",
            "-monitor",
            "none",
            "-serial",
            "none",
            "-semihosting-config",
            "enable=on,target=native",
            "-kernel",
            "firmware.elf",
        ]

    def executed(self, arrays: Sequence[np.ndarray]) -> tuple[list[Block], str]:
        """Blocks of instructions of the first inference, how often each was executed, and the disassembly.

        Raises:
            RuntimeFailure: it faulted, took too long, or instructions cannot be counted here.
        """
        network, symbols = self.made.network, self._symbols()
        (self._folder / "input.bin").write_bytes(samples_to_bytes([network.values[t] for t in network.inputs], arrays))
        start, end = symbols[f"{self.made.name}_invoke"], symbols["ep_inference_done"]
        code, blocks = executed_blocks(self._command(), self._folder, start, end, self._timeout_s)
        if code != 0 or not blocks:
            raise RuntimeFailure(f"the firmware failed on the emulated {self.runtime}: it ended with code {code}")
        return blocks, run_compiler([f"{self._board.family.tools}-objdump", "-d", "firmware.elf"], self._folder)

    def _emulate(self, command: Sequence[str]) -> int:
        try:
            return subprocess.run(
                bound(command),
                cwd=self._folder,
                capture_output=True,
                timeout=self._timeout_s,
                stdin=subprocess.DEVNULL,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise RuntimeFailure(f"the emulated run took longer than {self._timeout_s:g} s") from None

    def close(self) -> None:
        """Remove the firmware."""
        self._temporary.cleanup()

    def __enter__(self) -> EmulatedCore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def noise(front_end: FrontEnd, seed: int = 1) -> np.ndarray:
    """A clip of noise, int16 [1, clip_samples]."""
    generator = np.random.default_rng(seed)
    return generator.integers(-8000, 8000, (1, front_end.clip_samples), dtype=np.int16)
