"""The child process in which a runtime may crash, spoken to over pipes.

`python -m edgepress.deploy.runtimes.worker RUNTIME`.

A message is a line of JSON with the shapes and types of its arrays, then their raw bytes; nothing is ever unpickled.
Requests: open, run, arena. Answers: {"ok": ...} or {"error": sentence, "exit_code": n}.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

_HEADER = struct.Struct("<4sI")
_MAGIC = b"EPW1"
_LARGEST_HEADER_BYTES = 16 << 20


def send(stream: BinaryIO, message: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Write a message and its arrays."""
    described = {**message, "arrays": [[array.dtype.str, list(array.shape)] for array in arrays]}
    header = json.dumps(described).encode()
    stream.write(_HEADER.pack(_MAGIC, len(header)) + header)
    for array in arrays:
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read a message and its arrays.

    Raises:
        EOFError: the other side is gone. ValueError: the bytes are no message.
    """
    magic, size = _HEADER.unpack(_exactly(stream, _HEADER.size))
    if magic != _MAGIC or size > _LARGEST_HEADER_BYTES:
        raise ValueError("the other side does not speak our language")
    message = json.loads(_exactly(stream, size))
    arrays = []
    for name, shape in message.pop("arrays"):
        dtype = np.dtype(name)
        if dtype.hasobject:
            raise ValueError(f"arrays of {name} are not read")
        count = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(_exactly(stream, count * dtype.itemsize), dtype).reshape(shape))
    return message, arrays


def _exactly(stream: BinaryIO, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = stream.read(left)
        if not part:
            raise EOFError("the other side is gone")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def serve(runtime: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the other side closes its end."""
    from edgepress.deploy.runtimes.engines import build_engine
    from edgepress.models.errors import EdgepressError

    engine = None
    while True:
        try:
            request, arrays = receive(requests)
        except EOFError:
            return
        try:
            kind = request["op"]
            if kind == "open":
                engine = build_engine(runtime, arrays[0].tobytes(), request["options"])
                send(
                    answers,
                    {
                        "ok": {
                            "inputs": [asdict(d) for d in engine.inputs],
                            "outputs": [asdict(d) for d in engine.outputs],
                        }
                    },
                )
            elif engine is None:
                raise ValueError("the first request must be open")
            elif kind == "run":
                send(answers, {"ok": True}, engine.run(arrays))
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


def main() -> None:
    """Serve on stdin and stdout; what native code prints on stdout goes to stderr instead."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
