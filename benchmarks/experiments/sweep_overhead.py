# SPDX-License-Identifier: Apache-2.0
"""What `compress sweep` costs beside the same commands started by hand.

`python -m edgepress.benchmarks.experiments.sweep_overhead --output benchmarks/results/sweep.json` runs the same 12
tasks twice: by Ray, and
by a pool of as many processes. Both times are by the clock, so that the machine must have nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgepress.compress.sweep.sweep import SweepTask, make_grid, plan
from edgepress.compress.sweep.task import networks
from edgepress.models.atomic import write_json
from edgepress.models.children import bound
from edgepress.models.errors import EdgepressError, RuntimeFailure
from edgepress.models.run_directory import RunDirectory

#: Of the time by hand.
LARGEST_OVERHEAD = 0.10
_RECIPE = """
name = "tiny"
device = "dcase2023"
[network]
name = "ds_cnn"
arguments = {{ channels = 32, n_blocks = 3 }}
[train]
epochs = {epochs}
precision = "32-true"
[prune]
method = "one-shot"
[prune.train]
epochs = {epochs}
precision = "32-true"
[quantize]
clips = 64
[measure]
formats = []
runtimes = []
"""


def measure(folder: Path, epochs: int) -> dict[str, Any]:
    """12 tasks and their two dense trainings, by Ray and by hand; the same weights must come out.

    Args:
        folder: for data and run directories.
        epochs: of each training; 20 make a task last about half a minute.

    Raises:
        RuntimeFailure: a command failed, or the weights differ.
    """
    rng = np.random.default_rng(0)
    y = np.arange(3000) % 3
    x = rng.normal(size=(len(y), 1, 40, 10)).astype(np.float32) + y[:, None, None, None] / 2
    split = np.where(np.arange(len(y)) < 2000, "train", np.where(np.arange(len(y)) < 2500, "validation", "test"))
    np.savez(folder / "task.npz", x=x, y=y, split=split, layout=np.array("NCHW"))
    (folder / "tiny.toml").write_text(_RECIPE.format(epochs=epochs))
    grid = {
        "recipes": [str(folder / "tiny.toml")],
        "budgets": ["70%", "60%", "50%", "40%", "30%", "20%"],
        "seeds": [0, 1],
        "data": str(folder / "task.npz"),
    }
    tasks, _ = plan(make_grid(grid, "the measurement"))
    slots = len(os.sched_getaffinity(0))
    begin = time.monotonic()
    _by_hand(tasks, folder / "hand", slots)
    between = time.monotonic()
    options = [
        word
        for option, key in (("--recipe", "recipes"), ("--budget", "budgets"), ("--seed", "seeds"))
        for value in grid[key]
        for word in (option, str(value))
    ]
    _run(
        [
            sys.executable,
            "-m",
            "edgepress.compress",
            "sweep",
            *options,
            "--data",
            grid["data"],
            "--run",
            str(folder / "sweep"),
            "--no-report",
            "--cpus",
            "1",
        ],
        None,
    )
    end = time.monotonic()
    made = [[_weights(task.folder(folder / name)) for task in tasks] for name in ("hand", "sweep")]
    if made[0] != made[1]:
        raise RuntimeFailure("the sweep made other weights than the commands by hand")
    hand, sweep = between - begin, end - between
    return {
        "tasks": len(tasks),
        "slots": slots,
        "epochs": epochs,
        "hand_seconds": round(hand, 2),
        "sweep_seconds": round(sweep, 2),
        "overhead": round(sweep / hand - 1, 4),
        "equal_weights": True,
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def _by_hand(tasks: Sequence[SweepTask], folder: Path, slots: int) -> None:
    """As a person would: the dense trainings, their networks copied, then the rest, always `slots` at a time."""
    from edgepress.compress.sweep.task import adopt_dense

    def one(task: SweepTask) -> None:
        run = task.folder(folder)
        run.mkdir(parents=True)
        if task.dense is not None:
            adopt_dense(RunDirectory(run), folder / "dense" / task.dense)
        _run(
            [
                sys.executable,
                "-m",
                "edgepress.compress",
                *task.arguments(run),
                "--accelerator",
                "cpu",
                "--devices",
                "1",
            ],
            run / "log.txt",
        )

    for kind in ("dense", "run"):
        with ThreadPoolExecutor(slots) as pool:
            list(pool.map(one, [task for task in tasks if task.kind == kind]))


def _run(command: list[str], log: Path | None) -> None:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    output = open(log, "ab") if log else None  # noqa: SIM115 - closed below
    try:
        code = subprocess.run(bound(command), stdout=output, stderr=output, env={**os.environ, **threads}, check=False)
    finally:
        if output:
            output.close()
    if code.returncode:
        raise RuntimeFailure(f"`{shlex.join(command[1:4])} ...` ended with exit code {code.returncode}")


def _weights(run: Path) -> dict[str, str | None]:
    return {network["name"]: network["weights_sha256"] for network in networks(RunDirectory(run))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, judge: 0 within `LARGEST_OVERHEAD`, 1 above."""
    from edgepress.benchmarks.measure.environment import environment

    parser = argparse.ArgumentParser(prog="python -m edgepress.benchmarks.experiments.sweep_overhead")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args(arguments)
    try:
        with TemporaryDirectory(prefix="edgepress-sweep-") as folder:
            found = measure(Path(folder), options.epochs)
    except EdgepressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    result = {
        "schema": 1,
        "kind": "sweep overhead",
        **found,
        "environment": environment(),
        "command": "python -m edgepress.benchmarks.experiments.sweep_overhead --output benchmarks/results/sweep.json",
    }
    if options.output is not None:
        write_json(options.output, result)
    print(
        f"{found['tasks']} tasks: {found['hand_seconds']:.0f} s by hand, {found['sweep_seconds']:.0f} s as a sweep, "
        f"{100 * found['overhead']:+.1f} %"
    )
    return 1 if found["overhead"] > LARGEST_OVERHEAD else 0


if __name__ == "__main__":
    sys.exit(main())
