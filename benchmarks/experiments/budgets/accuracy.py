# SPDX-License-Identifier: Apache-2.0
"""What budgets of devices cost in accuracy: networks trained on scikit-learn's digits, pruned to the rows of the page.

`python -m edgepress.benchmarks.experiments.budgets.accuracy --run DIR --output
benchmarks/results/budgets_accuracy.json` trains each network of `held` once for every seed, prunes it to the targets of
each row of benchmarks/results/budgets.json, trains on and tests. Every figure is a line of DIR/accuracy.jsonl, so that
the command goes on where it was stopped. The 1,797 digits are enlarged to the network's input; every second one is for
the test.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.benchmarks.experiments.budgets.held import MEASURED_ALONE, NETWORKS, built
from edgepress.models.atomic import append_lines, write_json
from edgepress.models.files.reading import read_json

if TYPE_CHECKING:
    import torch
    from torch import nn

SCHEMA = 1
SEEDS, EPOCHS, FINE_TUNING = 3, 12, 3
RATE, FINE_TUNING_RATE = 3e-3, 1e-3
_BATCH = 32


@cache
def digits(shape: tuple[int, ...]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """ "train" and "test": images [N, *shape] and classes [N]."""
    import torch
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    x = torch.nn.functional.interpolate(images, shape[1:], mode="bilinear").repeat(1, shape[0], 1, 1)
    y, odd = torch.tensor(data.target), torch.arange(len(images)) % 2 == 1
    return {"train": (x[odd], y[odd]), "test": (x[~odd], y[~odd])}


def batches_of(x: torch.Tensor, y: torch.Tensor, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All of them once, in an order of the seed."""
    import torch

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    yield from ((x[part], y[part]) for part in order.split(_BATCH))


def train(model: nn.Module, shape: tuple[int, ...], epochs: int, seed: int, rate: float) -> None:
    """AdamW whose rate falls along a cosine."""
    import torch

    x, y = digits(shape)["train"]
    steps = epochs * -(-len(x) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for epoch in range(epochs):
        for images, classes in batches_of(x, y, 1000 * seed + epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), classes).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def accuracy(model: nn.Module, shape: tuple[int, ...]) -> float:
    """On the test images."""
    import torch

    x, y = digits(shape)["test"]
    with torch.no_grad():
        right = [(model(images).argmax(1) == classes).sum() for images, classes in batches_of(x, y, 0)]
    return float(sum(right)) / len(x)


def dense(run: Path, name: str, seed: int) -> nn.Module:
    """The trained network, kept in the run's folder."""
    import torch

    path, (model, _) = run / f"{name}-{seed}.pt", built(name)
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    torch.manual_seed(seed)
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    train(model, NETWORKS[name][2], EPOCHS, seed, RATE)
    torch.save(model.state_dict(), path)
    return model


def pruned(model: nn.Module, name: str, seed: int, row: dict[str, Any]) -> nn.Module:
    """A row's network: its targets, with importance `fisher`, trained on."""
    from edgepress.compress.prune import prune_model

    shape, device = NETWORKS[name][2], row["device"] if row["budgets"] != ["macs"] else None
    x, y = digits(shape)["train"]
    found = prune_model(
        model,
        x[:1],
        device=device,
        importance="fisher",
        batches=list(batches_of(x[:512], y[:512], seed)),
        **row["targets"],
    ).model
    train(found, shape, FINE_TUNING, seed, FINE_TUNING_RATE)
    return found


def key_of(name: str, row: dict[str, Any] | None, seed: int) -> str:
    """Rows of equal targets have one figure."""
    return json.dumps([name, None if row is None else row["targets"], seed])


def measure(run: Path, rows: Sequence[dict[str, Any]], networks: Sequence[str]) -> None:
    """Train, prune and test what is not there yet."""
    path = run / "accuracy.jsonl"
    done = {line["key"] for line in lines_of(path)}
    for name in networks:
        asked: list[dict[str, Any] | None] = [
            None,
            *(row for row in rows if row["network"] == name and "like" not in row),
        ]
        asked.sort(key=lambda row: row is not None and len(row["budgets"]) == 1 and row["device"] != MEASURED_ALONE)
        for row in asked:
            for seed in range(SEEDS):
                key = key_of(name, row, seed)
                if key in done:
                    continue
                what = "dense" if row is None else f"{row['device']}, {', '.join(row['budgets'])}"
                print(f"{name}, {what}, seed {seed}", file=sys.stderr, flush=True)
                model = dense(run, name, seed)
                model = model if row is None else pruned(model, name, seed, row)
                append_lines(path, [json.dumps({"key": key, "accuracy": accuracy(model, NETWORKS[name][2])})])


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What was measured, a line each."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def table(run: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row whose seeds are all there: accuracies of the seeds, those of the dense network first."""
    found = {line["key"]: line["accuracy"] for line in lines_of(run / "accuracy.jsonl")}
    asked = [{"network": name} for name in NETWORKS] + list(rows)
    result = []
    for row in asked:
        keys = [key_of(row["network"], row if "targets" in row else None, seed) for seed in range(SEEDS)]
        if all(key in found for key in keys):
            named = {part: row[part] for part in ("network", "device", "budgets") if part in row}
            result.append({**named, "accuracy": [found[key] for key in keys]})
    return result


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/budgets-accuracy"), help="folder of networks and figures"
    )
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/results/budgets.json"), help="of `held`")
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--output", type=Path, help="write the accuracies of the rows whose seeds are all there")
    given = parser.parse_args(args)
    from edgepress.benchmarks.measure.environment import environment

    given.run.mkdir(parents=True, exist_ok=True)
    rows = read_json(given.rows, dict[str, Any])["rows"]
    measure(given.run, rows, given.networks)
    if given.output is not None:
        command = shlex.join(
            ["python", "-m", "edgepress.benchmarks.experiments.budgets.accuracy", *(args or sys.argv[1:])]
        )
        result = {"schema": SCHEMA, "command": command, "rows": table(given.run, rows), "environment": environment()}
        write_json(given.output, result)


if __name__ == "__main__":
    main()
