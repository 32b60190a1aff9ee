# SPDX-License-Identifier: Apache-2.0
"""What a command says while it works: on stderr, wrapped at words on a terminal, as much of it as was asked for."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TextIO

#: Children inherit it: what a recipe starts is as quiet as the recipe.
_VARIABLE = "EDGEPRESS_VERBOSITY"
LEVELS = ("quiet", "normal", "verbose")


def verbosity() -> str:
    """ "quiet" (results, errors and verdicts alone), "normal", or "verbose" (what the packages below us print, too)."""
    level = os.environ.get(_VARIABLE, "normal")
    return level if level in LEVELS else "normal"


def set_verbosity(level: str) -> None:
    """Of this process and of those that it starts."""
    os.environ[_VARIABLE] = level


def say(text: str) -> None:
    """A line of progress, on stderr, where it does not mix with results; nothing where quiet was asked for."""
    if verbosity() != "quiet":
        print(wrapped(text, sys.stderr), file=sys.stderr, flush=True)


def wrapped(text: str, stream: TextIO) -> str:
    """Text with its lines broken between words where a terminal would break within them; for a pipe as it is.

    Paths and numbers are never broken. Further lines of a paragraph stand as far in as its first one.
    """
    if not stream.isatty():
        return text
    width = max(40, shutil.get_terminal_size().columns)
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines)
