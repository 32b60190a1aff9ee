# SPDX-License-Identifier: Apache-2.0
"""LiteRT as an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepress.deploy.runtimes.engine import EngineOptions, one_line, samples, stacked
from edgepress.deploy.runtimes.registry import missing_package
from edgepress.deploy.runtimes.tensor_details import TensorDetails, integer_details
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.terminal.chatter import without_chatter


class LiteRTEngine:
    """LiteRT on the CPU, with XNNPACK (the default of phones and boards) or with the reference kernels."""

    def __init__(self, runtime: str, model: bytes, options: EngineOptions):
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            raise missing_package(runtime, error) from error
        kind = OpResolverType.BUILTIN_REF if runtime == "litert-reference" else OpResolverType.BUILTIN
        if options.plain and runtime == "litert":
            kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

        def make() -> Any:
            try:
                with without_chatter((2,)):  # that a delegate was made
                    made = Interpreter(
                        model_content=model, num_threads=options.threads, experimental_op_resolver_type=kind
                    )
            except ValueError as error:
                raise UsageError(f"LiteRT refuses the file: {one_line(error)}") from error
            try:
                with without_chatter((2,)):
                    made.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                raise RuntimeFailure(f"{runtime} cannot prepare the file: {one_line(error)}") from error
            return made

        self._make, self._interpreter = make, make()
        self._anew, self._ran, self._streams = options.anew, False, False
        self._runtime, self._stateful = runtime, options.stateful
        self._given, self._made = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs: tuple[TensorDetails, ...] = tuple(_litert_details(d) for d in self._given)
        self.outputs: tuple[TensorDetails, ...] = tuple(_litert_details(d) for d in self._made)

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
        kept: list[list[np.ndarray]] = [[] for _ in self._made]
        for sample in samples(arrays, self.inputs):
            self._invoke(sample, anew)
            for tensor, rows in zip(self._made, kept, strict=True):
                rows.append(self._interpreter.get_tensor(tensor["index"]))
        return stacked(kept, arrays, self.inputs, self.outputs)

    def arena(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        del self._interpreter

    def _begin(self) -> None:
        """Bring variables back to the values that they begin with; those by name only in a new interpreter."""
        if self._anew and self._ran:
            self._interpreter = self._make()
        elif self._stateful:
            self._interpreter.reset_all_variables()

    def _invoke(self, sample: Sequence[np.ndarray], anew: bool) -> None:
        if anew:
            self._begin()
        for tensor, value in zip(self._given, sample, strict=True):
            self._interpreter.set_tensor(tensor["index"], value)
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise RuntimeFailure(f"{self._runtime} failed while running: {one_line(error)}") from error
        self._ran = True


def _litert_details(details: dict[str, Any]) -> TensorDetails:
    quantization = details["quantization_parameters"]
    return integer_details(
        details["name"], details["shape"], details["dtype"], quantization["scales"], quantization["zero_points"]
    )
