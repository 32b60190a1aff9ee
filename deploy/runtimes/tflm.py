# SPDX-License-Identifier: Apache-2.0
"""TFLite Micro as an engine."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
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
        self._make = partial(runtime.Interpreter.from_bytes, model, arena_size=options.arena_bytes)
        try:
            self._interpreter = self._make()
        except RuntimeError as error:
            raise RuntimeFailure(f"TFLite Micro cannot prepare the file: {one_line(error)}") from error
        except Exception as error:  # its Python reader of the file raises whatever struct and flatbuffers raise
            raise UsageError(f"TFLite Micro refuses the file: {one_line(error)}") from error
        self._stateful, self._anew, self._ran = options.stateful, options.anew, False
        self._streams = False  # whether the variables are those of a stream that goes on
        self.inputs: tuple[TensorDetails, ...] = self._details(self._interpreter.get_input_details)
        self.outputs: tuple[TensorDetails, ...] = self._details(self._interpreter.get_output_details)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._streams = False
        return self._run(arrays, anew=True)

    def stream(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if not self._streams:
            self._begin()
        self._streams = True
        return self._run(arrays, anew=False)

    def reset(self) -> None:
        self._streams = False

    def _run(self, arrays: Sequence[np.ndarray], anew: bool) -> list[np.ndarray]:
        kept: list[list[np.ndarray]] = [[] for _ in self.outputs]
        for sample in samples(arrays, self.inputs):
            self._invoke(sample, anew)
            for index, rows in enumerate(kept):
                rows.append(np.array(self._interpreter.get_output(index)))
        return stacked(kept, arrays, self.inputs, self.outputs)

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

    def _begin(self) -> None:
        """Bring variables back to the values that they begin with."""
        if self._anew and self._ran:
            self._interpreter = self._make()
        elif self._stateful:
            self._interpreter.reset()

    def _invoke(self, sample: Sequence[np.ndarray], anew: bool = True) -> None:
        try:
            if anew:
                self._begin()
            for index, value in enumerate(sample):
                self._interpreter.set_input(value, index)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise RuntimeFailure(f"TFLite Micro failed while running: {one_line(error)}") from error
        self._ran = True
