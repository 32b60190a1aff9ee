# SPDX-License-Identifier: Apache-2.0
"""Networks of their own for recording devices: fine-tuned from the general checkpoint, used where a device is known.

DCASE 2025 gives the recording device of every clip at inference. What is reported is device-conditional: a clip of a
device with a network of its own goes through that, every other one through the general network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.compress.pipeline.data import evaluated_splits
from edgepress.compress.pipeline.entries import finished, free_name, keep, key_of
from edgepress.models.atomic import write_json
from edgepress.models.checkpoints.checkpoint import load_checkpoint
from edgepress.models.checkpoints.digests import identity
from edgepress.models.checkpoints.plan import removes
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory, follows
from edgepress.models.tasks.selection import of_recording_device
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    import numpy as np

    from edgepress.compress.recipes.sections import AdaptSettings
    from edgepress.compress.training.machine import Machine
    from edgepress.models.tasks import Task


def adapt_stages(
    run: RunDirectory,
    parent: dict[str, Any],
    settings: AdaptSettings,
    task: Task,
    *,
    machine: Machine,
    seed: int,
    trust: bool = False,
) -> list[tuple[dict[str, Any], Task]]:
    """Fine-tune the network of `parent` for every recording device; (entry, task of the device) of each.

    The figures of all of them together lie in device_models/NAME.json of the run.

    Raises:
        UsageError: a device that the training clips do not have, or data without devices.
    """
    made = []
    for device in _devices(settings, task):
        own = of_recording_device(task, device)
        clips = len(own.split("train"))
        if clips < settings.min_clips:
            say(f"device {device}: {clips} training clips, fewer than {settings.min_clips}: the general network stays")
            continue
        made.append(
            (
                adapt_stage(run, Path(parent["path"]), settings, own, device, machine=machine, seed=seed, trust=trust),
                own,
            )
        )
    if made and not follows():
        _measure(run, parent, {entry["recording_device"]: Path(entry["path"]) for entry, _ in made}, task, trust)
    return made


def _devices(settings: AdaptSettings, task: Task) -> list[str]:
    known = sorted(set(task.split("train").devices or ()))
    if not known:
        raise UsageError(
            f"adapt needs the recording device of every clip, which {task.name} does not say; leave it out"
        )
    if unknown := [device for device in settings.devices if device not in known]:
        raise UsageError(f"adapt.devices names {unknown[0]!r}: training clips are of {', '.join(known)}")
    return list(dict.fromkeys(settings.devices)) or known


def adapt_stage(
    run: RunDirectory,
    parent: Path,
    settings: AdaptSettings,
    task: Task,
    device: str,
    *,
    machine: Machine,
    seed: int,
    trust: bool = False,
) -> dict[str, Any]:
    """Fine-tune the checkpoint `parent` on the clips of `task`, which are those of `device`; the checkpoint's entry."""
    key = key_of("adapt", identity(parent), settings.train.model_dump(), seed, task.fingerprint)
    name = f"{parent.name}-device-{device}"
    facts = {"recording_device": device, "general": parent.name}
    if entry := finished(run, key, name):
        return {**entry, **facts}
    from edgepress.compress.training.evaluate import evaluate_model
    from edgepress.compress.training.train import train

    model, spec = load_checkpoint(parent, trust=trust)
    folder = run.path / "training" / f"{name}-{key[:8]}"
    say(f"device {device}: {parent.name} on {len(task.split('train')):,} clips, {settings.train.epochs} epochs")
    result = train(model, task, settings.train, run=folder, seed=seed, machine=machine, name=name)
    entry = keep(
        run,
        free_name(run, name),
        result.model,
        replace(spec, notes={**spec.notes, "stage": "adapt", "parent": parent.name, **facts}),
        task,
        key,
        folder,
        stage="adapt",
        pruned=removes(spec.plan),
        seed=seed,
        seconds=result.seconds,
        history=result.history,
        best_epoch=result.best_epoch,
        measured={split: evaluate_model(result.model, task, split) for split in evaluated_splits(task)},
        details=facts,
    )
    return {**entry, **facts}


def conditional_logits(
    general: np.ndarray, own: Mapping[str, Path], task: Task, split: str, *, trust: bool = False
) -> np.ndarray:
    """Logits [N, K] of a split: those of its device's network for a clip that has one, else those in `general`."""
    import numpy as np

    from edgepress.compress.training.evaluate import logits_of

    features, devices = task.features(split), np.array(task.split(split).devices)
    joined = general.copy()
    for device, path in own.items():
        rows = np.flatnonzero(devices == device)
        if len(rows):
            joined[rows] = logits_of(load_checkpoint(path, trust=trust)[0], features[rows])
    return joined


def _measure(run: RunDirectory, parent: dict[str, Any], own: dict[str, Path], task: Task, trust: bool) -> None:
    """The general network alone and with the devices' networks, on the validation and test clips of all devices."""
    from edgepress.compress.training.evaluate import evaluate_logits, logits_of

    general, _ = load_checkpoint(parent["path"], trust=trust)
    figures: dict[str, Any] = {}
    for split in evaluated_splits(task):
        alone = logits_of(general, task.features(split))
        figures[split] = {
            "general": evaluate_logits(alone, task, split),
            "device_models": evaluate_logits(conditional_logits(alone, own, task, split, trust=trust), task, split),
        }
    write_json(
        run.path / "device_models" / f"{parent['name']}.json",
        {"schema": 1, "general": parent["name"], "devices": {d: path.name for d, path in own.items()}, **figures},
    )
    last = evaluated_splits(task)[-1]
    shares = []
    for what, key in (("known devices", "seen_devices"), ("unknown devices", "unseen_devices")):
        before, after = (figures[last][name].get(key) for name in ("general", "device_models"))
        if before and after:
            shares.append(f"{what} {100 * after['accuracy']:.1f} % (general {100 * before['accuracy']:.1f} %)")
    say(f"device models of {parent['name']} on {last}: {', '.join(shares) or 'no clip of a known device'}")
