"""The runtimes behind a session: each runs raw arrays in the layout of the file, one class per runtime.

An engine is built from the bytes of a file. It lives in the caller's process, or in a child (`worker.py`), where a
crash of native code ends the child only. The packages are imported when an engine is built.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import RuntimeFailure, UsageError

#: Runtime -> the package that it needs, as pip knows it.
PACKAGES = {
    "litert": "ai-edge-litert",
    "litert-reference": "ai-edge-litert",
    "tflm": "tflite-micro",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
}
#: Runtime -> the kind of file that it runs.
FILE_KINDS = {
    "litert": "tflite",
    "litert-reference": "tflite",
    "tflm": "tflite",
    "onnxruntime": "onnx",
    "torch": "checkpoint",
}
#: Runtimes of generated firmware and of emulated cores: their tools are optional, and they are only run by name.
EMULATED = ("host-c", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "arm64")
FILE_KINDS.update(dict.fromkeys(EMULATED, "tflite"))
RUNTIMES = (*PACKAGES, *EMULATED)
_ARENA = re.compile(r"Arena allocation (total|head|tail) (\d+)")


class Engine(Protocol):
    """What every runtime can do. Arrays are in the layout and type of the file, stacked along the batch."""

    inputs: tuple[TensorDetails, ...]
    outputs: tuple[TensorDetails, ...]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run N samples: one array [N, ...] per input, one [N, ...] per output back."""
        ...

    def arena(self) -> dict[str, int]:
        """Bytes of TFLite Micro's arena: head (activations), tail (persistent), total; empty elsewhere."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


def missing_package(runtime: str, error: ImportError) -> RuntimeFailure:
    """The sentence for a runtime whose package is not installed."""
    package = PACKAGES[runtime]
    where = (
        ""
        if runtime != "tflm"
        else (
            " TFLite Micro's package exists for Linux on 64-bit x86 only"
            f" (this is {sys.platform} {os.uname().machine});"
        )
    )
    extra = {"tflm": "tflm", "torch": "train"}.get(runtime)
    how = f"install edgepress[{extra}]" if extra else f"install {package}"
    return RuntimeFailure(
        f"the runtime {runtime} needs the package {package}, which cannot be imported ({error});"
        f"{where} {how} or choose another runtime"
    )


class LiteRTEngine:
    """LiteRT on the CPU, with XNNPACK (the default of phones and boards) or with the reference kernels."""

    def __init__(self, model: bytes, *, reference: bool = False, threads: int = 1):
        runtime = "litert-reference" if reference else "litert"
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            raise missing_package(runtime, error) from error
        kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.BUILTIN
        try:
            self._interpreter = Interpreter(
                model_content=model, num_threads=threads, experimental_op_resolver_type=kind
            )
        except ValueError as error:
            raise UsageError(f"LiteRT refuses the file: {error}") from error
        try:
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise RuntimeFailure(f"{runtime} cannot prepare the file: {_one_line(error)}") from error
        self._runtime = runtime
        self._given, self._made = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs = tuple(_litert_details(d) for d in self._given)
        self.outputs = tuple(_litert_details(d) for d in self._made)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = self._interpreter
        kept: list[list[np.ndarray]] = [[] for _ in self._made]
        for sample in _samples(arrays, self.inputs):
            self._invoke(sample)
            for tensor, rows in zip(self._made, kept, strict=True):
                rows.append(interpreter.get_tensor(tensor["index"]))
        return _stacked(kept, arrays, self.outputs)

    def arena(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        del self._interpreter

    def _invoke(self, sample: Sequence[np.ndarray]) -> None:
        for tensor, value in zip(self._given, sample, strict=True):
            self._interpreter.set_tensor(tensor["index"], value)
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise RuntimeFailure(f"{self._runtime} failed while running: {_one_line(error)}") from error


class TFLMEngine:
    """TFLite Micro with its reference kernels. It may abort its process: use it behind `runtimes.isolated`."""

    def __init__(self, model: bytes, *, arena_bytes: int, stateful: bool = False):
        try:
            from tflite_micro import runtime
        except ImportError as error:
            raise missing_package("tflm", error) from error
        try:
            self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=arena_bytes)
        except RuntimeError as error:
            raise RuntimeFailure(f"TFLite Micro cannot prepare the file: {_one_line(error)}") from error
        except Exception as error:  # its Python reader of the file raises whatever struct and flatbuffers raise
            raise UsageError(f"TFLite Micro refuses the file: {_one_line(error)}") from error
        self._stateful, self._ran = stateful, False
        self.inputs = self._details(self._interpreter.get_input_details)
        self.outputs = self._details(self._interpreter.get_output_details)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        kept: list[list[np.ndarray]] = [[] for _ in self.outputs]
        for sample in _samples(arrays, self.inputs):
            self._invoke(sample)
            for index, rows in enumerate(kept):
                rows.append(np.array(self._interpreter.get_output(index)))
        return _stacked(kept, arrays, self.outputs)

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

    def _details(self, ask: Any) -> tuple[TensorDetails, ...]:
        found = []
        while True:
            try:
                details = ask(len(found))
            except (RuntimeError, ValueError, IndexError):
                return tuple(found)
            quantization = details["quantization_parameters"]
            scales, zeros = quantization["scales"], quantization["zero_points"]
            found.append(_integer_details("", details["shape"], details["dtype"], scales, zeros))

    def _invoke(self, sample: Sequence[np.ndarray]) -> None:
        try:
            if self._stateful:
                self._interpreter.reset()
            for index, value in enumerate(sample):
                self._interpreter.set_input(value, index)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise RuntimeFailure(f"TFLite Micro failed while running: {_one_line(error)}") from error
        self._ran = True


class OnnxEngine:
    """ONNX Runtime on the CPU. For a QDQ file with float input and output the details carry the outer scales."""

    def __init__(self, model: bytes, *, threads: int = 1):
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_package("onnxruntime", error) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception classes are not exported under a common base
            text = _one_line(error)
            kind = (
                UsageError
                if re.search("INVALID_PROTOBUF|INVALID_GRAPH|NO_MODEL|INVALID_ARGUMENT", text)
                else RuntimeFailure
            )
            raise kind(f"ONNX Runtime refuses the file: {text}") from error
        self.inputs = tuple(_onnx_details(value) for value in self._session.get_inputs())
        self.outputs = tuple(_onnx_details(value) for value in self._session.get_outputs())

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        names = [details.name for details in self.inputs]
        if all(details.shape and details.shape[0] == -1 for details in self.inputs):
            rows = max(1, min(64, (16 << 20) // max(1, sum(a[:1].nbytes for a in arrays))))
            batches = ([a[i : i + rows] for a in arrays] for i in range(0, len(arrays[0]), rows))
        else:
            batches = _samples(arrays, self.inputs)
        kept: list[list[np.ndarray]] = [[] for _ in self.outputs]
        for batch in batches:
            try:
                made = self._session.run(None, dict(zip(names, batch, strict=True)))
            except Exception as error:
                raise RuntimeFailure(f"ONNX Runtime failed while running: {_one_line(error)}") from error
            for rows_of, value in zip(kept, made, strict=True):
                rows_of.append(np.asarray(value))
        return _stacked(kept, arrays, self.outputs)

    def arena(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        del self._session


def build_engine(runtime: str, model: bytes, options: dict[str, Any]) -> Engine:
    """An engine in this process.

    Raises:
        UsageError: the file is damaged. RuntimeFailure: the package is missing, or the runtime cannot run the file.
    """
    threads = options.get("threads", 1)
    if runtime in ("litert", "litert-reference"):
        return LiteRTEngine(model, reference=runtime == "litert-reference", threads=threads)
    if runtime == "tflm":
        return TFLMEngine(model, arena_bytes=options["arena_bytes"], stateful=options.get("stateful", False))
    if runtime == "onnxruntime":
        return OnnxEngine(model, threads=threads)
    if runtime in EMULATED:
        from edgepress.deploy.firmware.engines import firmware_engine

        return firmware_engine(runtime, model, threads=threads)
    raise UsageError(f"runtime = {runtime!r} is unknown: allowed are {', '.join(RUNTIMES)}")


def _samples(arrays: Sequence[np.ndarray], inputs: Sequence[TensorDetails]):
    """Cut stacked inputs into batches of the file's own fixed size, the last one filled up with zeros."""
    batch = max(1, inputs[0].shape[0]) if inputs and inputs[0].shape else 1
    for start in range(0, len(arrays[0]), batch):
        cut = [np.ascontiguousarray(array[start : start + batch]) for array in arrays]
        missing = batch - len(cut[0])
        if missing:
            cut = [np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)]) for a in cut]
        yield cut


def _stacked(
    kept: list[list[np.ndarray]], arrays: Sequence[np.ndarray], outputs: Sequence[TensorDetails]
) -> list[np.ndarray]:
    if not len(arrays[0]):
        return [np.zeros((0, *(abs(s) for s in d.shape[1:])), d.dtype) for d in outputs]
    return [np.concatenate([np.atleast_1d(row) for row in rows])[: len(arrays[0])] for rows in kept]


def _integer_details(name: str, shape: Any, dtype: Any, scales: Any, zeros: Any) -> TensorDetails:
    scale = float(scales[0]) if len(scales) == 1 and float(scales[0]) > 0 else None
    zero = int(zeros[0]) if scale is not None and len(zeros) else (0 if scale is not None else None)
    return TensorDetails(name, tuple(int(s) for s in shape), np.dtype(dtype).name, scale, zero)


def _litert_details(details: dict[str, Any]) -> TensorDetails:
    quantization = details["quantization_parameters"]
    return _integer_details(
        details["name"], details["shape"], details["dtype"], quantization["scales"], quantization["zero_points"]
    )


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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
