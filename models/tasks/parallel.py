# SPDX-License-Identifier: Apache-2.0
"""The same work on many clips: all cores, bounded memory, a progress bar on stderr when it takes long.

Threads are enough: libsndfile, soxr, the Fourier transform and NumPy's loops all release the interpreter's lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edgepress.models.terminal.progress import ProgressBar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_batches(
    work: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    *,
    batch: int,
    title: str,
    workers: int | None = None,
) -> list[Result]:
    """`work` on consecutive batches of `items`, in parallel; results in order.

    Args:
        work: called with at most `batch` items; must be safe to run in several threads.
        items: anything that can be sliced.
        batch: items per call.
        title: what the progress bar says, which appears on stderr after two seconds.
        workers: threads; None takes all cores.
    """
    workers = workers or cores()
    pieces = [items[start : start + batch] for start in range(0, len(items), batch)]
    results: list[Result] = []
    waiting: deque[Future[Result]] = deque()
    with ProgressBar(title, len(items)) as progress, ThreadPoolExecutor(workers) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > 2 * workers:
                    results.append(waiting.popleft().result())
                    progress.advance(batch)
            while waiting:
                results.append(waiting.popleft().result())
                progress.advance(batch)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results
