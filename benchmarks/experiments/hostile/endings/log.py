# SPDX-License-Identifier: Apache-2.0
"""What was measured, line by line, so that a measurement that was stopped goes on behind its last whole line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgepress.models.atomic import append_lines


class Log:
    """Name of a case -> what was found, in a file of JSON lines."""

    def __init__(self, path: Path):
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        self.entries: dict[str, dict[str, Any]] = {line.pop("case"): line for line in lines}

    def once(self, case: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is known of a case; measured where nothing is."""
        if case not in self.entries:
            found = measure()
            append_lines(self._path, [json.dumps({"case": case, **found})])
            self.entries[case] = found
        return self.entries[case]
