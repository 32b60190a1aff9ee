# SPDX-License-Identifier: Apache-2.0
"""A small project in which every command has something to do, and all commands with arguments for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepress.models.children import bound
from edgepress.models.command_line import import_path
from edgepress.models.errors import RuntimeFailure

_CLIPS = 192
_SECONDS = 900
#: Options of what trains.
TRAINED = ("--data", "task.npz", "--accelerator", "cpu")
_RECIPE = """
name = "own"
task = "task.npz"
device = "cortex-m4"
[network]
name = "ds_cnn"
arguments = { channels = 12, n_blocks = 2 }
[train]
epochs = 3
batch_size = 32
precision = "32-true"
[prune]
targets = ["60%"]
method = "one-shot"
[prune.train]
epochs = 2
batch_size = 32
precision = "32-true"
[quantize]
clips = 32
[quantize.train]
epochs = 1
batch_size = 32
precision = "32-true"
[measure]
formats = ["tflite"]
runtimes = ["litert"]
devices = ["cortex-m4"]
"""


@dataclass(frozen=True)
class Command:
    """Arguments of `edgepress` for a copy of the project; `run` is the run directory that it writes to, "" for none."""

    words: tuple[str, ...]
    run: str = ""

    @property
    def name(self) -> str:
        return " ".join(self.words[:2])


def command(text: str, run: str = "", *more: str) -> Command:
    """`edgepress TEXT MORE --run RUN`."""
    return Command((*text.split(), *more, *(("--run", run) if run else ())), run)


#: Every command that ends by itself; those of `compress` train anew, in the run directory `new`.
COMMANDS = (
    command("compress train own.toml", "new", *TRAINED),
    command("compress teach own.toml --count 1", "new", *TRAINED),
    command("compress ensemble --name again", "run", *TRAINED),
    command("compress distill own.toml --seed 1", "run", *TRAINED),
    command("compress search own.toml --trials 2 --epochs 1", "new", *TRAINED),
    command("compress prune --target-macs 50% --no-device-limits", "run", *TRAINED),
    command("compress quantize --qat --epochs 2 --seed 1", "run", *TRAINED),
    command("compress run own.toml", "new", *TRAINED),
    command("compress fit own.toml --device cortex-m4", "new", *TRAINED),
    command("compress sweep --recipe own.toml --budget 60% --seed 0 --data task.npz --cpus 1", "swept"),
    command("compress list"),
    command("compress init task.npz --output made.toml"),
    command("compress check own.toml"),
    command("deploy export --format onnx --data task.npz --output new.onnx", "run"),
    command("deploy verify m.tflite --data task.npz", "run"),
    command("deploy ort files/onnx.onnx --output m.ort", "run"),
    command("deploy shrink m.tflite --output small.tflite", "run"),
    command("deploy operators m.tflite", "run"),
    command("deploy run m.tflite --input task.npz --output y.npy", "run"),
    command("benchmarks profile m.tflite"),
    command("benchmarks run m.tflite --data task.npz --runtime litert", "run"),
    command("benchmarks latency m.tflite --runs 5", "run"),
    command("benchmarks gate m.tflite --device cortex-m4 --limit macs=10k", "run"),
    command("benchmarks card m.tflite --output card --no-verify", "run"),
    command("benchmarks compare m.tflite m.onnx"),
    command("benchmarks history files"),
    command("benchmarks devices"),
    command("benchmarks report --overwrite", "run"),
    command("benchmarks pareto run --output pareto.html"),
    command("benchmarks submission", "run"),
    command("benchmarks summarize run again"),
)


def write_project(folder: Path) -> Path:
    """Write it, once: a recipe, a task, a run directory with networks and files of all kinds, and copies of the files.

    Raises:
        RuntimeFailure: a command that prepares it fails.
    """
    project = folder / "project"
    if (folder / "complete").exists():
        return project
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir(parents=True)
    write_task(project / "task.npz")
    (project / "own.toml").write_text(_RECIPE)
    for words in (
        ["compress", "run", "own.toml", *TRAINED, "--run", "run"],
        ["compress", "teach", "own.toml", "--count", "2", *TRAINED, "--run", "run"],
        ["compress", "ensemble", *TRAINED, "--run", "run"],
        ["deploy", "export", "--format", "onnx", "--data", "task.npz", "--run", "run"],
    ):
        done = subprocess.run(
            command_line(words), cwd=project, env=environment(folder), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeFailure(f"`edgepress {' '.join(words)}` ended with {done.returncode}: {done.stderr[-500:]}")
    artifacts = project / "run" / "artifacts"
    (project / "files").mkdir()
    for suffix in ("tflite", "onnx"):
        path = next(artifacts.glob(f"*.{suffix}"))
        shutil.copy(path, project / f"m.{suffix}")
        shutil.copy(path, project / "files" / f"{suffix}.{suffix}")
        if (manifest := Path(f"{path}.manifest.json")).exists():
            shutil.copy(manifest, project / f"m.{suffix}.manifest.json")
    shutil.copytree(project / "run", project / "again")
    (folder / "complete").touch()
    return project


def write_task(path: Path) -> None:
    """Three classes that a small network tells apart: noise, noise with an offset, noise with stripes."""
    import numpy as np

    rng = np.random.default_rng(0)
    y = np.arange(_CLIPS) % 3
    x = rng.normal(size=(_CLIPS, 1, 12, 8)).astype(np.float32)
    x[y == 1] += 0.7
    x[y == 2, :, ::2] += 0.7
    x[y == 2, :, 1::2] -= 0.7
    part = np.arange(_CLIPS) / _CLIPS
    split = np.where(part < 0.5, "train", np.where(part < 0.75, "validation", "test"))
    np.savez(path, x=x, y=y, split=split, layout=np.array("NCHW"))


def command_line(words: Sequence[str]) -> list[str]:
    """How `edgepress WORDS` is started here."""
    return bound([sys.executable, "-m", "edgepress", *words])


def environment(folder: Path) -> dict[str, str]:
    """Of a command: its cache and its folder for temporary files lie in `folder`."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if key != "EDGEPRESS_PARENT"}
    found = {"TMPDIR": str(folder / "tmp"), "EDGEPRESS_CACHE": str(folder / "cache"), "PYTHONPATH": import_path()}
    return {**kept, **found, "OMP_NUM_THREADS": "1"}
