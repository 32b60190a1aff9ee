# SPDX-License-Identifier: Apache-2.0
"""Pruning by instructions against pruning by MACs on real pictures and recordings, with the shipped recipes.

`python -m edgepress.benchmarks.experiments.budgets.real_sets --esc DIR --images DIR --run DIR --output
benchmarks/results/budgets_real_sets.json` runs `compress train` for every seed, `compress prune` of it to a share of
its MACs, and again of the dense network to the instructions of what came out. Trainings go on where they were stopped,
and every pair is a line of DIR/pairs.jsonl.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgepress.benchmarks.experiments.budgets.against_macs import DEVICE, measured
from edgepress.models.atomic import write_json

SCHEMA, SEEDS = 1, 3
SHARES = (0.5, 0.25)


@dataclass(frozen=True)
class Case:
    """A recipe, shortened.

    Attributes:
        recipe: shipped.
        prefix: of its data, before the folder.
        epochs: of the dense network.
        fine_tuning: epochs of a pruned one.
    """

    recipe: str
    prefix: str
    epochs: int
    fine_tuning: int


CASES = {
    "CP-ResNet on ESC-10 Mobile": Case("esc10-mobile", "", 24, 16),
    "ResNet-8 on CIFAR-10": Case("images", "images:", 24, 12),
}


def compressed(*arguments: str) -> Path:
    """The checkpoint that a `compress` command says it has made."""
    command = [sys.executable, "-m", "edgepress.compress", *arguments, "--quiet"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip().splitlines()[-1])


def figures(checkpoint: Path) -> dict[str, Any]:
    """Accuracy on the test split, in float32, instructions on the core, and MACs."""
    from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_metrics
    from edgepress.models.footprint.table import footprint

    model, spec = load_checkpoint(checkpoint)
    metrics = read_metrics(checkpoint)
    count = footprint(model, spec.example_inputs()[0], DEVICE)["instructions"]
    return {"accuracy": metrics["test"]["accuracy"], "instructions": count, "macs": metrics["cost"]["macs"]}


def pair(run: Path, name: str, data: str, share: float, seed: int) -> dict[str, Any]:
    """Both networks of one share."""
    case = CASES[name]
    folder = run / f"{case.recipe}-{seed}"
    common = ["--data", case.prefix + data, "--run", str(folder), "--seed", str(seed), "--logger", "none"]
    dense = compressed("train", case.recipe, *common, "--set", f"train.epochs={case.epochs}")
    alike = [*common, "--device", DEVICE, "--no-device-limits", "--set", f"prune.train.epochs={case.fine_tuning}"]
    by_macs = figures(compressed("prune", str(dense), *alike, "--target-macs", f"{share:.0%}"))
    target = f"{by_macs['instructions']:.0f}"
    by_instructions = figures(compressed("prune", str(dense), *alike, "--target-instructions", target))
    return {"network": name, "share": share, "seed": seed, "macs": by_macs, "instructions": by_instructions}


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/budgets-real-sets"), help="keeps trainings and pairs")
    parser.add_argument("--esc", help="folder of ESC-10 Mobile")
    parser.add_argument("--images", help="folder of CIFAR-10: train/CLASS/ and test/CLASS/")
    parser.add_argument("--output", type=Path, help="write the pairs")
    given = parser.parse_args(args)
    from edgepress.benchmarks.measure.environment import environment

    given.run.mkdir(parents=True, exist_ok=True)
    data = dict(zip(CASES, (given.esc, given.images), strict=True))
    wanted = [(name, share, seed) for name in CASES if data[name] for seed in range(SEEDS) for share in SHARES]
    pairs = measured(given.run / "pairs.jsonl", wanted, lambda name, *rest: pair(given.run, name, data[name], *rest))
    if given.output is not None:
        module = "edgepress.benchmarks.experiments.budgets.real_sets"
        command = shlex.join(["python", "-m", module, *(args or sys.argv[1:])])
        cases = {name: asdict(case) for name, case in CASES.items()}
        result = {"schema": SCHEMA, "command": command, "device": DEVICE, "cases": cases, "pairs": pairs}
        write_json(given.output, {**result, "environment": environment()})


if __name__ == "__main__":
    main()
