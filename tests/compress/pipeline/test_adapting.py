"""Networks of their own for recording devices: from the general checkpoint, on their clips, measured together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgepress.compress.pipeline.adapting import adapt_stages
from edgepress.compress.pipeline.data import task_of_recipe
from edgepress.compress.pipeline.run import recipe_of
from edgepress.compress.pipeline.stages import train_stage
from edgepress.compress.recipes.sections import AdaptSettings
from edgepress.compress.training.machine import Machine
from edgepress.models.checkpoints.checkpoint import load_checkpoint
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from tests.compress.train_cases import RECIPE, write_device_task, write_task

MACHINE = Machine("cpu", progress=False)
TRAIN = {"epochs": 2, "batch_size": 8, "precision": "32-true", "select": "last"}


@pytest.fixture
def general(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.format(task=write_device_task(tmp_path)))
    recipe = recipe_of(str(tmp_path / "r.toml"), None, None, None, (), ("train.epochs=2",), False)
    run, task = RunDirectory(tmp_path / "run"), task_of_recipe(recipe)
    return run, train_stage(run, recipe, task, machine=MACHINE), task


def test_each_known_device_gets_a_network(general):
    run, parent, task = general
    settings = AdaptSettings(train=TRAIN, min_clips=8)
    made = adapt_stages(run, parent, settings, task, machine=MACHINE, seed=0)
    assert [entry["recording_device"] for entry, _ in made] == ["a", "b"]
    assert [set(part.split("train").devices) for _, part in made] == [{"a"}, {"b"}]
    metrics = json.loads((run.path / "checkpoints" / "dense-device-b" / "metrics.json").read_text())["metrics"]
    assert (metrics["recording_device"], metrics["general"], metrics["stage"]) == ("b", "dense", "adapt")
    start, own = (load_checkpoint(run.path / "checkpoints" / name)[0] for name in ("dense", "dense-device-b"))
    moved = [
        not np.array_equal(p.detach(), q.detach()) for p, q in zip(start.parameters(), own.parameters(), strict=True)
    ]
    assert any(moved)

    figures = json.loads((run.path / "device_models" / "dense.json").read_text())
    assert figures["devices"] == {"a": "dense-device-a", "b": "dense-device-b"}
    alone, joined = figures["test"]["general"], figures["test"]["device_models"]
    # s4 is unknown: it keeps the general network, and its figures.
    assert joined["by_recording_device"]["s4"] == alone["by_recording_device"]["s4"] == joined["unseen_devices"]
    own_test = metrics["test"]
    assert joined["by_recording_device"]["b"]["correct"] == own_test["correct"]
    assert joined["by_recording_device"]["b"]["log_loss"] == pytest.approx(own_test["log_loss"], abs=1e-6)

    again = adapt_stages(run, parent, settings, task, machine=MACHINE, seed=0)
    assert [entry["path"] for entry, _ in again] == [entry["path"] for entry, _ in made]
    assert len(run.entries("checkpoint")) == 3


def test_rare_and_unknown_devices(general, tmp_path):
    run, parent, task = general
    few = AdaptSettings(train=TRAIN, min_clips=1000)
    assert adapt_stages(run, parent, few, task, machine=MACHINE, seed=0) == []
    assert not (run.path / "device_models").exists()
    with pytest.raises(UsageError, match=r"adapt\.devices names 's4': training clips are of a, b"):
        adapt_stages(run, parent, AdaptSettings(devices=("s4",)), task, machine=MACHINE, seed=0)
    from edgepress.models.tasks import load_task

    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match="adapt needs the recording device of every clip"):
        adapt_stages(run, parent, few, load_task(write_task(tmp_path / "plain")), machine=MACHINE, seed=0)
