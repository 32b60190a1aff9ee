# SPDX-License-Identifier: Apache-2.0
"""TFLite Micro as an engine."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgepress.deploy.runtimes.engine import EngineOptions, one_line, samples, stacked
from edgepress.deploy.runtimes.registry import missing_package
from edgepress.deploy.runtimes.tensor_details import TensorDetails, integer_details
from edgepress.models.errors import RuntimeFailure, UsageError

_ARENA = re.compile(r"Arena allocation (total|head|tail) (\d+)")


class TFLMEngine:
    """TFLite Micro with its reference kernels. It may abort its process: use it behind `runtimes.isolated`."""

    def __init__(self, name: str, model: bytes, options: EngineOptions):
        try:
            from tflite_micro import runtime
        except ImportError as error:
            raise missing_package(name, error) from error
        try:
            self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=options.arena_bytes)
        except RuntimeError as error:
            raise RuntimeFailure(f"TFLite Micro cannot prepare the file: {one_line(error)}") from error
        except Exception as error:  # its Python reader of the file raises whatever struct and flatbuffers raise
            raise UsageError(f"TFLite Micro refuses the file: {one_line(error)}") from error
        self._stateful, self._ran = options.stateful, False
        self.inputs: tuple[TensorDetails, ...] = self._details(self._interpreter.get_input_details)
        self.outputs: tuple[TensorDetails, ...] = self._details(self._interpreter.get_output_details)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        kept: list[list[np.ndarray]] = [[] for _ in self.outputs]
        for sample in samples(arrays, self.inputs):
            self._invoke(sample)
            for index, rows in enumerate(kept):
                rows.append(np.array(self._interpreter.get_output(index)))
        return stacked(kept, len(arrays[0]), self.outputs)

    def arena(self) -> dict[str, int]:
        """Read what the recording allocator prints on the C level's stderr: there is no other way to ask it."""
        if not self._ran:
            self._invoke([np.zeros(d.shape, d.dtype) for d in self.inputs])
        sys.stderr.flush()
        saved = os.dup(2)
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                self._interpreter.print_allocations()
            finally:
                os.dup2(saved, 2)
                os.close(saved)
            file.seek(0)
            return {part: int(size) for part, size in _ARENA.findall(file.read().decode(errors="replace"))}

    def close(self) -> None:
        del self._interpreter

    def _details(self, ask: Callable[[int], dict[str, Any]]) -> tuple[TensorDetails, ...]:
        found = []
        while True:
            try:
                details = ask(len(found))
            except (RuntimeError, ValueError, IndexError):
                return tuple(found)
            quantization = details["quantization_parameters"]
            scales, zeros = quantization["scales"], quantization["zero_points"]
            found.append(integer_details("", details["shape"], details["dtype"], scales, zeros))

    def _invoke(self, sample: Sequence[np.ndarray]) -> None:
        try:
            if self._stateful:
                self._interpreter.reset()
            for index, value in enumerate(sample):
                self._interpreter.set_input(value, index)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise RuntimeFailure(f"TFLite Micro failed while running: {one_line(error)}") from error
        self._ran = True
