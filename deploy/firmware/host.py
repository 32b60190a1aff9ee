# SPDX-License-Identifier: Apache-2.0
"""The generated C on this machine: compiled, run over pipes, optionally under sanitizers."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np

from edgepress.deploy.firmware.emit import write_sources
from edgepress.deploy.firmware.lowering.steps import Value
from edgepress.deploy.firmware.sources import (
    KERNEL_HEADERS,
    KERNEL_SOURCES,
    Firmware,
    compiled_sources,
    firmware,
    host_main,
    sources,
    switches,
    template,
)
from edgepress.deploy.runtimes.engine import EngineOptions
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import RuntimeFailure

#: The generated C is held to these; a warning is an error.
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
_COMPILE_TIMEOUT_S = 300


def compiler() -> str:
    """The C compiler of this machine: $CC, cc, gcc or clang.

    Raises:
        RuntimeFailure: there is none.
    """
    for candidate in (os.environ.get("CC"), "cc", "gcc", "clang"):
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
    raise RuntimeFailure(
        "running generated C on this machine needs a C compiler: install gcc (Debian: apt-get install gcc libc6-dev)"
    )


def missing_tools(runtime: str = "host-c") -> str | None:
    """A sentence that says what to install, or None where there is a compiler."""
    try:
        compiler()
    except RuntimeFailure as error:
        return str(error)
    return None


class HostProgram:
    """A network as a program of this machine; a context manager.

    Args:
        made: the network.
        kernels: a key of `KERNELS`; the instructions of "dsp" are emulated.
        sanitize: under AddressSanitizer and UndefinedBehaviorSanitizer.
        changes: file name -> text that replaces the generated one (tests plant faults with it).
    """

    def __init__(
        self,
        made: Firmware,
        *,
        kernels: str = "plain",
        sanitize: bool = False,
        changes: dict[str, str] | None = None,
        timeout_s: float = 300.0,
    ):
        self._made, self._timeout_s = made, timeout_s
        self._folder = TemporaryDirectory(prefix="edgepress-")
        folder = Path(self._folder.name)
        write_sources(folder, {**sources(made, "a .tflite file"), "host_main.c": host_main(made), **(changes or {})})
        self._program = folder / "program"
        optimization = ("-O1", "-g", *SANITIZERS) if sanitize else ("-O2",)
        flags = (*WARNINGS, *optimization, "-ffp-contract=off", *switches(kernels))
        own = [file for file in compiled_sources(made) if file not in KERNEL_SOURCES]
        linked = list(KERNEL_SOURCES) if changes else [str(path) for path in kernel_objects(compiler(), flags)]
        try:
            run_compiler([compiler(), *flags, "-o", "program", "host_main.c", *own, *linked, "-lm"], folder)
        except BaseException:
            self.close()
            raise

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run N samples: one array [N, *shape of the input] each; one [N, *shape of the output] each back.

        Raises:
            RuntimeFailure: it crashed, a sanitizer stopped it, or it took too long.
        """
        network = self._made.network
        given = samples_to_bytes([network.values[t] for t in network.inputs], arrays)
        try:
            done = subprocess.run(
                [str(self._program)], input=given, capture_output=True, timeout=self._timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise RuntimeFailure(
                f"the generated C took longer than {self._timeout_s:g} s for {len(arrays[0])} samples"
            ) from None
        if done.returncode != 0:
            said = [line for line in done.stderr.decode(errors="replace").splitlines() if "rror" in line]
            raise RuntimeFailure(
                f"the generated C ended with code {done.returncode}" + (f": {said[0][:300]}" if said else "")
            )
        return bytes_to_samples([network.values[t] for t in network.outputs], done.stdout, len(arrays[0]))

    def close(self) -> None:
        """Remove the program."""
        self._folder.cleanup()

    def __enter__(self) -> HostProgram:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@cache
def kernel_objects(program: str, flags: tuple[str, ...]) -> tuple[Path, ...]:
    """The kernels, compiled once for each set of flags and kept until this process ends."""
    folder = Path(_kernel_folder(flags).name)
    write_sources(folder, {file: template(file) for file in (*KERNEL_HEADERS, *KERNEL_SOURCES)})
    run_compiler([program, *flags, "-c", *KERNEL_SOURCES], folder)
    return tuple(folder / Path(file).with_suffix(".o") for file in KERNEL_SOURCES)


@cache
def _kernel_folder(flags: tuple[str, ...]) -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="edgepress-")
    atexit.register(folder.cleanup)
    return folder


