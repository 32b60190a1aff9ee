"""Tables and figures like the report's from the results of benchmarks/teachers.py: text, Markdown, blocks of a page.

`compress run` of a recipe with teachers leaves no such file: then the figures come from its teachers and ensembles.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import UsageError


def read_results(path: Path) -> dict[str, Any]:
    """A results file of benchmarks/teachers.py.

    Raises:
        UsageError: damaged, or of another schema.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != 1 or not isinstance(found["arms"], dict):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no results file of benchmarks.teachers: write it again") from error
    return found


def page_of(results: dict[str, Any]) -> str:
    return ""
