"""The runtimes of generated firmware and emulated cores, as engines for `edgepress.deploy.runtimes.sessions`."""

from __future__ import annotations

from typing import Any

from edgepress.models.errors import RuntimeFailure


def firmware_engine(runtime: str, model: bytes, *, threads: int = 1) -> Any:
    """An engine (see `runtimes.engines.Engine`) of one of `runtimes.engines.EMULATED`.

    Raises:
        UsageError: the file has no exact C. VerdictError: it does not fit the device class's memories.
        RuntimeFailure: a tool is missing; the message names the packages.
    """
    if runtime == "host-c":
        from edgepress.deploy.firmware.host import HostEngine

        return HostEngine(model)
    if runtime == "arm64":
        from edgepress.deploy.firmware.arm64 import Arm64Engine

        return Arm64Engine(model, threads=threads)
    from edgepress.deploy.firmware.cortex_m import CortexMEngine

    return CortexMEngine(model, runtime)


def missing(runtime: str) -> str | None:
    """What a runtime lacks here, as a sentence; None where it can run."""
    if runtime == "host-c":
        from edgepress.deploy.firmware.host import compiler

        try:
            compiler()
        except RuntimeFailure as error:
            return str(error)
        return None
    if runtime == "arm64":
        from edgepress.deploy.firmware.arm64 import missing_tools as missing_for_arm64

        return missing_for_arm64()
    from edgepress.deploy.firmware.cortex_m import missing_tools

    return missing_tools()
