# SPDX-License-Identifier: Apache-2.0
"""What lossless shrinking would make of a file: tried in a child process within a limit of CPU time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgepress.models.children import bound
from edgepress.models.command_line import child_environment

#: CPU seconds of each process of a try, and of the clock for all: busy runners have little of the one an hour.
CPU_SECONDS, WALL_SECONDS = 20, 240
_SHRINK = """
import json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]), int(sys.argv[3]) + 1))
from edgepress.deploy.verify.shrink import shrink_model
report = shrink_model(Path(sys.argv[1]).read_bytes(), samples=1, plan=sys.argv[2] == "plan").report
print(json.dumps(report["after"]))
"""


class Shrunk:
    """What lossless shrinking makes of a file, tried once and only when a check asks."""

    def __init__(self, path: str, tried: bool = True, cpu_seconds: int = CPU_SECONDS):
        self._path, self._wanted, self._cpu_seconds = Path(path), tried, cpu_seconds
        self._tried: dict[bool, tuple[dict[str, Any], str]] = {}
        #: Whether the file is there and of a kind that can be shrunk.
        self.applies: bool = self._path.suffix.lower() == ".tflite" and self._path.is_file()

    def file_bytes(self) -> int | None:
        """The size of the smaller file, None where it was not tried."""
        return self._after(plan=False)[0].get("file_bytes")

    def arena_bytes(self) -> int | None:
        """TFLite Micro's arena with a plan in the file, None where it was not tried or is not known."""
        return self._after(plan=True)[0].get("arena_bytes")

    def not_tried(self, plan: bool) -> str:
        """Why there is no figure, "" where it was tried."""
        return self._after(plan)[1]

    def _after(self, plan: bool) -> tuple[dict[str, Any], str]:
        if not self._wanted:
            return {}, "it was not asked for"
        if plan not in self._tried:
            self._tried[plan] = _try_shrinking(self._path, plan, self._cpu_seconds)
        return self._tried[plan]


def _try_shrinking(path: Path, plan: bool, cpu_seconds: int) -> tuple[dict[str, Any], str]:
    """({"file_bytes", "arena_bytes"} of the shrunk file, "") or ({}, why it cannot be had).

    It is tried in a child process, which may crash or hang.
    """
    command = [sys.executable, "-P", "-c", _SHRINK, str(path.resolve()), "plan" if plan else "", str(cpu_seconds)]
    try:
        child = subprocess.run(
            bound(command),
            capture_output=True,
            timeout=WALL_SECONDS,
            check=False,
            env=child_environment(OMP_NUM_THREADS="1"),
        )
        if child.returncode < 0:
            return {}, f"it took more than {cpu_seconds} s of CPU time"
        if child.returncode:
            last = child.stderr.decode(errors="replace").strip().splitlines() or [f"exit {child.returncode}"]
            return {}, last[-1].partition(": ")[2][:200] or last[-1][:200]
        return json.loads(child.stdout), ""
    except subprocess.TimeoutExpired:
        return {}, f"it did not end within {WALL_SECONDS} s on this busy machine"
    except (ValueError, OSError) as error:
        return {}, str(error)
