# SPDX-License-Identifier: Apache-2.0
"""One training of the comparison: a dense network, or a smaller one made by one method, and how it does on the test.

Every method starts from the same dense network, has the same epochs, augmentation, distillation from that network and
schedule, goes through the same loop (`training.train`) and takes the epoch that is best on validation.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgepress.compress.recipes.recipe import PROJECTIONS, Augment, Distill, PruneSettings, TrainSettings
from edgepress.models.atomic import write_json

if TYPE_CHECKING:
    from torch import nn

#: Name -> what differs from the settings that all share. `torch-pruning-*` prunes with its own progressive loop.
METHODS: dict[str, dict[str, Any]] = {
    **{
        f"{method}+{projection}": {"method": method, "projection": projection}
        for method in ("admm", "gradual", "one-shot")
        for projection in PROJECTIONS
    },
    "from-scratch": {"method": "from-scratch"},
    "torch-pruning-l2": {"importance": "l2"},
    "torch-pruning-lamp": {"importance": "lamp"},
    "torch-pruning-taylor": {"importance": "taylor"},
}
OURS = tuple(name for name in METHODS if "+" in name)
PEERS = tuple(name for name in METHODS if name.startswith("torch-pruning"))
SHARES = (0.25, 0.12)


@dataclass(frozen=True)
class Experiment:
    """A network, its data and the training that all methods share.

    Attributes:
        name: of the experiment.
        network, arguments: of `models.build`; channels and classes follow from the task.
        dense: training of the dense network.
        prune: training budget of every method, and its distillation.
        front_end: of audio.
    """

    name: str
    network: str
    arguments: dict[str, Any]
    dense: TrainSettings
    prune: PruneSettings
    front_end: str | None = None

    def facts(self) -> dict[str, Any]:
        """JSON-able: what the results of this experiment depend on."""
        return {
            "network": self.network,
            "arguments": self.arguments,
            "front_end": self.front_end,
            "dense": self.dense.model_dump(mode="json"),
            "prune": self.prune.model_dump(mode="json"),
        }


def experiments(epochs: dict[str, tuple[int, int]] | None = None) -> dict[str, Experiment]:
    """The two of the comparison; `epochs` replaces (dense, pruned) by name, for tests."""
    blind = Augment(mixstyle_probability=0.8, mixstyle_alpha=0.3, roll_frames=44)
    chosen = {"esc10-mobile": (16, 14), "digits": (40, 40), **(epochs or {})}
    audio, images = chosen["esc10-mobile"], chosen["digits"]
    sound = TrainSettings(
        epochs=audio[0],
        batch_size=32,
        learning_rate=3e-3,
        weight_decay=1e-4,
        average=0.99,
        ramp_up=0.1,
        decay_from=0.2,
        decay_to=1.0,
        augment=blind,
    )
    image = TrainSettings(
        epochs=images[0],
        batch_size=32,
        weight_decay=1e-4,
        ramp_up=0.1,
        decay_from=0.2,
        decay_to=1.0,
        precision="32-true",
    )
    return {
        "esc10-mobile": Experiment(
            "esc10-mobile",
            "cp_resnet",
            {"rho": 8, "n_blocks": [2, 1, 1], "base_channels": 16},
            sound,
            _pruning(sound, audio[1], Distill(form="2022", temperature=2.0, weight=50.0)),
            "mel22",
        ),
        "digits": Experiment(
            "digits",
            "resnet8",
            {"base_channels": 8},
            image,
            _pruning(image, images[1], Distill(form="2023", temperature=2.0, weight=0.9)),
        ),
    }


def _pruning(dense: TrainSettings, epochs: int, distill: Distill) -> PruneSettings:
    train = dense.model_copy(update={"epochs": epochs, "ramp_up": 0.0, "decay_from": 0.1})
    return PruneSettings(train=train, distill=distill, shaping_share=0.3, rho_end=0.1)


@dataclass(frozen=True)
class Trial:
    """One training: the dense network where `method` is None."""

    experiment: Experiment
    data: str
    seed: int
    method: str | None = None
    share: float = 1.0

    @property
    def name(self) -> str:
        return (
            f"seed{self.seed}-dense"
            if self.method is None
            else (f"seed{self.seed}-{round(100 * self.share)}-{self.method}")
        )


def result_path(run: Path, trial: Trial) -> Path:
    """Where the result of a trial is kept."""
    return run / trial.experiment.name / f"{trial.name}.json"


def finished_result(run: Path, trial: Trial) -> dict[str, Any] | None:
    """The result of a finished trial, or None."""
    path = result_path(run, trial)
    return json.loads(path.read_text()) if path.exists() else None


def run_trial(run: Path, trial: Trial) -> dict[str, Any]:
    """Train and test; what is finished is read, what was interrupted goes on from its last epoch.

    Returns:
        JSON: macs, params, epochs, best_epoch, validation_accuracy, test_accuracy, log_loss, seconds, right (one
        character, 0 or 1, for each test clip).
    """
    found = finished_result(run, trial)
    if found is not None:
        return found
    start = time.perf_counter()
    task = open_data(trial)
    folder = run / trial.experiment.name / trial.name
    model, trained = _dense(run, trial, task, folder) if trial.method is None else _smaller(run, trial, task, folder)
    result = {
        "name": trial.name,
        "method": trial.method,
        "share": trial.share,
        "seed": trial.seed,
        **_measured(model, task),
        **trained,
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_json(result_path(run, trial), result)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def open_data(trial: Trial) -> Any:
    """The task of a trial."""
    from edgepress.compress.pipeline.data import open_task

    return open_task(trial.data, trial.experiment.front_end)


def write_digits(path: Path) -> Path:
    """scikit-learn's handwritten digits (UCI, 1,797 images of 8 x 8) as a task: 500 to train, 1,000 to test."""
    if not path.exists():
        from sklearn.datasets import load_digits

        digits = cast("Any", load_digits())  # a Bunch, whose fields are not typed
        order = np.random.default_rng(0).permutation(len(digits.target))
        split = np.array(["train"] * 500 + ["validation"] * 297 + ["test"] * 1000)
        path.parent.mkdir(parents=True, exist_ok=True)
        x = (digits.images[order] / 8.0 - 1.0).astype(np.float32)[:, None]
        np.savez_compressed(path, x=x, y=digits.target[order].astype(np.int64), split=split)
    return path


