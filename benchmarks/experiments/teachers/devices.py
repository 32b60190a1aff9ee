# SPDX-License-Identifier: Apache-2.0
"""Networks of their own for recording devices against the general one, on real recordings.

    python -m edgepress.benchmarks.experiments.teachers.devices --data ./esc10-mobile --impulses ./micirp \\
        --run runs/devices --seeds 0,1,2 --output benchmarks/results/device_models.json --page docs/teachers.md

The stages are those of the recipe dcase2025: a general network, then one for each known recording device, fine-tuned
from the general checkpoint. What is finished is not trained again, so that the command can be killed and called again;
the results file is written behind every seed.

How to fine-tune (learning rate, Freq-MixStyle) is chosen on the validation recordings with the first seed. A control
is then fine-tuned with the same settings on the clips of all devices: what it gains is owed to more training without
augmentation, and not to the device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgepress.benchmarks.experiments.teachers.page import page_of
from edgepress.benchmarks.experiments.teachers.plan import SIMULATED_DEVICES, seeds_of
from edgepress.benchmarks.experiments.teachers.results import (
    DEVICE_MODELS,
    SPLIT,
    Found,
    arm_of,
    by_clip,
    command_of,
    data_facts,
    differences,
    groups_of,
    pairs_of,
)
from edgepress.benchmarks.measure.environment import environment
from edgepress.benchmarks.report.teacher_tables import read_results
from edgepress.compress.recipes.writing import toml
from edgepress.models.atomic import write_json, write_text
from edgepress.models.command_line import run_command
from edgepress.models.errors import UsageError

SCHEMA = 1
MODULE = "devices"
#: Name, arm, arm it is compared with.
COMPARISONS = (
    ("device models against the general network", "device models", "general"),
    ("trained on with all devices, against the general network", "all devices", "general"),
    ("device models against training on with all devices", "device models", "all devices"),
)


@dataclass(frozen=True)
class Way:
    """How a network is fine-tuned: the peak of the learning rate, and the probability of Freq-MixStyle."""

    learning_rate: float
    mixstyle_probability: float = 0.0

    @property
    def arm(self) -> str:
        """The name of the device models that are made so."""
        return f"device models, {self.learning_rate:g}, {self.mixstyle_probability:g}"


#: What is tried; the challenge's baseline has 5e-4, without Freq-MixStyle.
WAYS = (Way(1e-4), Way(5e-4), Way(5e-4, 0.8))


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        base_channels: width of the CP-ResNet.
        epochs: of the general network, with DIR and Freq-MixStyle.
        adapt_epochs: of each fine-tuning, without DIR.
        front_end: a preset.
    """

    base_channels: int = 16
    epochs: int = 15
    adapt_epochs: int = 12
    front_end: str = "mel22"

    def overrides(self, impulses: str) -> tuple[str, ...]:
        """What the recipe dcase2025 is changed by; `compress run dcase2025 --set` takes the same."""
        network = {"rho": 8, "n_blocks": [2, 1, 1], "base_channels": self.base_channels}
        general = {
            "mixstyle_probability": 0.8,
            "mixstyle_alpha": 0.3,
            "impulse_probability": 0.6,
            "impulse_folder": impulses,
            "impulse_exclude": list(SIMULATED_DEVICES),
        }
        values: dict[str, Any] = {
            "front_end": self.front_end,
            "network.name": "cp_resnet",
            "network.arguments": network,
            "train.epochs": self.epochs,
            "train.batch_size": 32,
            "train.optimizer": "adam",
            "train.learning_rate": 3e-3,
            "train.average": 0.99,
            "train.ramp_up": 0.1,
            "train.decay_from": 0.2,
            "train.augment": general,
            "adapt.min_clips": 32,
            "adapt.train.epochs": self.adapt_epochs,
            "adapt.train.batch_size": 32,
            "adapt.train.select": "last",
            "adapt.train.average": 0.99,
            "adapt.train.augment": {"roll_frames": 4, "frequency_mask": 48},
        }
        return tuple(f"{name}={toml(value)}" for name, value in values.items())


