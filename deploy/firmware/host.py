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
    kernels,
    sources,
    switches,
)
from edgepress.deploy.runtimes.engine import EngineOptions, batches_of, samples, stacked
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.children import bound
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
        check: with a checksum of every layer, for `run_checked`.
        changes: file name -> text that replaces the generated one (tests plant faults with it).
    """

    def __init__(
        self,
        made: Firmware,
        *,
        kernels: str = "plain",
        sanitize: bool = False,
        check: bool = False,
        changes: dict[str, str] | None = None,
        timeout_s: float = 300.0,
    ):
        self._made, self._timeout_s, self._check = made, timeout_s, check
        self._folder = TemporaryDirectory(prefix="edgepress-")
        folder = Path(self._folder.name)
        write_sources(folder, {**sources(made, "a .tflite file"), "host_main.c": host_main(made), **(changes or {})})
        self._program = folder / "program"
        optimization = ("-O1", "-g", *SANITIZERS) if sanitize else ("-O2",)
        flags = (*WARNINGS, *optimization, "-ffp-contract=off", *switches(kernels), f"-DEP_CHECK={int(check)}")
        own = [file for file in compiled_sources(made) if file not in KERNEL_SOURCES]
        linked = (
            list(KERNEL_SOURCES)
            if changes and {*KERNEL_HEADERS, *KERNEL_SOURCES} & set(changes)
            else [str(path) for path in kernel_objects(compiler(), flags)]
        )
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
        return self.run_checked(arrays)[0]

    def run_checked(self, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
        """`run`, and the checksums of the layers, uint32 [N, layers]; of a program without `check`, [N, 0]."""
        network = self._made.network
        given = samples_to_bytes([network.values[t] for t in network.inputs], arrays)
        try:
            done = subprocess.run(
                bound([str(self._program)]), input=given, capture_output=True, timeout=self._timeout_s, check=False
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
        values, layers = [network.values[t] for t in network.outputs], len(network.steps) if self._check else 0
        outputs = sum(value.size_bytes for value in values)
        if len(done.stdout) != len(arrays[0]) * (outputs + 4 * layers):
            raise RuntimeFailure(f"the generated C gave {len(done.stdout)} bytes for {len(arrays[0])} samples")
        rows = np.frombuffer(done.stdout, np.uint8).reshape(len(arrays[0]), -1)
        sums = np.ascontiguousarray(rows[:, outputs:]).view("<u4").reshape(len(rows), layers)
        return bytes_to_samples(values, rows[:, :outputs].tobytes(), len(rows)), sums

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
def kernel_objects(program: str, flags: tuple[str, ...], files: tuple[str, ...] = KERNEL_SOURCES) -> tuple[Path, ...]:
    """The kernels, compiled once for each set of flags and kept until this process ends."""
    folder = Path(_kernel_folder(program, flags, files).name)
    write_sources(folder, kernels())
    run_compiler([program, *flags, "-c", *files], folder)
    return tuple(folder / Path(file).with_suffix(".o") for file in files)


@cache
def _kernel_folder(program: str, flags: tuple[str, ...], files: tuple[str, ...]) -> TemporaryDirectory[str]:
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
        self._states = bool(network.states)
        self._program = HostProgram(made)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return run_batches(self._program.run, arrays, self.inputs, self.outputs)

    def stream(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A network without variables gives the same as by `run`; the program begins each sample of others anew.

        Raises:
            RuntimeFailure: the network has variables.
        """
        if self._states:
            raise RuntimeFailure("C on this machine begins every sample anew: run a stream on tflm or litert")
        return self.run(arrays)

    def reset(self) -> None:
        return

    def arena(self) -> dict[str, int]:
        """The static arena; there is no other part."""
        return {"head": self._arena_bytes, "total": self._arena_bytes}

    def close(self) -> None:
        self._program.close()


def run_batches(
    run: Callable[[Sequence[np.ndarray]], list[np.ndarray]],
    arrays: Sequence[np.ndarray],
    inputs: Sequence[TensorDetails],
    outputs: Sequence[TensorDetails],
) -> list[np.ndarray]:
    """Run stacked inputs, one run of the network after the other (`edgepress.deploy.runtimes.engine.Batches`)."""
    count = batches_of([len(array) for array in arrays], inputs)
    if not count.runs:
        return run([a.reshape(-1, *details.shape) for a, details in zip(arrays, inputs, strict=True)])
    cuts = list(samples(arrays, inputs))
    made = run([np.stack(of_one) for of_one in zip(*cuts, strict=True)])
    return stacked([list(of_one) for of_one in made], arrays, inputs, outputs)
