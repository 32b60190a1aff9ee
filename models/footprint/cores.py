# SPDX-License-Identifier: Apache-2.0
"""Which core our own firmware runs on in a device class, and the kernels that it takes there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgepress.models.devices.device import DeviceClass
from edgepress.models.errors import UsageError

#: Device class -> the emulated core whose compiled kernels its core runs, a key of `deploy.firmware.boards.BOARDS`.
CORES = {
    "cortex-m0plus": "cortex-m0plus",
    "cortex-m3": "cortex-m3",
    "cortex-m4": "cortex-m4",
    "cortex-m7": "cortex-m7",
    "cortex-m33": "cortex-m33",
    "cortex-m55": "cortex-m55",
    "cortex-m55-ethos-u55": "cortex-m55",
    "cortex-m85": "cortex-m55",
    "esp32-c3": "riscv32",
    "risc-v": "riscv32",
}
#: Cores with instructions for products of two or sixteen values; the kernels of all others are "tiled".
_KERNELS = {"cortex-m4": "dsp", "cortex-m7": "dsp", "cortex-m33": "dsp", "cortex-m55": "mve"}


def kernels_of(device: DeviceClass, metric: str) -> str:
    """ "tiled", "dsp" or "mve": the kernels that our firmware takes on the core of a class.

    Raises:
        UsageError: the class is no microcontroller; the message begins with the metric.
    """
    if device.runtime != "tflm" or device.challenge:
        raise UsageError(
            f"{metric}: the device class {device.name!r} is no microcontroller, our firmware is for these; leave this "
            "budget out, or limit another figure of the network"
        )
    return _KERNELS.get(CORES.get(device.name, ""), "tiled")


def costs_of(device: DeviceClass, metric: str, cores: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a class's core in a table of costs; `same_as` names the core whose costs are its own.

    Raises:
        UsageError: its core was not counted; the message begins with the metric.
    """
    core = CORES.get(device.name, "")
    if core not in cores:
        known = ", ".join(name for name, of in CORES.items() if of in cores)
        raise UsageError(
            f"{metric}: the core of the device class {device.name!r} was not counted; known are the classes {known}"
        )
    own = cores[core]
    return {**cores[own["same_as"]], **own} if "same_as" in own else own
