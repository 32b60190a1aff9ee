# SPDX-License-Identifier: Apache-2.0
"""An exported file and its manifest: what it is, where it came from, what was proven about it.

The manifest of `model.tflite` lies beside it as `model.tflite.manifest.json`. It binds itself to the bytes by their
sha256, so that figures of one file are never read as figures of another.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from edgepress.models.atomic import write_json
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import file_sha256, read_json

SCHEMA = 1
#: Format of an export -> suffix.
SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "c": ".cc", "executorch": ".pte"}
#: The same of what is made of an export: ONNX Runtime's and OpenVINO's own.
MADE_FROM_ONNX = {"ort": ".ort", "openvino": ".xml"}
SUFFIX_OF = {**SUFFIXES, **MADE_FROM_ONNX}
FORMATS = tuple(SUFFIX_OF)
#: A manifest is small; a larger file is not one and isn't read into memory.
_LARGEST_MANIFEST_BYTES = 64 << 20
_MOST_CHECKPOINT_FILES = 64
#: Packages whose versions decide what is in an exported file or how it runs.
_TOOLS = (
    "torch",
    "litert-torch",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "litert-converter",
    "tflite_micro",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "executorch",
    "openvino",
    "numpy",
)
#: Key of a manifest -> the JSON types it may have. Unknown keys are kept: a later version may write more.
_TYPES: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "sha256": (str,),
    "file_bytes": (int,),
    "format": (str,),
    "scheme": (str,),
    "spec": (dict, type(None)),
    "tools": (dict,),
    "ranges": (dict,),
    "float_islands": (list,),
    "parity": (dict, type(None)),
    "shrink": (dict, type(None)),
    "files": (dict,),
    "checkpoint": (dict, type(None)),
    "layouts": (dict, type(None)),
}
_REQUIRED = ("schema", "sha256", "format", "scheme")


@dataclass(frozen=True)
class Artifact:
    """A file for a device.

    Attributes:
        path: the file.
        format: one of `FORMATS`.
        manifest: what lies beside it as JSON:
            `schema` 1; `sha256` and `file_bytes` of the file; `format`; `scheme` ("w8a8", "a16w8", "float32");
            `spec` the ModelSpec as JSON or null; `tools` package -> version;
            `ranges` tensor name in the file -> {"scale", "zero_point"}; `float_islands` operators left in float;
            `layouts` {"inputs": [...], "outputs": [...]}, each "NHWC" or "NCHW", or null where it is not known;
            `parity` figures of the export or null; `shrink` report or null;
            `files` further files of the artifact, name -> sha256 (plain names: they lie in the same folder);
            `checkpoint` {"path", "sha256"} of what was exported, or null.
    """

    path: Path
    format: str
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def file_bytes(self) -> int:
        """Size of the file, OpenVINO's with its weights beside it."""
        weights = [self.path.with_suffix(".bin")] if self.format == "openvino" else []
        return sum(path.stat().st_size for path in (self.path, *weights))


def manifest_path(path: str | Path) -> Path:
    """Where the manifest of a file lies."""
    path = Path(path)
    return path.with_name(path.name + ".manifest.json")


def tool_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that write or run artifacts."""
    versions = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in _TOOLS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file, or of a checkpoint's files with their names.

    Raises:
        UsageError: it is missing, not readable, or a directory that is no checkpoint.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            # A manifest may name any folder of this machine: only what is a checkpoint is read.
            files = sorted(islice(path.iterdir(), _MOST_CHECKPOINT_FILES + 1))
            if len(files) > _MOST_CHECKPOINT_FILES or not (path / "model.json").is_file():
                raise UsageError(f"{path} is no checkpoint: it has no model.json, or too many files")
            for file in files:
                if file.is_file():
                    digest.update(f"{file.name}\0{sha256_of(file)}\n".encode())
        else:
            return file_sha256(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def write_manifest(path: str | Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest beside a finished file.

    Args:
        path: the exported file; its sha256 and size are filled in here.
        manifest: at least `format` and `scheme`; see `Artifact`. `tools` is filled in where it is absent.

    Returns:
        The manifest as written.

    Raises:
        UsageError: the file is missing, or a key has a wrong type.
    """
    path = Path(path)
    full = {
        "schema": SCHEMA,
        "sha256": sha256_of(path),
        "file_bytes": path.stat().st_size,
        **{key: value for key, value in manifest.items() if key not in ("schema", "sha256", "file_bytes")},
    }
    for key, default in (
        ("spec", None),
        ("ranges", {}),
        ("float_islands", []),
        ("parity", None),
        ("shrink", None),
        ("layouts", None),
        ("files", {}),
        ("checkpoint", None),
    ):
        full.setdefault(key, default)
    full.setdefault("tools", tool_versions())
    _check(full, path)
    write_json(manifest_path(path), full)
    return full


