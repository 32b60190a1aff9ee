# SPDX-License-Identifier: Apache-2.0
"""A flatbuffer read without trust: every offset and every count is checked against the size of the data.

Format: https://flatbuffers.dev/internals/. Only what TFLite's schema uses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

_FORMATS = {
    "int8": "b",
    "uint8": "B",
    "bool": "?",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}
_STRUCTS = {name: struct.Struct("<" + letter) for name, letter in _FORMATS.items()}


class DamagedFlatbuffer(Exception):
    """An offset or a count points outside the data; the message says which."""


@dataclass
class Flatbuffer:
    """The data and what may still be read from it.

    Tables and vectors may overlap in a hostile file, so that a small file describes an endless number of them:
    the budgets bound the work by the size of the file.

    Attributes:
        data: the whole file.
        tables_left: tables that may still be opened.
        copies_left: bytes that may still be copied into Python objects.
    """

    data: memoryview
    tables_left: int = field(init=False)
    copies_left: int = field(init=False)

    def __post_init__(self) -> None:
        # A table takes four bytes and the offset to it four more; no honest file shares many of them.
        self.tables_left = min(500_000, len(self.data) // 8 + 64)
        self.copies_left = min(64 << 20, 4 * len(self.data) + 4096)

    def scalar(self, kind: str, position: int) -> int | float | bool:
        """The number at a position."""
        reader = _STRUCTS[kind]
        if position < 0 or position + reader.size > len(self.data):
            raise DamagedFlatbuffer(f"a {kind} at byte {position} lies outside the file of {len(self.data)} bytes")
        return reader.unpack_from(self.data, position)[0]

    def follow(self, position: int) -> int:
        """The position that an offset stored at `position` points to."""
        offset = int(self.scalar("uint32", position))
        target = position + offset
        if offset == 0 or target + 4 > len(self.data):
            raise DamagedFlatbuffer(f"the offset at byte {position} points to byte {target} of {len(self.data)}")
        return target

    def root(self) -> Table:
        """The root table."""
        return self.table(self.follow(0))

    def table(self, position: int) -> Table:
        """The table at a position, its field offsets checked."""
        self.tables_left -= 1
        if self.tables_left < 0:
            raise DamagedFlatbuffer("it describes more tables than its size has room for")
        fields_at = position - int(self.scalar("int32", position))
        length = int(self.scalar("uint16", fields_at)) if fields_at >= 0 else 0
        if length < 4 or length % 2 or fields_at + length > len(self.data):
            raise DamagedFlatbuffer(f"the table at byte {position} has no valid list of fields")
        size = int(self.scalar("uint16", fields_at + 2))
        if size < 4 or position + size > len(self.data):
            raise DamagedFlatbuffer(f"the table at byte {position} reaches beyond the end of the file")
        offsets = struct.unpack_from(f"<{(length - 4) // 2}H", self.data, fields_at + 4)
        if any(offset >= size for offset in offsets):
            raise DamagedFlatbuffer(f"the table at byte {position} has a field outside itself")
        return Table(self, position, offsets)

    def copied(self, count: int) -> None:
        """Account for bytes that become Python objects."""
        self.copies_left -= count
        if self.copies_left < 0:
            raise DamagedFlatbuffer("its texts and lists are longer than its size has room for")


@dataclass(frozen=True)
class Table:
    """One table: fields by their number in the schema."""

    buffer: Flatbuffer
    position: int
    offsets: tuple[int, ...]

    def _field(self, number: int) -> int | None:
        offset = self.offsets[number] if number < len(self.offsets) else 0
        return self.position + offset if offset else None

    def __contains__(self, number: int) -> bool:
        return self._field(number) is not None

    def integer(self, number: int, kind: str = "int32", default: int = 0) -> int:
        """A whole number, or its default where the field is absent."""
        at = self._field(number)
        return default if at is None else int(self.buffer.scalar(kind, at))

    def real(self, number: int, default: float = 0.0) -> float:
        """A float32."""
        at = self._field(number)
        return default if at is None else float(self.buffer.scalar("float32", at))

    def flag(self, number: int, default: bool = False) -> bool:
        """A bool."""
        return bool(self.integer(number, "uint8", int(default)))

    def table(self, number: int) -> Table | None:
        """A table, or None where it is absent."""
        at = self._field(number)
        return None if at is None else self.buffer.table(self.buffer.follow(at))

    def _vector(self, number: int, width: int) -> tuple[int, int]:
        at = self._field(number)
        if at is None:
            return 0, 0
        start = self.buffer.follow(at)
        count = int(self.buffer.scalar("uint32", start))
        if start + 4 + count * width > len(self.buffer.data):
            raise DamagedFlatbuffer(f"a list of {count} entries at byte {start} reaches beyond the end of the file")
        return start + 4, count

    def tables(self, number: int) -> list[Table]:
        """A vector of tables; empty where it is absent."""
        start, count = self._vector(number, 4)
        if count > self.buffer.tables_left:
            raise DamagedFlatbuffer("it describes more tables than its size has room for")
        return [self.buffer.table(self.buffer.follow(start + 4 * index)) for index in range(count)]

    def numbers(self, number: int, kind: str) -> np.ndarray:
        """A vector of numbers as a read-only view of the data."""
        dtype = np.dtype(kind).newbyteorder("<")
        start, count = self._vector(number, dtype.itemsize)
        return np.frombuffer(self.buffer.data, dtype, count, start) if count else np.zeros(0, dtype)

    def integers(self, number: int) -> tuple[int, ...]:
        """A vector of int32 as Python numbers."""
        values = self.numbers(number, "int32")
        self.buffer.copied(8 * values.size)
        return tuple(values.tolist())

    def span(self, number: int) -> tuple[int, int]:
        """Position and length of a vector of bytes; (0, 0) where it is absent."""
        return self._vector(number, 1)

    def text(self, number: int) -> str:
        """A string; bytes that are no UTF-8 are shown as such."""
        start, count = self._vector(number, 1)
        self.buffer.copied(count)
        return bytes(self.buffer.data[start : start + count]).decode("utf-8", errors="replace")
