# SPDX-License-Identifier: Apache-2.0
"""Read a .tflite file with NumPy alone, and without trust: a damaged file is a `UsageError`, never a crash."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgepress.deploy.tflite.flatbuffer import DamagedFlatbuffer, Flatbuffer, Table
from edgepress.deploy.tflite.names import BUILTIN_OPERATORS, ELEMENT_TYPES, FUSED_ACTIVATIONS, OPTIONS, PADDINGS
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import open_bytes, refuse_pointer

T = TypeVar("T", int, float, bool, str)
#: Larger files are refused: a flatbuffer cannot exceed 2 GiB, and no device class here takes a tenth of it.
LARGEST_FILE_BYTES = 1 << 30
#: Files above this are mapped instead of read.
_LARGEST_RANK = 16
_LARGEST_ELEMENTS = 1 << 40


@dataclass(frozen=True)
class Quantization:
    """real = scale * (stored - zero_point), per tensor or per slice along `axis`.

    Attributes:
        scale: [1] or [channels] float32.
        zero_point: of the same length, int64.
        axis: of the channels.
        minimum, maximum: observed ranges where the file keeps them, else empty.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    minimum: np.ndarray
    maximum: np.ndarray


@dataclass(frozen=True)
class Tensor:
    """A tensor of one subgraph.

    Attributes:
        shape: sizes, -1 nowhere; `shape_signature` has -1 where a size is dynamic.
        dtype: as in NumPy where NumPy knows it, else TFLite's name in lower case ("int4", "string").
        buffer: index of its buffer; 0 is the empty one.
        data: its constant bytes, or None.
        size_bytes: of its elements as stored; 0 where they have no fixed size.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: str
    buffer: int
    quantization: Quantization | None
    variable: bool
    sparse: bool
    size_bytes: int
    data: memoryview | None = field(repr=False)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def constant(self) -> bool:
        """Whether the file holds its values."""
        return self.data is not None

    def array(self) -> np.ndarray:
        """The constant's values in its shape, a read-only view.

        Raises:
            UsageError: it is no constant, or of a type that NumPy does not have.
        """
        try:
            dtype = np.dtype(self.dtype).newbyteorder("<")
        except TypeError:
            dtype = None
        if self.data is None or self.sparse or dtype is None:
            kind = "sparse" if self.sparse else self.dtype
            raise UsageError(f"tensor {self.name!r} ({kind}) has no values that NumPy can hold")
        return np.frombuffer(self.data, dtype, self.elements).reshape(self.shape)


@dataclass(frozen=True)
class Operator:
    """One operator: `code` is the builtin's name, "CUSTOM" with `custom_code` for others; -1 is an absent input."""

    index: int
    code: str
    custom_code: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...]
    options: Mapping[str, int | float | bool | str | tuple[int, ...]]

    def option(self, name: str, default: T) -> T:
        """An option in the type of `default`, which stands where the operator has none of that name."""
        value = self.options.get(name, default)
        if not isinstance(value, type(default)):
            raise UsageError(f"the TFLite file is damaged: {name} of {self.code} is {value!r}")
        return value


@dataclass(frozen=True)
class Subgraph:
    """Tensors and operators in execution order; inputs and outputs are indices of tensors."""

    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class Signature:
    """A named entry: names of inputs and outputs -> tensor index in its subgraph."""

    key: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    subgraph: int