class Subject:
    """The general network of a seed and what is fine-tuned from it; what is trained already is taken from its run."""

    def __init__(self, plan: Plan, data: str, impulses: str, run: Path, seed: int):
        from edgepress.compress.pipeline.data import task_of_recipe
        from edgepress.compress.pipeline.run import recipe_of
        from edgepress.compress.pipeline.stages import train_stage
        from edgepress.compress.training.machine import Machine
        from edgepress.models.run_directory import RunDirectory

        recipe = recipe_of("dcase2025", data, seed, None, (), plan.overrides(impulses), False)
        assert recipe.adapt is not None
        self.seed, self.task, self._settings = seed, task_of_recipe(recipe), recipe.adapt
        self._run, self._machine = RunDirectory(run / f"seed{seed}"), Machine(accelerator="cpu", progress=False)
        with self._run.lock():
            self._parent = train_stage(self._run, recipe, self.task, machine=self._machine)
        self._general = Path(self._parent["path"])
        self.logits = {split: {"general": self._logits(self._general, split)} for split in ("validation", SPLIT)}
        self.facts: dict[str, Any] = {}

    def device_models(self, way: Way) -> None:
        """A network for each known device, fine-tuned in that way: the arm `way.arm`."""
        from edgepress.compress.pipeline.adapting import adapt_stages, conditional_logits
        from edgepress.models.checkpoints.checkpoint import read_metrics

        with self._run.lock():
            made = adapt_stages(
                self._run, self._parent, self._at(way), self.task, machine=self._machine, seed=self.seed
            )
        own = {entry["recording_device"]: Path(entry["path"]) for entry, _ in made}
        for split, logits in self.logits.items():
            logits[way.arm] = conditional_logits(logits["general"], own, self.task, split)
        cost = read_metrics(self._general)["cost"]
        self.facts = {"devices": sorted(own), "macs": cost["macs"], "params": cost["params"], "rule": cost["rule"]}

    def control(self, way: Way) -> None:
        """The same on the clips of all devices: the arm "all devices"."""
        from edgepress.compress.pipeline.adapting import adapt_stage

        with self._run.lock():
            entry = adapt_stage(
                self._run, self._general, self._at(way), self.task, "all", machine=self._machine, seed=self.seed
            )
        for split, logits in self.logits.items():
            logits["all devices"] = self._logits(Path(entry["path"]), split)

    def _at(self, way: Way) -> Any:
        settings = self._settings.train
        augment = settings.augment.model_copy(update={"mixstyle_probability": way.mixstyle_probability})
        train = settings.model_copy(update={"learning_rate": way.learning_rate, "augment": augment})
        return self._settings.model_copy(update={"train": train})

    def _logits(self, path: Path, split: str) -> np.ndarray:
        from edgepress.compress.training.evaluate import logits_of
        from edgepress.models.checkpoints.checkpoint import load_checkpoint

        return logits_of(load_checkpoint(path)[0], self.task.features(split))


def tried_of(subject: Any, ways: Sequence[Way]) -> list[dict[str, Any]]:
    """Accuracy and log loss of a seed's device models on the validation clips, one row for each way."""
    clips, rows = _Clips(subject.task, "validation"), []
    for way in ways:
        found = clips.found(subject, way.arm)
        rows.append({**asdict(way), "accuracy": float(found.right.mean()), "log_loss": float(found.losses.mean())})
    return rows


def chosen_way(tried: Sequence[Mapping[str, Any]], ways: Sequence[Way]) -> Way:
    """The way with the least log loss on the validation clips."""
    return min(zip(tried, ways, strict=True), key=lambda pair: pair[0]["log_loss"])[1]


