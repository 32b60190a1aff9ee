# SPDX-License-Identifier: Apache-2.0
"""The trainings that the experiments on teachers are made of, and the files that their results lie in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgepress.models.errors import UsageError

#: The impulse responses that are the recording devices of ESC-10 Mobile: with them in the augmentation, the devices
#: that are unseen in training would not be.
SIMULATED_DEVICES = (
    "Reslo_VMC2.wav",
    "IR_STC4033_Ribbon.wav",
    "IR_OktavaMK18_Overload.wav",
    "RCA_varacoustic_fig8.wav",
    "IR_BeyerM500Stock.wav",
    "IR_FosterDynamicDF1.wav",
    "GEC_bigdynamic.wav",
    "IR_Shure510C.wav",
)
#: The report's Figure 2; alpha at lambda 0.5, lambda at alpha 0.2.
ALPHAS, WEIGHTS = (0.0, 0.2, 0.4, 0.8, 1.5), (0.1, 0.5, 1.0, 3.0, 6.0)
BUDGETS = ("20M", "5M")
MEMBERS = 4


def seeds_of(text: str) -> tuple[int, ...]:
    """The seeds of --seeds, in their order.

    Raises:
        UsageError: not whole numbers separated by commas.
    """
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise UsageError(f"--seeds = {text!r} must be whole numbers separated by commas")
    return tuple(int(part) for part in text.split(","))


@dataclass(frozen=True)
class Plan:
    """What the experiments are made of; equal plans give equal trainings.

    Attributes:
        data: folder in the layout of TAU Urban Acoustic Scenes 2022 Mobile.
        impulses: folder of impulse responses for DIR.
        seeds: one repetition each.
        base_channels: width of the teachers' CP-ResNet.
        epochs: of a teacher.
        student_epochs: of a student.
        batch_size: clips per step.
        sweeps: whether alpha and lambda are swept.
        front_end: a preset of models/tasks/features.py.
    """

    data: str
    impulses: str
    seeds: tuple[int, ...] = (0, 1, 2)
    base_channels: int = 24
    epochs: int = 15
    student_epochs: int = 16
    batch_size: int = 32
    sweeps: bool = True
    front_end: str = "mel22"


@dataclass(frozen=True)
class Job:
    """One training, or the fit of one ensemble.

    Attributes:
        name: unique; arm and seed.
        arm: what it is an example of.
        seed: which repetition.
        kind: "teacher", "ensemble" or "student".
        settings: of the training.
        needs: names of jobs that must be finished.
    """

    name: str
    arm: str
    seed: int
    kind: str
    settings: dict[str, Any]
    needs: tuple[str, ...] = ()

    def place(self, run: Path, plan: Plan) -> Path:
        """The file of what it measured, named by everything that it follows from."""
        return run / "measured" / f"{self.name}-{self.key(plan)}.npz"

    def key(self, plan: Plan) -> str:
        common = {
            name: value for name, value in asdict(plan).items() if name not in ("seeds", "sweeps", "data", "impulses")
        }
        text = json.dumps([common, Path(plan.data).name, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def jobs_of(plan: Plan) -> list[Job]:
    """Every job of a plan, in an order in which each comes behind what it needs, the first seed first."""
    jobs: list[Job] = []
    augmented = {
        "mixstyle_probability": 0.8,
        "mixstyle_alpha": 0.3,
        "impulse_probability": 0.6,
        "impulse_folder": plan.impulses,
        "impulse_exclude": SIMULATED_DEVICES,
    }
    base = {
        "batch_size": plan.batch_size,
        "learning_rate": 3e-3,
        "weight_decay": 1e-4,
        "average": 0.99,
        "ramp_up": 0.1,
        "decay_from": 0.2,
        "decay_to": 1.0,
    }
    teacher = {**base, "epochs": plan.epochs}
    plain_term, balanced_term = {"mode": "plain"}, {"mode": "balanced", "weight": 5.0, "beta": 3.0, "balance": 0.5}

    def add(arm: str, seed: int, kind: str, settings: dict[str, Any], needs: Sequence[str] = ()) -> str:
        jobs.append(Job(f"{arm}-seed{seed}", arm, seed, kind, settings, tuple(needs)))
        return jobs[-1].name

    for seed in plan.seeds:
        add("none", seed, "teacher", teacher)
        add("contrastive", seed, "teacher", {**teacher, "contrastive": plain_term})
        add("contrastive-balanced", seed, "teacher", {**teacher, "contrastive": balanced_term})
        # The first member of the ensemble is the augmented network of the other comparisons.
        members = [
            add(
                "augmented" if index == 0 else f"augmented-{index + 1}",
                seed,
                "teacher",
                {**teacher, "augment": augmented},
            )
            for index in range(MEMBERS)
        ]
        add("augmented-contrastive", seed, "teacher", {**teacher, "augment": augmented, "contrastive": balanced_term})
        ensemble = add("ensemble", seed, "ensemble", {"mode": "stable"}, members)
        for budget in BUDGETS:
            student = {**base, "epochs": plan.student_epochs, "augment": augmented, "budget": budget}
            add(f"{budget}-alone", seed, "student", student, members[:1])
            add(
                f"{budget}-distilled",
                seed,
                "student",
                {**student, "distill": {"form": "2022", "temperature": 2.0, "weight": 50.0, "logits": "online"}},
                [*members[:1], ensemble],
            )
    if plan.sweeps:
        chosen = (plain_term.get("alpha", 0.2), plain_term.get("weight", 0.5))
        points = [(alpha, 0.5) for alpha in ALPHAS] + [(0.2, weight) for weight in WEIGHTS]
        for alpha, weight in dict.fromkeys(points):
            if (alpha, weight) != chosen:  # which is the arm "contrastive"
                add(
                    f"sweep-alpha{alpha:g}-lambda{weight:g}",
                    plan.seeds[0],
                    "teacher",
                    {**teacher, "contrastive": {**plain_term, "alpha": alpha, "weight": weight}},
                )
    return jobs
