# SPDX-License-Identifier: Apache-2.0
"""Files that anybody may have written: regular ones only, of a bounded size, text as UTF-8, JSON and TOML with bounds.

What passes here can be counted with, printed and written again: numbers are finite and fit 64 bits, texts are Unicode,
nothing is nested deeper than any reader of ours goes. A schema (a pydantic type) says what else must hold.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import stat
import tomllib
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

from edgepress.models.errors import UsageError

LARGEST_TEXT_BYTES = 200_000_000
_DEEPEST = 64
_LARGEST_INTEGER = 2**64
#: How the pointer file of Git LFS begins.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_MAPPED_ABOVE_BYTES = 16 << 20


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; a pipe, a device or a folder is refused before anything waits for it.

    Raises:
        UsageError: it is missing, not readable, no regular file, or a pointer of Git LFS.
    """
    try:
        # Opening a pipe would wait for a writer.
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a name with a null byte
        raise UsageError(f"cannot read {str(path)!r}: {error}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UsageError(f"{path} is no regular file")
    try:
        refuse_pointer(cast(BufferedReader, file).peek(len(LFS_POINTER))[: len(LFS_POINTER)], str(path))
    except BaseException as error:
        file.close()
        if isinstance(error, OSError):
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
        raise
    return file


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a regular file, in hexadecimal digits.

    Raises:
        UsageError: it is missing, no regular file or unreadable.
    """
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def open_bytes(path: str | Path, largest_bytes: int) -> memoryview:
    """A file's bytes, mapped if it is large.

    Raises:
        UsageError: it is missing, no regular file, unreadable, empty or larger than `largest_bytes`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest_bytes:
            raise UsageError(f"{path} has {size:,} bytes; files above {largest_bytes:,} bytes are not read")
        try:
            if size > _MAPPED_ABOVE_BYTES:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            # read() reserves what it is asked for, so it is asked for what is there.
            data = file.read(size + 1)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if not data:
        raise UsageError(f"{path} is empty")
    if len(data) > largest_bytes:  # it grew since
        raise UsageError(f"{path} has more than {largest_bytes:,} bytes; such files are not read")
    return memoryview(data)


def refuse_pointer(data: bytes | memoryview, name: str) -> None:
    """What a checkout without Git LFS leaves in place of a large file is a text of three lines.

    Raises:
        UsageError: it is that.
    """
    if bytes(data[: len(LFS_POINTER)]) == LFS_POINTER:
        raise UsageError(
            f"{name} is a Git LFS pointer and not the file: `git lfs pull` fetches it (in CI: checkout with lfs: true)"
        )


def read_text(path: str | Path, largest_bytes: int = LARGEST_TEXT_BYTES) -> str:
    """A UTF-8 text, which may be empty.

    Raises:
        UsageError: it is missing, no regular file, unreadable, too large or no UTF-8.
    """
    with open_regular(path) as file:
        try:
            data = file.read(largest_bytes + 1)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > largest_bytes:
        raise UsageError(f"{path} has more than {largest_bytes:,} bytes; such files are not read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is damaged: byte {error.start} is no UTF-8") from error


def parse_json(text: str | bytes, where: str, schema: Any = None) -> Any:
    """The value of a JSON text.

    Args:
        text: what was read.
        where: whose text it is, for the error.
        schema: a pydantic model or any type that pydantic can check; None checks the bounds alone. The value is
            returned as it was written, not as an instance of the schema.

    Raises:
        UsageError: it is no JSON, beyond the bounds, or does not follow the schema.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_finite)
        _check_bounds(value)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{where} is damaged: it is no JSON that can be used ({reason})") from error
    return value if schema is None else check(value, where, schema)


def read_json(path: str | Path, schema: Any = None, largest_bytes: int = LARGEST_TEXT_BYTES) -> Any:
    """`parse_json` of a file.

    Raises:
        UsageError: it cannot be read, is no JSON, beyond the bounds, or does not follow the schema.
    """
    return parse_json(read_text(path, largest_bytes), str(path), schema)


def read_toml(path: str | Path, largest_bytes: int = 16 << 20) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UsageError: it cannot be read, is no TOML, or beyond the bounds.
    """
    text = read_text(path, largest_bytes)
    try:
        value = tomllib.loads(text)
        _check_bounds(value)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{path} is not valid TOML: {reason}") from error
    return value


def check(value: Any, where: str, schema: Any) -> Any:
    """The value, once it follows the schema; every way in which it does not is named.

    Raises:
        UsageError: it does not.
    """
    from pydantic import TypeAdapter, ValidationError

    adapter = _ADAPTERS.get(schema)
    if adapter is None:
        adapter = _ADAPTERS[schema] = TypeAdapter(schema)
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg'][0].lower()}{problem['msg'][1:]}, "
            f"not {problem['input']!r:.60}"
            for problem in error.errors(include_url=False)[:5]
        ]
        raise UsageError(f"{where} is damaged: {'; '.join(found)}") from None
    return value


_ADAPTERS: dict[Any, Any] = {}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _check_bounds(value: Any) -> None:
    """Without recursion, since depth is one of the things that are checked."""
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.keys()
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str):
                if not one.isascii():
                    cast(str, one).encode()  # a lone half of a surrogate pair cannot be printed or written
            elif isinstance(one, int) and abs(one) > _LARGEST_INTEGER:
                raise ValueError("an integer beyond 64 bits")
        level, depth = below, depth + 1