def find_manifest(path: str | Path) -> dict[str, Any] | None:
    """`read_manifest`, or None where a file has none (a file of another maker)."""
    return read_manifest(path) if manifest_path(path).exists() else None


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read and check the manifest of an exported file. It may come from a stranger: nothing in it is trusted.

    Args:
        path: the exported file (or its manifest).

    Raises:
        UsageError: there is none, it is damaged, a path in it leaves the folder, or it belongs to other bytes.
    """
    path = Path(path)
    if path.name.endswith(".manifest.json"):
        path = path.with_name(path.name.removesuffix(".manifest.json"))
    beside = manifest_path(path)
    if not beside.exists():
        raise UsageError(f"{path} has no manifest: {beside} is missing")
    manifest = read_json(beside, largest_bytes=_LARGEST_MANIFEST_BYTES)
    _check(manifest, beside)
    if manifest["sha256"] != sha256_of(path):
        raise UsageError(
            f"{beside} belongs to other bytes than those of {path}: the file was changed after its export; "
            "delete the manifest to treat it as a foreign file, or export again"
        )
    for name, digest in manifest.get("files", {}).items():
        other = path.parent / name
        if not other.is_file() or sha256_of(other) != digest:
            raise UsageError(f"{other}, a part of {path}, is missing or was changed: export again")
    return manifest


def load_artifact(path: str | Path) -> Artifact:
    """A file with its manifest; without one (a foreign file) the manifest is empty and the name tells the format.

    Raises:
        UsageError: the file is missing, of an unknown kind, or its manifest is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    manifest = find_manifest(path)
    if manifest is not None:
        return Artifact(path, manifest["format"], manifest)
    for format, suffix in SUFFIX_OF.items():
        if path.suffix.lower() == suffix:
            return Artifact(path, format, {})
    raise UsageError(f"{path}: the kind of file is not known by its name; known are {', '.join(SUFFIX_OF.values())}")


def _check(manifest: Any, where: Path) -> None:
    if not isinstance(manifest, dict):
        raise UsageError(f"{where} is no manifest: it holds no JSON object")
    missing = [key for key in _REQUIRED if key not in manifest]
    if missing:
        raise UsageError(f"{where} is no manifest: it lacks {', '.join(missing)}")
    for key, types in _TYPES.items():
        if key in manifest and (not isinstance(manifest[key], types) or isinstance(manifest[key], bool)):
            raise UsageError(f"{where}: {key} = {manifest[key]!r:.80} has the wrong type")
    if manifest["schema"] != SCHEMA:
        raise UsageError(
            f"{where}: schema = {manifest['schema']} is not known here (known: {SCHEMA}); use a newer edgepress"
        )
    if manifest["format"] not in FORMATS:
        raise UsageError(f"{where}: format = {manifest['format']!r} is unknown: allowed are {', '.join(FORMATS)}")
    for name, digest in manifest.get("files", {}).items():
        if not name or name in (".", "..") or any(c in name for c in "/\\\0") or not isinstance(digest, str):
            raise UsageError(
                f"{where}: files = {name!r:.80} must be a plain file name in the same folder, with its sha256"
            )
    layouts = manifest.get("layouts") or {}
    for side, values in layouts.items():
        if (
            side not in ("inputs", "outputs")
            or not isinstance(values, list)
            or any(value not in ("NHWC", "NCHW", None) for value in values)
        ):
            raise UsageError(
                f"{where}: layouts = {layouts!r:.80} must be inputs and outputs, each a list of NHWC, NCHW or null"
            )
