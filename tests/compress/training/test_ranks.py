"""Two processes give what one gives: training with augmentation, distillation and ADMM."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.compress.recipes.sections import Augment, Distill, PruneSettings, TrainSettings
from edgepress.compress.training.batches import named, opened
from edgepress.compress.training.machine import Machine
from edgepress.compress.training.train import train
from edgepress.models.errors import UsageError
from edgepress.models.limits import Limits
from tests.compress.train_cases import small_net, small_task

ROOT = Path(__file__).resolve().parents[3]
#: Sums over two halves round differently from the sum over the whole.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


def close(a, b):
    for name, value in a.state_dict().items():
        torch.testing.assert_close(
            value, b.state_dict()[name], msg=lambda text, name=name: f"{name}: {text}", **TOLERANCE
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["augmented", "uneven, cached teacher", "admm"])
def test_two_processes_give_the_result_of_one(tmp_path, kind):
    from edgepress.compress.prune.schedules.trainers import make_shaping

    torch.manual_seed(0)
    network, task = small_net(), small_task(tmp_path)
    batch = 15 if kind.startswith("uneven") else 16
    settings = TrainSettings(
        epochs=2,
        batch_size=batch,
        optimizer="sgd",
        learning_rate=0.02,
        select="last",
        precision="32-true",
        augment=Augment(mixup_alpha=0.3, roll_frames=2),
    )
    teacher = {"teacher": small_net(6), "distill": Distill(logits="cached")} if kind.startswith("uneven") else {}
    if kind == "admm":
        settings = settings.model_copy(update={"augment": Augment()})
    torch.set_num_threads(1)
    results = []
    for count in (1, 2):
        shaping = (
            make_shaping(
                PruneSettings(method="admm", updates=4), network, (torch.zeros(1, 1, 12, 8),), Limits(macs=12_000)
            )
            if kind == "admm"
            else None
        )
        results.append(
            train(
                network,
                task,
                settings,
                seed=1,
                penalty=shaping,
                **teacher,
                machine=Machine("cpu", count, progress=False),
            )
        )
    close(results[0].model, results[1].model)
    for one, two in zip(results[0].history, results[1].history, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-3)
    if kind == "admm":
        states = [result.shaping for result in results]
        assert [state["done"] for state in states] == [4, 4]
        for part in ("z", "u"):
            for name, value in states[0][part].items():
                torch.testing.assert_close(value, states[1][part][name], **TOLERANCE)
            assert {n: (v == 0).sum() for n, v in states[0][part].items()} == {
                n: (v == 0).sum() for n, v in states[1][part].items()
            }


@pytest.mark.slow
def test_processes_of_torchrun_share_one_run_directory(tmp_path):
    """As on two machines: every process is the command itself, rank 0 alone writes, both end well."""
    from tests.compress.train_cases import write_task

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = tmp_path / "recipe.toml"
    write_task(tmp_path)
    recipe.write_text(
        'name = "tiny"\n[network]\nname = "cp_resnet"\n'
        "arguments = { base_channels = 4, n_blocks = [1, 1, 1] }\n[train]\nepochs = 1\n"
        'batch_size = 16\nprecision = "32-true"\n'
    )
    command = [
        sys.executable,
        "-m",
        "edgepress.compress",
        "train",
        str(recipe),
        "--data",
        str(tmp_path / "task.npz"),
        "--run",
        str(tmp_path / "run"),
        "--accelerator",
        "cpu",
        "--devices",
        "1",
        "--nodes",
        "2",
        "--strategy",
        "ddp",
    ]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": "2",
                "RANK": str(rank),
                "LOCAL_RANK": "0",
                "GROUP_RANK": str(rank),
                "NODE_RANK": str(rank),
                "TORCHELASTIC_RUN_ID": "test",
                "LOCAL_WORLD_SIZE": "1",
            },
        )
        for rank in range(2)
    ]
    ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert ends[0][0] == ends[1][0] == f"{tmp_path / 'run' / 'checkpoints' / 'dense'}\n"
    assert len((tmp_path / "run" / "index.jsonl").read_text().splitlines()) == 1


def test_rows_of_a_large_mapped_array_are_read_from_its_file(tmp_path, monkeypatch):
    from edgepress.compress.training import batches as module

    monkeypatch.setattr(module, "_LARGE_BYTES", 0)
    path = tmp_path / "data.npy"
    np.save(path, np.arange(120, dtype=np.int16).reshape(10, 3, 4))
    mapped, labels = np.load(path, mmap_mode="r")[2:], np.arange(8)
    gathered = module.GatheredArrays(mapped, labels)
    rows, found, indices = gathered[np.array([1, 4, 7])]
    assert rows.dtype == torch.int16
    assert np.array_equal(rows.numpy(), mapped[[1, 4, 7]])
    assert found.tolist() == indices.tolist() == [1, 4, 7]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UsageError, match="ends before row 7"):
        gathered[np.array([7])]


def test_a_mapped_array_travels_as_the_place_in_its_file(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, np.arange(60, dtype=np.float32).reshape(10, 6))
    mapped = np.load(path, mmap_mode="r")
    for part in (mapped, mapped[3:], mapped[2:9][1:]):
        place = named(part)
        assert not isinstance(place, np.ndarray)
        assert np.array_equal(opened(place), part)
    for other in (mapped[::2], mapped[[1, 2]], np.arange(3)):
        assert opened(named(other)) is other
