# SPDX-License-Identifier: Apache-2.0
"""A .tflite file as C++ source for TFLite Micro: the bytes, exactly the operators it needs, and the arena's size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from edgepress.models.atomic import write_text
from edgepress.models.errors import RuntimeFailure, UsageError

#: The host's 64-bit build over-reads the arena of 32-bit devices by 0.4 to 6.5 % on the keyword and image models, so
#: that the measured size already has slack there; scratch buffers of optimized kernels (CMSIS-NN, ESP-NN) come on top.
ARENA_MARGIN = 0.10
_ALIGNMENT_BYTES = 16
_PER_LINE = 16


@dataclass(frozen=True)
class CSource:
    """Two source files.

    Attributes:
        header, source: text of model_data.h and model_data.cc.
        arena_bytes: of the constant in the header; None where TFLite Micro could not measure it here.
        operators: names of the resolver's Add methods.
    """

    header: str
    source: str
    arena_bytes: int | None
    operators: tuple[str, ...]


def c_source(model: bytes, stem: str = "model_data") -> CSource:
    """The C++ of a .tflite file.

    Args:
        model: the file's bytes.
        stem: file name of header and source without suffix, and prefix of their names: letters, digits and _.

    Raises:
        UsageError: the file is damaged, TFLite Micro lacks one of its operators, or `stem` is no identifier.
    """
    from edgepress.deploy.tflite.reader import read_tflite
    from edgepress.deploy.verify.operators import resolver_methods

    if not re.fullmatch(r"[A-Za-z_]\w*", stem):
        raise UsageError(f"{stem!r} cannot name C++ source: use letters, digits and _, not starting with a digit")
    parsed = read_tflite(model)
    methods = resolver_methods(parsed)
    measured, why = _measured_arena(model)
    arena = None if measured is None else _aligned(int(measured * (1 + ARENA_MARGIN)))
    prefix = "".join(part.capitalize() for part in stem.split("_") if part) or "Model"
    values = {
        "guard": f"{stem.upper()}_H_",
        "stem": stem,
        "prefix": prefix,
        "bytes": str(len(model)),
        "operator_count": str(len(methods)),
        "resolver": _resolver(methods, prefix),
        "array": _array(model),
        "arena": _arena_constant(prefix, arena, measured, why),
    }
    return CSource(
        _template("model_data.h").substitute(values), _template("model_data.cc").substitute(values), arena, methods
    )


def write_c(model: bytes, path: str | Path, *, overwrite: bool = False) -> tuple[Path, Path, CSource]:
    """Write `path` (.cc) and the header beside it.

    Returns:
        (source file, header file, what was written).

    Raises:
        UsageError: one of them exists, or the reasons of `c_source`.
    """
    source = Path(path).with_suffix(".cc")
    header = source.with_suffix(".h")
    for file in (source, header):
        if file.exists() and not overwrite:
            raise UsageError(f"{file} exists already; choose another name or allow overwriting")
    made = c_source(model, source.stem)
    write_text(header, made.header)
    write_text(source, made.source)
    return source, header, made


def _template(name: str) -> Template:
    return Template((files("edgepress.deploy.export") / "templates" / f"{name}.template").read_text(encoding="utf-8"))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _array(model: bytes) -> str:
    rows = (model[i : i + _PER_LINE] for i in range(0, len(model), _PER_LINE))
    return "\n".join("    " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows)


def _resolver(methods: Sequence[str], prefix: str) -> str:
    lines = [f"  if (resolver.{method}() != kTfLiteOk) return kTfLiteError;" for method in methods]
    return "\n".join(lines)


def _arena_constant(prefix: str, arena: int | None, measured: int | None, why: str) -> str:
    if arena is None:
        return (
            f"// The arena could not be measured on this machine ({why}).\n"
            f"// Define it for your device: constexpr size_t k{prefix}ArenaBytes = ...;"
        )
    return (
        f"// TFLite Micro used {measured:,} bytes on a 64-bit host with its reference kernels; {ARENA_MARGIN:.0%}\n"
        "// were added for scratch buffers of optimized kernels. A 32-bit device needs less for its pointers.\n"
        "// Read interpreter.arena_used_bytes() on the device and lower it.\n"
        f"constexpr size_t k{prefix}ArenaBytes = {arena};"
    )


def _measured_arena(model: bytes) -> tuple[int | None, str]:
    from tempfile import TemporaryDirectory

    from edgepress.deploy.runtimes.sessions import open_session

    with TemporaryDirectory(prefix="edgepress-") as folder:
        file = Path(folder) / "model.tflite"
        file.write_bytes(model)
        try:
            with open_session(file, "tflm") as session:
                return session.arena_bytes().get("total"), "it reported no size"
        except RuntimeFailure as error:
            return None, str(error)
