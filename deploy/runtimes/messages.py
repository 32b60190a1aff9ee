# SPDX-License-Identifier: Apache-2.0
"""Messages between a session and the process of its engine: a line of JSON, then raw arrays; nothing is unpickled.

The header holds the shapes and types of the arrays. Requests: open, run, arena. Answers: {"ok": ...} or {"error":
sentence, "exit_code": n}.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

_HEADER = struct.Struct("<4sI")
_MAGIC = b"EPW1"
_LARGEST_HEADER_BYTES = 16 << 20


def send(stream: BinaryIO, message: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
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


#: Two files that are one network (OpenVINO's .xml and .bin) cross as one blob: this mark, the length of the first.
_PAIR = b"\x00PAIR"


def pack(first: bytes, second: bytes) -> bytes:
    """Two files as one blob."""
    return _PAIR + len(first).to_bytes(8, "little") + first + second


def unpack(blob: bytes) -> tuple[bytes, bytes] | None:
    """The two files of `pack`; None for any other blob."""
    if not blob.startswith(_PAIR):
        return None
    start = len(_PAIR) + 8
    end = start + int.from_bytes(blob[len(_PAIR) : start], "little")
    return blob[start:end], blob[end:]
