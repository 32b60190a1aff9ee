# SPDX-License-Identifier: Apache-2.0
"""What a command says while it works."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """A line of progress, on stderr, where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)
