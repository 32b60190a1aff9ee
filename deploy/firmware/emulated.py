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
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.deploy.firmware.boards import BOARDS, missing_tools
from edgepress.deploy.firmware.emit import layer_name, write_sources
from edgepress.deploy.firmware.host import (
    CompilerFailure,
    bytes_to_samples,
    port_details,
    run_batches,
    run_compiler,
    samples_to_bytes,
)
from edgepress.deploy.firmware.instructions import Instructions, by_layer, counted
from edgepress.deploy.firmware.sources import (
    EXACT,
    HOT_SOURCES,
    Firmware,
    compiled_sources,
    firmware,
    random_sample,
    sources,
    substituted,
    switches,
    template,
)
from edgepress.deploy.runtimes.engine import EngineOptions
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import RuntimeFailure, UsageError, VerdictError

if TYPE_CHECKING:
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
    """What an emulated run gave: outputs [N, ...] each, bytes of stack, instructions where they were counted."""

    outputs: list[np.ndarray]
    stack_bytes: int
    instructions: Instructions | None


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
        changes: dict[str, str] | None = None,
    ):
        if runtime not in BOARDS:
            raise UsageError(f"runtime = {runtime!r} is no emulated core: allowed are {', '.join(BOARDS)}")
        if reason := missing_tools(runtime):
            raise RuntimeFailure(f"the runtime {runtime} cannot run: {reason}")
        self.made: Firmware = made
        self.runtime: str = runtime
        self._board, self._timeout_s = BOARDS[runtime], timeout_s
        defaults = memory_limits(runtime)
        self._flash, self._ram = flash_bytes or defaults[0], ram_bytes or defaults[1]
        self.kernels: str = kernels or self._board.kernels
        self._temporary = TemporaryDirectory(prefix="edgepress-")
        self._folder = Path(self._temporary.name)
        try:
            self._build(changes or {})
        except BaseException:
            self.close()
            raise

    def _build(self, changes: dict[str, str]) -> None:
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
                "core_main.c": substituted("core_main.c", made),
                board.family.startup: template(board.family.startup),
                "core.ld": script,
                **changes,
            },
        )
        compiler = [
            f"{board.family.tools}-gcc",
            "-std=gnu99",
            *board.family.flags,
            *board.flags,
            EXACT,
            "-ffunction-sections",
            "-fdata-sections",
            *switches(self.kernels),
        ]
        small = [name for name in compiled_sources(made) if name not in HOT_SOURCES]
        objects = [str(Path(name).with_suffix(".o")) for name in (*HOT_SOURCES, *small)]
        run_compiler([*compiler, "-O2", "-c", *HOT_SOURCES], self._folder)
        run_compiler([*compiler, "-Os", "-c", *small], self._folder)
        command = [
            *compiler,
            "-Os",
            "-nostartfiles",
            "-Wl,--gc-sections",
            "-Wl,--no-warn-rwx-segments",
            "-T",
            "core.ld",
            "-o",
            "firmware.elf",
            board.family.startup,
            "core_main.c",
            *objects,
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
        network = self.made.network
        (self._folder / "input.bin").write_bytes(samples_to_bytes([network.values[t] for t in network.inputs], arrays))
        output = self._folder / "output.bin"
        output.unlink(missing_ok=True)
        command = [
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
        rows: list[tuple[int, int]] = []
        symbols: dict[str, int] = {}
        if count:
            symbols = self._symbols()
            names = [
                f"{self.made.name}_invoke",
                *(layer_name(i, s) for i, s in enumerate(network.steps)),
                "ep_inference_done",
            ]
            code, rows = counted(command, self._folder, [symbols[name] for name in names], self._timeout_s)
        else:
            code = self._emulate(command)
        if code != 0:
            what = "a fault stopped it" if code == 99 else f"it ended with code {code}"
            raise RuntimeFailure(f"the firmware failed on the emulated {self.runtime}: {what}")
        data = output.read_bytes()
        outputs = bytes_to_samples([network.values[t] for t in network.outputs], data[:-4], len(arrays[0]))
        return Run(outputs, int.from_bytes(data[-4:], "little"), by_layer(self.made, symbols, rows) if count else None)

    def _emulate(self, command: Sequence[str]) -> int:
        try:
            return subprocess.run(
                command,
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


class EmulatedEngine:
    """See `edgepress.deploy.runtimes.engine.Engine`: the generated firmware on an emulated core."""

    def __init__(self, runtime: str, model: bytes, options: EngineOptions):
        self._core = EmulatedCore(firmware(model), runtime)
        network = self._core.made.network
        self.inputs: tuple[TensorDetails, ...] = port_details([network.values[t] for t in network.inputs])
        self.outputs: tuple[TensorDetails, ...] = port_details([network.values[t] for t in network.outputs])
        self._stack_bytes: int | None = None

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return run_batches(self._run, arrays, self.inputs)

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        done = self._core.run(arrays)
        self._stack_bytes = done.stack_bytes
        return done.outputs

    def arena(self) -> dict[str, int]:
        """The static arena; there is no other part."""
        return {"head": self._core.arena_bytes, "total": self._core.arena_bytes}

    def figures(self) -> dict[str, Any]:
        """Flash, RAM, stack in bytes and instructions of one inference on a random input, in total and by layer."""

        done = self._core.run(random_sample(self._core.made.network), count=True)
        assert done.instructions is not None
        sizes, counts = self._core.sizes, done.instructions
        return {
            "flash_bytes": sizes.flash,
            "ram_bytes": sizes.ram,
            "arena_bytes": sizes.arena,
            "stack_bytes": done.stack_bytes,
            "kernels": self._core.kernels,
            "instructions": counts.total,
            "layers": [
                {"name": layer.name, "operator": layer.code, "instructions": layer.instructions, "macs": layer.macs}
                for layer in counts.layers
            ],
        }

    def close(self) -> None:
        self._core.close()
