"""Files from strangers run no code, and a disk that is full or read-only costs nothing that was finished."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.compress.recipes.recipe import TrainSettings
from edgepress.compress.training.machine import Machine
from edgepress.compress.training.state import LAST, STATE
from edgepress.compress.training.train import train
from edgepress.models.checkpoints.checkpoint import load_checkpoint
from edgepress.models.checkpoints.weights import load_weights
from edgepress.models.errors import ConfigError, UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.tasks import load_task
from tests.compress.pipeline.test_sweep import TINY
from tests.compress.train_cases import small_net, small_task, write_task

ROOT = Path(__file__).resolve().parents[3]


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_with_a_pickled_object_are_refused(tmp_path):
    torch.save({"stem.0.weight": torch.zeros(1), "extra": Canary(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="tensors only, no pickled objects"):
        load_weights(small_net(), tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", [STATE, "callbacks", "extra"])
def test_a_training_state_with_a_pickled_object_is_refused(tmp_path, key):
    task, settings = small_task(tmp_path), TrainSettings(epochs=1, batch_size=16, precision="32-true")
    machine = Machine("cpu", 1, progress=False)
    train(small_net(), task, settings, run=tmp_path / "run", machine=machine)
    state = torch.load(tmp_path / "run" / LAST, weights_only=True)
    state[key] = {**state[key], "canary": Canary(tmp_path / "ran")} if key == STATE else Canary(tmp_path / "ran")
    torch.save(state, tmp_path / "run" / LAST)
    with pytest.raises(UsageError, match=r"damaged or not a training state|holds a training with other inputs"):
        train(small_net(), task, settings, run=tmp_path / "run", machine=machine)
    assert not (tmp_path / "ran").exists()


def test_an_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "task.npz", x=np.array([Canary(tmp_path / "ran")] * 2, object), y=np.arange(2))
    with pytest.raises(UsageError, match="Python objects, which are never read"):
        load_task(tmp_path / "task.npz")
    assert not (tmp_path / "ran").exists()


def test_a_recipe_file_may_name_code_only_with_trust_and_then_it_is_said(tmp_path, monkeypatch, capsys):
    from edgepress.compress.recipes.recipe import read_recipe

    (tmp_path / "stranger_net.py").write_text("from tests.compress.train_cases import small_net as make\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "recipe.toml").write_text('name = "a"\ntask = "synthetic"\n[network]\nname = "stranger_net:make"\n')
    with pytest.raises(ConfigError, match=r"code outside edgepress: read it, then allow it with --trust"):
        read_recipe(tmp_path / "recipe.toml")
    assert "stranger_net" not in sys.modules
    read_recipe(tmp_path / "recipe.toml", trust=True)
    assert "running code outside edgepress: stranger_net:make" in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if sys.platform == "linux"
        else None
    )
    if mount is None or mount.returncode:
        pytest.skip("needs the right to mount a small disk (root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def command(run: Path, recipe: Path, seed: int, before=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "edgepress.compress",
            "train",
            str(recipe),
            "--run",
            str(run),
            "--seed",
            str(seed),
            "--accelerator",
            "cpu",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
    )


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.replace('name = "tiny"', f'name = "tiny"\ntask = "{write_task(tmp_path)}"'))
    return path


def finished_is_whole(run: Path) -> None:
    entries = RunDirectory(run).entries("checkpoint")
    assert [entry["name"] for entry in entries] == ["dense"]
    load_checkpoint(entries[0]["path"])
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
def test_files_that_may_not_grow_end_in_exit_2(tmp_path, recipe):
    """As a quota would."""
    assert command(tmp_path / "run", recipe, 0).returncode == 0
    ended = command(tmp_path / "run", recipe, 1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)))
    assert (ended.returncode, "cannot write" in ended.stderr, "Traceback" in ended.stderr) == (2, True, False), (
        ended.stderr
    )
    finished_is_whole(tmp_path / "run")


@pytest.mark.slow
def test_a_full_and_a_read_only_disk_end_in_exit_2(small_disk, recipe):
    run = small_disk / "run"
    assert command(run, recipe, 0).returncode == 0
    with open(small_disk / "filler", "wb") as filler:
        while True:
            try:
                os.write(filler.fileno(), bytes(1000))
            except OSError:
                break
    ended = command(run, recipe, 1)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False), ended.stderr
    finished_is_whole(run)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ended = command(run, recipe, 1)
    assert (ended.returncode, "cannot write" in ended.stderr) == (2, True), ended.stderr
    finished_is_whole(run)
