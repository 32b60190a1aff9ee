# SPDX-License-Identifier: Apache-2.0
"""Read a .tflite file into the objects of its schema, and write them back without wasted bytes.

The schema's classes come from ai-edge-litert, whose schema holds every field of the current format.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from edgepress.models.errors import RuntimeFailure, UsageError

#: TFLite Micro reads constants in place and expects them at multiples of 16 (`force_align` in the schema).
_BUFFER_ALIGNMENT = 16
#: Kinds of metadata that change how a file runs, or that hold indices into it: never stripped.
PLAN_NAME = "OfflineMemoryAllocation"
KEPT_METADATA = frozenset({PLAN_NAME, "COMPRESSION_METADATA"})


def schema() -> Any:
    """The module with the schema's classes.

    Raises:
        RuntimeFailure: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise RuntimeFailure(f"writing TFLite files needs the package ai-edge-litert ({error}): install it") from error
    return schema_py_generated


def unpack(model: bytes) -> Any:
    """The ModelT of a file's bytes; its arrays are copies.

    Raises:
        UsageError: the file is damaged, or keeps its constants outside of the flatbuffer.
    """
    from edgepress.deploy.tflite.reader import read_tflite

    read_tflite(model)
    try:
        unpacked = schema().ModelT.InitFromPackedBuf(bytearray(model), 0)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise UsageError(f"the TFLite file is damaged: {type(error).__name__}") from error
    if not unpacked.subgraphs or unpacked.buffers is None or unpacked.operatorCodes is None:
        raise UsageError("the TFLite file has no graph")
    outside = (
        any(buffer.offset > 1 for buffer in unpacked.buffers)
        or unpacked.externalBuffers
        or any(op.largeCustomOptionsOffset > 1 for graph in unpacked.subgraphs for op in graph.operators or ())
    )
    if outside:
        raise UsageError("the TFLite file keeps constants outside of its flatbuffer; such files are not rewritten")
    return unpacked


def pack(unpacked: Any) -> bytes:
    """The bytes of a ModelT: constants aligned to 16 bytes, equal vectors and texts written once."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        """A builder that points to an equal vector or text instead of writing it again, as the format allows.

        (The library's own class must be extended: `Pack` calls its methods. Per-channel zero points, all 0, gain most.)
        """

        def __init__(self, size: int):
            super().__init__(size)
            self._written: dict[tuple[str, int, bytes], int] = {}

        def CreateNumpyVector(self, x: np.ndarray) -> int:
            little = np.ascontiguousarray(x.astype(x.dtype.newbyteorder("<"), copy=False))
            payload = little.tobytes()
            # Only constants and custom options are vectors of bytes; both may be read as wider types.
            alignment = _BUFFER_ALIGNMENT if x.itemsize == 1 else x.dtype.alignment
            key = (little.dtype.str, alignment, payload)
            if key not in self._written:
                self.StartVector(x.itemsize, x.size, alignment)
                self.head = self.head - len(payload)
                self.Bytes[self.head : self.head + len(payload)] = payload
                self._written[key] = self.EndVector()
            return self._written[key]

        def CreateString(self, s: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> int:
            text = s.encode(encoding, errors) if isinstance(s, str) else s
            key = ("text", 1, text)
            if key not in self._written:
                self._written[key] = super().CreateString(text, encoding, errors)
            return self._written[key]

    builder = SharingBuilder(1 << 16)
    builder.Finish(unpacked.Pack(builder), b"TFL3")
    return bytes(builder.Output())
