# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch as an engine."""

from __future__ import annotations

import ctypes
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.deploy.pte.scales import border_of
from edgepress.deploy.runtimes.engine import Engine, EngineOptions, Stateless, one_line, samples, stacked
from edgepress.deploy.runtimes.onnx_io import OuterScales
from edgepress.deploy.runtimes.registry import missing_package
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.terminal.chatter import without_chatter

#: Numbers of torch's types, which are those of ExecuTorch (c10/core/ScalarType.h).
_TYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "float16",
    6: "float32",
    7: "float64",
    11: "bool",
}
_METHOD = "forward"


def open_program(name: str, model: bytes, options: EngineOptions) -> Engine:
    """A program; with the integers of its borders, where it tells them of all its inputs and outputs."""
    engine = ExecuTorchEngine(name, model, options)
    inputs, outputs = (engine.with_scales(side) for side in ("input", "output"))
    if any(details.scale is None or details.dtype != "int8" for details in (*inputs, *outputs)):
        return engine
    return OuterScales(engine, inputs, outputs)


class ExecuTorchEngine(Stateless):
    """ExecuTorch's own Python runtime on the CPU: XNNPACK for what was lowered to it, portable kernels for the rest."""

    def __init__(self, name: str, model: bytes, options: EngineOptions):
        try:
            import torch  # before the runtime, which links to it

            with warnings.catch_warnings(), without_chatter((2,)):
                warnings.simplefilter("ignore")
                # Not `executorch.runtime`, which brings the whole exporter along.
                from executorch.extension.pybindings import _C
        except ImportError as error:
            raise missing_package(name, error) from error
        self._torch = torch
        self._model = model  # the program reads from it as long as it lives
        _load_quantized_kernels(_C)
        with warnings.catch_warnings(), without_chatter((2,)) as said:
            warnings.simplefilter("ignore")
            _C._unsafe_reset_threadpool(options.threads)
            try:
                self._program = _C._load_program_from_buffer(
                    model, program_verification=_C.Verification.InternalConsistency
                )
            except RuntimeError as error:
                raise UsageError(f"ExecuTorch refuses the file: {one_line(error)}{_last(said())}") from error
            methods = [self._program.get_method_name(i) for i in range(self._program.num_methods())]
            if _METHOD not in methods:
                raise UsageError(f"the program has no method {_METHOD!r}, only {', '.join(methods) or 'none'}")
            self._methods: list[str] = methods
            try:
                self._method = self._program.load_method(_METHOD)
            except RuntimeError as error:
                raise RuntimeFailure(f"ExecuTorch cannot prepare the file: {one_line(error)}{_last(said())}") from error
        about = self._method.method_meta()
        self.inputs: tuple[TensorDetails, ...] = _details(about.input_tensor_meta, about.num_inputs(), "input")
        self.outputs: tuple[TensorDetails, ...] = _details(about.output_tensor_meta, about.num_outputs(), "output")

    def with_scales(self, side: str) -> list[TensorDetails]:
        """The inputs or outputs with the integers that the program tells of, if it does."""
        found = []
        for index, details in enumerate(self.inputs if side == "input" else self.outputs):
            told = border_of(side, index, self._methods, lambda name: self._program.load_method(name)([])[0])
            if told is not None:
                details = replace(details, scale=told[0], zero_point=told[1], dtype="int8")
            found.append(details)
        return found

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        kept: list[list[np.ndarray]] = [[] for _ in self.outputs]
        for sample in samples(arrays, self.inputs):
            try:
                made = self._method([self._torch.from_numpy(np.array(value)) for value in sample])
            except RuntimeError as error:
                raise RuntimeFailure(f"ExecuTorch failed while running: {one_line(error)}") from error
            for rows, value in zip(kept, made, strict=True):
                rows.append(value.numpy())
        return stacked(kept, arrays, self.inputs, self.outputs)

    def close(self) -> None:
        self.__dict__.pop("_method", None)
        self.__dict__.pop("_program", None)
        self.__dict__.pop("_model", None)


def _load_quantized_kernels(runtime: Any) -> None:
    """The portable kernels of integers: a library of its own in the package; what is there is not loaded twice."""
    if any(name.startswith("quantized_decomposed::") for name in runtime._get_operator_names()):
        return
    found = importlib.util.find_spec("executorch")
    for home in (found.submodule_search_locations or ()) if found is not None else ():
        for library in sorted((Path(home) / "lib").glob("libexecutorch_kernels_quantized.*")):
            if library.suffix in (".so", ".dylib"):
                ctypes.CDLL(str(library))
                return


def _details(ask: Any, count: int, side: str) -> tuple[TensorDetails, ...]:
    found = []
    for index in range(count):
        try:
            about = ask(index)
        except RuntimeError as error:
            raise UsageError(f"{side} {index} of the program is no tensor: {one_line(error)}") from error
        if about.dtype() not in _TYPES:
            raise UsageError(f"{side} {index} of the program has the type {about}, which is no array of numbers")
        found.append(TensorDetails("", tuple(int(size) for size in about.sizes()), _TYPES[about.dtype()]))
    return tuple(found)


def _last(said: list[str]) -> str:
    return f" ({said[0].strip()[:200]})" if said else ""
