# SPDX-License-Identifier: Apache-2.0
"""One training of the comparison: a dense network, or a smaller one made by one method, and how it does on the test.

Every method starts from the same dense network of a seed, has the same epochs, augmentation, distillation from that
network and schedule, goes through the same loop (`training.train`) and takes the epoch that is best on validation.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.benchmarks.experiments.peers.data import LENGTHS, Experiment
from edgepress.benchmarks.experiments.peers.methods import MILESTONES, OURS, PEERS, SCRATCH

if TYPE_CHECKING:
    from torch import nn

    from edgepress.compress.recipes.recipe import PruneSettings, TrainSettings
    from edgepress.compress.training.machine import Machine
    from edgepress.compress.training.train import TrainResult


@dataclass(frozen=True)
class Trial:
    """One training: the dense network where `method` is None."""

    experiment: Experiment
    data: str
    seed: int
    method: str | None = None
    share: float = 1.0
    length: str = "short"
    rate: float = 0.0

    @property
    def name(self) -> str:
        if self.method is None:
            return f"{self.experiment.name} dense seed {self.seed}"
        return (
            f"{self.experiment.name} {round(100 * self.share)} % {self.length} {self.method} rate {self.rate:g} "
            f"seed {self.seed}"
        )

    @cached_property
    def key(self) -> dict[str, Any]:
        """What tells its line from all others."""
        return {
            "experiment": self.experiment.name,
            "method": self.method,
            "share": self.share,
            "length": self.length,
            "rate": self.rate,
            "seed": self.seed,
        }

    def settings(self) -> PruneSettings:
        """Of pruning and its training, at this rate and length."""
        prune = self.experiment.prune
        epochs = prune.train.epochs * LENGTHS[self.length]
        if self.method is not None and SCRATCH.get(self.method):
            epochs += self.experiment.dense.epochs
        train = prune.train.model_copy(update={"epochs": epochs, "learning_rate": self.rate})
        return prune.model_copy(update={"train": train, **OURS.get(self.method or "", {})})


def run_trial(run: Path, trial: Trial, accelerator: str = "cpu") -> dict[str, Any]:
    """Train and test.

    Returns:
        JSON: the trial's key, macs, params, target_macs, epochs, best_epoch, validation_accuracy, test_accuracy,
        log_loss, seconds, right (one character, 0 or 1, for each test clip).
    """
    from edgepress.compress.training.machine import Machine

    start, task = time.perf_counter(), open_data(trial)
    machine = Machine(accelerator=accelerator, devices=1, progress=False)
    folder = run / "training" / trial.name.replace(" ", "-")
    made = _dense if trial.method is None else _smaller
    model, trained = made(run, trial, task, folder, machine)
    result = {**trial.key, **_measured(model, task), **trained, "seconds": round(time.perf_counter() - start, 1)}
    shutil.rmtree(folder, ignore_errors=True)
    return result


def open_data(trial: Trial) -> Any:
    """The task of a trial."""
    from edgepress.compress.pipeline.data import open_task

    return open_task(trial.data, trial.experiment.front_end)


def dense_network(trial: Trial, task: Any) -> tuple[nn.Module, Any]:
    """The experiment's network with fresh weights, and its spec."""
    from edgepress.compress.pipeline.networks import build_for
    from edgepress.compress.recipes.recipe import NetworkSettings

    arguments = dict(trial.experiment.arguments)
    if trial.experiment.front_end is None:  # networks for images take the size of theirs
        arguments["input_size"] = list(task.input_shape[1:])
    return build_for(NetworkSettings(name=trial.experiment.network, arguments=arguments), task, trial.seed)


def dense_checkpoint(run: Path, trial: Trial) -> Path:
    """Where the dense network of a trial's seed is kept."""
    return run / "dense" / f"{trial.experiment.name}-{trial.seed}"


def _dense(run: Path, trial: Trial, task: Any, folder: Path, machine: Machine) -> tuple[nn.Module, dict[str, Any]]:
    from edgepress.compress.training.train import train
    from edgepress.models.checkpoints.checkpoint import save_checkpoint

    model, spec = dense_network(trial, task)
    result = train(model, task, trial.experiment.dense, run=folder, seed=trial.seed, machine=machine, name=trial.name)
    dense_checkpoint(run, trial).parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(dense_checkpoint(run, trial), result.model, spec, {}, overwrite=True)
    return result.model, _trained(result)


