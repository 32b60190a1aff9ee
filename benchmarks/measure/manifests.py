# SPDX-License-Identifier: Apache-2.0
"""What the exporter wrote beside a file, read leniently: it explains figures, and none depends on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LARGEST_BYTES = 200_000_000


def manifest_beside(path: str | Path) -> dict[str, Any]:
    """The exporter's manifest of a file, {} where there is none or it is damaged (it only adds explanations)."""
    manifest = Path(f"{path}.manifest.json")
    try:
        value = json.loads(manifest.read_text(encoding="utf-8")) if manifest.stat().st_size < _LARGEST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def spec_beside(path: str | Path) -> dict[str, Any]:
    """The network's specification in the manifest of a file, {} where there is none."""
    spec = manifest_beside(path).get("spec")
    return spec if isinstance(spec, dict) else {}
