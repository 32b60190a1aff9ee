"""What `compress run --dry-run` says: every stage in its order, its time from a few steps, nothing written."""

from __future__ import annotations

import pytest

from edgepress.compress.pipeline.run import recipe_of
from edgepress.compress.sweep.forecast import duration, stages_of, text_of
from tests.compress.train_cases import RECIPE, write_device_task, write_task

TEACHER = """
[teacher]
count = 3
network = { name = "ds_cnn", arguments = { channels = 24, n_blocks = 2 } }
[teacher.train]
epochs = 4
[distill]
logits = "cached"
"""


def timed(recipe, task, batch):
    """Seconds of training for one clip: a teacher's are five times those of a student."""
    return 0.05 if recipe.network.arguments["channels"] == 24 else 0.01


def test_every_stage_with_its_time(tmp_path):
    task = write_task(tmp_path)  # 96 clips to train on
    (tmp_path / "r.toml").write_text(RECIPE.format(task=task) + TEACHER)
    recipe = recipe_of(str(tmp_path / "r.toml"), None, None, None, (), ('prune.targets=["60%", "30%"]',), False)
    stages = {stage.name: stage.seconds for stage in stages_of(recipe, timed)}
    clips = 96
    assert list(stages) == [
        *("teacher-1", "teacher-2", "teacher-3", "ensemble", "dense"),
        *("prune to 60%", "prune to 30%", "int8", "files"),
    ]
    assert stages["teacher-2"] == pytest.approx(clips * 0.05 * (4 + 1 / 3))
    assert stages["dense"] == pytest.approx(clips * 0.01 * 3), "cached logits cost a student nothing"
    assert stages["prune to 30%"] == pytest.approx(clips * 0.01 * 5 * 4 / 3)
    assert stages["int8"] == pytest.approx(3 * clips * 0.01 * 2 * 4 / 3)
    text = text_of(stages_of(recipe, timed)).splitlines()
    assert len(text) == 10
    assert text[4].split() == ["dense", "0.0", "min", "train", "ds_cnn:", "3", "epochs", "of", "96", "samples"]
    assert "about" in text[-1]


def test_devices_and_experiments_are_counted(tmp_path):
    task = write_device_task(tmp_path)  # to train on: 18 recordings, twice by device a and once by b
    adapt = "[adapt]\nmin_clips = 10\n[adapt.train]\nepochs = 2\nbatch_size = 8\n"
    (tmp_path / "r.toml").write_text(RECIPE.format(task=task) + TEACHER + adapt)
    changes = ("teacher.experiments=true", "prune.targets=[]")
    recipe = recipe_of(str(tmp_path / "r.toml"), None, None, None, (), changes, False)
    stages = {stage.name: stage.seconds for stage in stages_of(recipe, timed)}
    assert stages["experiments"] == pytest.approx(11 * stages["teacher-1"]), "3 without the term, 8 points"
    assert stages["device a"] == pytest.approx(2 * 36 * 0.01)
    assert stages["device b"] == pytest.approx(2 * 18 * 0.01)
    assert stages["int8"] == pytest.approx(3 * 54 * 0.01 * 2 * 4 / 3)


def test_a_student_alone_is_timed_on_this_machine(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.format(task=write_task(tmp_path)))
    recipe = recipe_of(str(tmp_path / "r.toml"), None, None, None, (), (), False)
    stages = {stage.name: stage.seconds for stage in stages_of(recipe)}
    assert 0 < stages["dense"] < 600


def test_durations():
    assert [duration(seconds) for seconds in (90, 5400, 86400, 3 * 86400)] == ["1.5 min", "1.5 h", "24.0 h", "3.0 d"]