def summarise(plan: Plan, subjects: Sequence[Any], ways: Sequence[Way]) -> dict[str, Any]:
    """Everything that is finished, as one JSON-able dictionary; the test clips have no part in the choice."""
    tried = tried_of(subjects[0], ways)
    chosen = chosen_way(tried, ways)
    task, facts = subjects[0].task, subjects[0].facts
    clips, trained_on = _Clips(task, SPLIT), np.asarray(task.split("train").devices)
    names = {"general": "general", "device models": chosen.arm, "all devices": "all devices"}
    arms = {
        title: [clips.found(one, arm) for one in subjects if arm in one.logits[SPLIT]] for title, arm in names.items()
    }
    groups = {**clips.groups, **{name: clips.devices == name for name in facts["devices"]}}
    comparisons = []
    for title, a, b in COMPARISONS:
        if pairs := pairs_of(arms[a], arms[b]):
            found = differences(pairs, groups, task.split(SPLIT).identifiers)
            comparisons.append({"title": title, "arm": a, "against": b, "seeds": [pair[0] for pair in pairs], **found})
    return {
        "schema": SCHEMA,
        "command": command_of(MODULE),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
        "data": {
            **data_facts(task),
            "train_clips": {name: int((trained_on == name).sum()) for name in facts["devices"]},
        },
        "plan": asdict(plan),
        "recipe": list(plan.overrides("micirp")),
        "seeds": [one.seed for one in subjects],
        **facts,
        "tried": tried,
        "chosen": asdict(chosen),
        "arms": {name: arm_of(members, clips.devices, clips.groups) for name, members in arms.items() if members},
        "comparisons": comparisons,
    }


class _Clips:
    """The clips of a split, and what a network got right of them."""

    def __init__(self, task: Any, split: str):
        clips, self.split = task.split(split), split
        self.labels, self.devices = clips.labels, np.asarray(clips.devices)
        self.groups = groups_of(self.devices, task.unseen_devices)

    def found(self, subject: Any, arm: str) -> Found:
        arrays = by_clip(subject.logits[self.split][arm], self.labels)
        about = {"seed": subject.seed, "figures": {}}
        return Found(about, arrays["right"].astype(float), arrays["losses"], None)


def main(
    data: Annotated[str, typer.Option(help="Folder in the layout of TAU Urban Acoustic Scenes 2022 Mobile.")],
    impulses: Annotated[str, typer.Option(help="Folder of impulse responses for DIR.")],
    run: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/devices"),
    seeds: Annotated[str, typer.Option(help="Repetitions, separated by commas.")] = "0,1,2",
    base_channels: Annotated[int, typer.Option(min=2, help="Width of the CP-ResNet.")] = 16,
    epochs: Annotated[int, typer.Option(min=1, help="Of the general network.")] = 15,
    adapt_epochs: Annotated[int, typer.Option(min=1, help="Of each fine-tuning.")] = 12,
    front_end: Annotated[str, typer.Option(help="A preset: mel22, mel16k, ...")] = "mel22",
    output: Annotated[Path | None, typer.Option(help="Results file, written behind every seed.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Markdown page, written from it and from teachers.json beside it.")
    ] = None,
) -> None:
    """Train, compare and write results, going on from what is finished."""
    import torch

    chosen_seeds = dict.fromkeys(seeds_of(seeds))
    if not Path(impulses).is_dir():
        raise UsageError(f"--impulses = {impulses!r} is no folder of impulse responses")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    plan, subjects = Plan(base_channels, epochs, adapt_epochs, front_end), []

    def write() -> None:
        results = summarise(plan, subjects, WAYS)
        for path in (run / DEVICE_MODELS, output):
            if path is not None:
                write_json(path, results)
        if page is not None and output is not None:
            write_text(page, page_of(read_results(output.with_name("teachers.json")), results))

    for seed in chosen_seeds:
        subject = Subject(plan, data, impulses, run, seed)
        subjects.append(subject)
        for way in WAYS if subject is subjects[0] else [chosen_way(tried_of(subjects[0], WAYS), WAYS)]:
            subject.device_models(way)
        write()
    for subject in subjects:
        subject.control(chosen_way(tried_of(subjects[0], WAYS), WAYS))
        write()


if __name__ == "__main__":
    app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_command(app)
