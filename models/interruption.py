# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C end a command the same way: its children end, its locks and scratch go, one sentence is said.

SIGTERM is what docker, CI and Slurm send; Python would die of it without cleaning up.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from edgepress.models.children import end_with_parent
from edgepress.models.errors import EdgepressError

KEPT = "what was finished is kept, the same command goes on from there"
#: The process number of the command that runs, for those of ours that it starts: the sentence is then its to say, and
#: they end with it.
_PARENT = "EDGEPRESS_PARENT"
#: How long native code may keep Python from ending by itself (docker sends SIGKILL after 10 s); a child gets less.
_GRACE_S, _CHILDS_GRACE_S, _CHILDREN_S = 5.0, 2.5, 1.0
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interrupted(EdgepressError):
    """Ctrl-C."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__(f"interrupted; {KEPT}")


class Terminated(BaseException):
    """SIGTERM; no `Exception`, so that nobody takes it for an error of theirs."""

    exit_code = 143

    def __init__(self) -> None:
        super().__init__(f"ended by SIGTERM; {KEPT}")


def is_child() -> bool:
    """Whether another command of ours has started this one and waits for it."""
    return os.environ.get(_PARENT) == str(os.getppid())


def follow_parent() -> None:
    """Let the operating system kill a child command when its parent dies, however it dies (Linux).

    A parent that can still tell its children to end does so and waits. Of one that was killed the child is killed as
    well: a signal that it may answer it would not notice in native code, and go on writing where nobody watches.
    """
    if is_child():
        end_with_parent(int(os.environ[_PARENT]))


def restore_handlers() -> None:
    """Take SIGTERM back from a package that put its own handler in place of ours."""
    if _active:
        signal.signal(signal.SIGTERM, _active[-1])


_active: list[Callable[[int, FrameType | None], Any]] = []


def _forget_in_a_fork() -> None:
    """A forked worker is no command: SIGTERM ends it plainly, and tells nothing to the watch of its parent."""
    if _active:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_a_fork)


@contextmanager
def ended_by_signals(last: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated` in the main thread, as Ctrl-C raises KeyboardInterrupt.

    Children that the block started and left when it ends by either are ended; those that were there before are the
    caller's. Where native code keeps Python from noticing, a thread ends the process in its place after a few seconds,
    once `last` was called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    children: dict[int, str] = {}
    before = descendants()
    done, child, above = threading.Event(), is_child(), os.environ.get(_PARENT)
    os.environ[_PARENT] = str(os.getpid())
    received: list[int] = []

    def end_children() -> None:
        children.update(descendants(before))
        _end(children)

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        children.update(descendants(before))
        raise Terminated

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    handler, of_interrupts = signal.signal(signal.SIGTERM, terminate), signal.getsignal(signal.SIGINT)
    if of_interrupts is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    # What silences the packages below may have hold of the stream when the last sentence is due.
    stderr = os.dup(2)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _active.append(terminate)
    watch = threading.Thread(
        target=_watch, args=(reading, done, end_children, last, child, stderr), daemon=True, name="signals"
    )
    watch.start()
    try:
        yield
    except (KeyboardInterrupt, Terminated, Interrupted):
        end_children()
        raise
    except SystemExit as error:
        # Ray leaves with the signal's number while it starts, until `restore_handlers` takes its handler back.
        if error.code != signal.SIGTERM:
            raise
        end_children()
        raise Terminated from error
    except Exception as error:
        if not received:
            raise
        # An extension module that is interrupted while it is imported says that it cannot be.
        end_children()
        raise (Terminated if received[0] == signal.SIGTERM else Interrupted)() from error
    finally:
        done.set()
        _active.pop()
        if above is None:
            del os.environ[_PARENT]
        else:
            os.environ[_PARENT] = above
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        if of_interrupts is signal.default_int_handler:
            signal.signal(signal.SIGINT, of_interrupts)
        os.close(writing)
        watch.join()
        os.close(reading)
        os.close(stderr)


def _watch(
    reading: int,
    done: threading.Event,
    end_children: Callable[[], None],
    last: Callable[[], None],
    child: bool,
    stderr: int,
) -> None:
    """Wait for a signal's number; end the process where the main thread has not done so in time."""
    while byte := os.read(reading, 1):
        if byte[0] in _CODES:
            break
    else:
        return
    if done.wait(_CHILDS_GRACE_S if child else _GRACE_S):
        return
    number = signal.Signals(byte[0])
    end_children()
    if not child:
        how = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
        os.write(stderr, f"error: {how}; {KEPT}\n".encode())
    last()
    os._exit(_CODES[number])


def descendants(spared: Mapping[int, str] | None = None) -> dict[int, str]:
    """Every process below this one with the time at which it started, which tells it from a later one of its number.

    Args:
        spared: processes that are left out with what is below them. Python's own that frees what killed processes leave
            (semaphores, shared memory) is always left out: it ends with this one.
    """
    spared, found = spared or {}, {}
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    freeing = getattr(tracker, "_pid", None)
    waiting = [os.getpid()]
    while waiting:
        for listed in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError):
                for child in map(int, listed.read_text().split()):
                    started = _started(child)
                    known = child in found or child == freeing or spared.get(child) == started
                    if started is not None and not known:
                        found[child] = started
                        waiting.append(child)
    return found


def _started(process: int) -> str | None:
    """The start time of a living process (field 22 of its stat, counted from behind the name); None for a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _end(processes: dict[int, str]) -> None:
    """SIGTERM, then SIGKILL for those that stay."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process, started in processes.items():
            if _started(process) == started:
                with suppress(OSError):
                    os.kill(process, number)
        until = time.monotonic() + _CHILDREN_S
        while time.monotonic() < until and any(_started(p) == started for p, started in processes.items()):
            time.sleep(0.02)
