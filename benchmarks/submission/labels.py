# SPDX-License-Identifier: Apache-2.0
"""Who submits: the label LASTNAME_INST_task1_N, and the authors of the meta file."""

from __future__ import annotations

import re
from typing import Any

from edgepress.models.errors import UsageError

#: Stands where nobody said who submits; the check names it.
PLACEHOLDER = "LASTNAME_INST"
_AUTHOR = re.compile(r"(?P<name>[^<>()]+?)\s*<(?P<mail>[^<>@\s]+@[^<>@\s]+)>\s*\((?P<affiliation>[^()]+)\)")


def full_label(label: str | None, number: int) -> str:
    """LASTNAME_INST_task1_NUMBER of LASTNAME_INST.

    Raises:
        UsageError: not two parts of letters, digits and "-".
    """
    stem = (label or PLACEHOLDER).removesuffix("_task1")
    if not re.fullmatch(r"[A-Za-z0-9-]+_[A-Za-z0-9-]+", stem):
        raise UsageError(
            f"--label {label!r} must be LASTNAME_INST, two parts of letters, digits and hyphens, such as Schmidt_FAU"
        )
    return f"{stem}_task1_{number}"


def read_authors(text: str | None) -> list[dict[str, Any]]:
    """The authors of "Lorenz Schmidt <l.schmidt@fau.de> (FAU); Peters, Nils <n.peters@fau.de> (FAU)".

    The first one corresponds. Without a comma the last word is the last name. An empty text gives no author.

    Raises:
        UsageError: an author lacks a name of two words, an address or an affiliation.
    """
    authors = []
    for part in filter(None, (part.strip() for part in (text or "").split(";"))):
        found = _AUTHOR.fullmatch(part)
        name = found["name"].strip() if found else ""
        last, comma, first = name.partition(",")
        if not comma:
            first, _, last = name.rpartition(" ")
        if not found or not first.strip() or not last.strip():
            raise UsageError(
                f"--authors {part!r} must be 'First Last <mail@example.org> (AFFILIATION)', authors separated by ';'"
            )
        author: dict[str, Any] = {
            "lastname": last.strip(),
            "firstname": first.strip(),
            "email": found["mail"],
            "affiliation": {"abbreviation": found["affiliation"].strip(), "institute": found["affiliation"].strip()},
        }
        if not authors:
            author["corresponding"] = True
        authors.append(author)
    return authors
