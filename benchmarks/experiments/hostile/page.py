# SPDX-License-Identifier: Apache-2.0
"""docs/safety.md, made from the results of the experiment.

`python -m edgepress.benchmarks.experiments.hostile.page` writes it anew from benchmarks/results/hostile.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.models.atomic import write_text
from edgepress.models.files.reading import read_json

RESULTS = Path(__file__).parents[2] / "results" / "hostile.json"
PAGE = Path(__file__).parents[3] / "docs" / "safety.md"
_TEXT = """# Safe on other people's machines

## What holds
- Nothing phones home: the telemetry of ONNX Runtime, Ray and Hugging Face is off in every process.
  `tests/test_quiet.py` traces a whole `compress run` and finds no connection, and no file outside the run
  directory, the cache and `TMPDIR`.
- Nothing listens beyond the loopback interface; Ray, which `compress sweep` starts, asks for a token
  ([scale.md](scale.md)).
- SIGTERM and Ctrl-C end a command with its children and its scratch, with one sentence, exit 143 or 130. What is
  killed outright leaves its scratch to the next command, which removes it; engines, emulators and tools that it had
  started are killed with it (Linux).
- Nothing pickled is read. Files are regular ones of bounded size; what they claim is compared with what they hold
  before memory is asked for; text is UTF-8, JSON and TOML have bounds of depth and of numbers, and follow a schema.
- What native code opens, it opens in a process of its own, with bounds of CPU and wall-clock time.
- Results are appended whole or not at all; everything else is written beside its place and renamed. Cached arrays
  and training states carry checksums.
- Weights and ranges are numbers: files with NaN, infinite values or ranges that hold nothing are refused.
- Every package can be installed by its SHA-256 (`requirements/`, `make install LOCKED=1`); `make sbom` writes what a
  release consists of (CycloneDX).
- What a board answers is believed within bounds: number, types and bytes of its outputs.

## Measured
"""


def page(found: dict[str, Any]) -> str:
    """The page, as Markdown."""
    parts = {"files": _files, "signals": _signals, "kills": _kills, "disk": _disk}
    sections = [f"{_command(found[name])}{write(found[name])}" for name, write in parts.items() if name in found]
    return _TEXT + "\n".join(sections)


def _command(part: dict[str, Any]) -> str:
    return f"`{part['command']}`, {part['date'][:10]}:\n"


def _files(part: dict[str, Any]) -> str:
    total = sum(one["cases"] for one in part["kinds"].values())
    rows = ["| kind | cases | exit 0 or 1 | a sentence (2 or 3) | faults | largest CPU, s | largest memory, MB |"]
    rows.append("|---|--:|--:|--:|--:|--:|--:|")
    for name, one in part["kinds"].items():
        codes = one["codes"]
        good, said = (sum(codes.get(code, 0) for code in pair) for pair in (("0", "1"), ("2", "3")))
        figures = f"{one['largest_cpu_s']:.1f} | {one['largest_peak_mb']:.0f}"
        rows.append(f"| {name} | {one['cases']} | {good} | {said} | {_counted(one['faults'])} | {figures} |")
    return _section(
        rows,
        f"{total} files, each damaged by flipped bits, cut, filled or doubled blocks, extreme numbers, and in texts by",
        "values that no reader expects. A fault is a traceback, an internal error, a crash, more than 10 s of CPU",
        "time, more than 1 GB of memory, or another exit code.",
    )


def _signals(part: dict[str, Any]) -> str:
    return _section(
        [],
        f"{part['commands']} commands under SIGTERM and Ctrl-C, at their start and in their work:",
        f"{part['cases']} times in all. {part['ended']} were ended by it, {part['finished']} had done their work.",
        "A fault is a traceback, another exit code than 143 and 130, more or less than one sentence, a process, a",
        f"scratch folder or a lock that is left, or more than 10 s: {_faults(part)}. The longest took",
        f"{part['longest_s']:.1f} s where up to {part['load']:.0f} processes shared a core, and",
        f"{part['longest_per_load_s']:.1f} s by its share of one.",
    )


def _kills(part: dict[str, Any]) -> str:
    rows = ["| command | kills, and in which phase |", "|---|---|"]
    for name, phases in part["series"].items():
        rows.append(f"| {name} | {', '.join(f'{count} {phase}' for phase, count in phases.items()).replace(':', '')} |")
    return _section(
        rows,
        f"{part['kills']} kills (SIGKILL). Behind each no process is left, every file that can be seen is whole, and",
        "nothing that was finished is lost; the same command then makes what it makes undisturbed: the same weights,",
        f"files and figures. Faults: {_faults(part)}.",
    )


def _disk(part: dict[str, Any]) -> str:
    rows = ["| command | sizes | a sentence (2 or 3) | ended well |", "|---|--:|--:|--:|"]
    for name, one in part["commands"].items():
        rows.append(f"| {name} | {one['offsets']} | {one['sentence']} | {one['ended_well']} |")
    return _section(
        rows,
        f"a disk that is full at {part['offsets']} sizes; it holds run directory, cache and scratch. A fault is a",
        "traceback, a crash, something finished that is lost or cut, or that the same command does not make the same",
        f"once there is room: {_faults(part)}.",
    )


def _section(rows: Sequence[str], *lines: str) -> str:
    return "\n".join([*lines, *(["", *rows] if rows else [])]) + "\n"


def _faults(part: dict[str, Any]) -> str:
    return _counted(Counter(one["why"] for one in part["bad"]))


def _counted(faults: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in faults.items()) or "0"


if __name__ == "__main__":
    write_text(PAGE, page(read_json(RESULTS)))
