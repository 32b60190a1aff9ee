# SPDX-License-Identifier: Apache-2.0
"""What a file takes as firmware of an emulated Cortex-M, linked for the memories of a device class: for the gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    from edgepress.models.devices.device import DeviceClass

#: Of a record among the results of the gate.
KIND = "linked firmware"


def linked_firmware(path: str | Path, runtime: str, device: DeviceClass | None = None) -> dict[str, Any]:
    """Link the firmware of a .tflite file and run it once.

    Args:
        path: the file.
        runtime: an emulated core, a key of `deploy.firmware.boards.BOARDS`.
        device: the class whose flash and RAM are the linker's limits; None takes the one of the runtime's name.

    Returns:
        {"kind", "runtime", "sha256", "fits", "flash_bytes", "ram_bytes", "stack_bytes", "instructions",
        "front_end_instructions", "verdict", "note"}; an audio network is linked with its front end, whose instructions
        are those of a clip.
        Where it does not fit, `fits` is False, `verdict` is the linker's, and the memory that is too small has the
        bytes that are needed; what is not known is None.

    Raises:
        UsageError: the runtime links no firmware, or something in the file has no C.
        RuntimeFailure: a tool is missing, or the emulated run failed.
    """
    from edgepress.benchmarks.measure.accuracy import model_sha256
    from edgepress.deploy.firmware.boards import BOARDS
    from edgepress.deploy.firmware.emulated import STACK_BYTES, DoesNotFit, EmulatedCore, memory_limits, noise
    from edgepress.deploy.firmware.front_end.emit import definition_of
    from edgepress.deploy.firmware.sources import firmware, random_sample

    if runtime not in BOARDS:
        raise UsageError(f"runtime = {runtime!r} links no firmware: allowed are {', '.join(BOARDS)}")
    made = firmware(path, front_end=definition_of(path))
    flash, ram = memory_limits(runtime, device)
    record: dict[str, Any] = {
        "kind": KIND,
        "runtime": runtime,
        "sha256": model_sha256(path),
        "fits": True,
        "flash_bytes": None,
        "ram_bytes": None,
        "stack_bytes": None,
        "instructions": None,
        "front_end_instructions": None,
        "verdict": "",
        "note": f"without its front end, which has no C: {made.deaf}" if made.deaf else "",
    }
    try:
        hears = made.front_end is not None
        with EmulatedCore(made, runtime, flash_bytes=flash, ram_bytes=ram, listening=hears) as core:
            given = random_sample(made.network)
            done = core.hear(noise(made.front_end), count=True) if made.front_end else core.run(given, count=True)
            assert done.instructions is not None
            record.update(
                flash_bytes=core.sizes.flash,
                ram_bytes=core.sizes.ram,
                stack_bytes=done.stack_bytes,
                instructions=done.instructions.total,
                front_end_instructions=done.front_end_instructions,
            )
    except DoesNotFit as verdict:
        record.update(fits=False, verdict=str(verdict))
        if verdict.flash_over_bytes:
            record["flash_bytes"] = flash + verdict.flash_over_bytes
        if verdict.ram_over_bytes:
            record["ram_bytes"] = ram + verdict.ram_over_bytes - STACK_BYTES
    return record
