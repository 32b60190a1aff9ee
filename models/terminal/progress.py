# SPDX-License-Identifier: Apache-2.0
"""Progress of long work on stderr: how far, since when, how long still; on a terminal, and only where it takes long."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgepress.models.terminal.words import verbosity

_PATIENCE_S = 2.0


class ProgressBar:
    """A bar that appears when the work turns out to take long: done of total, time so far, time left."""

    def __init__(self, title: str, total: int):
        self._title, self._total, self._done = title, total, 0
        self._begin = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def advance(self, count: int) -> None:
        """So many more are done."""
        self.reach(self._done + count)

    def reach(self, done: int) -> None:
        """So many are done by now."""
        self._done = min(self._total, done)
        late = time.monotonic() - self._begin > _PATIENCE_S
        if self._bar is None and late and self._done < self._total and verbosity() != "quiet":
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("so far,"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(escape(self._title), total=self._total)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def working(title: str) -> Iterator[None]:
    """On a terminal, what is being done and for how long already, for work that cannot say how far it is."""
    if not sys.stderr.isatty() or verbosity() != "normal":
        yield
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    # A descriptor of its own: converters write on the other, which is kept off the terminal meanwhile.
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal,
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(file=terminal, force_terminal=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as bar,
    ):
        bar.add_task(escape(title), total=None)
        yield


def time_left(done: int, total: int, elapsed_s: float) -> str:
    """ "4 min left" of work whose parts take the same time each, from how long the first `done` took."""
    seconds = elapsed_s * (total - done) / max(done, 1)
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"
