# SPDX-License-Identifier: Apache-2.0
"""Arrays on disk, found again by what they were made from.

An entry is a folder `<cache>/<kind>/<key>/` with `data.npy` and its `sha256`, renamed into place when it is complete; a
lock keeps two processes from making the same one. An entry whose bytes are others (a disk that lost a block) is made
again. Nothing is ever deleted from the cache: remove the folder to empty it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from edgepress.models.atomic import new_directory, write_text
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import file_sha256

_DATA, _CHECKSUM = "data.npy", "sha256"
#: Files whose bytes this process has compared with their checksum: each is read through once.
_whole: set[tuple[int, ...]] = set()


def cache_directory(cache: str | Path | None = None) -> Path:
    """`cache`, else $EDGEPRESS_CACHE, else the user's cache folder of the platform (~/.cache/edgepress on Linux)."""
    if cache is not None:
        return Path(cache)
    if os.environ.get("EDGEPRESS_CACHE"):
        given = os.environ["EDGEPRESS_CACHE"]
        return Path(os.path.expanduser(given))  # as it stands where there is no home
    if os.environ.get("XDG_CACHE_HOME") and sys.platform not in ("darwin", "win32"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "edgepress"
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry and without HOME, as in some containers
        raise UsageError("there is no home folder for the cache: set EDGEPRESS_CACHE (or HOME) to a folder") from None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "edgepress"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "edgepress" / "Cache"
    return home / ".cache" / "edgepress"


def digest(*parts: Any) -> str:
    """32 hexadecimal digits of JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def cached_array(
    root: Path, kind: str, key: str, shape: tuple[int, ...], dtype: DTypeLike, fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """The array of this key, memory-mapped and read-only; made by `fill` when it is not there or damaged.

    Args:
        root: the cache folder.
        kind: a subfolder, such as "features".
        key: hexadecimal digest of everything that the content follows from.
        shape: of the array.
        dtype: of the array.
        fill: writes the content into the (memory-mapped) array that it is given.

    Raises:
        UsageError: the cache is not writable, or there is too little space.
    """
    entry = root / kind / key
    found = _open(entry, shape, dtype)
    if found is not None:
        return found
    with locked(entry):
        found = _open(entry, shape, dtype)
        if found is not None:
            return found
        for leftover in entry.parent.glob(f".{key}.*"):
            if leftover.is_dir():  # of a process that was killed: the lock is ours, so nobody writes it
                shutil.rmtree(leftover, ignore_errors=True)
        need = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(entry.parent).free
        if need + 2**26 > free:
            raise UsageError(
                f"the cache {root} needs {need / 1e9:.1f} GB for {kind}, but {free / 1e9:.1f} GB are "
                "free; set EDGEPRESS_CACHE to a larger disk"
            )
        with new_directory(entry, overwrite=True) as folder:
            array = np.lib.format.open_memmap(folder / _DATA, mode="w+", dtype=dtype, shape=shape)
            _reserve(folder / _DATA)
            fill(array)
            array.flush()
            del array
            write_text(folder / _CHECKSUM, file_sha256(folder / _DATA) + "\n")
    found = _open(entry, shape, dtype)
    if found is None:
        raise UsageError(f"the cache entry {entry} cannot be read back; set EDGEPRESS_CACHE to another disk")
    return found


def _open(entry: Path, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray | None:
    path = entry / _DATA
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.shape != shape or array.dtype != np.dtype(dtype):
            return None
        status = path.stat()
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if seen not in _whole:
            if (entry / _CHECKSUM).read_text(encoding="ascii").strip() != file_sha256(path):
                return None
            _whole.add(seen)
    except (OSError, ValueError, EOFError):
        return None
    return array


def _reserve(path: Path) -> None:
    """The blocks of a mapped file now, as an error: a disk that is full later would end the process by SIGBUS."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # others: the file system cannot do it
                raise


def locked(entry: Path) -> AbstractContextManager[object]:
    """A context manager: only one process at a time makes `entry`; others wait.

    Raises:
        UsageError: the folder cannot be written.
    """
    from filelock import FileLock

    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        # What acquire() returns releases the lock at the end of a `with` block.
        return FileLock(entry.parent / f".{entry.name}.lock").acquire()
    except OSError as error:
        raise UsageError(
            f"cannot write the cache {entry.parent}: {error.strerror or error}; "
            "set EDGEPRESS_CACHE to a writable folder"
        ) from error
