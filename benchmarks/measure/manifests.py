# SPDX-License-Identifier: Apache-2.0
"""What the exporter wrote beside a file, read leniently: it explains figures, and none depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.models.errors import UsageError
from edgepress.models.files.reading import read_json

_LARGEST_BYTES = 200_000_000


def manifest_beside(path: str | Path) -> dict[str, Any]:
    """The exporter's manifest of a file, {} where there is none or it is damaged (it only adds explanations)."""
    try:
        value = read_json(f"{path}.manifest.json", largest_bytes=_LARGEST_BYTES)
    except UsageError:
        return {}
    return value if isinstance(value, dict) else {}


def spec_beside(path: str | Path) -> dict[str, Any]:
    """The network's specification in the manifest of a file, {} where there is none."""
    spec = manifest_beside(path).get("spec")
    return spec if isinstance(spec, dict) else {}
