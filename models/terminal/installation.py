# SPDX-License-Identifier: Apache-2.0
"""How to get what is not installed: a command that works from a clone and from a release, or why there is none."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import edgepress

#: Package that is imported -> the extra that installs it.
EXTRAS = {
    "scipy": "audio",
    "soundfile": "audio",
    "soxr": "audio",
    "torch": "train",
    "lightning": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "litert_torch": "export",
    "ai_edge_quantizer": "export",
    "onnxscript": "export",
    "onnxruntime": "onnx",
    "executorch": "executorch",
    "openvino": "openvino",
    "tflite_micro": "tflm",
    "ethosu": "npu",
    "jinja2": "report",
    "vl_convert": "report",
    "yaml": "report",
    "huggingface_hub": "hub",
    "pyarrow": "arrow",
    "optuna": "sweep",
    "ray": "sweep",
}


def how_to_install(package: str) -> str:
    """A shell command that adds a package to this very installation; where it exists for no such machine, the reason.

    Args:
        package: as it is imported, such as "torch"; one of `EXTRAS`.

    Returns:
        "pip install 'edgepress[train]'" for a release, the same with its origin for what came from a repository, a
        file or a clone, with the installer of this environment; or "there is no package of ... for ...".
    """
    return why_not_here(package) or f"{_installer()} {_target(EXTRAS[package])}"


def why_not_here(package: str) -> str | None:
    """Why a package cannot be installed on this machine, and what works in its place; None where it can."""
    machine, here = platform.machine().lower(), f"{_SYSTEMS.get(sys.platform, sys.platform)} on {platform.machine()}"
    if package == "tflite_micro" and not (sys.platform == "linux" and machine in _X86):
        return (
            f"there is no package of TFLite Micro for {here}, only for Linux on 64-bit x86; "
            "LiteRT (litert-reference), ONNX Runtime and the C files work here"
        )
    if package in ("litert_torch", "ai_edge_quantizer") and (sys.platform, machine) not in _CONVERTED:
        return (
            f"there is no converter to TFLite (litert-converter) for {here}, only for Linux on 64-bit x86 and macOS on "
            "Arm; --format onnx works here"
        )
    if package in ("litert_torch", "ai_edge_quantizer", "ethosu") and sys.version_info >= (3, 14):
        return f"{'Vela' if package == 'ethosu' else 'the converter to TFLite'} exists for Python 3.11 to 3.13 only"
    return None


_X86 = ("x86_64", "amd64")
_CONVERTED = (*(("linux", machine) for machine in _X86), ("darwin", "arm64"))
_SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}


def _installer() -> str:
    """`pip install` where that is the one of this environment, else the same through this Python, or uv."""
    if find_spec("pip") is None:
        return f"uv pip install --python {shlex.quote(sys.executable)}"
    pip = shutil.which("pip")
    own = pip is not None and Path(pip).parent == Path(sys.executable).parent
    return "pip install" if own else f"{shlex.quote(sys.executable)} -m pip install"


def _target(extra: str) -> str:
    """What to install: this package with the extra, from where it came."""
    home = Path(edgepress.__file__).resolve().parents[1]
    if (home / "pyproject.toml").is_file():
        return "-e " + shlex.quote(f"{home}[{extra}]")
    return shlex.quote(f"edgepress[{extra}]{_origin()}")


def _origin() -> str:
    """ " @ URL" of a package that came from a repository or a file (PEP 610), nothing for one from an index."""
    try:
        told = json.loads(distribution("edgepress").read_text("direct_url.json") or "{}")
        url, version = str(told["url"]), told.get("vcs_info", {})
    except (PackageNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    if "vcs" in version:
        return f" @ {version['vcs']}+{url}@{version.get('commit_id', 'main')}"
    path = url.removeprefix("file://")
    return f" @ {url}" if not url.startswith("file:") or Path(path).exists() else ""
