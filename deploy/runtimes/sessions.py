# SPDX-License-Identifier: Apache-2.0
"""Sessions: one way to run a network, whichever runtime stands behind it.

`open_session(path, runtime)` takes float arrays in torch's layout and gives float arrays back; what the file wants
(NHWC, int8, a fixed batch) is the session's business. `run_integer` takes and gives the raw integers of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgepress.deploy.artifact import find_manifest
from edgepress.deploy.runtimes.engine import Engine, EngineOptions, batches_of
from edgepress.deploy.runtimes.isolated import IsolatedEngine
from edgepress.deploy.runtimes.registry import KINDS, RUNTIMES, build_engine, find_runtime
from edgepress.deploy.runtimes.tensor_details import TensorDetails, from_file_layout, to_file_layout
from edgepress.models.errors import UsageError

#: A file above this size is not read: the runtimes here serve small devices, and it must fit in memory twice.
_LARGEST_FILE_BYTES = 1 << 30
#: The arena is only reserved, and read afterwards: too large costs nothing, too small may crash TFLite Micro.
_ARENA_FLOOR_BYTES = 16 << 20
_ARENA_CEILING_BYTES = 2 << 30
#: (sha256 of a file, runtime) which ran in a child of this process: it does not abort, and runs here from then on.
_RAN_APART: set[tuple[str, str]] = set()


class Session:
    """A network that is ready to run; a context manager.

    Attributes:
        path: file or checkpoint directory.
        runtime: one of `edgepress.deploy.runtimes.registry.RUNTIMES`.
        inputs, outputs: `TensorDetails` of each, in the layout of the file; `input` and `output` are the first.
        layouts: {"inputs": [...], "outputs": [...]} as the manifest says, None where it says nothing.
        isolated: whether the runtime is in a child process behind a pipe, which takes time of its own.
    """

    def __init__(
        self,
        path: Path,
        runtime: str,
        engine: Engine,
        layouts: dict[str, list[str | None]],
        *,
        isolated: bool = False,
        key: tuple[str, str] | None = None,
    ):
        self.path: Path = path
        self.runtime: str = runtime
        self.layouts: dict[str, list[str | None]] = layouts
        self.isolated: bool = isolated
        self._engine: Engine = engine
        self._key: tuple[str, str] | None = key
        self.inputs: tuple[TensorDetails, ...] = engine.inputs
        self.outputs: tuple[TensorDetails, ...] = engine.outputs

    @property
    def input(self) -> TensorDetails:
        """The first input."""
        return self.inputs[0]

    @property
    def output(self) -> TensorDetails:
        """The first output."""
        return self.outputs[0]

    def quantize(self, *x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Float inputs in torch's layout to the integers and the layout of the file (see `TensorDetails.quantize`)."""
        self._count(x)
        return tuple(
            details.quantize(to_file_layout(np.asarray(value), details, layout, f"x[{i}]" if len(x) > 1 else "x"))
            for i, (value, details, layout) in enumerate(zip(x, self.inputs, self.layouts["inputs"], strict=True))
        )

    def dequantize(self, *q: np.ndarray) -> tuple[np.ndarray, ...]:
        """Raw outputs of the file to float32 in torch's layout."""
        return tuple(
            from_file_layout(details.dequantize(value), layout)
            for value, details, layout in zip(q, self.outputs, self.layouts["outputs"], strict=True)
        )

    def run(self, *x: np.ndarray, stream: bool = False) -> Any:
        """Run float inputs [N, ...] in torch's layout (NCHW); of a file whose inputs lead with different sizes, N sets
        of them along the first axis (`edgepress.deploy.runtimes.engine.Batches`).

        Args:
            x: each input.
            stream: of a network that remembers (variables): the N samples are one stream, which goes on in the next
                call until `reset`. Otherwise they are N clips, each begun anew, whatever ran before, and however they
                are batched. Networks whose states are inputs and outputs remember nothing by themselves.

        Returns:
            float32 [N, ...]; a tuple for a network with several outputs.

        Raises:
            UsageError: a shape does not fit. RuntimeFailure: the runtime failed.
        """
        made = self.dequantize(*self._run(self.quantize(*x), stream))
        return made[0] if len(made) == 1 else made

    def reset(self) -> None:
        """The next sample of a stream is its first one."""
        self._engine.reset()

    def run_integer(self, *q: np.ndarray, stream: bool = False) -> Any:
        """Run raw arrays [N, ...] in the file's own type and layout, and give its raw outputs.

        `stream` is as for `run`. A file that takes float but quantizes it itself at once (ONNX QDQ) is given the values
        of these integers.

        Raises:
            UsageError: a type or shape does not fit. RuntimeFailure: the runtime failed.
        """
        self._count(q)
        arrays = []
        for value, details in zip(q, self.inputs, strict=True):
            value = np.asarray(value)
            if value.dtype.name != details.dtype:
                raise UsageError(f"q has the type {value.dtype.name}; the file takes {details.dtype}")
            if value.ndim != max(1, len(details.shape)) or any(
                want not in (-1, got) for got, want in zip(value.shape[1:], details.shape[1:], strict=True)
            ):
                raise UsageError(f"q has the shape {list(value.shape)}; the file takes [N, *{list(details.shape[1:])}]")
            arrays.append(np.ascontiguousarray(value))
        made = self._run(arrays, stream)
        return made[0] if len(made) == 1 else tuple(made)

    def arena_bytes(self) -> dict[str, int]:
        """TFLite Micro's used arena: {"head", "tail", "total"} in bytes; empty for other runtimes.

        The head (activations) carries over to a microcontroller; the tail holds 64-bit pointers here and is smaller on
        a 32-bit one.
        """
        return self._engine.arena()

    def firmware_figures(self) -> dict[str, Any]:
        """Flash, RAM, stack in bytes and exact instructions on an emulated Cortex-M; empty for other runtimes."""
        figures = getattr(self._engine, "figures", None)
        return figures() if figures is not None else {}

    def _run(self, arrays: Sequence[np.ndarray], stream: bool = False) -> list[np.ndarray]:
        made = self._engine.stream(arrays) if stream else self._engine.run(arrays)
        if self.isolated and self._key is not None:
            _RAN_APART.add(self._key)
        return made

    def close(self) -> None:
        """Give the runtime back; closing twice does nothing."""
        engine, self._engine = self._engine, _Closed()  # type: ignore[assignment]
        engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if "_engine" in self.__dict__:
            self.close()

    def _count(self, given: Sequence[Any]) -> None:
        if len(given) != len(self.inputs):
            raise UsageError(f"{len(given)} inputs are given; {self.path.name} takes {len(self.inputs)}")
        batches_of([len(np.asarray(value)) if np.ndim(value) else 0 for value in given], self.inputs)


