# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as an engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepress.deploy.runtimes.engine import EngineOptions, Stateless, in_batches, one_line
from edgepress.deploy.runtimes.registry import missing_package
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import RuntimeFailure, UsageError


class OnnxEngine(Stateless):
    """ONNX Runtime on the CPU. For a QDQ file with float input and output the details carry the outer scales."""

    def __init__(self, name: str, model: bytes, options: EngineOptions):
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_package(name, error) from error
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = options.threads, 1
        settings.log_severity_level = 4
        if options.plain:
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception classes are not exported under a common base
            text = one_line(error)
            kind = (
                UsageError
                if re.search("INVALID_PROTOBUF|INVALID_GRAPH|NO_MODEL|INVALID_ARGUMENT", text)
                else RuntimeFailure
            )
            raise kind(f"ONNX Runtime refuses the file: {text}") from error
        self.inputs: tuple[TensorDetails, ...] = tuple(_onnx_details(value) for value in self._session.get_inputs())
        self.outputs: tuple[TensorDetails, ...] = tuple(_onnx_details(value) for value in self._session.get_outputs())

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        names = [details.name for details in self.inputs]

        def once(batch: Sequence[np.ndarray]) -> list[Any]:
            try:
                return list(self._session.run(None, dict(zip(names, batch, strict=True))))
            except Exception as error:
                raise RuntimeFailure(f"ONNX Runtime failed while running: {one_line(error)}") from error

        return in_batches(arrays, self.inputs, self.outputs, once)

    def close(self) -> None:
        del self._session


def _onnx_details(value: Any) -> TensorDetails:
    names = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
    dtype = names.get(value.type, value.type.removeprefix("tensor(").removesuffix(")"))
    try:
        dtype = np.dtype(dtype).name
    except TypeError:
        raise UsageError(
            f"the ONNX file's {value.name!r} has the type {value.type}, which is no array of numbers"
        ) from None
    return TensorDetails(value.name, tuple(s if isinstance(s, int) else -1 for s in value.shape), dtype)
