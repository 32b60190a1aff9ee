# SPDX-License-Identifier: Apache-2.0
"""A part of a task: the clips of one recording device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.cache import digest
from edgepress.models.tasks.task import Task


def of_recording_device(task: Task, device: str) -> Task:
    """The task with the clips of one recording device alone.

    A device without validation or calibration clips keeps those of all devices, so that an epoch can still be chosen
    and ranges can be found; a split of training or test clips is then empty.

    Args:
        task: with recording devices.
        device: as in `Split.devices`.

    Raises:
        UsageError: no training clip of this device.
    """
    chosen = {}
    for name, split in task.splits.items():
        rows = np.flatnonzero(np.array(split.devices or (), dtype=object) == device)
        if len(rows) or name in ("train", "test"):
            chosen[name] = rows
    if not len(chosen.get("train", ())):
        known = sorted(set(task.split("train").devices or ()))
        raise UsageError(
            f"recording device {device!r} has no training clip in {task.name}; those with some are "
            f"{', '.join(known) or 'none: the task does not say devices'}"
        )

    def features(split: str) -> np.ndarray:
        found = task.features(split)
        return found[chosen[split]] if split in chosen else found

    def waveforms(split: str) -> np.ndarray:
        found = task.waveforms(split)
        return found[chosen[split]] if split in chosen else found

    return replace(
        task,
        name=f"{task.name}, device {device}",
        fingerprint=digest("recording device", task.fingerprint, device),
        splits={name: split.subset(chosen[name]) if name in chosen else split for name, split in task.splits.items()},
        read_features=features,
        read_waveforms=waveforms if task.read_waveforms is not None else None,
        stored=None,
        read_stored=None,
    )
