# SPDX-License-Identifier: Apache-2.0
"""The step time of `edgepress.compress.training.train` against a plain PyTorch loop of the same network.

    python -m edgepress.benchmarks.experiments.step_time --output benchmarks/results/step_time.json

Both loops train the same CP-ResNet on the same clips in memory, in the same precision, with the same optimizer and
batch size; they take turns, so that a busy machine slows both. The plain loop runs as it is and with the layout
channels_last, which ours chooses itself; the ratio is to the faster of the two. What counts is the time of an epoch
divided by its steps, behind a first epoch that warms up; ours includes its validation on two clips, logging and the
schedule.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.models.command_line import run_command
from edgepress.models.errors import UsageError


def plain_epochs(network: Any, task: Any, settings: Any, epochs: int, channels_last: bool) -> list[float]:
    """Milliseconds a step of each epoch of the loop that every tutorial has."""
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.from_numpy(task.features("train")), torch.from_numpy(task.split("train").labels))
    loader = DataLoader(data, settings.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    found = []
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.train().to(memory_format=layout)
    for _ in range(epochs):
        began = time.perf_counter()
        for inputs, labels in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
                logits = network(inputs.contiguous(memory_format=layout))
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
        found.append(1e3 * (time.perf_counter() - began) / len(loader))
    return found


def our_epochs(network: Any, task: Any, settings: Any, teacher: Any = None) -> list[float]:
    """Milliseconds a step of each epoch of `training.train.train`, under cached logits where they are given."""
    from edgepress.compress.recipes.recipe import Distill
    from edgepress.compress.training.machine import Machine
    from edgepress.compress.training.train import train

    steps = len(task.split("train")) // settings.batch_size
    result = train(
        network,
        task,
        settings,
        teacher=teacher,
        machine=Machine("cpu", progress=False),
        distill=None if teacher is None else Distill(logits="cached"),
    )
    return [1e3 * record["seconds"] / steps for record in result.history]


def compare(base_channels: int, steps: int, batch_size: int, rounds: int, precision: str) -> dict[str, Any]:
    """Median step times of both loops and their ratio, of every round and of all together."""
    import numpy as np

    from edgepress.benchmarks.measure.environment import environment
    from edgepress.compress.recipes.recipe import TrainSettings, validated
    from edgepress.models.checkpoints.registry import build

    task = random_task(steps * batch_size)
    settings = validated(TrainSettings, {"epochs": 3, "batch_size": batch_size, "precision": precision}, "step_time")
    logits = np.random.default_rng(1).normal(size=(steps * batch_size, 10)).astype(np.float32)
    times: dict[str, list[float]] = {"plain": [], "plain_channels_last": [], "ours": [], "ours_distilled": []}
    for _ in range(rounds):
        for name in times:
            network = build("cp_resnet", base_channels=base_channels, n_blocks=[2, 1, 1])
            if name.startswith("plain"):
                found = plain_epochs(network, task, settings, 3, name == "plain_channels_last")
            else:
                found = our_epochs(network, task, settings, logits if name == "ours_distilled" else None)
            times[name].append(min(found[1:]))
    medians = {name: float(np.median(found)) for name, found in times.items()}
    plain = min(medians["plain"], medians["plain_channels_last"])
    return {
        "schema": 1,
        "network": f"cp_resnet, base_channels {base_channels}, n_blocks 2 1 1",
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "precision": precision,
        "environment": environment(),
        "step_ms": times,
        "median_step_ms": medians,
        "ratio": medians["ours"] / plain,
        "ratio_distilled": medians["ours_distilled"] / plain,
    }


def random_task(clips: int) -> Any:
    """Noise of the size of CP-ResNet's input in memory: `clips` to train on and two to validate."""
    import numpy as np

    from edgepress.models.tasks import Split, Task

    rng = np.random.default_rng(0)
    arrays = {
        "train": rng.normal(size=(clips, 1, 256, 44)).astype(np.float32),
        "validation": np.zeros((2, 1, 256, 44), np.float32),
    }
    splits = {
        name: Split(tuple(map(str, range(len(array)))), np.arange(len(array)) % 10) for name, array in arrays.items()
    }
    return Task("noise", tuple(map(str, range(10))), (1, 256, 44), "0", splits, arrays.__getitem__)


def main(
    base_channels: Annotated[int, typer.Option(min=1, help="Width of the CP-ResNet.")] = 16,
    steps: Annotated[int, typer.Option(min=2, help="Of an epoch.")] = 20,
    batch_size: Annotated[int, typer.Option(min=2, help="Clips per step.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each loop.")] = 5,
    precision: Annotated[str, typer.Option(help="32-true or bf16-mixed, for both.")] = "32-true",
    output: Annotated[Path | None, typer.Option(help="Results file; an older one is replaced.")] = None,
) -> None:
    """Time both loops and write what was found."""
    from edgepress.models.atomic import write_json

    if precision not in ("32-true", "bf16-mixed"):
        raise UsageError(f"--precision = {precision!r} is unknown: allowed are 32-true, bf16-mixed")
    found = compare(base_channels, steps, batch_size, rounds, precision)
    found = {
        "command": "python -m edgepress.benchmarks.experiments.step_time "
        f"--base-channels {base_channels} --steps {steps} --batch-size "
        f"{batch_size} --rounds {rounds} --precision {precision}",
        **found,
    }
    if output is not None:
        write_json(output, found)
    medians = found["median_step_ms"]
    print(
        f"plain PyTorch {medians['plain']:.1f} ms ({medians['plain_channels_last']:.1f} with channels_last), "
        f"ours {medians['ours']:.1f} ms a step: {found['ratio']:.3f} times; "
        f"distilled from cached logits {medians['ours_distilled']:.1f} ms: {found['ratio_distilled']:.3f} times"
    )


if __name__ == "__main__":
    app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_command(app)
