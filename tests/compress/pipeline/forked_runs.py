"""Starts `compress run` again and again without importing torch again: a process that forks a child for each attempt.

It reads one JSON object per line, {"recipe", "run", "kill_after"}, runs the recipe in a child, kills the child with
SIGKILL after so many seconds (null: never), and answers {"killed", "code", "seconds"}. Nothing is computed before the
fork, so that a child starts as a fresh process does, save for its imports.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

for module in (
    "torch",
    "lightning.pytorch",
    "torch.export",
    "torch.utils.tensorboard",
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
):
    import_module(module)


def attempt(recipe: str, run: Path) -> None:
    """In the child: the recipe, with its messages in a file beside the run."""
    import torch

    from edgepress.compress.pipeline.run import run_recipe
    from edgepress.compress.training.machine import Machine

    log = os.open(f"{run}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    run_recipe(recipe, data=None, run=run, seed=None, trust=False, machine=Machine("cpu", "1"), report=False)


for line in sys.stdin:
    order = json.loads(line)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt(order["recipe"], Path(order["run"]))
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(code)
    killed = False
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if not killed and order["kill_after"] is not None and time.monotonic() - began > order["kill_after"]:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.002)
    answer = {
        "killed": os.WIFSIGNALED(status),
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - began,
    }
    print(json.dumps(answer), flush=True)
