# SPDX-License-Identifier: Apache-2.0
"""OpenVINO as an engine: ONNX files as they are, and its own format."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgepress.deploy.runtimes.engine import Engine, EngineOptions, Stateless, in_batches, one_line
from edgepress.deploy.runtimes.messages import unpack
from edgepress.deploy.runtimes.onnx_io import OuterScales
from edgepress.deploy.runtimes.registry import missing_package
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import RuntimeFailure, UsageError

#: Key in an .xml of ours -> {"input0": "scale zero_point dtype", ...}.
BORDERS = "edgepress_borders"
#: As the file says, to the bit where the processor can: no bfloat16 in place of float32.
_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}


def import_openvino() -> Any:
    """The package, without the usage statistics that its converter sends when it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] - cannot be imported: nothing is sent
    import openvino

    return openvino


def open_model(name: str, model: bytes, options: EngineOptions) -> Engine:
    """A model; of OpenVINO's own format with the integers of its borders, where the file tells them of all."""
    engine = OpenVinoEngine(name, model, options)
    inputs, outputs = engine.with_scales("input"), engine.with_scales("output")
    if any(details.scale is None for details in (*inputs, *outputs)):
        return engine
    return OuterScales(engine, inputs, outputs)


class OpenVinoEngine(Stateless):
    """OpenVINO on the CPU."""

    def __init__(self, name: str, model: bytes, options: EngineOptions):
        try:
            openvino = import_openvino()
        except ImportError as error:
            raise missing_package(name, error) from error
        core = openvino.Core()
        try:
            parts = unpack(model)
            read = core.read_model(*parts) if parts is not None else core.read_model(io.BytesIO(model))
        except Exception as error:  # its classes have no base of their own
            raise UsageError(f"OpenVINO refuses the file: {one_line(error)}") from error
        settings = {**_EXACT, "INFERENCE_NUM_THREADS": options.threads, "NUM_STREAMS": 1}
        try:
            self._compiled = core.compile_model(read, "CPU", settings)
            self._request = self._compiled.create_infer_request()
        except Exception as error:
            raise RuntimeFailure(f"OpenVINO cannot prepare the file: {one_line(error)}") from error
        self._read = read
        self.inputs: tuple[TensorDetails, ...] = tuple(_details(port) for port in self._compiled.inputs)
        self.outputs: tuple[TensorDetails, ...] = tuple(_details(port) for port in self._compiled.outputs)

    def with_scales(self, side: str) -> list[TensorDetails]:
        """The inputs or outputs with the integers that the file tells of, if it does."""
        found = []
        for index, details in enumerate(self.inputs if side == "input" else self.outputs):
            key = [BORDERS, f"{side}{index}"]
            told = str(self._read.get_rt_info(key).value).split() if self._read.has_rt_info(key) else []
            if len(told) == 3 and details.dtype == "float32":
                details = replace(details, scale=float(told[0]), zero_point=int(told[1]), dtype=told[2])
            found.append(details)
        return found

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        def once(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
            try:
                made = self._request.infer(list(batch))
            except Exception as error:
                raise RuntimeFailure(f"OpenVINO failed while running: {one_line(error)}") from error
            return [np.array(made[port]) for port in self._compiled.outputs]

        return in_batches(arrays, self.inputs, self.outputs, once)

    def close(self) -> None:
        self.__dict__.pop("_request", None)
        self.__dict__.pop("_compiled", None)
        self.__dict__.pop("_read", None)


def _details(port: Any) -> TensorDetails:
    shape = tuple(-1 if size.is_dynamic else int(size.get_length()) for size in port.get_partial_shape())
    try:
        dtype = np.dtype(port.get_element_type().to_dtype()).name
    except Exception:
        raise UsageError(
            f"{port.any_name!r} has the type {port.get_element_type()}, which is no array of numbers"
        ) from None
    return TensorDetails(next(iter(sorted(port.get_names())), ""), shape, dtype)
