"""The command `compress` as a user calls it: train, prune, quantize, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgepress.models.run_directory import RunDirectory
from tests.compress.train_cases import write_task

ROOT = Path(__file__).resolve().parents[3]
RECIPE = """
name = "small"
device = "dcase2023"
[network]
name = "tests.compress.train_cases:small_net"
[train]
epochs = 3
batch_size = 16
learning_rate = 5e-3
[prune]
updates = 4
[prune.train]
epochs = 2
batch_size = 16
"""


def call(folder, *arguments, **more):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "EDGEPRESS_CACHE": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-m", "edgepress.compress", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a recipe, a task and a trained network in runs/default."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.toml").write_text(RECIPE)
    write_task(folder)
    done = call(folder, "train", "small.toml", "--data", "task.npz", "--trust")
    assert done.returncode == 0, done.stderr
    return folder


def test_train_leaves_a_checkpoint_that_says_how_it_was_made(trained):
    metrics = json.loads((trained / "runs/default/checkpoints/dense/metrics.json").read_text())["metrics"]
    assert metrics["epochs"] == 3
    assert metrics["test"]["accuracy"] > 0.8
    assert metrics["validation"]["total"] == 24
    assert len(metrics["data"]["fingerprint"]) >= 16
    assert metrics["command"].endswith("train small.toml --data task.npz --trust")
    assert metrics["versions"]["torch"]
    assert metrics["seed"] == 0


def test_the_same_training_again_is_said_and_reused(trained):
    done = call(trained, "train", "small.toml", "--data", "task.npz", "--trust")
    assert done.returncode == 0
    assert "finished before" in done.stderr
    assert [entry["name"] for entry in RunDirectory(trained / "runs/default").entries("checkpoint")].count("dense") == 1


@pytest.mark.slow
def test_prune_takes_the_newest_dense_one_and_never_overwrites(trained):
    first = call(trained, "prune", "--target-macs", "50%", "--trust")
    assert first.returncode == 0, first.stderr
    path = trained / first.stdout.strip()
    metrics = json.loads((path / "metrics.json").read_text())["metrics"]
    limits = metrics["prune"]["limits"]
    assert 0.9 * limits["macs"] < metrics["cost"]["macs"] <= limits["macs"]
    # The 128,000 bytes of the class, less the sizes and axes that its challenge counts beside weights.
    assert limits["weight_bytes"] == 127_960
    assert metrics["prune"]["proof_max_abs_diff"] < 1e-4
    assert metrics["prune"]["importance"] == "fisher"  # a classification task

    again = call(trained, "prune", "--target-macs", "50%", "--trust")
    assert again.stdout == first.stdout
    assert "finished before" in again.stderr
    other = call(trained, "prune", "--target-macs", "50%", "--trust", "--epochs", "1")
    assert other.stdout.strip() == first.stdout.strip() + "-2"
    same = call(trained, "prune", "--target-macs", "50%", "--trust", "--set", "prune.train.epochs=1")
    assert (same.stdout, "finished before" in same.stderr) == (other.stdout, True)

    quantized = call(trained, "quantize", "--trust", "--sensitivity")
    assert quantized.returncode == 0, quantized.stderr
    table = json.loads(next(trained.rglob("*-sensitivity.json")).read_text())
    assert {layer["kind"] for layer in table["layers"]} == {"weights", "activations"}
    assert table["clips"] == 24
    assert next(trained.rglob("*-sensitivity.svg")).read_text().startswith("<svg")
    assert quantized.stdout.strip() == other.stdout.strip() + "-w8a8-ptq"


@pytest.mark.slow
def test_a_users_own_network_without_data_is_pruned_in_one_shot(trained):
    import torch

    from tests.compress.train_cases import small_net

    torch.save(small_net().state_dict(), trained / "mine.pt")
    done = call(
        trained,
        "prune",
        "--model",
        "tests.compress.train_cases:small_net",
        "--weights",
        "mine.pt",
        "--input",
        "1,1,12,8",
        "--target-macs",
        "60%",
        "--run",
        "runs/own",
        "--state-dict",
        "small.safetensors",
        "--program",
        "small.pt2",
    )
    assert done.returncode == 0, done.stderr
    assert "one-shot" in done.stderr
    metrics = json.loads((trained / done.stdout.strip() / "metrics.json").read_text())["metrics"]
    assert metrics["prune"]["importance"] == "l2"  # nothing to look at
    assert (trained / "small.safetensors").exists()
    assert torch.export.load(trained / "small.pt2").module()(torch.zeros(1, 1, 12, 8)).shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "prune needs a budget"),
        (["prune", "--target-macs", "20 X"], "--target-macs = '20 X'"),
        (["prune", "--target-macs", "20e6", "--run", "empty"], "run `compress train` first"),
        (["prune", "--target-macs", "20e6"], "run `compress train` first"),
        (["prune", "no/such", "--target-macs", "1k"], "no/such does not exist"),
        (["prune", "--target-macs", "50%", "--device", "cortex-m99", "--trust"], "cortex-m99"),
        (["prune", "--target-bytes", "100"], "has no unit"),
        (["prune", "--target-macs", "10", "--weights", "a.pt"], "belong to --model"),
        (["prune", "--target-macs", "5", "--no-device-limits", "--trust", "--method", "one-shot"], "can"),
        (["prune", "--target-macs", "50%", "--method", "magic"], "method = 'magic'"),
        (["prune", "--target-macs", "50%", "--trust", "--set", "train.epochs=3"], "write prune.KEY=VALUE"),
        (["prune", "--target-macs", "50%", "--trust", "--set", "prune.targets=['20M']"], "give --target-macs"),
        (["prune", "--target-macs", "50%", "--set", "prune.train.loss=own:loss"], "--trust"),
        (["quantize", "--trust", "--set", "quantize.clip=3"], "did you mean 'clips'"),
        (["quantize", "--epochs", "3"], "add --qat"),
        (["train", "--data", "no/such/folder"], "'no/such/folder' does not exist"),
        (["train", "--network", "cp_resnt"], "did you mean 'cp_resnet'"),
        (["train", "nothing.toml"], "neither a file nor a shipped recipe"),
        (["check", "small.toml"], "--trust"),
        (["list", "things"], "allowed are recipes"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(trained, arguments, message):
    done = call(trained, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(trained.rglob("*.partial"))


def test_a_truncated_checkpoint_is_named(trained):
    import shutil

    damaged = trained / "damaged"
    shutil.copytree(trained / "runs/default/checkpoints/dense", damaged, dirs_exist_ok=True)
    weights = damaged / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    done = call(trained, "prune", damaged, "--target-macs", "50%", "--trust")
    assert done.returncode == 2
    assert "weights.safetensors is damaged" in done.stderr


def test_list_names_everything(trained):
    done = call(trained, "list")
    for part in ("default", "cp_resnet", "synthetic", "dcase2023"):
        assert part in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_the_same_command_goes_on(trained, how):
    arguments = ["train", "small.toml", "--data", "task.npz", "--trust", "--epochs", "400", "--run", f"runs/{how.name}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # A runner in the background ignores SIGINT, and so would its children.
    process = subprocess.Popen(
        [sys.executable, "-m", "edgepress.compress", *arguments],
        cwd=trained,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    run = trained / "runs" / how.name
    end = time.monotonic() + 120
    while not list(run.glob("training/*/last.ckpt")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if how is signal.SIGINT else -9), errors
    assert "Traceback" not in errors
    assert ("interrupted; what was finished is kept" in errors) == (how is signal.SIGINT)
    (state,) = run.glob("training/*/last.ckpt")
    assert not list(run.glob("checkpoints/*"))

    import torch

    done = len(torch.load(state, weights_only=True)["edgepress"]["history"])
    finished = call(trained, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert done > 0
    assert "epoch 1/400" not in finished.stderr
    (history,) = run.glob("training/*/history.csv")
    assert len(history.read_text().splitlines()) == 401
