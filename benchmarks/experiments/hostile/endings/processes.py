# SPDX-License-Identifier: Apache-2.0
"""Commands in a copy of a project: how they are started, what they said, and what they leave behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgepress.benchmarks.experiments.hostile.endings.project import command_line, environment

#: Of every process of a copy, by which its children and theirs are found, wherever they went.
_MARK = "EDGEPRESS_HOSTILE"
#: How long children may take to be gone behind their command, in s: ranks of a training first import torch.
_GRACE_S = 30.0


@contextmanager
def copied(project: Path, folder: Path, name: str = "place") -> Iterator[Path]:
    """A copy of the project, without temporary files of others; it and its processes are gone behind the block."""
    place = folder / name
    for old in (place, folder / "tmp"):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(project, place, symlinks=True)
    try:
        yield place
    finally:
        for process in processes_of(place):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


def environment_in(place: Path, folder: Path) -> dict[str, str]:
    """Of a command in a copy; its processes are found by it."""
    return {**environment(folder), _MARK: str(place)}


def start(words: Sequence[str], place: Path, folder: Path) -> subprocess.Popen[bytes]:
    """`edgepress WORDS` in a copy; what it says is added to said.txt there."""
    with (place / "said.txt").open("ab") as said:
        return subprocess.Popen(
            command_line(words),
            cwd=place,
            env=environment_in(place, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )


def said_in(place: Path) -> str:
    """All that commands said there."""
    return (place / "said.txt").read_text(encoding="utf-8", errors="replace")


def processes_of(place: Path) -> list[int]:
    """The living processes that were started in a copy, whoever their parent is now."""
    mark, found = f"{_MARK}={place}\0".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                if alive and mark in (entry / "environ").read_bytes() + b"\0":
                    found.append(int(entry.name))
    return found


def left_over(place: Path, folder: Path, run: str) -> list[str]:
    """What is still there behind a command that was told to end: processes, scratch, a lock that somebody holds."""
    from filelock import FileLock, Timeout

    living = remaining(place)
    found = [f"process {_name(process)}" for process in living]
    found += [path.name for path in (folder / "tmp").glob("edgepress-scratch-*")]
    for name in (".lock", ".lock-child"):
        lock = place / run / name
        if run and lock.exists():
            try:
                FileLock(lock, timeout=0).acquire().lock.release()
            except Timeout:
                found.append(f"the lock {name} of {run}")
    return found


def remaining(place: Path) -> list[int]:
    """The processes of a copy that stay, once they had the time to end that a machine of this load takes."""
    until = time.monotonic() + _GRACE_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    while (living := processes_of(place)) and time.monotonic() < until:
        time.sleep(0.05)
    return living


def _name(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    return str(process)
