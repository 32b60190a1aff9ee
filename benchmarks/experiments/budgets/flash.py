# SPDX-License-Identifier: Apache-2.0
"""What the code of our firmware takes of flash on every core: linked programs, and the table of `edgepress.models`.

`python -m edgepress.benchmarks.experiments.budgets.flash --run DIR` links networks with and without each kind of layer
for every core; a program is a line of DIR/links.jsonl, so that the command goes on where it was stopped. `--table
models/footprint/firmware_code.json --output benchmarks/results/firmware_flash.json` then fit them, and judge by the
pruned networks which `edgepress.benchmarks.experiments.budgets.instructions` counted in the same folder.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.benchmarks.experiments.budgets.instructions import CORES, lowered, pruned_network, read_rows
from edgepress.models.atomic import append_lines, write_json
from edgepress.models.footprint.firmware_flash import Stored, code, constants, stored_by

if TYPE_CHECKING:
    from torch import nn

SCHEMA = 1
SHAPE = (3, 12, 12)
#: Networks of the zoo that judge, of those in `instructions`.
JUDGING = 20


def networks() -> dict[str, nn.Module]:
    """A convolution, and what each of one or two more layers of a kind adds to it."""
    import torch
    from torch import nn

    class Sum(nn.Module):
        def __init__(self, product: bool, *first: nn.Module):
            super().__init__()
            self.body, self.product = nn.Sequential(*first, nn.Conv2d(8, 8, 1), nn.ReLU()), product

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.body(x) if self.product else x + self.body(x)

    class Join(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU())
            self.narrow = nn.Sequential(nn.Conv2d(12, 8, 1), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.narrow(torch.cat((x, self.body(x)), 1))

    def conv(in_c: int = 8, out_c: int = 8, **more: Any) -> list[nn.Module]:
        return [nn.Conv2d(in_c, out_c, 3, padding=more.pop("padding", 1), **more), nn.ReLU()]

    def dense(count: int) -> list[nn.Module]:
        return [nn.Flatten(), *(m for _ in range(count) for m in (nn.Linear(8, 8), nn.ReLU()))]

    pooled: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)]
    tails: dict[str, list[nn.Module]] = {
        "none": [],
        "conv-1": conv(),
        "conv-2": conv() + conv(),
        "grouped-2": conv(groups=2) + conv(groups=2),
        "depthwise-1": conv(groups=8),
        "depthwise-2": conv(groups=8) + conv(groups=8),
        "plain-1": conv(8, 16, groups=8) + conv(16),
        "plain-2": conv(8, 16, groups=8) + conv(16) + conv(8, 16, groups=8) + conv(16),
        "dense-1": [*pooled, *dense(1)],
        "dense-2": [*pooled, *dense(2)],
        "mean": pooled,
        "add-1": [Sum(False)],
        "add-2": [Sum(False), Sum(False)],
        "mul-1": [Sum(True)],
        "mul-2": [Sum(True), Sum(True)],
        "squeeze-2": [Sum(True, nn.AdaptiveAvgPool2d(1)), Sum(True, nn.AdaptiveAvgPool2d(1))],
        "max-1": [nn.MaxPool2d(2)],
        "max-2": [nn.MaxPool2d(2), *conv(), nn.MaxPool2d(2)],
        "avg-1": [nn.AvgPool2d(2)],
        "avg-2": [nn.AvgPool2d(2), *conv(), nn.AvgPool2d(2)],
        "softmax": [*pooled, *dense(1), nn.Softmax(1)],
        "activation-1": [nn.Sigmoid()],
        "activation-2": [nn.Sigmoid(), *conv(), nn.Hardswish()],
        "move-1": [Join()],
        "move-2": [Join(), Join()],
        "transposed-1": [nn.ConvTranspose2d(8, 8, 2, 2)],
        "transposed-2": [nn.ConvTranspose2d(8, 8, 2, 2), *conv(), nn.ConvTranspose2d(8, 8, 2, 2)],
        "separable": [*conv(groups=8), *conv(), *pooled, *dense(1)],
        "residual": [Sum(False), nn.MaxPool2d(2), *conv(groups=8), *pooled, *dense(1), nn.Softmax(1)],
    }
    torch.manual_seed(0)
    found = {name: nn.Sequential(*conv(3), *tail).eval() for name, tail in tails.items()}
    return {**found, "no-conv": nn.Sequential(nn.ConvTranspose2d(3, 8, 2, 2)).eval()}


def stored_in(model: nn.Module, shape: tuple[int, ...]) -> list[Stored]:
    """What the figure sees of a network."""
    import torch

    from edgepress.models.cost.graph import trace_one_sample
    from edgepress.models.footprint.figure import Traced

    return list(stored_by(Traced.of(trace_one_sample(model, torch.zeros(1, *shape)))))


def bytes_of(stored: Sequence[Stored]) -> int:
    """Of their constants."""
    return sum(constants(each, [float(int(size)) for size in each.sizes]) for each in stored)


def link(run: Path, cores: Sequence[str]) -> list[dict[str, Any]]:
    """Link what is not linked yet, a line of `links.jsonl` for each network and core, and give all lines."""
    from edgepress.deploy.firmware.boards import BOARDS
    from edgepress.deploy.firmware.emulated import EmulatedCore

    path = run / "links.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    done = {(row["network"], row["core"]) for row in rows}
    for name, model in networks().items():
        missing = [core for core in cores if (name, core) not in done]
        if not missing:
            continue
        print(f"{name} for {', '.join(missing)}", file=sys.stderr, flush=True)
        stored, (_, made) = stored_in(model, SHAPE), lowered(model, SHAPE)
        for core in missing:
            board = BOARDS[core]
            with EmulatedCore(made, core, flash_bytes=board.flash_bytes, ram_bytes=board.ram_bytes) as linked:
                sizes = linked.sizes
            row = {
                "network": name,
                "core": core,
                "kinds": [each.kind for each in stored],
                "constant_bytes": bytes_of(stored),
                "flash_bytes": sizes.flash,
                "stored_bytes": sizes.constants,
            }
            append_lines(path, [json.dumps(row)])
            rows.append(row)
    return rows


def fitted(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Bytes of the program, of each kind's kernel and of a layer of it: least squares, none below zero."""
    from scipy.optimize import nnls

    kinds = sorted({kind for row in rows for kind in row["kinds"]})
    table = [
        [1.0, *(float(k in row["kinds"]) for k in kinds), *(float(row["kinds"].count(k)) for k in kinds)]
        for row in rows
    ]
    found, _ = nnls(np.array(table), np.array([float(row["flash_bytes"] - row["constant_bytes"]) for row in rows]))
    each = {
        kind: {"kernel": round(float(found[1 + i])), "layer": round(float(found[1 + len(kinds) + i]))}
        for i, kind in enumerate(kinds)
    }
    # What is not among them takes about what these do.
    each["other"] = {part: round(float(np.median([e[part] for e in each.values()]))) for part in ("kernel", "layer")}
    return {"program": round(float(found[0])), "kinds": each}