def _smaller(run: Path, trial: Trial, task: Any, folder: Path, machine: Machine) -> tuple[nn.Module, dict[str, Any]]:
    from edgepress.compress.prune.schedules.trainers import prune_and_train
    from edgepress.models.checkpoints.checkpoint import load_checkpoint
    from edgepress.models.cost.cost import cost_of
    from edgepress.models.limits import Limits

    dense, spec = load_checkpoint(dense_checkpoint(run, trial))
    inputs = spec.example_inputs()
    target = int(trial.share * cost_of(dense, inputs).macs)
    if trial.method in PEERS:
        model, trained = _peer(trial, task, folder, dense, inputs[0], target, machine)
        return model, {**trained, "target_macs": target}
    settings = trial.settings()
    if trial.method in SCRATCH:
        settings = settings.model_copy(update={"method": "from-scratch"})
    result = prune_and_train(
        dense,
        inputs,
        task,
        Limits(macs=target),
        settings,
        fresh=lambda: dense_network(trial, task)[0],
        run=folder,
        seed=trial.seed,
        machine=machine,
        name=trial.name,
    )
    return result.model, {**_trained(result), "target_macs": target}


def _peer(
    trial: Trial, task: Any, folder: Path, dense: nn.Module, example: Any, target: int, machine: Machine
) -> tuple[nn.Module, dict[str, Any]]:
    """Torch-Pruning: at once and then trained, or in milestones, each but the last followed by a part of the epochs
    that ours shape weights in, at the same constant rate."""
    from edgepress.benchmarks.experiments.peers.torch_pruning import Progress
    from edgepress.compress.prune.schedules.trainers import at_constant_rate, data_scoring
    from edgepress.compress.training.train import train
    from edgepress.models.cost.cost import cost_of

    assert trial.method is not None
    ranking, between = PEERS[trial.method]
    settings = trial.settings()
    progress = Progress(dense, example, ranking, **data_scoring(ranking.importance, task))
    epochs = settings.train.epochs
    shaped = min(round(settings.shaping_share * epochs), epochs - 1) if between else 0
    steps = min(MILESTONES, shaped + 1)
    history: list[dict[str, float]] = []

    def trained(train_settings: TrainSettings, part: int) -> TrainResult:
        return train(
            progress.model,
            task,
            train_settings,
            teacher=dense,
            distill=settings.distill,
            run=folder / str(part),
            seed=trial.seed + part,
            machine=machine,
            name=trial.name,
        )

    for part in range(1, steps):
        progress.until(progress.dense * trial.share ** (part / steps))
        own = shaped // (steps - 1) + (part <= shaped % (steps - 1))
        result = trained(at_constant_rate(settings.train, own), part)
        history += result.history
        progress.model.load_state_dict(result.model.state_dict())
    progress.until(trial.share * progress.dense, lambda network: cost_of(network, example).macs, target)
    last = trained(settings.train.model_copy(update={"epochs": epochs - len(history)}), steps)
    return last.model, {**_trained(last), "epochs": len(history) + len(last.history)}


def _trained(result: Any) -> dict[str, Any]:
    return {
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "validation_accuracy": max(
            (record["validation_accuracy"] for record in result.history if record.get("phase") != "shape"), default=None
        ),
    }


def _measured(model: nn.Module, task: Any) -> dict[str, Any]:
    import torch

    from edgepress.compress.training.evaluate import logits_of
    from edgepress.models.cost.cost import cost_of

    cost = cost_of(model, torch.zeros(1, *task.input_shape))
    logits = logits_of(model, task.features("test"))
    labels = np.asarray(task.split("test").labels)
    right = logits.argmax(1) == labels
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return {
        "macs": cost.macs,
        "params": cost.params,
        "test_accuracy": float(right.mean()),
        "log_loss": float(losses.mean()),
        "right": "".join(map(str, right.astype(int))),
    }
