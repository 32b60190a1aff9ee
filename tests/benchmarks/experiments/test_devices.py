"""The experiment on networks of recording devices: its choice of the rate, what is compared, and one run of it."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pytest

from edgepress.benchmarks.experiments.teachers import devices as module
from edgepress.benchmarks.experiments.teachers.devices import Plan, Way, summarise
from tests.benchmarks.experiments.small_task import Clips, SmallTask


def logits(right: list[int], margin: float = 1.0) -> np.ndarray:
    """Logits that are right for those clips, by that margin."""
    label = np.where(np.array(right, bool), Clips.labels, 1 - Clips.labels)
    return margin * np.eye(2)[label]


class Subject:
    """What is measured of a seed."""

    task, seed = SmallTask(), 0
    facts: ClassVar = {"devices": ["a"], "macs": 1, "params": 1, "rule": "dcase"}

    def __init__(self, validation: dict[str, np.ndarray], test: dict[str, np.ndarray]):
        self.logits = {"validation": validation, "test": test}


SLOW, FAST = Way(0.1), Way(0.2, 0.5)


def test_the_way_is_chosen_on_validation_alone():
    half, all_right = [0, 1] * 4, [1] * 8
    one = Subject(
        {SLOW.arm: logits(all_right, 3.0), FAST.arm: logits(half, 3.0)},
        # On the test the other way would be the better one.
        {
            "general": logits(half),
            SLOW.arm: logits([1, 1, 0, 1, 1, 1, 0, 1]),
            FAST.arm: logits(all_right),
            "all devices": logits(half),
        },
    )
    results = json.loads(json.dumps(summarise(Plan(), [one], (SLOW, FAST))))
    assert results["chosen"] == {"learning_rate": 0.1, "mixstyle_probability": 0.0}
    # All labels right by 3: ln(1 + exp(-3)) each.
    assert results["tried"][0]["log_loss"] == pytest.approx(np.log1p(np.exp(-3)))
    against_general, control, against_control = (found["accuracy"] for found in results["comparisons"])
    assert (against_general["seen"]["difference"], against_general["a"]["difference"]) == (0.5, 0.5)
    assert against_general["unseen"]["difference"] == 0
    assert control["all"]["difference"] == 0
    assert against_control["all"]["difference"] == 0.25
    del one.logits["test"]["all devices"]
    assert [found["arm"] for found in summarise(Plan(), [one], (SLOW, FAST))["comparisons"]] == ["device models"]


@pytest.mark.slow
def test_a_seed_is_trained_once_and_measured(tmp_path, monkeypatch):
    from tests.compress.train_cases import write_scenes

    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    scenes, run = write_scenes(tmp_path, 9), tmp_path / "run"
    made = Plan.overrides
    kept = ("adapt.min_clips=4", "adapt.train.augment={}", "adapt.train.batch_size=4", "train.augment={}")
    monkeypatch.setattr(Plan, "overrides", lambda self, impulses: (*made(self, impulses), *kept))
    impulses = tmp_path / "impulses"
    impulses.mkdir()
    results = tmp_path / "found.json"
    module.main(str(scenes), str(impulses), run, "0", 2, 1, 1, "mel16k", results)
    found = json.loads(results.read_text())
    assert found["seeds"] == [0]
    assert found["devices"] == ["a", "b"]
    assert set(found["arms"]) == {"general", "device models", "all devices"}
    assert found["arms"]["device models"]["unseen"] == found["arms"]["general"]["unseen"]

    trained = sorted(path.name for path in (run / "seed0" / "checkpoints").iterdir())
    module.main(str(scenes), str(impulses), run, "0", 2, 1, 1, "mel16k", results)
    assert sorted(path.name for path in (run / "seed0" / "checkpoints").iterdir()) == trained
    again = json.loads(results.read_text())
    assert (again["arms"], again["tried"]) == (found["arms"], found["tried"])
