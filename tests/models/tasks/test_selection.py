"""The part of a task that one recording device recorded."""

from __future__ import annotations

import numpy as np
import pytest

from edgepress.models.errors import UsageError
from edgepress.models.tasks import Split, Task
from edgepress.models.tasks.selection import of_recording_device


def make_task() -> Task:
    names = {"train": "abaab", "validation": "aa", "test": "abs"}
    splits = {
        split: Split(
            tuple(f"{split}{n}" for n in range(len(devices))),
            np.arange(len(devices)) % 2,
            tuple(devices),
            tuple(devices),
        )
        for split, devices in names.items()
    }
    arrays = {split: np.arange(len(devices), dtype=np.float32)[:, None, None, None] for split, devices in names.items()}
    waves = {split: np.arange(3 * len(devices)).reshape(-1, 3) for split, devices in names.items()}
    return Task("t", ("x", "y"), (1, 1, 1), "f0", splits, arrays.__getitem__, read_waveforms=waves.__getitem__)


def test_clips_of_one_device():
    part = of_recording_device(make_task(), "b")
    assert part.split("train").names == ("train1", "train4")
    assert part.features("train").ravel().tolist() == [1.0, 4.0]
    assert part.waveforms("train").tolist() == [[3, 4, 5], [12, 13, 14]]
    assert part.split("test").names == ("test1",)
    assert part.features("test").ravel().tolist() == [1.0]
    # b has no validation clip: the epoch is chosen on those of all devices.
    assert part.split("validation").names == ("validation0", "validation1")
    assert part.features("validation").shape == (2, 1, 1, 1)
    assert part.fingerprint != make_task().fingerprint
    assert part.fingerprint != of_recording_device(make_task(), "a").fingerprint
    assert of_recording_device(make_task(), "b").fingerprint == part.fingerprint


def test_a_device_without_training_clips_is_refused():
    with pytest.raises(UsageError, match="recording device 's' has no training clip in t; those with some are a, b"):
        of_recording_device(make_task(), "s")


def test_a_device_without_test_clips_has_none():
    task = make_task()
    few = {**task.splits, "test": task.splits["test"].subset([0])}
    from dataclasses import replace

    part = of_recording_device(replace(task, splits=few), "b")
    assert not part.has("test")
    with pytest.raises(UsageError, match="has no test clips"):
        part.features("test")
