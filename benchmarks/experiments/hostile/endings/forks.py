# SPDX-License-Identifier: Apache-2.0
"""Starts commands again and again without importing torch again: a process that forks a child for each.

It reads one JSON object a line, {"words", "place", "environment", "marker", "delay_s"}: `edgepress WORDS` is run in the
folder `place`, with what it says in said.txt there. So many seconds after it has said a line that begins with `marker`
("": at once), it is killed with SIGKILL; with `marker` null it never is. The answer is {"killed", "code", "seconds",
"lines": [[seconds since the start, line], ...]}. Nothing is computed before the fork, so that a child starts as a fresh
process does, save for its imports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from edgepress.models.children import bound, end_with_parent

_MODULES = (
    "torch",
    "lightning.pytorch",
    "torch.export",
    "torch.utils.tensorboard",
    "edgepress.compress.cli",
    "edgepress.benchmarks.cli",
    "edgepress.deploy.cli",
    "edgepress.compress.pipeline.run",
    "edgepress.compress.training.loop",
    "edgepress.compress.training.train",
    "edgepress.compress.prune.schedules.trainers",
    "edgepress.compress.prune.schedules.admm",
    "edgepress.compress.prune.model",
    "edgepress.compress.quantize.model",
    "edgepress.compress.quantize.qat",
    "edgepress.models.cost.cost",
    "edgepress.models.checkpoints.checkpoint",
)


class Forks:
    """The process that forks, from the outside."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def run(
        self, words: tuple[str, ...], place: Path, environment: dict[str, str], marker: str | None, delay_s: float = 0.0
    ) -> dict[str, Any]:
        """One command, to its end or to its kill."""
        order = {"words": words, "place": str(place), "environment": environment, "marker": marker, "delay_s": delay_s}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


@contextmanager
def forks(environment: dict[str, str]) -> Iterator[Forks]:
    """Start it, and end it."""
    with subprocess.Popen(
        bound([sys.executable, "-m", "edgepress.benchmarks.experiments.hostile.endings.forks"]),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        yield Forks(process)


def _child(order: dict[str, Any]) -> None:
    from edgepress.models.command_line import run_command

    end_with_parent()
    said = os.open(Path(order["place"], "said.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream, handle in ((0, nothing), (1, nothing), (2, said)):
        os.dup2(handle, stream)
    os.environ.update(order["environment"])
    os.chdir(order["place"])
    package, *rest = order["words"]
    sys.argv = ["edgepress", *order["words"]]
    run_command(import_module(f"edgepress.{package}.cli").app, rest)


def _attempt(order: dict[str, Any]) -> dict[str, Any]:
    began, marker = time.monotonic(), order["marker"]
    said = Path(order["place"], "said.txt")
    before = said.stat().st_size if said.exists() else 0
    child = os.fork()
    if child == 0:
        code = 0
        try:
            _child(order)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException as error:
            os.write(2, f"internal error: {type(error).__name__}: {error}\n".encode())
            code = 1
        os._exit(code)
    heard = began if marker == "" else None
    killed, lines = False, []
    while True:
        process, status = os.waitpid(child, os.WNOHANG)
        now = time.monotonic()
        for line in _since(said, before)[len(lines) :]:
            lines.append([round(now - began, 3), line])
            if heard is None and marker and line.startswith(marker):
                heard = now
        if process:
            break
        if not killed and heard is not None and now - heard >= order["delay_s"]:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    return {"killed": os.WIFSIGNALED(status), "code": code, "seconds": now - began, "lines": lines}


def _since(said: Path, size: int) -> list[str]:
    """The whole lines behind so many bytes."""
    if not said.exists():
        return []
    with said.open("rb") as file:
        file.seek(size)
        return file.read().decode(errors="replace").split("\n")[:-1]


def main() -> None:
    """Serve orders until there are no more."""
    for module in _MODULES:
        import_module(module)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(_attempt(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