def run_compiler(command: Sequence[str], folder: Path) -> str:
    """Run a compiler or linker in a folder, and give what it said.

    Raises:
        RuntimeFailure: it failed; the message holds its first error.
    """
    try:
        done = subprocess.run(
            list(command), cwd=folder, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"{command[0]} took longer than {_COMPILE_TIMEOUT_S} s") from None
    except OSError as error:
        raise RuntimeFailure(f"cannot run {command[0]}: {error.strerror or error}") from error
    if done.returncode != 0:
        lines = [
            line for line in done.stderr.splitlines() if "error" in line or "undefined" in line
        ] or done.stderr.splitlines()
        raise CompilerFailure(
            f"{Path(command[0]).name} refuses the generated C: {(lines or ['no reason given'])[0][:300]}", done.stderr
        )
    return done.stdout


class CompilerFailure(RuntimeFailure):
    """A compiler or linker failed; `said` is all that it said."""

    def __init__(self, message: str, said: str):
        super().__init__(message)
        self.said = said


def samples_to_bytes(values: Sequence[Value], arrays: Sequence[np.ndarray]) -> bytes:
    """N samples of several inputs, one sample after the other."""
    flat = [
        np.ascontiguousarray(array, value.dtype).view(np.uint8).reshape(len(array), value.size_bytes)
        for value, array in zip(values, arrays, strict=True)
    ]
    return np.concatenate(flat, axis=1).tobytes()


def bytes_to_samples(values: Sequence[Value], data: bytes, count: int) -> list[np.ndarray]:
    """The reverse, for outputs.

    Raises:
        RuntimeFailure: not that many bytes.
    """
    each = sum(value.size_bytes for value in values)
    if len(data) != each * count:
        raise RuntimeFailure(f"the generated C gave {len(data)} bytes for {count} samples of {each}")
    table = np.frombuffer(data, np.uint8).reshape(count, each)
    found, at = [], 0
    for value in values:
        column = np.ascontiguousarray(table[:, at : at + value.size_bytes])
        found.append(column.view(value.dtype).reshape(count, *value.shape))
        at += value.size_bytes
    return found


def port_details(values: Sequence[Value]) -> tuple[TensorDetails, ...]:
    """Inputs or outputs as sessions describe them."""
    return tuple(
        TensorDetails(v.name, v.shape, v.dtype, v.scale, v.zero_point if v.scale is not None else None) for v in values
    )


class HostEngine:
    """See `edgepress.deploy.runtimes.engine.Engine`: the generated C with plain kernels, compiled for this machine."""

    def __init__(self, runtime: str, model: bytes, options: EngineOptions):
        made = firmware(model)
        network = made.network
        self._arena_bytes = made.layouts["plain"].arena_bytes
        self.inputs: tuple[TensorDetails, ...] = port_details([network.values[t] for t in network.inputs])
        self.outputs: tuple[TensorDetails, ...] = port_details([network.values[t] for t in network.outputs])
        self._program = HostProgram(made)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return run_batches(self._program.run, arrays, self.inputs)

    def arena(self) -> dict[str, int]:
        """The static arena; there is no other part."""
        return {"head": self._arena_bytes, "total": self._arena_bytes}

    def close(self) -> None:
        self._program.close()


def run_batches(
    run: Callable[[Sequence[np.ndarray]], list[np.ndarray]],
    arrays: Sequence[np.ndarray],
    inputs: Sequence[TensorDetails],
) -> list[np.ndarray]:
    """Cut [N, ...] into batches of the network's own fixed size, the last one filled up with zeros."""
    batch = inputs[0].shape[0] if inputs[0].shape else 1
    count = len(arrays[0])
    missing = -count % batch
    filled = [np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)]) if missing else a for a in arrays]
    shaped = [a.reshape(-1, *details.shape) for a, details in zip(filled, inputs, strict=True)]
    if not count:
        return run(shaped)
    return [made.reshape(-1, *made.shape[2:])[:count] for made in run(shaped)]