class _Closed:
    def close(self) -> None:
        return

    def __getattr__(self, name: str) -> Any:
        raise UsageError("the session is closed: open a new one")


def open_session(
    path: str | Path,
    runtime: str | None = None,
    *,
    threads: int = 1,
    isolate: bool | None = None,
    timeout_s: float = 300.0,
    trust: bool = False,
) -> Session:
    """Make a network ready to run.

    Args:
        path: a .tflite, .onnx, .ort, .xml (OpenVINO, its .bin beside it) or .pte file, or a checkpoint directory
            (runtime "torch").
        runtime: "litert" (XNNPACK), "litert-reference", "tflm", "onnxruntime", "openvino", "executorch", "torch"; None
            takes the first that fits.
        threads: at most this many threads compute; TFLite Micro always uses one.
        isolate: run native code in a child process, so that a crash is an error and not the end of this process. TFLite
            Micro always is; None isolates a file until it has run once in a child of this process: a manifest that
            lies beside it proves nothing about what it does to a runtime.
        timeout_s: longest time for about 256 samples in a child process.
        trust: allow a checkpoint to name a factory outside the zoo.

    Raises:
        UsageError: the file is missing or damaged, or the runtime is unknown or runs another kind of file.
        RuntimeFailure: the runtime's package is missing, or it cannot prepare the file.
    """
    path = Path(path)
    kind = _kind_of(path)
    if runtime is None:
        runtime = next(name for name, known in RUNTIMES.items() if known.runs(kind))
    chosen = find_runtime(runtime)
    if not chosen.runs(kind):
        fitting = [name for name, known in RUNTIMES.items() if known.runs(kind)]
        raise UsageError(
            f"the runtime {runtime} runs {chosen.file_kind} files, and {path} is {kind}: take {' or '.join(fitting)}"
        )
    if threads < 1:
        raise UsageError(f"threads = {threads} must be at least 1")
    if kind == "checkpoint":
        from edgepress.deploy.runtimes.torch_engine import TorchEngine

        engine: Engine = TorchEngine(path, threads=threads, trust=trust)
        return Session(
            path, runtime, engine, {"inputs": ["NCHW"] * len(engine.inputs), "outputs": ["NCHW"] * len(engine.outputs)}
        )
    model, manifest = _read(path), find_manifest(path)
    if kind == "openvino":
        from edgepress.deploy.runtimes.messages import pack

        model = pack(model, _read(path.with_suffix(".bin")))
    options = EngineOptions(threads)
    if kind == "tflite":
        heard = ((manifest or {}).get("spec") or {}).get("front_end")
        options = replace(_tflite_options(path, model, threads), front_end=heard)
    # An emulated runtime is in processes of its own; TFLite Micro aborts on what it does not like.
    key = (sha256(model).hexdigest(), runtime)
    apart = not chosen.emulated and (runtime == "tflm" or (key not in _RAN_APART if isolate is None else isolate))
    engine = IsolatedEngine(runtime, model, options, timeout_s) if apart else build_engine(runtime, model, options)
    if kind == "onnx":
        from edgepress.deploy.runtimes.onnx_io import OuterScales

        engine = OuterScales.around(engine, model)
    return Session(path, runtime, engine, _layouts(manifest, kind, engine), isolated=apart, key=key)


