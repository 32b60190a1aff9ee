# SPDX-License-Identifier: Apache-2.0
"""The child process in which a runtime may crash, spoken to over pipes.

`python -m edgepress.deploy.runtimes.worker RUNTIME`; see `messages.py` for what is said.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import BinaryIO

from edgepress.deploy.runtimes.engine import Engine, EngineOptions
from edgepress.deploy.runtimes.messages import receive, send
from edgepress.deploy.runtimes.registry import build_engine
from edgepress.models.errors import EdgepressError


def serve(runtime: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the other side closes its end."""
    engine: Engine | None = None
    while True:
        try:
            request, arrays = receive(requests)
        except EOFError:
            return
        try:
            kind = request["op"]
            if kind == "open":
                with _bounded_cpu(request.get("cpu_s")):
                    engine = build_engine(runtime, arrays[0].tobytes(), EngineOptions(**request["options"]))
                sides = {"inputs": engine.inputs, "outputs": engine.outputs}
                send(answers, {"ok": {side: [asdict(d) for d in details] for side, details in sides.items()}})
            elif engine is None:
                raise ValueError("the first request must be open")
            elif kind == "run":
                send(answers, {"ok": True}, engine.run(arrays))
            elif kind == "stream":
                send(answers, {"ok": True}, engine.stream(arrays))
            elif kind == "reset":
                engine.reset()
                send(answers, {"ok": True})
            elif kind == "arena":
                send(answers, {"ok": engine.arena()})
            else:
                raise ValueError(f"unknown request {kind!r}")
        except EdgepressError as error:
            send(answers, {"error": str(error), "exit_code": error.exit_code})
        except MemoryError:
            send(answers, {"error": f"{runtime} ran out of memory", "exit_code": 3})
        except Exception as error:
            send(answers, {"error": f"{runtime} failed: {type(error).__name__}: {error}"[:400], "exit_code": 3})


@contextmanager
def _bounded_cpu(seconds: int | None) -> Iterator[None]:
    """Opening a file of a stranger may loop for ever in native code: the operating system ends it (POSIX)."""
    if seconds is None or sys.platform == "win32":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_CPU)
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + seconds, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, before)


def main() -> None:
    """Serve on stdin and stdout; what native code prints on stdout goes to stderr instead."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
