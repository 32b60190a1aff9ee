# SPDX-License-Identifier: Apache-2.0
"""One task of a sweep, where Ray starts it: a `compress` command in its own run directory, which goes on where it was.

The command is a child process, so that threads, memory and a crash are its own. It dies with the process that watches
it; then Ray starts the task again, here or on another machine, and the command resumes from its last finished epoch.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgepress.compress.pipeline.entries import facts_of
from edgepress.compress.sweep.sweep import SweepTask
from edgepress.models.atomic import new_directory, write_json
from edgepress.models.children import bound
from edgepress.models.errors import UsageError
from edgepress.models.files import reading
from edgepress.models.run_directory import RunDirectory

STATE, RESULT, LOG = "task.json", "result.json", "log.txt"
#: Exit codes that a second try would give again: a verdict, and a bad recipe, file or budget.
FINAL_CODES = (1, 2)


class TaskFailed(RuntimeError):
    """The command of a task ended in a way that may be different next time."""


def run_task(task: dict[str, Any], sweep: str, threads: int, accelerator: str) -> dict[str, Any]:
    """Run a task to its end; a finished one is only read.

    Args:
        task: `SweepTask.to_json`.
        sweep: the folder of the sweep, the same on all machines.
        threads: of the command.
        accelerator: "cpu" or "gpu".

    Returns:
        What RESULT holds: {"state": "done" or "failed", "networks": [...], ...}.

    Raises:
        TaskFailed: worth another try.
    """
    found, folder = SweepTask(**task), SweepTask(**task).folder(Path(sweep))
    done = finished(folder, found)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(folder)
    # What a killed attempt has left running (an export, say) ends by itself; until then it holds the lock.
    with run.lock(wait=True):
        if found.dense is not None:
            adopt_dense(run, Path(sweep) / "dense" / found.dense)
    attempts = int(read_json(folder / STATE).get("attempts", 0)) + 1
    state = {
        **task,
        "state": "running",
        "attempts": attempts,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.time(),
    }
    write_json(folder / STATE, state)
    command = [
        sys.executable,
        "-m",
        "edgepress.compress",
        *found.arguments(folder),
        "--accelerator",
        accelerator,
        "--devices",
        "1",
    ]
    began = time.monotonic()
    code = _child(command, folder / LOG, threads)
    if code != 0 and code not in FINAL_CODES:
        write_json(folder / STATE, {**state, "state": "retry", "exit_code": code})
        raise TaskFailed(f"{found.name} ended with exit code {code}; see {folder / LOG}")
    result = {
        **state,
        "state": "failed" if code else "done",
        "exit_code": code,
        "seconds": round(time.monotonic() - began, 3),
        "networks": networks(run),
        "message": last_line(folder),
    }
    if code == 0:
        write_json(folder / RESULT, result)
    write_json(folder / STATE, {key: value for key, value in result.items() if key != "networks"})
    return result


def finished(folder: Path, task: SweepTask) -> dict[str, Any] | None:
    """The result of a task that ended well, if it is this very task's."""
    found = read_json(folder / RESULT)
    same = all(found.get(key) == value for key, value in task.to_json().items())
    return found if found and same and found.get("state") == "done" else None


def networks(run: RunDirectory) -> list[dict[str, Any]]:
    """What a run made: name, cost, accuracy and the SHA-256 of the weights of each checkpoint."""
    keys = ("name", "stage", "scheme", "rule", "macs", "params", "weight_bytes", "validation_accuracy", "test_accuracy")
    keys += ("metric", "validation_value", "test_value")
    return [
        {
            **{key: entry[key] for key in keys if key in entry},
            "weights_sha256": read_json(entry["path"] / "model.json").get("weights", {}).get("sha256"),
        }
        for entry in run.entries("checkpoint")
    ]


def adopt_dense(run: RunDirectory, other: Path) -> None:
    """Copy the dense network that another run directory trained, whole, unless it is here already."""
    target = run.place("checkpoint", "dense")
    dense = [entry for entry in RunDirectory(other).entries("checkpoint") if entry["name"] == "dense"]
    if not dense or any(entry["name"] == "dense" for entry in run.entries("checkpoint")):
        return
    if not target.exists():
        with new_directory(target) as folder:
            shutil.copytree(dense[0]["path"], folder, dirs_exist_ok=True)
    run.add("checkpoint", "dense", target, **facts_of(dense[0]))


def last_line(folder: Path) -> str:
    """The newest line of a task's log."""
    try:
        with open(folder / LOG, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _child(command: list[str], log: Path, threads: int) -> int:
    """Run a command with its output in `log`; its exit code. It is killed when this process ends, however it ends."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    with open(log, "ab") as output:
        process = subprocess.Popen(
            bound(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **limits},
        )
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none yet."""
    try:
        return reading.read_json(path, dict[str, Any])
    except UsageError:
        return {}
