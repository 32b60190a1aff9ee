# SPDX-License-Identifier: Apache-2.0
"""What native code and other packages print: kept off the terminal, unless `--verbose` asks for it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from edgepress.models.terminal.words import verbosity


@contextmanager
def without_chatter(descriptors: Sequence[int] = (1, 2)) -> Iterator[Callable[[], list[str]]]:
    """Within it nothing that is written to these file descriptors is seen; with `--verbose` it follows on stderr.

    Yields a function that gives the last line so far, for an error message: a list of one text, or of none.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        saved = {}
        for descriptor in descriptors:
            with suppress(OSError):
                saved[descriptor] = os.dup(descriptor)
                os.dup2(sink.fileno(), descriptor)

        def said() -> list[str]:
            sink.seek(0)
            return sink.read().decode(errors="replace").strip().splitlines()[-1:]

        try:
            yield said
        finally:
            for descriptor, copy in saved.items():
                os.dup2(copy, descriptor)
                os.close(copy)
            if verbosity() == "verbose":
                sink.seek(0)
                sys.stderr.write(sink.read().decode(errors="replace"))
                sys.stderr.flush()
