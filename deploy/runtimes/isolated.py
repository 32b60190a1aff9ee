# SPDX-License-Identifier: Apache-2.0
"""An engine in a child process: a crash, an abort or a hang of native code becomes a RuntimeFailure (exit code 3)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from edgepress.deploy.runtimes.engine import EngineOptions, batches_of
from edgepress.deploy.runtimes.messages import receive, send
from edgepress.deploy.runtimes.registry import find_runtime
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.children import bound
from edgepress.models.command_line import import_path
from edgepress.models.errors import RuntimeFailure, UsageError

#: CPU time for opening a file: native code may loop on a damaged one for ever. Emulated machines have no such bound.
_OPEN_CPU_S = 10
#: More where the runtime has torch to load first.
_OPEN_CPU_S_OF = {"executorch": 60}
#: Samples cross in pieces of about this size: few round trips for small networks, and a timeout for each piece.
_PIECE_BYTES = 1 << 20
_PIECE_SAMPLES = 256
#: What native code says on stderr that explains a failure, as against its chatter.
_REASON = re.compile(
    r"failed|error|not supported|unsupported|too small|mismatch|!=|check|invalid|requested|abort", re.I
)


class IsolatedEngine:
    """See `runtimes.engine.Engine`; the work happens in `python -m edgepress.deploy.runtimes.worker`."""

    def __init__(
        self,
        runtime: str,
        model: bytes,
        options: EngineOptions,
        timeout_s: float = 300.0,
        open_timeout_s: float = 60.0,
        interpreter: Sequence[str] = (sys.executable,),
        packages: Sequence[str] = (),
    ):
        """`interpreter` is the command of another Python, with `packages` as its folders of packages."""
        self._name, self._timeout_s = find_runtime(runtime).title, timeout_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        # The child must find this very project, installed or not; -P keeps files of the working directory out.
        root = import_path()
        inherited = () if packages else (os.environ.get("PYTHONPATH"),)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (*packages, root, *inherited) if p)
        self._process = subprocess.Popen(
            bound([*interpreter, "-P", "-m", "edgepress.deploy.runtimes.worker", runtime]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
        )
        try:
            cpu_s = _OPEN_CPU_S_OF.get(runtime, _OPEN_CPU_S) if tuple(interpreter) == (sys.executable,) else None
            request = {"op": "open", "options": asdict(options), "cpu_s": cpu_s}
            answer, _ = self._ask(request, [np.frombuffer(model, np.uint8)], open_timeout_s)
        except BaseException:
            self.close()
            raise
        self.inputs: tuple[TensorDetails, ...] = _details(answer["inputs"])
        self.outputs: tuple[TensorDetails, ...] = _details(answer["outputs"])

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._in_pieces("run", arrays)

    def stream(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._in_pieces("stream", arrays)

    def reset(self) -> None:
        self._ask({"op": "reset"}, [], self._timeout_s)

    def _in_pieces(self, operation: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        batches = batches_of([len(array) for array in arrays], self.inputs)
        bytes_each = max(1, sum(a[:size].nbytes for a, size in zip(arrays, batches.rows, strict=True)))
        runs = max(1, min(_PIECE_SAMPLES // max(batches.rows, default=1), _PIECE_BYTES // bytes_each))
        pieces = []
        for start in range(0, max(1, batches.runs), runs):
            cut = [a[start * size : (start + runs) * size] for a, size in zip(arrays, batches.rows, strict=True)]
            pieces.append(self._ask({"op": operation}, cut, self._timeout_s)[1])
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def arena(self) -> dict[str, int]:
        return self._ask({"op": "arena"}, [], self._timeout_s)[0]

    def close(self) -> None:
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._stderr.close()

    def _ask(
        self, message: dict[str, Any], arrays: Sequence[np.ndarray], timeout_s: float
    ) -> tuple[Any, list[np.ndarray]]:
        process, late = self._process, threading.Event()
        assert process.stdin is not None
        assert process.stdout is not None

        def stop() -> None:
            late.set()
            process.kill()

        if process.poll() is not None:
            raise self._crash(process.returncode)
        watchdog = threading.Timer(timeout_s, stop)
        watchdog.daemon = True
        watchdog.start()
        try:
            send(process.stdin, message, arrays)  # type: ignore[arg-type]
            answer, results = receive(process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError):
            code = process.wait()
            if late.is_set():
                raise RuntimeFailure(f"{self._name} gave no answer within {timeout_s:g} s and was stopped") from None
            raise self._crash(code) from None
        finally:
            watchdog.cancel()
        if "error" in answer:
            kind = UsageError if answer["exit_code"] == 2 else RuntimeFailure
            raise kind(answer["error"] + self._said())
        return answer["ok"], results

    def _crash(self, code: int) -> RuntimeFailure:
        how = f"ended with code {code}"
        if code < 0:
            meaning = {
                signal.SIGSEGV: "a memory fault",
                signal.SIGABRT: "it aborted",
                signal.SIGFPE: "a division by zero",
                signal.SIGXCPU: f"opening it took more than {_OPEN_CPU_S} s of CPU time",
                signal.SIGKILL: "it was killed, perhaps for lack of memory",
            }
            name = signal.Signals(-code)
            how = f"ended by {name.name} ({meaning.get(name, 'a signal')})"
        return RuntimeFailure(f"{self._name} crashed on this file: its process {how}{self._said()}")

    def _said(self) -> str:
        """The line of the child's stderr that most likely says why."""
        try:
            size = self._stderr.seek(0, os.SEEK_END)
            self._stderr.seek(max(0, size - 20_000))
            lines = [line.strip() for line in self._stderr.read().decode(errors="replace").splitlines()]
        except ValueError:
            return ""
        telling = [line for line in lines if _REASON.search(line) and not line.startswith(("Traceback", "INFO"))]
        return f"; it said: {telling[0][:200]!r}" if telling else ""


def _details(said: Sequence[dict[str, Any]]) -> tuple[TensorDetails, ...]:
    return tuple(TensorDetails(**{**one, "shape": tuple(one["shape"])}) for one in said)
