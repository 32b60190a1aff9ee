# SPDX-License-Identifier: Apache-2.0
"""Thousands of damaged files through the readers: the child processes that read them, and the sum of how they ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.experiments.hostile.cases import SHARES, write_seeds
from edgepress.benchmarks.experiments.hostile.reader import LONGEST_CPU_S
from edgepress.models.children import bound
from edgepress.models.errors import UsageError

LARGEST_PEAK_MB = 1000
#: Wall-clock time without a word after which a child is killed, where it has a core to itself; CPU time is bounded by
#: itself wherever Python runs.
_SILENCE_S = 180


def shares(cases: int) -> dict[str, int]:
    """How many of so many cases each kind gets."""
    return {kind: max(1, round(cases * share / sum(SHARES.values()))) for kind, share in SHARES.items()}


def measure(cases: int, kinds: Sequence[str] | None, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """{"kinds": kind -> `summary`, "bad": every reading that ended otherwise}."""
    valid = folder / "valid"
    write_seeds(valid)
    found = {
        kind: summary(read_all(kind, count, valid, folder, say))
        for kind, count in shares(cases).items()
        if not kinds or kind in kinds
    }
    return {"kinds": found, "bad": [one for each in found.values() for one in each.pop("bad")]}


def read_all(
    kind: str, count: int, valid: Path, folder: Path, say: Callable[[str], None], first: int = 0
) -> list[dict[str, Any]]:
    """Every case of a kind; a child that crashes or hangs is charged with its case, and the next begins behind it.

    What `folder` holds of an earlier call is not read again.
    """
    log = folder / f"{kind}.jsonl"
    entries = _read_log(log, first)[:count]
    while len(entries) < count:
        start = first + len(entries)
        words = [kind, str(start), str(first + count), str(valid), str(log)]
        child = subprocess.Popen(
            bound([sys.executable, "-m", "edgepress.benchmarks.experiments.hostile.reader", *words]),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        end = _watch(child, log)
        read = _read_log(log, first)
        if end is not None and len(read) < count:
            lost = {"kind": kind, "number": first + len(read), "code": end, "said": "", "cpu_s": 0.0, "peak_mb": 0.0}
            with log.open("a") as file:
                file.write(json.dumps(lost) + "\n")
            read.append(lost)
        entries = read
        say(f"{kind}: {len(entries)} of {count}")
    return entries


def _read_log(log: Path, first: int) -> list[dict[str, Any]]:
    """The cases from `first` on that were read, without a last line that a killed process left in part."""
    if not log.exists():
        return []
    *lines, rest = log.read_text().split("\n")
    if rest:
        log.write_text("".join(f"{line}\n" for line in lines))
    entries = [json.loads(line) for line in lines]
    if [entry["number"] for entry in entries] != list(range(first, first + len(entries))):
        raise UsageError(f"{log} holds other cases than those from {first} on; remove it")
    return entries


def _watch(child: subprocess.Popen[bytes], log: Path) -> str | None:
    """None where it came to its end, else what became of it."""
    size, since = -1, time.monotonic()
    try:
        while child.poll() is None:
            now = log.stat().st_size if log.exists() else 0
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > _SILENCE_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)):
                child.kill()
                child.wait()
                return "hang"
            time.sleep(0.05)
        assert child.stderr is not None
        said = child.stderr.read().decode(errors="replace")
        return None if child.returncode == 0 else f"crash {child.returncode}: {said[-200:]}"
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        if child.stderr is not None:
            child.stderr.close()


def is_bad(entry: dict[str, Any]) -> str | None:
    """Why an ending is none that a user may see; None where it is fine."""
    code, said = entry["code"], entry["said"]
    if code == "hang" or entry["cpu_s"] > LONGEST_CPU_S:
        return "hang"
    if not isinstance(code, int):
        return "crash" if str(code).startswith("crash") else "traceback"
    if "Traceback (most recent call last)" in said:
        return "traceback"
    if "internal error" in said:
        return "internal error"
    if code not in (0, 1, 2, 3) or (code in (2, 3) and not said.strip()):
        return "exit code"
    return "memory" if entry["peak_mb"] > LARGEST_PEAK_MB else None


def summary(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts by exit code and by fault, and the largest CPU time and memory."""
    bad = [(reason, entry) for entry in entries if (reason := is_bad(entry))]
    return {
        "cases": len(entries),
        "codes": dict(sorted(Counter(str(entry["code"])[:9] for entry in entries).items())),
        "faults": dict(Counter(reason for reason, _ in bad)),
        "largest_cpu_s": max((entry["cpu_s"] for entry in entries), default=0.0),
        "largest_peak_mb": max((entry["peak_mb"] for entry in entries), default=0.0),
        "bad": [
            {"kind": e["kind"], "number": e["number"], "why": why, "said": e["said"][-200:]} for why, e in bad[:20]
        ],
    }