def _kind_of(path: Path) -> str:
    if path.is_dir():
        return "checkpoint"
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if not path.is_file():
        raise UsageError(f"{path} is neither a file nor a checkpoint directory")
    suffix = path.suffix.lower()
    if suffix in KINDS:
        return KINDS[suffix]
    with path.open("rb") as file:
        if file.read(8)[4:] == b"TFL3":
            return "tflite"
    raise UsageError(
        f"{path}: the kind of file is not known by its name; known are {', '.join(KINDS)} and checkpoint directories"
    )


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if size > _LARGEST_FILE_BYTES:
        raise UsageError(f"{path} has {size:,} bytes; at most {_LARGEST_FILE_BYTES:,} are read")
    if size == 0:
        raise UsageError(f"{path} is empty")
    from edgepress.models.files.reading import refuse_pointer

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    refuse_pointer(data, str(path))
    return data


def _tflite_options(path: Path, model: bytes, threads: int) -> EngineOptions:
    """Check the file before native code sees it, and size the arena generously from its tensors."""
    from edgepress.deploy.tflite.reader import read_tflite

    try:
        parsed = read_tflite(model)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    tensors = [tensor for graph in parsed.subgraphs for tensor in graph.tensors]
    # Surely enough: twice all activations, as if none shared its place, and twice the file for what is persistent.
    wanted = 2 * sum(tensor.size_bytes for tensor in tensors if not tensor.constant) + 2 * len(model)
    # A multiple of the alignment: otherwise the tail, which grows down from the end, measures some bytes more.
    return EngineOptions(
        threads,
        arena_bytes=min(_ARENA_CEILING_BYTES, _ARENA_FLOOR_BYTES + wanted) // 16 * 16,
        stateful=any(tensor.variable for tensor in tensors),
        anew=any(operator.code == "VAR_HANDLE" for operator in parsed.operators),
    )


def _layouts(manifest: dict[str, Any] | None, kind: str, engine: Engine) -> dict[str, list[str | None]]:
    """The manifest's word; else a foreign TFLite file's 4-D outputs are NHWC, its inputs left to their shapes."""
    said = (manifest or {}).get("layouts") or {}
    defaults: dict[str, str | None] = (
        {"inputs": None, "outputs": "NHWC"} if kind == "tflite" else {"inputs": "NCHW", "outputs": "NCHW"}
    )
    found: dict[str, list[str | None]] = {}
    for side, details in (("inputs", engine.inputs), ("outputs", engine.outputs)):
        values = said.get(side)
        found[side] = list(values) if values and len(values) == len(details) else [defaults[side]] * len(details)
    return found
