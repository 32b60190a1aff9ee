# SPDX-License-Identifier: Apache-2.0
"""Where a figure was measured: tool versions, processor, operating system. Nothing is imported to find out."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

#: Packages whose version can move a figure.
TOOLS = (
    "edgepress",
    "numpy",
    "scipy",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "tflite-micro",
    "ethos-u-vela",
    "litert-torch",
    "ai-edge-quantizer",
    "torch",
    "executorch",
    "openvino",
)


@cache
def tool_versions() -> dict[str, str]:
    """Version by package, only of what is installed."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """The fingerprint that is stored with every result.

    Returns:
        tools (version by package), python, system, machine, cpu (its name), cores (that this process may use),
        threads (OMP_NUM_THREADS where set).
    """
    return {
        "tools": dict(tool_versions()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": _cores(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def changed_tools(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[str | None]]:
    """Which tools differ between two sets of versions: name -> [version before, version after]."""
    return {
        name: [before.get(name), after.get(name)]
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }


@cache
def cpu_name() -> str:
    """What the processor calls itself; its architecture where it does not say."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware") and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
