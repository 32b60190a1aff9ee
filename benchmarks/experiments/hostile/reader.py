# SPDX-License-Identifier: Apache-2.0
"""Reads damaged files in one process, one after the other, and notes how each reading ended.

`python -m edgepress.benchmarks.experiments.hostile.reader KIND FIRST LAST VALID LOG` appends a line of JSON to LOG for
each case as it ends; whoever started it knows from that which case a crash or a hang belongs to.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgepress.benchmarks.experiments.hostile.cases import prepare
from edgepress.models.command_line import run_command

#: CPU time after which a reading hangs.
LONGEST_CPU_S = 10
_RESET_PEAK = Path("/proc/self/clear_refs")


class _TooLong(BaseException):
    """Beyond `LONGEST_CPU_S`."""


def main() -> None:
    kind, first, last, valid, log = (
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
        Path(sys.argv[5]),
    )

    def too_long(number: int, frame: Any) -> None:
        raise _TooLong

    signal.signal(signal.SIGPROF, too_long)
    for number in range(first, last):
        with tempfile.TemporaryDirectory() as folder:
            reading = prepare(kind, number, valid, Path(folder))
            entry = _read(reading, Path(folder))
        with log.open("a") as file:
            file.write(json.dumps({"kind": kind, "number": number, **entry}) + "\n")


def _read(reading: Any, folder: Path) -> dict[str, Any]:
    """{"code", "said" (the end of stderr), "cpu_s", "peak_mb"} of one reading."""
    if _RESET_PEAK.exists():
        _RESET_PEAK.write_text("5")
    began, here = time.process_time(), os.getcwd()
    os.chdir(folder)
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        kept = [os.dup(number) for number in (1, 2)]
        sys.stdout.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(said.fileno(), 2)
        signal.setitimer(signal.ITIMER_PROF, LONGEST_CPU_S)
        try:
            run_command(reading.app, list(reading.arguments))
            code: Any = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except _TooLong:
            code = "hang"
        except BaseException as error:
            code = f"traceback: {type(error).__name__}: {error}"[:200]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            sys.stdout.flush()
            sys.stderr.flush()
            for number, handle in zip((1, 2), kept, strict=True):
                os.dup2(handle, number)
                os.close(handle)
            os.close(nowhere)
            os.chdir(here)
        said.seek(0)
        text = said.read()[-400:]
    return {"code": code, "said": text, "cpu_s": round(time.process_time() - began, 3), "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000, 1)
    except (OSError, StopIteration):
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, 1)


if __name__ == "__main__":
    main()
