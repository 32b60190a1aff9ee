# SPDX-License-Identifier: Apache-2.0
"""The emulated boards that generated firmware runs on, and the tools that each needs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Cores that share a compiler and an emulator.

    Attributes:
        tools: prefix of the compiler and its tools.
        flags: of the compiler, for every core.
        emulator, emulator_options: the program, and what it is told besides the machine.
        startup: file that starts a program and calls the host.
        packages: of Debian.
    """

    tools: str
    flags: tuple[str, ...]
    emulator: str
    emulator_options: tuple[str, ...]
    startup: str
    packages: str


@dataclass(frozen=True)
class Board:
    """An emulated board.

    Attributes:
        family: of its core.
        machine: QEMU's name.
        flags: of the compiler.
        flash_origin, ram_origin: addresses of its memories.
        flash_bytes, ram_bytes: how much the emulated board has; no device class can be given more.
        kernels: that its core has instructions for, a key of `KERNELS`.
        device_class: whose limits are the linker's unless others are given; None where there is none.
    """

    family: Family
    machine: str
    flags: tuple[str, ...]
    flash_origin: int
    ram_origin: int
    flash_bytes: int
    ram_bytes: int
    kernels: str
    device_class: str | None = None


_MIB = 1 << 20
_SOFT, _HARD = "-mfloat-abi=soft", "-mfloat-abi=hard"
CORTEX_M = Family(
    "arm-none-eabi",
    ("-mthumb", "--specs=nano.specs"),
    "qemu-system-arm",
    (),
    "cortex_m_startup.c",
    "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
)
RISC_V = Family(
    "riscv64-unknown-elf",
    ("-mabi=ilp32", "-mcmodel=medany", "--specs=picolibc.specs"),
    "qemu-system-riscv32",
    ("-bios", "none"),
    "riscv_startup.c",
    "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf qemu-system-misc",
)


def _mps2(machine: str, *flags: str, kernels: str, device_class: str | None = None) -> Board:
    return Board(CORTEX_M, machine, flags, 0, 0x20000000, 4 * _MIB, 4 * _MIB, kernels, device_class)


BOARDS = {
    # An M3 executes all of an M0+'s instructions; the compiler uses no others.
    "cortex-m0plus": _mps2("mps2-an385", "-mcpu=cortex-m0plus", _SOFT, kernels="tiled"),
    "cortex-m3": _mps2("mps2-an385", "-mcpu=cortex-m3", _SOFT, kernels="tiled"),
    "cortex-m4": _mps2(
        "mps2-an386", "-mcpu=cortex-m4", _HARD, "-mfpu=fpv4-sp-d16", kernels="dsp", device_class="cortex-m4"
    ),
    "cortex-m7": _mps2(
        "mps2-an500", "-mcpu=cortex-m7", _HARD, "-mfpu=fpv5-d16", kernels="dsp", device_class="cortex-m7"
    ),
    "cortex-m33": Board(
        CORTEX_M,
        "mps2-an505",
        ("-mcpu=cortex-m33", _HARD, "-mfpu=fpv5-sp-d16"),
        0x10000000,
        0x38000000,
        4 * _MIB,
        2 * _MIB,
        "dsp",
        "cortex-m33",
    ),
    "cortex-m55": Board(
        CORTEX_M, "mps3-an547", ("-mcpu=cortex-m55", _HARD), 0, 0x21000000, _MIB // 2, 2 * _MIB, "mve", "cortex-m55"
    ),
    # The core of ESP32-C3 and C6, among others.
    "riscv32": Board(RISC_V, "virt", ("-march=rv32imc",), 0x80000000, 0x80800000, 8 * _MIB, 8 * _MIB, "tiled"),
}


def missing_tools(runtime: str) -> str | None:
    """A sentence that names the packages that a runtime of `BOARDS` lacks, or None where all is there."""
    family = BOARDS[runtime].family
    absent = [tool for tool in (f"{family.tools}-gcc", family.emulator) if shutil.which(tool) is None]
    if not absent:
        return None
    return (
        f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed; "
        f"Debian: apt-get install --no-install-recommends {family.packages} (or make install-firmware-tools)"
    )
