# SPDX-License-Identifier: Apache-2.0
"""The float networks whose integers are measured: from run directories, or trained here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgepress.models.atomic import write_bytes
from edgepress.models.errors import UsageError

DIGITS = "digits"
#: Recipe whose training networks get that no run holds.
_RECIPE = "esc10-mobile"
#: Training on the digits, which are neither recordings nor time series.
_ON_DIGITS = {"epochs": 20, "batch_size": 32, "weight_decay": 1e-4, "ramp_up": 0.1, "decay_from": 0.2, "decay_to": 1.0}


@dataclass(frozen=True)
class Candidate:
    """One trained float network.

    Attributes:
        name: in the table, the same for every seed.
        seed: of its training.
        checkpoint: directory of the float network.
        source: of its task.
    """

    name: str
    seed: int
    checkpoint: Path
    source: str


def candidates(options: argparse.Namespace) -> Iterator[Candidate]:
    """The networks that the command line names; those of `--train` are trained when it is their turn."""
    from edgepress.models.checkpoints.checkpoint import read_metrics, read_spec

    for name in options.networks:
        for run in options.runs:
            checkpoint = run / "checkpoints" / name
            source = options.data or read_spec(checkpoint).task
            if source is None:
                raise UsageError(f"{checkpoint} names no task: give --data")
            architecture = read_spec(checkpoint).factory
            yield Candidate(f"{architecture} {name}", int(read_metrics(checkpoint)["seed"]), checkpoint, source)
    for name in options.train:
        network, _, data = name.partition("@")
        for seed in options.seeds:
            yield _trained(network, data, seed, options)


def _trained(name: str, data: str, seed: int, options: argparse.Namespace) -> Candidate:
    """Train a network of the zoo, on the task or, where `data` says so, on the digits; once for all calls."""
    from edgepress.compress.pipeline.data import open_task
    from edgepress.compress.pipeline.stages import train_stage
    from edgepress.compress.recipes.recipe import parse_recipe, read_recipe
    from edgepress.compress.training.machine import Machine
    from edgepress.models.run_directory import RunDirectory

    if data not in ("", DIGITS):
        raise UsageError(f"--train {name}@{data}: only {name} (on --data) and {name}@{DIGITS} are known")
    if data == DIGITS:
        source = str(write_digits(options.work / "digits.npz"))
    elif (source := options.data) is None:
        raise UsageError(f"--train {name} needs --data, or write {name}@{DIGITS}")
    epochs = getattr(options, "train_epochs", None)
    settings = _ON_DIGITS | ({"epochs": epochs} if epochs else {})
    changes: dict[str, Any] = {"task": source, "seed": seed, "device": None, "network": {"name": name}}
    recipe = (
        parse_recipe({"name": f"{name}-{DIGITS}", "front_end": None, "train": settings, **changes})
        if data == DIGITS
        else read_recipe(_RECIPE, changes)
    )
    run = RunDirectory(options.work / f"{name}-{data or 'task'}-seed{seed}")
    with run.lock():
        entry = train_stage(run, recipe, open_task(source, recipe.front_end), machine=Machine(accelerator="cpu"))
    return Candidate(name, seed, Path(entry["path"]), source)


def write_digits(path: Path) -> Path:
    """scikit-learn's 1,797 handwritten digits as a task: 32 x 32 by repetition, every second one for the test."""
    from io import BytesIO

    from sklearn.datasets import load_digits

    data = cast("Any", load_digits())  # a Bunch, whose fields are not typed
    x = (np.kron(data.images, np.ones((1, 4, 4))) / 8 - 1).astype(np.float32)[:, None]
    split = np.where(np.arange(len(x)) % 2 == 0, "test", np.where(np.arange(len(x)) % 12 == 1, "validation", "train"))
    buffer = BytesIO()
    np.savez_compressed(buffer, x=x, y=data.target.astype(np.int64), split=split, layout=np.array("NCHW"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_bytes(path, buffer.getvalue())
    return path


def portable(module: str, arguments: Sequence[str]) -> str:
    """A command for a results file, without the folders of this machine."""
    parts = ["/".join(Path(part).parts[-2:]) if part.startswith(("/", "..", "~")) else part for part in arguments]
    return " ".join([f"python -m {module}", *parts])
