# SPDX-License-Identifier: Apache-2.0
"""A folder for everything that a command writes and throws away; what a killed command left is swept up by the next.

`tempfile` and TMPDIR point into it while the command runs, so that what the packages below write falls into it, too.
Who uses the folder holds a shared lock on a file in it, which the operating system drops with the process: a folder
that can be locked alone belongs to nobody any more.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is swept up
    fcntl = None

_PREFIX, _LOCK = "edgepress-scratch-", ".in-use"
_TRIES = 10


@contextmanager
def scratch_folder() -> Iterator[Path | None]:
    """Make it and remove it; None where the folder for temporary files cannot be written (whoever needs it says so)."""
    above = Path(tempfile.gettempdir()) if _writable_tmpdir() else None
    # A signal between the folder's making and the block that removes it would leave it there.
    waiting = _hold_signals()
    try:
        held = _make(above) if above is not None else None
    except BaseException:
        _let_signals(waiting)
        raise
    if held is None:
        _let_signals(waiting)
        yield None
        return
    folder, lock = held
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    try:
        tempfile.tempdir, os.environ["TMPDIR"] = str(folder), str(folder)
        _let_signals(waiting)
        sweep_up(folder.parent)
        yield folder
    finally:
        tempfile.tempdir = before[0]
        if before[1] is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = before[1]
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep_up(above: Path) -> None:
    """Remove the scratch folders of processes that are gone; only our own user's, and no links."""
    if fcntl is None:
        return
    try:
        found = [Path(entry.path) for entry in os.scandir(above) if entry.name.startswith(_PREFIX)]
    except OSError:
        return
    for folder in found:
        try:
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            # Killed between its two steps; whoever is between them right now tries again with another folder.
            with suppress(OSError):
                folder.rmdir()
            continue
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)


def _hold_signals() -> set[signal.Signals] | None:
    if not hasattr(signal, "pthread_sigmask"):
        return None
    return signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # type: ignore[return-value]


def _let_signals(before: set[signal.Signals] | None) -> None:
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _writable_tmpdir() -> bool:
    try:
        tempfile.gettempdir()
    except OSError:
        return False
    return True


def _make(above: Path) -> tuple[Path, int | None] | None:
    for _ in range(_TRIES):
        try:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=above))
            if fcntl is None:
                return folder, None
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        fcntl.flock(lock, fcntl.LOCK_SH)
        if (folder / _LOCK).exists():  # else it was swept up before it was locked
            return folder, lock
        os.close(lock)
    return None
