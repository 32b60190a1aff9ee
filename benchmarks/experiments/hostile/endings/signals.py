# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C to every command, at its start and in the middle of its work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.experiments.hostile.endings.log import Log
from edgepress.benchmarks.experiments.hostile.endings.processes import copied, left_over, said_in, start
from edgepress.benchmarks.experiments.hostile.endings.project import COMMANDS, Command, write_project

#: Signal -> the exit code that it ends with.
CODES = {"SIGTERM": 143, "SIGINT": 130}
#: Signal -> the CPU time behind which it comes the second time: in the imports of a training, and in its work.
CPU_S = {"SIGTERM": 2.0, "SIGINT": 5.0}
#: docker sends SIGKILL ten seconds after SIGTERM.
LONGEST_S = 10.0
_WHOLE_S = 1200.0
#: After so many times the CPU time by the clock the signal comes anyway: who waits for others uses none.
_IDLE = 20


def measure(folder: Path, say: Callable[[str], None], commands: Sequence[Command] = COMMANDS) -> dict[str, Any]:
    """How every command ended under every signal.

    A signal comes as soon as the command has made its folder for temporary files, and again after so many seconds of
    CPU time; commands that need less have then done what they were asked for.

    Returns:
        {"commands", "cases", "ended", "finished" (the signal came too late), "longest_s", "bad"}.
    """
    # A shell without job control has its children ignore Ctrl-C, and they theirs; a handler is not handed down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    project, log = write_project(folder), Log(folder / "signals.jsonl")
    for command in commands:
        for name, later_s in CPU_S.items():
            for cpu_s in (0.0, later_s):
                log.once(
                    f"{command.name}, {name} at {cpu_s:g} s",
                    lambda command=command, name=name, cpu_s=cpu_s: stop(command, name, cpu_s, project, folder),
                )
        say(f"signals: {command.name}")
    ended = [entry for entry in log.entries.values() if not entry["finished"]]
    return {
        "commands": len(commands),
        "cases": len(log.entries),
        "ended": len(ended),
        "finished": len(log.entries) - len(ended),
        "longest_s": max((entry["seconds"] for entry in ended), default=0.0),
        "longest_per_load_s": round(max((e["seconds"] / max(1.0, e["load"]) for e in ended), default=0.0), 2),
        "load": max((entry["load"] for entry in log.entries.values()), default=0.0),
        "bad": [
            {"case": case, "why": why, "said": one["said"]} for case, one in log.entries.items() if (why := fault(one))
        ],
    }


def fault(entry: dict[str, Any]) -> str | None:
    """Why an ending is none that a user may see; None where it is fine."""
    if entry["traceback"]:
        return "traceback"
    if entry["left"]:
        return f"left {', '.join(entry['left'])}"
    if entry["finished"]:
        return None if entry["code"] in (0, 1) else f"exit code {entry['code']}"
    if entry["code"] != CODES[entry["signal"]]:
        return f"exit code {entry['code']}"
    if sum(line.startswith("error: ") for line in entry["said"].splitlines()) != 1:
        return "not one sentence"
    # A command that gets an eighth of a core takes eight times as long.
    return "slow" if entry["seconds"] > LONGEST_S * max(1.0, entry["load"]) else None


def stop(command: Command, name: str, cpu_s: float, project: Path, folder: Path) -> dict[str, Any]:
    """{"signal", "code", "finished", "seconds" from the signal to the end, "load" of a core, "said", ...}."""
    with copied(project, folder) as place:
        child = start(command.words, place, folder)
        while child.poll() is None and not any((folder / "tmp").glob("edgepress-scratch-*")):
            time.sleep(0.01)
        begun = time.monotonic()
        while child.poll() is None and _cpu_s(child.pid) < cpu_s and time.monotonic() - begun < _IDLE * cpu_s:
            time.sleep(0.05)
        child.send_signal(signal.Signals[name])
        sent = time.monotonic()
        code = child.wait(_WHOLE_S)
        seconds, said = time.monotonic() - sent, said_in(place)
        return {
            "signal": name,
            "code": code,
            "finished": code in (0, 1),
            "seconds": round(seconds, 2),
            "load": round(os.getloadavg()[0] / (os.cpu_count() or 1), 1),
            "said": said[-600:],
            "traceback": "Traceback (most recent call last)" in said or "internal error" in said,
            "left": left_over(place, folder, command.run),
        }


def _cpu_s(process: int) -> float:
    """Of a process and the children that it has waited for; fields 14 to 17 of its stat, counted from the name."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
