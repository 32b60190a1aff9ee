# SPDX-License-Identifier: Apache-2.0
"""Every part of every network in processes of their own: what takes too long or dies is a row, and the rest goes on."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from edgepress.benchmarks.experiments.networks.catalogue import Network
from edgepress.benchmarks.experiments.networks.parts import PARTS, measured

Row = dict[str, Any]
#: How processes are started: forked off a server that has imported what all need.
CONTEXT, PRELOAD = "forkserver", ("edgepress.benchmarks.experiments.networks.preload",)


@dataclass(frozen=True)
class Bounds:
    """For one part of one network.

    Attributes:
        cpu_s: CPU seconds, of the process and of each that it starts.
        wall_s: seconds on the clock, for what waits for ever: a busy machine makes CPU seconds long.
        memory_bytes: of address space.
    """

    cpu_s: int = 120
    wall_s: float = 4 * 3600.0
    memory_bytes: int = 12 << 30


def rows_of(run: Path) -> dict[tuple[str, str], Row]:
    """Finished parts by (network, part); of several the last, and no line that a crash tore off."""
    return {(row["network"], row["part"]): row for row in _lines(run)}


def run_all(
    run: Path,
    networks: Mapping[str, Network],
    parts: Sequence[str] = tuple(PARTS),
    bounds: Bounds = Bounds(),
    *,
    again: Callable[[Row], bool] = lambda row: False,
    until: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[tuple[str, str], Row]:
    """Measure what is missing, one network after another; every finished part is a line of `rows.jsonl`.

    Args:
        run: keeps the lines.
        networks: by name.
        parts: of `PARTS`.
        again: which of the rows found are measured anew.
        until: `time.monotonic()` after which no network is begun.
        say: told of each part, with the time that is left.

    Returns:
        All rows found.
    """
    begin = time.monotonic()
    found = rows_of(run)
    missing = {}
    for name in networks:
        left = {part for part in parts if (name, part) not in found or again(found[name, part])}
        left |= {"tflite"} if "firmware" in left else set()  # its file is gone with the process that made it
        missing[name] = [part for part in PARTS if part in left]
    missing = {name: parts for name, parts in missing.items() if parts}
    for done, (name, left) in enumerate(missing.items(), 1):
        if until is not None and time.monotonic() > until:
            break
        rows = _of_one(run, networks[name], left, bounds)
        remaining = (time.monotonic() - begin) / done * (len(missing) - done)
        failed = [f"{row['part']}: {row['error'][:100]}" for row in rows if "error" in row]
        took = sum(row.get("cpu_s") or 0 for row in rows)
        said = "; ".join(failed) or "done"
        say(f"[{done}/{len(missing)}, {remaining / 60:.0f} min left] {name}, {took:.0f} CPU s: {said}")
    return rows_of(run)


def _of_one(run: Path, network: Network, parts: Sequence[str], bounds: Bounds) -> list[Row]:
    """Parts of one network: in one process, and in another one after each death."""
    context: Any = get_context(CONTEXT)
    if PRELOAD:
        context.set_forkserver_preload(list(PRELOAD))
    folder = run / "files" / network.name.replace(":", "-")
    folder.mkdir(parents=True, exist_ok=True)
    left, rows = list(parts), []
    while left:
        before = len(_lines(run, network.name))
        child = context.Process(target=_child, args=(run, network.name, left, folder, bounds))
        child.start()
        ended, count = time.monotonic() + bounds.wall_s, before
        while child.is_alive() and time.monotonic() < ended:
            child.join(1.0)
            if (now := len(_lines(run, network.name))) > count:  # the bound is for one part
                ended, count = time.monotonic() + bounds.wall_s, now
        late = child.is_alive()
        if late:
            child.kill()
        child.join()
        new = _lines(run, network.name)[before:]
        rows += new
        left = [part for part in left if part not in {row["part"] for row in new}]
        if left:
            row = {"network": network.name, "part": left.pop(0), **_death(child.exitcode, late, bounds)}
            append_rows(run, [row])
            rows.append(row)
    shutil.rmtree(folder, ignore_errors=True)
    return rows


def _death(code: int | None, late: bool, bounds: Bounds) -> Row:
    if late:
        why = f"stopped after {bounds.wall_s:.0f} s"
    elif code == -signal.SIGXCPU:
        why = f"stopped after {bounds.cpu_s} CPU s"
    elif code is not None and code < 0:
        why = f"the process died of {signal.Signals(-code).name}"
    else:
        why = f"the process ended with {code}"
    return {"error": why, "kind": "stopped" if "stopped" in why else "crash"}


def _child(run: Path, name: str, parts: Sequence[str], folder: Path, bounds: Bounds) -> None:
    import resource
    import warnings

    import torch

    from edgepress.benchmarks.experiments.networks.catalogue import catalogue
    from edgepress.benchmarks.experiments.networks.parts import cpu_seconds
    from edgepress.benchmarks.experiments.networks.subject import Subject

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (bounds.memory_bytes, resource.RLIM_INFINITY))
    subject = Subject(catalogue()[name], folder)
    for part in parts:
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds()) + bounds.cpu_s, resource.RLIM_INFINITY))
        append_rows(run, [measured(subject, part)])


def append_rows(run: Path, rows: Iterable[Row]) -> None:
    """Add lines to what is finished."""
    from edgepress.models.atomic import append_lines

    append_lines(run / "rows.jsonl", [json.dumps(row) for row in rows])


def _lines(run: Path, network: str | None = None) -> list[Row]:
    """All whole lines, or those of one network: several commands may fill one run with networks of their own."""
    path, found = run / "rows.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if network in (None, row["network"]):
            found.append(row)
    return found