def dense_network(trial: Trial, task: Any) -> tuple[nn.Module, Any]:
    """The experiment's network with fresh weights, and its spec."""
    from edgepress.compress.pipeline.networks import build_for
    from edgepress.compress.recipes.recipe import NetworkSettings

    settings = NetworkSettings(name=trial.experiment.network, arguments=trial.experiment.arguments)
    if trial.experiment.name == "digits":
        settings = settings.model_copy(
            update={"arguments": {**settings.arguments, "input_size": list(task.input_shape[1:])}}
        )
    return build_for(settings, task, trial.seed)


def _dense(run: Path, trial: Trial, task: Any, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    from edgepress.compress.training.train import train
    from edgepress.models.checkpoints.checkpoint import save_checkpoint

    model, spec = dense_network(trial, task)
    result = train(
        model, task, trial.experiment.dense, run=folder, seed=trial.seed, machine=_one_core(), name=trial.name
    )
    save_checkpoint(_dense_checkpoint(run, trial), result.model, spec, {}, overwrite=True)
    return result.model, _trained(result)


def _smaller(run: Path, trial: Trial, task: Any, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    from edgepress.compress.prune.schedules.trainers import prune_and_train
    from edgepress.models.checkpoints.checkpoint import load_checkpoint
    from edgepress.models.cost.cost import cost_of
    from edgepress.models.limits import Limits

    dense, spec = load_checkpoint(_dense_checkpoint(run, trial))
    inputs = spec.example_inputs()
    target = int(trial.share * cost_of(dense, inputs).macs)
    assert trial.method is not None
    if trial.method in PEERS:
        return _peer(trial, task, folder, dense, inputs[0], target)
    settings = trial.experiment.prune.model_copy(update=METHODS[trial.method])
    result = prune_and_train(
        dense,
        inputs,
        task,
        Limits(macs=target),
        settings,
        fresh=lambda: dense_network(trial, task)[0],
        run=folder,
        seed=trial.seed,
        machine=_one_core(),
        name=trial.name,
    )
    return result.model, {**_trained(result), "target_macs": target}


def _peer(
    trial: Trial, task: Any, folder: Path, dense: nn.Module, example: Any, target: int
) -> tuple[nn.Module, dict[str, Any]]:
    from edgepress.benchmarks.experiments.peers.torch_pruning import prune_progressively
    from edgepress.compress.prune.schedules.trainers import gradient_scoring
    from edgepress.compress.training.train import train
    from edgepress.models.cost.cost import cost_of

    assert trial.method is not None
    importance = METHODS[trial.method]["importance"]
    settings = trial.experiment.prune
    pruned, _, _ = prune_progressively(
        dense,
        example,
        trial.share,
        importance=importance,
        count=lambda network: cost_of(network, example).macs,
        target_macs=target,
        **gradient_scoring(importance, task),
    )
    result = train(
        pruned,
        task,
        settings.train,
        teacher=dense,
        distill=settings.distill,
        run=folder,
        seed=trial.seed + 1,
        machine=_one_core(),
        name=trial.name,
    )
    return result.model, {**_trained(result), "target_macs": target}


def _dense_checkpoint(run: Path, trial: Trial) -> Path:
    return run / trial.experiment.name / f"seed{trial.seed}-dense-network"


def _one_core() -> Any:
    from edgepress.compress.training.machine import Machine

    return Machine(accelerator="cpu", devices=1)


def _trained(result: Any) -> dict[str, Any]:
    return {
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "validation_accuracy": max(
            (record["validation_accuracy"] for record in result.history if record.get("phase") != "shape"), default=None
        ),
        "training_seconds": round(result.seconds, 1),
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
