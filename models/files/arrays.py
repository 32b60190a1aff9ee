# SPDX-License-Identifier: Apache-2.0
"""Arrays in .npz, .npy, .safetensors and .pt files that anybody may have written: sizes checked, no objects read."""

from __future__ import annotations

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.files.reading import open_regular

if TYPE_CHECKING:
    from torch import Tensor

#: What a file may unpack to, in all; and how much smaller than that it may be, where it unpacks to something large.
LARGEST_BYTES = 4 * 2**30
LARGEST_RATIO = 200
_SMALL_BYTES = 64 * 2**20
#: The largest network that people put on small devices has some thousand.
MOST_TENSORS = 20_000
_LARGEST_HEADER_BYTES = 16 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,  # encrypted; nested too deeply
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    OverflowError,
    KeyError,
)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Every array of an .npz, after its directory and headers have been checked against `LARGEST_BYTES`.

    Raises:
        UsageError: missing, no zip archive, damaged, holds Python objects, or unpacks to too much.
    """
    path = Path(path)
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _refuse_bombs(path, entries, 64, LARGEST_BYTES)
            return {entry.filename.removesuffix(".npy"): _read_array(path, archive, entry) for entry in entries}
    except _DAMAGED as error:
        raise UsageError(f"{path} is no readable .npz file ({error}); write it with numpy.savez") from error


def _refuse_bombs(path: Path, entries: Sequence[zipfile.ZipInfo], most: int, largest_bytes: int) -> None:
    """By the directory of the archive; a reader that gets more than that out of an entry stops with an error."""
    total = sum(entry.file_size for entry in entries)
    packed = max(1, sum(entry.compress_size for entry in entries))
    if total > largest_bytes or len(entries) > most:
        raise UsageError(
            f"{path} unpacks to {total / 1e9:.1f} GB in {len(entries):,} arrays; at most "
            f"{largest_bytes / 1e9:.1f} GB in {most:,} are read"
        )
    if total > _SMALL_BYTES and total > LARGEST_RATIO * packed:
        raise UsageError(
            f"{path} unpacks to {total / packed:.0f} times its size; at most {LARGEST_RATIO} is "
            "read, since no real data compress like that"
        )


def load_torch(path: str | Path, largest_bytes: int = LARGEST_BYTES) -> Any:
    """What `torch.save` wrote, on the CPU: tensors and plain values, nothing else is unpickled.

    Raises:
        UsageError: missing, no regular file, or it unpacks to too much.
        Exception: of many kinds, torch's own: it is damaged, or holds other objects.
    """
    import torch

    path = Path(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest_bytes:
            raise UsageError(f"{path} has {size / 1e9:.1f} GB; at most {largest_bytes / 1e9:.1f} GB are read")
        if zipfile.is_zipfile(file):  # else it is of the form before torch 1.6, which packs nothing
            with zipfile.ZipFile(file) as archive:
                _refuse_bombs(path, archive.infolist(), MOST_TENSORS, largest_bytes)
    return torch.load(path, map_location="cpu", weights_only=True)


def read_npy(path: str | Path) -> np.ndarray:
    """The array of an .npy, after its header has been checked against the size of the file.

    Raises:
        UsageError: missing, damaged, of Python objects, or too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_BYTES:
            raise UsageError(f"{path} has {size / 1e9:.1f} GB; at most {LARGEST_BYTES / 1e9:.1f} GB are read")
        try:
            _check_header(file, size, str(path))
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
        except _DAMAGED as error:
            raise UsageError(f"{path} is no readable .npy file ({error}); write it with numpy.save") from error


def _read_array(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        _check_header(file, entry.file_size, f"{path}: the array {entry.filename!r}")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int, what: str) -> None:
    """The header decides what NumPy allocates, not the archive's directory (and items may have no bytes at all)."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read_header is None:
        raise UsageError(f"{what} has the unknown format version {version}")
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise UsageError(f"{what} holds Python objects, which are never read; store text as a NumPy array of strings")
    if math.prod(shape) * max(1, dtype.itemsize) > size or any(length < 0 for length in shape):
        raise UsageError(f"{what} claims the shape {shape}, which is more than the file holds")


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU.

    Raises:
        UsageError: missing, no regular file, damaged, or a header of too many tensors.
    """
    with open_regular(path) as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= size <= min(_LARGEST_HEADER_BYTES, os.fstat(file.fileno()).st_size - 8):
            raise UsageError(
                f"{path} is damaged: it is no safetensors file, or its header of {size:,} bytes is too large"
            )
        count = file.read(size).count(b'"data_offsets"')
    if count > MOST_TENSORS:
        raise UsageError(f"{path} holds {count:,} tensors; at most {MOST_TENSORS:,} are read")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged: it is no safetensors file ({error})") from error


def refuse_numbers_that_are_none(tensors: Mapping[str, Tensor], where: str) -> None:
    """Networks whose weights are NaN agree with each other on every sample.

    Raises:
        UsageError: a tensor holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UsageError(
                f"{where} is damaged: {name} holds NaN or infinite values; train again, or restore the file"
            )
