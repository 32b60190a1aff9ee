# SPDX-License-Identifier: Apache-2.0
"""Files and directories that are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgepress.models.errors import UsageError


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write beside the target, sync, rename: a reader sees the old file or the new one, never a part.

    Raises:
        UsageError: the folder is missing or not writable, or the disk is full; the old file is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; choose a writable folder with enough space"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """`write_bytes` for UTF-8 text."""
    return write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> Path:
    """`write_text` for JSON, indented, with a final newline; NaN is refused, since it is no JSON."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def append_lines(path: str | Path, lines: Iterable[str]) -> Path:
    """Add lines to a UTF-8 file, all of them or, where the disk is full, none; a torn last line is mended first.

    Whoever appends holds a lock beside the file, so that two commands at once neither mix nor cut each other's lines.
    A last line without its end is what a killed command left of one: it is cut off, unless it is whole JSON.

    Raises:
        UsageError: the file cannot be written; it holds what it held.
    """
    from filelock import FileLock

    path = Path(path)
    data = "".join(line + "\n" for line in lines).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f".{path.name}.lock"):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666)
            with os.fdopen(handle, "r+b", buffering=0) as file:
                size = _mended_size(file)
                try:
                    os.ftruncate(handle, size)
                    file.seek(size)
                    written = 0
                    while written < len(data):
                        written += file.write(data[written:])
                    os.fsync(handle)
                except BaseException:
                    os.ftruncate(handle, size)
                    raise
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; choose a writable folder with enough space"
        ) from error
    return path


def _mended_size(file: Any) -> int:
    """How much of a file to keep, in bytes, so that it ends with the end of a line."""
    size = file.seek(0, os.SEEK_END)
    end, block = size, b""
    while end > 0 and b"\n" not in block:
        start = max(0, end - (1 << 16))
        file.seek(start)
        block, end = file.read(end - start) + block, start
    last = block.rpartition(b"\n")[2]
    if not last:
        return size
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return size - len(last)
    file.seek(size)
    file.write(b"\n")
    return size + 1


@contextmanager
def new_directory(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`, renamed to it when the block ends without an error.

    Raises:
        UsageError: `path` exists and `overwrite` is False, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already; choose another name or allow overwriting")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; choose a writable folder with enough space"
        ) from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        replaced = None
        if path.exists():
            replaced = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".replaced")) / "old"
            os.replace(path, replaced)
        os.replace(temporary, path)
        if replaced is not None:
            shutil.rmtree(replaced.parent, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; choose a writable folder with enough space"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
