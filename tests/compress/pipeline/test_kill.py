"""A recipe killed with SIGKILL at random points: nothing lost, nothing half written, the same bits at the end."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_metrics
from edgepress.models.run_directory import RunDirectory
from tests.compress.train_cases import write_task

ROOT = Path(__file__).resolve().parents[3]
KILLS = 24
RECIPE = """
name = "tiny"
task = "{task}"
[network]
name = "ds_cnn"
arguments = {{ channels = 12, n_blocks = 2 }}
[train]
epochs = 3
batch_size = 32
precision = "32-true"
[train.augment]
mixup_alpha = 0.3
[prune]
targets = ["60%"]
updates = 4
[prune.train]
epochs = 5
batch_size = 32
precision = "32-true"
[quantize]
clips = 32
[quantize.train]
epochs = 2
batch_size = 32
precision = "32-true"
[measure]
formats = []
runtimes = []
"""


def check_whole(run: Path) -> None:
    """Every file that can be seen is complete: checksums of weights, states, tables, and JSON."""
    for entry in RunDirectory(run).entries("checkpoint"):
        load_checkpoint(entry["path"])  # compares the SHA-256 of the weights with that in model.json
        read_metrics(entry["path"])
    for path in run.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(run).parts):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".ckpt":
            assert "edgepress" in torch.load(path, weights_only=True, map_location="cpu")
        elif path.suffix == ".csv":
            assert path.read_text().endswith("\n")


def made(run: Path) -> dict[str, dict]:
    """Weights by their SHA-256 and figures of every checkpoint, without times."""
    found = {}
    for entry in RunDirectory(run).entries("checkpoint"):
        metrics = read_metrics(entry["path"])
        history = [{k: v for k, v in record.items() if k != "seconds"} for record in metrics["history"]]
        found[entry["name"]] = {
            "weights": json.loads((entry["path"] / "model.json").read_text())["weights"]["sha256"],
            "quantization": (entry["path"] / "quantization.json").read_text() if entry["scheme"] != "float32" else None,
            "history": history,
            "test": metrics["test"],
            "best_epoch": metrics["best_epoch"],
        }
    return found


@pytest.mark.slow
def test_killed_at_random_points_a_recipe_ends_with_the_same_bits(tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(task=write_task(tmp_path)))

    def attempt(run: Path, kill_after: float | None) -> dict:
        assert forks.stdin is not None
        assert forks.stdout is not None
        print(
            json.dumps({"recipe": str(recipe), "run": str(run), "kill_after": kill_after}), file=forks.stdin, flush=True
        )
        return json.loads(forks.stdout.readline())

    with subprocess.Popen(
        [sys.executable, "-m", "tests.compress.pipeline.forked_runs"],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as forks:
        whole = attempt(tmp_path / "whole", None)
        assert whole["code"] == 0, (tmp_path / "whole.log").read_text()
        expected = made(tmp_path / "whole")
        assert len(expected) == 4
        points, kills, runs = random.Random(7), 0, 0
        while kills < KILLS:
            run, runs, finished = tmp_path / f"run-{runs}", runs + 1, set()
            while True:
                # Up to a third of the whole: a few kills fall into every run, and each attempt gets somewhere.
                ended = attempt(run, points.uniform(0, whole["seconds"] / 3) if kills < KILLS else None)
                if not ended["killed"]:
                    break
                kills += 1
                if run.exists():
                    check_whole(run)
                    before, finished = finished, {entry["name"] for entry in RunDirectory(run).entries("checkpoint")}
                    assert before <= finished, "a finished checkpoint was lost"
            assert ended["code"] == 0, (tmp_path / f"{run.name}.log").read_text()
            assert made(run) == expected
            assert not list(run.rglob("*.partial"))
