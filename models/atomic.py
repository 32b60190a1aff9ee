# SPDX-License-Identifier: Apache-2.0
"""Files and directories that are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
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
