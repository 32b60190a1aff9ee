# SPDX-License-Identifier: Apache-2.0
"""Pruning by instructions against pruning by MACs: the same trained network, and as many instructions left.

`python -m edgepress.benchmarks.experiments.budgets.against_macs --run DIR --output
benchmarks/results/budgets_against_macs.json` takes the trained networks of `accuracy` (the same DIR), prunes each to a
share of its MACs, then the dense one again to the instructions of what came out, trains both on alike and tests them.
Every pair is a line of DIR/against_macs.jsonl, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from edgepress.benchmarks.experiments.budgets.accuracy import (
    FINE_TUNING_RATE,
    SEEDS,
    accuracy,
    batches_of,
    dense,
    digits,
    lines_of,
    train,
)
from edgepress.benchmarks.experiments.budgets.held import NETWORKS
from edgepress.models.atomic import append_lines, write_json

SCHEMA = 1
DEVICE, EPOCHS = "cortex-m4", 5
SHARES = (0.5, 0.25, 0.12)


def pair(run: Path, name: str, share: float, seed: int) -> dict[str, Any]:
    """Accuracy, instructions and MACs of both."""
    from edgepress.compress.prune import prune_model
    from edgepress.models.footprint.table import footprint

    model, shape = dense(run, name, seed), NETWORKS[name][2]
    x, y = digits(shape)["train"]
    some = list(batches_of(x[:512], y[:512], seed))

    def taken(**budget: Any) -> dict[str, Any]:
        pruned = prune_model(model, x[:1], importance="fisher", batches=some, **budget)
        count = footprint(pruned.model, x[:1], DEVICE)["instructions"]
        train(pruned.model, shape, EPOCHS, seed, FINE_TUNING_RATE)
        return {"accuracy": accuracy(pruned.model, shape), "instructions": count, "macs": pruned.after.macs}

    by_macs = taken(macs=f"{share:.0%}")
    by_instructions = taken(device=DEVICE, instructions=by_macs["instructions"])
    return {"network": name, "share": share, "seed": seed, "macs": by_macs, "instructions": by_instructions}


def measured(
    path: Path, wanted: Iterable[tuple[str, float, int]], pair: Callable[[str, float, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """All pairs of a file, by network, share and seed, once those that are wanted and missing are measured."""
    done = {(line["network"], line["share"], line["seed"]) for line in lines_of(path)}
    for name, share, seed in wanted:
        if (name, share, seed) not in done:
            print(f"{name}, {share:.0%}, seed {seed}", file=sys.stderr, flush=True)
            append_lines(path, [json.dumps(pair(name, share, seed))])
    return sorted(lines_of(path), key=lambda line: (line["network"], -line["share"], line["seed"]))


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/budgets-accuracy"), help="folder of `accuracy`")
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=["DS-CNN", "ResNet-8"])
    parser.add_argument("--output", type=Path, help="write the pairs")
    given = parser.parse_args(args)
    from edgepress.benchmarks.measure.environment import environment

    given.run.mkdir(parents=True, exist_ok=True)
    wanted = product(given.networks, SHARES, range(SEEDS))
    pairs = measured(given.run / "against_macs.jsonl", wanted, partial(pair, given.run))
    if given.output is not None:
        module = "edgepress.benchmarks.experiments.budgets.against_macs"
        command = shlex.join(["python", "-m", module, *(args or sys.argv[1:])])
        result = {"schema": SCHEMA, "command": command, "device": DEVICE, "epochs": EPOCHS, "pairs": pairs}
        write_json(given.output, {**result, "environment": environment()})


if __name__ == "__main__":
    main()
