# SPDX-License-Identifier: Apache-2.0
"""Sessions on emulated cores: the generated firmware as a runtime, with its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepress.deploy.firmware.boards import missing_tools
from edgepress.deploy.firmware.emulated import EmulatedCore, noise
from edgepress.deploy.firmware.front_end.emit import log_mel_in
from edgepress.deploy.firmware.host import port_details, run_batches
from edgepress.deploy.firmware.sources import firmware, random_sample
from edgepress.deploy.runtimes.engine import EngineOptions
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import RuntimeFailure

__all__ = ["EmulatedEngine", "missing_tools"]  # the registry asks here for what is missing


class EmulatedEngine:
    """See `edgepress.deploy.runtimes.engine.Engine`: the generated firmware on an emulated core."""

    def __init__(self, runtime: str, model: bytes, options: EngineOptions):
        self._core = EmulatedCore(firmware(model, front_end=log_mel_in(options.front_end)), runtime)
        network = self._core.made.network
        self.inputs: tuple[TensorDetails, ...] = port_details([network.values[t] for t in network.inputs])
        self.outputs: tuple[TensorDetails, ...] = port_details([network.values[t] for t in network.outputs])
        self._stack_bytes: int | None = None

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return run_batches(self._run, arrays, self.inputs, self.outputs)

    def stream(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A network without variables gives the same as by `run`; the harness begins each sample of others anew.

        Raises:
            RuntimeFailure: the network has variables.
        """
        if self._core.made.network.states:
            raise RuntimeFailure("the emulated core begins every sample anew: run a stream on tflm or litert")
        return self.run(arrays)

    def reset(self) -> None:
        return

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        done = self._core.run(arrays)
        self._stack_bytes = done.stack_bytes
        return done.outputs

    def arena(self) -> dict[str, int]:
        """The static arena; there is no other part."""
        return {"head": self._core.arena_bytes, "total": self._core.arena_bytes}

    def figures(self) -> dict[str, Any]:
        """Flash, RAM, stack in bytes and instructions of one inference on a random input, in total and by layer.

        A network that hears is measured with its front end, on a clip of noise.
        """
        made, hears = self._core.made, {}
        if made.front_end is None:
            sizes, done = self._core.sizes, self._core.run(random_sample(made.network), count=True)
        else:
            with EmulatedCore(made, self._core.runtime, listening=True) as core:
                sizes, done = core.sizes, core.hear(noise(made.front_end), count=True)
            hears = {"front_end_instructions": done.front_end_instructions}
        counts = done.instructions
        assert counts is not None
        return {
            **hears,
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