def judged(run: Path, tables: dict[str, Any]) -> list[dict[str, Any]]:
    """The figure of pruned networks beside their linked programs."""
    linked = {(row["network"], row["core"]): row["flash_bytes"] for row in read_rows(run)}
    found = []
    for number in range(JUDGING):
        name = f"pruned-{number}"
        cores = [core for core in tables if (name, core) in linked]
        stored = stored_in(*pruned_network(number)) if cores else []
        for core in cores:
            by_table = bytes_of(stored) + code(tables[core], [each.kind for each in stored])
            found.append({"network": name, "core": core, "linked": linked[name, core], "figure": by_table})
    return found


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/instructions"), help="folder of the links and counts")
    parser.add_argument("--cores", nargs="*", default=list(CORES), choices=CORES)
    parser.add_argument("--table", type=Path, help="write the table that the footprint reads")
    parser.add_argument("--output", type=Path, help="write how well it predicts")
    given = parser.parse_args(args)
    given.run.mkdir(parents=True, exist_ok=True)
    rows = link(given.run, given.cores)
    cores = {core: fitted([row for row in rows if row["core"] == core]) for core in given.cores}
    every = judged(given.run, cores)
    for core in given.cores:
        errors = [abs(row["figure"] / row["linked"] - 1) for row in every if row["core"] == core]
        cores[core]["worst_error"] = float(f"{max(errors, default=0.0):.4g}")
        print(f"{core}: {len(errors)} networks, error {max(errors, default=0):.2%} at most", file=sys.stderr)
    command = shlex.join(["python", "-m", "edgepress.benchmarks.experiments.budgets.flash", *(args or sys.argv[1:])])
    if given.table is not None:
        write_json(given.table, {"schema": SCHEMA, "command": command, "cores": cores})
    if given.output is not None:
        from edgepress.benchmarks.measure.environment import environment

        result = {"schema": SCHEMA, "command": command, "linked": len(networks()), "networks": every}
        write_json(given.output, {**result, "environment": environment()})


if __name__ == "__main__":
    main()