@dataclass(frozen=True)
class TFLiteModel:
    """A .tflite file.

    Attributes:
        name: of the file, for messages.
        size_bytes: of the file.
        version: of the schema.
        buffers: the bytes of each buffer, views of the file; empty where a buffer is.
        metadata: name -> buffer index.
    """

    name: str
    size_bytes: int
    version: int
    description: str
    subgraphs: tuple[Subgraph, ...]
    buffers: tuple[memoryview, ...] = field(repr=False)
    metadata: Mapping[str, int] = field(default_factory=dict)
    signatures: tuple[Signature, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Of the first subgraph."""
        return self.subgraphs[0].tensors

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Of the first subgraph."""
        return self.subgraphs[0].operators

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Of the first subgraph."""
        return tuple(self.tensors[index] for index in self.subgraphs[0].inputs)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Of the first subgraph."""
        return tuple(self.tensors[index] for index in self.subgraphs[0].outputs)


def read_tflite(source: str | Path | bytes) -> TFLiteModel:
    """Read a file or its bytes.

    Raises:
        UsageError: it is missing, empty, too large, no .tflite, or damaged; the message says what is wrong where.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "the model", memoryview(source)
    else:
        name, data = str(source), open_bytes(source, LARGEST_FILE_BYTES)
    refuse_pointer(data, name)
    if len(data) < 8 or bytes(data[4:8]) != b"TFL3":
        raise UsageError(f"{name} is no .tflite file: {_looks_like(data)}")
    try:
        return _Reader(name, data).model()
    except DamagedFlatbuffer as error:
        raise UsageError(f"{name} is damaged: {error}") from error
    except (struct.error, ValueError, OverflowError, IndexError) as error:
        raise UsageError(f"{name} is damaged: {type(error).__name__} while reading it") from error


def _looks_like(data: memoryview) -> str:
    known = {
        b"PK\x03\x04": "it is a zip archive",
        b"\x1f\x8b": "it is a gzip archive",
        b"\x89HDF": "it is an HDF5 file",
        b"\x93NUM": "it is a NumPy file",
        b"\x80\x02": "it is a pickle, which is never opened",
        b"\x08": "it looks like an ONNX file",
        b"GGUF": "it is a GGUF file",
        b"\x7fELF": "it is a program",
    }
    start = bytes(data[:4])
    for prefix, meaning in known.items():
        if start.startswith(prefix):
            return meaning
    return "the identifier TFL3 is missing" if len(data) >= 8 else f"it has {len(data)} bytes"


class _Reader:
    """Reads one model; holds what is looked up while reading."""

    def __init__(self, name: str, data: memoryview):
        self.name = name
        self.data = data
        self.buffers: list[memoryview] = []
        self.codes: list[tuple[str, str, int]] = []

    def model(self) -> TFLiteModel:
        root = Flatbuffer(self.data).root()
        version = root.integer(0, "uint32")
        if version != 3:
            raise DamagedFlatbuffer(f"its schema has version {version}; only 3 is known")
        self.codes = [self._code(table) for table in root.tables(1)]
        self.buffers = [self._buffer(index, table) for index, table in enumerate(root.tables(4))]
        subgraphs = tuple(self._subgraph(table) for table in root.tables(2))
        if not subgraphs:
            raise DamagedFlatbuffer("it has no subgraph")
        metadata = {}
        for table in root.tables(6):
            buffer = table.integer(1, "uint32")
            self._check("metadata", buffer, len(self.buffers), "buffers")
            metadata[table.text(0)] = buffer
        return TFLiteModel(
            self.name,
            len(self.data),
            version,
            root.text(3),
            subgraphs,
            tuple(self.buffers),
            metadata,
            tuple(self._signature(table, subgraphs) for table in root.tables(7)),
        )

    def _check(self, what: str, index: int, count: int, of: str) -> None:
        if not 0 <= index < count:
            raise DamagedFlatbuffer(f"{what} refers to number {index} of {count} {of}")

    def _code(self, table: Table) -> tuple[str, str, int]:
        # Numbers above 127 are in the newer field; older files have only the one-byte field.
        number = max(table.integer(0, "int8"), table.integer(3, "int32"))
        if number < 0:
            raise DamagedFlatbuffer(f"operator code {number} is unknown")
        # A builtin that is newer than this table is a valid file all the same: it is listed by its number.
        code = BUILTIN_OPERATORS[number] if number < len(BUILTIN_OPERATORS) else f"BUILTIN_{number}"
        return code, table.text(1), table.integer(2, "int32", 1)

    def _buffer(self, index: int, table: Table) -> memoryview:
        start, length = table.span(0)
        offset, size = table.integer(1, "uint64"), table.integer(2, "uint64")
        if offset > 1 and not length:  # behind the flatbuffer, as in files above 2 GiB
            start, length = offset, size
            if start + length > len(self.data):
                raise DamagedFlatbuffer(f"buffer {index} lies outside the file: {length} bytes at byte {start}")
        return self.data[start : start + length]

    def _subgraph(self, table: Table) -> Subgraph:
        tensors = tuple(self._tensor(index, entry) for index, entry in enumerate(table.tables(0)))
        inputs, outputs = table.integers(1), table.integers(2)
        for index in (*inputs, *outputs):
            self._check("an input or output", index, len(tensors), "tensors")
        operators = tuple(self._operator(index, entry, len(tensors)) for index, entry in enumerate(table.tables(3)))
        return Subgraph(table.text(4), tensors, inputs, outputs, operators)

    def _tensor(self, index: int, table: Table) -> Tensor:
        shape, signature = table.integers(0), table.integers(7)
        if len(shape) > _LARGEST_RANK or any(size < 0 for size in shape) or prod(shape) > _LARGEST_ELEMENTS:
            raise DamagedFlatbuffer(f"tensor {index} has the impossible shape {list(shape)[:_LARGEST_RANK]}")
        number = table.integer(1, "int8")
        if number not in ELEMENT_TYPES:
            raise DamagedFlatbuffer(f"tensor {index} has the unknown element type {number}")
        dtype, bits = ELEMENT_TYPES[number]
        name, buffer, sparse = table.text(3), table.integer(2, "uint32"), 6 in table
        if table.integer(10, "uint32"):
            raise DamagedFlatbuffer(f"tensor {index} keeps its values in another file, which is not followed")
        # Files without any buffer are legal for tensors that have no data.
        if buffer or self.buffers:
            self._check(f"tensor {index}", buffer, len(self.buffers), "buffers")
        data = self.buffers[buffer] if self.buffers else memoryview(b"")
        size_bytes = -(-prod(shape) * bits // 8) if bits else 0
        if len(data) and bits and not sparse and len(data) != size_bytes:
            raise DamagedFlatbuffer(
                f"tensor {index} {name!r} has {len(data)} bytes where {list(shape)} of {dtype} take {size_bytes}"
            )
        return Tensor(
            index,
            name,
            shape,
            signature or shape,
            dtype,
            buffer,
            self._quantization(index, table, computed=dtype in ("int8", "uint8", "int16") and not len(data)),
            table.flag(5),
            sparse,
            size_bytes,
            data if len(data) else None,
        )

    def _quantization(self, index: int, tensor: Table, computed: bool) -> Quantization | None:
        table = tensor.table(4)
        if table is None:
            return None
        scale, zero_point = table.numbers(2, "float32"), table.numbers(3, "int64")
        minimum, maximum = table.numbers(0, "float32"), table.numbers(1, "float32")
        if not scale.size:
            if not (minimum.size or maximum.size):
                return None
        elif zero_point.size not in (0, 1, scale.size):
            raise DamagedFlatbuffer(f"tensor {index} has {scale.size} scales and {zero_point.size} zero points")
        # Zero is what some converters write for a channel of zero weights; a value that is computed needs a step.
        if not np.isfinite(scale).all() or (scale < 0).any() or (computed and (scale == 0).any()):
            raise DamagedFlatbuffer(f"tensor {index} has a scale that is not positive")
        if zero_point.size != scale.size:
            zero_point = np.full(scale.size, zero_point[0] if zero_point.size else 0, np.int64)
        return Quantization(scale, zero_point, table.integer(6, "int32"), minimum, maximum)

    def _operator(self, index: int, table: Table, tensors: int) -> Operator:
        code_index = table.integer(0, "uint32")
        self._check(f"operator {index}", code_index, len(self.codes), "operator codes")
        code, custom, version = self.codes[code_index]
        inputs, outputs, intermediates = table.integers(1), table.integers(2), table.integers(8)
        for tensor in inputs:
            if tensor != -1:
                self._check(f"operator {index} ({code})", tensor, tensors, "tensors")
        for tensor in (*outputs, *intermediates):
            self._check(f"operator {index} ({code})", tensor, tensors, "tensors")
        return Operator(
            index,
            code,
            custom,
            version,
            inputs,
            outputs,
            intermediates,
            self._options(code, table.table(4) if code in OPTIONS else None),
        )

    def _options(self, code: str, table: Table | None) -> dict[str, int | float | bool | str | tuple[int, ...]]:
        options: dict[str, int | float | bool | str | tuple[int, ...]] = {}
        for name, (number, kind, default) in OPTIONS.get(code, {}).items():
            if kind in ("padding", "activation"):
                names = PADDINGS if kind == "padding" else FUSED_ACTIVATIONS
                value = table.integer(number, "int8", int(default)) if table is not None else int(default)
                self._check(f"option {name} of {code}", value, len(names), "values")
                options[name] = names[value]
            elif kind == "text":
                options[name] = table.text(number) if table is not None else ""
            elif kind == "integers":
                options[name] = table.integers(number) if table is not None else ()
            elif table is None:
                options[name] = default
            elif kind == "float32":
                options[name] = table.real(number, float(default))
            elif kind == "bool":
                options[name] = table.flag(number, bool(default))
            else:
                options[name] = table.integer(number, kind, int(default))
        return options

    def _signature(self, table: Table, subgraphs: tuple[Subgraph, ...]) -> Signature:
        index = table.integer(4, "uint32")
        self._check("a signature", index, len(subgraphs), "subgraphs")
        names: list[dict[str, int]] = []
        for number in (0, 1):
            entries = {entry.text(0): entry.integer(1, "uint32") for entry in table.tables(number)}
            for tensor in entries.values():
                self._check("a signature", tensor, len(subgraphs[index].tensors), "tensors")
            names.append(entries)
        return Signature(table.text(2), names[0], names[1], index)
