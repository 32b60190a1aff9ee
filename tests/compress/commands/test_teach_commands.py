"""`compress teach`, `ensemble`, `distill` and the options --teacher, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgepress.models.run_directory import RunDirectory
from tests.compress.commands.test_cli import call
from tests.compress.train_cases import write_device_task

RECIPE = """
name = "small"
[network]
name = "tests.compress.train_cases:latent_net"
[teacher]
count = 2
[teacher.train]
epochs = 1
batch_size = 16
[train]
epochs = 1
batch_size = 16
[prune]
updates = 2
[prune.train]
epochs = 2
batch_size = 16
"""


def metrics_of(folder: Path, path: str) -> dict:
    return json.loads((folder / path / "metrics.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A folder with a recipe, a task and, in runs/default, two teachers and their ensemble."""
    folder = tmp_path_factory.mktemp("teach")
    (folder / "small.toml").write_text(RECIPE)
    write_device_task(folder)
    done = call(folder, "teach", "small.toml", "--data", "devices.npz", "--trust", "--lambda", "0.3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["runs/default/teachers/teacher-1", "runs/default/teachers/teacher-2"]
    assert "recording device read from the latent of test" in done.stderr
    return folder


@pytest.mark.slow
def test_teachers_become_an_ensemble_that_a_student_follows(taught):
    settings = metrics_of(taught, "runs/default/teachers/teacher-1")["train_settings"]
    assert settings["contrastive"]["weight"] == 0.3
    joined = call(taught, "ensemble", "--trust", "--mode", "paper")
    assert joined.returncode == 0, joined.stderr
    lines = joined.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["teacher-1", "teacher-2"]
    assert lines[-1] == "runs/default/ensembles/ensemble"

    student = call(taught, "distill", "small.toml", "--data", "devices.npz", "--trust", "--logits", "cached")
    assert student.returncode == 0, student.stderr
    assert student.stdout.strip() == "runs/default/checkpoints/distilled"
    assert metrics_of(taught, student.stdout.strip())["distill"]["logits"] == "cached"
    further = call(
        taught,
        "distill",
        "--student",
        "runs/default/checkpoints/distilled",
        "--trust",
        "--teacher",
        "runs/default/teachers/teacher-2",
        "--form",
        "2022",
        "--weight",
        50,
    )
    assert further.returncode == 0, further.stderr
    assert metrics_of(taught, further.stdout.strip())["distill"]["teacher"] == "teacher-2"
    pruned = call(taught, "prune", "--target-macs", "60%", "--trust", "--teacher", "runs/default/ensembles/ensemble")
    assert pruned.returncode == 0, pruned.stderr
    assert metrics_of(taught, pruned.stdout.strip())["distill"]["members"] == 2
    assert len(RunDirectory(taught / "runs/default").entries("teacher")) == 2


@pytest.mark.slow
def test_published_weights_come_from_a_file_and_nothing_is_unpickled(taught, tmp_path):
    write_device_task(tmp_path)
    (tmp_path / "small.toml").write_text(RECIPE)
    missing = call(
        tmp_path,
        "teach",
        "small.toml",
        "--data",
        "devices.npz",
        "--trust",
        "--network",
        "passt",
        "--weights",
        "no.pt",
        "--count",
        1,
    )
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr
    torch.save({"state_dict": Path("x")}, tmp_path / "bad.pt")
    bad = call(tmp_path, "teach", "small.toml", "--data", "devices.npz", "--trust", "--weights", "bad.pt")
    assert bad.returncode == 2
    assert "not read because it can run code" in bad.stderr


@pytest.mark.slow
def test_what_is_missing_is_named_with_the_command_to_run_first(tmp_path):
    for command, wanted in ((("ensemble",), "compress teach --count N"), (("distill",), "compress teach")):
        done = call(tmp_path, *command)
        assert done.returncode == 2
        assert wanted in done.stderr.replace("\n", " ")
