# SPDX-License-Identifier: Apache-2.0
"""A disk that is full at one size after the other, under commands that append, write and train (Linux, as root).

The disk holds the project, the cache and the folder for temporary files. A command ends well or with one sentence; what
was finished is whole, and once there is room the same command makes what it makes undisturbed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from edgepress.benchmarks.experiments.hostile.endings.forks import Forks, forks
from edgepress.benchmarks.experiments.hostile.endings.log import Log
from edgepress.benchmarks.experiments.hostile.endings.processes import environment_in, said_in
from edgepress.benchmarks.experiments.hostile.endings.project import (
    TRAINED,
    Command,
    command,
    environment,
    write_project,
)
from edgepress.benchmarks.experiments.hostile.endings.whole import broken, finished, made, others
from edgepress.models.errors import UsageError

#: What runs out of disk, and its share of 20 sizes.
COMMANDS = (
    (command("compress train own.toml --seed 1", "run", *TRAINED), 5),
    (command("compress quantize --seed 1", "run", *TRAINED), 3),
    (command("deploy export --format onnx --data task.npz --output new.onnx", "run"), 4),
    (command("benchmarks run m.tflite --data task.npz --runtime litert", "run"), 5),
    (command("benchmarks report --overwrite", "run"), 3),
)
_DISK_BYTES, _PAGE_BYTES = 96 << 20, 4096


def measure(
    offsets: int, folder: Path, say: Callable[[str], None], commands: Sequence[tuple[Command, int]] = COMMANDS
) -> dict[str, Any]:
    """{"offsets", "commands": name -> {"offsets", "sentence", "ended_well"}, "bad"}.

    Raises:
        UsageError: a small disk cannot be mounted here.
    """
    project, log = write_project(folder), Log(folder / "disk.jsonl")
    with forks(environment(folder)) as server:
        for one, share in commands:
            count = max(1, round(offsets * share / sum(share for _, share in COMMANDS)))
            alone = log.once(f"{one.name} alone", lambda one=one: _alone(one, server, project, folder))
            for number in range(count):
                # In steps of a page at least; what is there for a moment only may have been missed.
                room_bytes = round(max(alone["bytes"], _PAGE_BYTES * count) * number / count)
                log.once(
                    f"{one.name}, room for {number} of {count} parts",
                    lambda one=one, room_bytes=room_bytes, alone=alone: _full(
                        one, room_bytes, alone, server, project, folder
                    ),
                )
            say(f"disk: {one.name}")
    entries = {case: entry for case, entry in log.entries.items() if "room_bytes" in entry}
    found: dict[str, dict[str, int]] = {}
    for entry in entries.values():
        own = found.setdefault(entry["name"], {"offsets": 0, "sentence": 0, "ended_well": 0})
        own["offsets"] += 1
        own["sentence" if entry["code"] in (2, 3) else "ended_well"] += 1
    bad = [{"case": case, "why": why, "said": entry["said"]} for case, entry in entries.items() for why in entry["bad"]]
    return {"offsets": len(entries), "commands": found, "bad": bad}


@contextmanager
def _disk(project: Path, folder: Path) -> Iterator[Path]:
    """A small disk with a copy of the project."""
    place = folder / "disk"
    place.mkdir(exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(place)]
    if subprocess.run(options, capture_output=True, check=False).returncode:
        raise UsageError("a small disk cannot be mounted here: the part disk needs Linux and root")
    try:
        shutil.copytree(project, place / "project", symlinks=True)
        yield place / "project"
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _surroundings(place: Path, folder: Path) -> dict[str, str]:
    (place / "tmp").mkdir(exist_ok=True)
    return {**environment_in(place, folder), "TMPDIR": str(place / "tmp"), "EDGEPRESS_CACHE": str(place / "cache")}


def _used(place: Path) -> int:
    state = os.statvfs(place)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


@contextmanager
def _peak_of(place: Path) -> Iterator[list[int]]:
    """The most bytes that the disk holds within the block."""
    peak, over = [_used(place)], Event()

    def watch() -> None:
        while not over.wait(0.002):
            peak[0] = max(peak[0], _used(place))

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _alone(one: Command, server: Forks, project: Path, folder: Path) -> dict[str, Any]:
    with _disk(project, folder) as place:
        surroundings, before = _surroundings(place, folder), _used(place)
        with _peak_of(place) as peak:
            ended = server.run(one.words, place, surroundings, None)
        if ended["code"] not in (0, 1):
            raise RuntimeError(f"{' '.join(one.words)} ended with {ended['code']}: {ended['lines'][-3:]}")
        return {"code": ended["code"], "bytes": peak[0] - before, "made": made(place, one.run)}


def _full(
    one: Command, room_bytes: int, alone: dict[str, Any], server: Forks, project: Path, folder: Path
) -> dict[str, Any]:
    with _disk(project, folder) as place:
        surroundings, before = _surroundings(place, folder), finished(place, one.run)
        (place / "said.txt").symlink_to(folder / "said.txt")  # a terminal is never full
        (folder / "said.txt").write_text("")
        filler = place / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _DISK_BYTES - _used(place) - room_bytes)
        ended, bad = server.run(one.words, place, surroundings, None), []
        said = "\n".join(line for _, line in ended["lines"])
        if ended["code"] not in (0, 1, 2, 3):
            bad.append(f"exit code {ended['code']}")
        if "Traceback" in said or "internal error" in said:
            bad.append("traceback")
        if ended["code"] in (2, 3) and "error: " not in said:
            bad.append("no sentence")
        bad += broken(place, one.run)
        bad += [f"lost {name}" for name in sorted(before - finished(place, one.run))]
        filler.unlink()
        again = server.run(one.words, place, surroundings, None)
        if again["code"] != alone["code"]:
            bad.append(f"exit code {again['code']} once there was room: {said_in(place)[-200:]}")
        else:
            bad += others(alone["made"], made(place, one.run))
        bad += [f"left {path.name}" for path in (place / one.run).rglob("*.partial")]
    return {"name": one.name, "room_bytes": room_bytes, "code": ended["code"], "bad": bad, "said": said[-600:]}
