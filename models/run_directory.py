# SPDX-License-Identifier: Apache-2.0
"""A run directory: what the commands made, newest last, under a lock."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgepress.models.atomic import write_text
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import parse_json, read_json, read_text
from edgepress.models.records import IndexLine

DEFAULT_RUN = Path("runs/default")
#: Set for child commands: the run directory that their parent has locked.
_HELD_BY_PARENT = "EDGEPRESS_RUN_HELD"
KINDS = ("checkpoint", "artifact", "result", "teacher", "ensemble")


def launched() -> bool:
    """Whether torchrun started this process as one of several that train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def follows() -> bool:
    """Whether another process of the same training (rank 0) writes the run directory, and this one only reads it."""
    return launched() and os.environ["RANK"] != "0"


class RunDirectory:
    """Checkpoints, artifacts and results of one run.

    `index.jsonl` holds one line for each: kind, name, path relative to the run, time, and facts such as MACs. A file
    that was deleted by hand is passed over. Everything is written atomically, so that a kill loses nothing finished.
    """

    def __init__(self, path: str | Path = DEFAULT_RUN):
        self.path: Path = Path(path)
        self._index = self.path / "index.jsonl"

    def place(self, kind: str, name: str) -> Path:
        """Where a thing of this kind and name belongs: checkpoints/NAME, artifacts/NAME, teachers/NAME, ..."""
        _check_kind(kind)
        if not name or name in (".", "..") or any(c in name for c in "/\\\0"):
            raise UsageError(f"name = {name!r} must be a plain file name")
        return self.path / f"{kind}s" / name

    def add(self, kind: str, name: str, path: str | Path, **facts: Any) -> None:
        """Enter a finished thing; an older entry of the same kind and name is replaced."""
        from filelock import FileLock

        _check_kind(kind)
        if follows():
            return
        relative = os.path.relpath(path, self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        # Trainings that run side by side in one run directory each enter what they made.
        with FileLock(self.path / ".lock-index"):
            kept = [line for line in self._lines() if (line["kind"], line["name"]) != (kind, name)]
            kept.append({"kind": kind, "name": name, "path": relative, "time": time.time(), **facts})
            write_text(self._index, "".join(json.dumps(line) + "\n" for line in kept))

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """All that exist of this kind, oldest first; `path` is absolute or relative to the working directory."""
        _check_kind(kind)
        found = [{**line, "path": self.path / line["path"]} for line in self._lines() if line["kind"] == kind]
        return [entry for entry in found if entry["path"].exists()]

    def newest(
        self, kind: str, fits: Callable[[dict[str, Any]], bool] = lambda entry: True, *, wanted: str, first: str
    ) -> dict[str, Any]:
        """The newest entry that fits.

        Args:
            kind: "checkpoint", "artifact", "result", "teacher" or "ensemble".
            fits: whether an entry will do.
            wanted: what is looked for, for the error ("an unpruned float checkpoint above 20 M MACs").
            first: the command that makes one ("compress train").

        Raises:
            UsageError: there is none; the message names the command to run first.
        """
        for entry in reversed(self.entries(kind)):
            if fits(entry):
                return entry
        raise UsageError(f"{self.path} holds no {wanted}; run `{first}` first, or name a path")

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Keep a second command out of this run directory.

        The operating system drops the lock with its process, so that a killed command leaves no stale one. A command
        started by the holder (`environment_for_children`) takes a lock of its own, so that it does not wait for its
        parent; who comes from outside needs both, so that it also waits for what a killed holder has left running.

        Raises:
            UsageError: another living process holds it, or the directory cannot be written.
        """
        from filelock import FileLock, Timeout

        if follows():
            yield
            return
        child = os.environ.get(_HELD_BY_PARENT) == str(self.path.resolve())
        holder = self.path / ("lock-child.json" if child else "lock.json")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            timeout = -1 if wait else 0
            lock = FileLock(self.path / (".lock-child" if child else ".lock"), timeout=timeout)
            lock.acquire()
            if not child:
                try:
                    with FileLock(self.path / ".lock-child", timeout=timeout):
                        pass
                except Timeout:
                    lock.release()
                    holder = self.path / "lock-child.json"
                    raise
        except Timeout:
            try:
                who = "process {pid} ({command})".format(**read_json(holder, dict[str, int | str]))
            except (UsageError, KeyError):
                who = "another process"
            raise UsageError(f"{self.path} is in use by {who}; wait for it, or choose another --run") from None
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror or error}; choose a writable --run") from error
        try:
            if not child:
                self._sweep_up()
            command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])
            write_text(holder, json.dumps({"pid": os.getpid(), "command": command}))
            yield
        finally:
            holder.unlink(missing_ok=True)
            if not child:  # that of a child which was killed
                (self.path / "lock-child.json").unlink(missing_ok=True)
            lock.release()

    def _sweep_up(self) -> None:
        """Remove what a killed command had begun to write, and put back what it was about to replace.

        Nobody else writes here while the lock is held; folders within that have locks of their own are left alone.
        """
        own = [self.path / name for name in ("checkpoints", "artifacts", "results", "training", "stages")]
        for replaced in (path for folder in own for path in folder.rglob(".*.replaced")):
            target = replaced.parent / replaced.name[1:].rsplit(".", 2)[0]
            if (replaced / "old").exists() and not target.exists():
                os.replace(replaced / "old", target)
            shutil.rmtree(replaced, ignore_errors=True)
        begun = [*self.path.glob(".*.partial"), *(path for folder in own for path in folder.rglob(".*.partial"))]
        for leftover in begun:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def environment_for_children(self) -> dict[str, str]:
        """The environment for commands that the holder of the lock starts on the same run directory."""
        return {**os.environ, _HELD_BY_PARENT: str(self.path.resolve())}

    def _lines(self) -> list[dict[str, Any]]:
        if not self._index.exists():
            return []
        lines = []
        for number, text in enumerate(read_text(self._index).splitlines(), 1):
            where = f"{self._index}, line {number},"
            try:
                line = parse_json(text, where, IndexLine)
            except UsageError as error:
                raise UsageError(f"{error}; remove the line or the file") from None
            if os.path.isabs(line["path"]) or "\0" in line["path"]:
                raise UsageError(f"{where} is damaged: its path is not relative; remove the line or the file")
            lines.append(line)
        return lines


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"kind = {kind!r} is unknown: allowed are {', '.join(KINDS)}")
