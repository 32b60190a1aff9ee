#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Print the section of CHANGELOG.md for the version in pyproject.toml: the notes of a release.

`.ci/release_notes.py` alone shows what is written so far; `.ci/release_notes.py v0.1.0` is for the tag of a release,
which must be that version, with a date in place of "unreleased". Exit 2 with a sentence where something is missing.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notes(changelog: str, version: str, tag: str | None = None) -> str:
    """The text below the heading of a version.

    Args:
        changelog: with headings such as "## 0.1.0 (unreleased)" or "## 0.1.0 (2026-12-01)".
        version: of the project.
        tag: of the release that is made, if one is.

    Raises:
        ValueError: no section, an empty one, another tag, or a release without a date.
    """
    if tag is not None and tag != f"v{version}":
        raise ValueError(f"the tag {tag} is not v{version}, the version in pyproject.toml")
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    found = [section for section in sections if re.match(rf"{re.escape(version)}[ \n]", section)]
    if len(found) != 1:
        raise ValueError(f"CHANGELOG.md has {len(found)} sections for version {version}; it needs one: ## {version}")
    heading, _, text = found[0].partition("\n")
    if not text.strip():
        raise ValueError(f"the section {version} of CHANGELOG.md is empty")
    if tag is not None and not re.search(r"\(\d{4}-\d{2}-\d{2}\)$", heading):
        raise ValueError(f"the heading '## {heading}' of CHANGELOG.md has no date: ## {version} (YEAR-MONTH-DAY)")
    return text.strip() + "\n"


def main(arguments: Sequence[str]) -> int:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    try:
        print(notes((ROOT / "CHANGELOG.md").read_text(), version, *arguments[:1]), end="")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
