# SPDX-License-Identifier: Apache-2.0
"""What our kernels cost on every core: counts of emulated runs, and the table that `edgepress.models.footprint` reads.

`python -m edgepress.benchmarks.experiments.budgets.instructions --run DIR` counts layers of random networks, and of
pruned networks of the zoo that the table has not seen. Every network on every core is a line of DIR, so that the
command goes on where it was stopped. `--table models/footprint/instructions.json --output
benchmarks/results/instructions.json` then fit the first and judge by the second.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.models.atomic import append_lines, write_json
from edgepress.models.footprint.instructions import Layer, amounts, layers_of
from edgepress.models.footprint.kernel_amounts import AMOUNTS, Window, elements

if TYPE_CHECKING:
    from torch import nn

SCHEMA = 1
CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "riscv32")
#: Core -> the core whose kernels it runs compiled alike: the table of that one is only judged on its counts.
ALIKE = {"cortex-m7": "cortex-m4", "cortex-m33": "cortex-m4"}
#: Random networks that are fitted, pruned networks of the zoo that judge, and those of them that judge a core `ALIKE`.
FITTED, JUDGING, JUDGING_ALIKE = 9, 20, 6
#: Kind of layer -> the operator of a .tflite file that it becomes.
_OPERATORS = {
    "conv": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "depthwise": ("DEPTHWISE_CONV_2D", "CONV_2D"),
    "dense": ("FULLY_CONNECTED",),
    "add": ("ADD",),
    "max_pool": ("MAX_POOL_2D",),
    "avg_pool": ("AVERAGE_POOL_2D", "MEAN"),
    "mean": ("MEAN", "AVERAGE_POOL_2D"),
}
#: Networks of the zoo, their arguments and the shape of a sample.
ZOO: tuple[tuple[str, dict[str, Any], tuple[int, ...]], ...] = (
    ("cp_resnet", {"rho": 5, "n_blocks": (2, 1, 1), "base_channels": 16}, (1, 64, 44)),
    ("ds_cnn", {}, (1, 49, 10)),
    ("resnet8", {}, (3, 32, 32)),
    ("mobilenet", {}, (3, 96, 96)),
    ("cp_resnet", {"rho": 8, "n_blocks": (2, 1, 1), "base_channels": 24}, (1, 64, 30)),
)


def random_chain(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A network of layers of all kinds, with odd widths, and the shape of a sample."""
    import torch
    from torch import nn

    class Sum(nn.Module):
        def __init__(self, channels: int, kernel: int):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(channels, channels, kernel, padding=kernel // 2), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x)

    draw = random.Random(seed)
    torch.manual_seed(seed)
    channels, height, width = draw.choice((1, 1, 2, 3, 4)), draw.randint(14, 44), draw.randint(10, 40)
    shape = (channels, height, width)
    layers: list[nn.Module] = []
    for _ in range(18):
        small = min(height, width)
        wide = draw.choice((draw.randint(2, 30), draw.randint(2, 30), 4 * draw.randint(1, 16), draw.randint(30, 70)))
        kind = draw.choice(("conv", "conv", "conv", "one", "one", "depthwise", "depthwise", "depthwise", "sum", "pool"))
        kernel = draw.choice((3, 3, 3, 5) if small >= 5 else (3,) if small >= 3 else (1,))
        stride = 2 if small >= 10 and draw.random() < 0.22 else 1
        if kind in ("conv", "one"):
            kernel = kernel if kind == "conv" else 1
            layers += [nn.Conv2d(channels, wide, kernel, stride, draw.choice((kernel // 2, kernel // 2, 0))), nn.ReLU()]
            channels = wide
        elif kind == "depthwise":
            layers += [nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels), nn.ReLU()]
        elif kind == "sum":
            layers.append(Sum(channels, draw.choice((1, kernel))))
        elif small >= 8:
            layers.append(draw.choice((nn.MaxPool2d, nn.AvgPool2d))(2))
        with torch.no_grad():
            height, width = nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).shape[2:]
    hidden = draw.randint(2, 40)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
    return nn.Sequential(*layers).eval(), shape


def pruned_network(number: int) -> tuple[nn.Module, tuple[int, ...]]:
    """One of the zoo, pruned by random scores to a random share of its MACs."""
    import torch

    from edgepress.compress.prune import find_groups, prune_model
    from edgepress.models.checkpoints.registry import build

    name, arguments, shape = ZOO[number % len(ZOO)]
    torch.manual_seed(1000 + number)
    draw = np.random.default_rng(1000 + number)
    model, example = build(name, **arguments).eval(), torch.zeros(1, *shape)
    scores = tuple(draw.uniform(0.2, 1, group.size) for group in find_groups(model, example).groups)
    share = f"{draw.integers(15, 90)}%"
    return prune_model(model, example, share, importance=scores).model.eval(), shape


def count(run: Path, cores: Sequence[str]) -> None:
    """Count what is not counted yet, a line of `rows.jsonl` for each network and core."""
    rows = run / "rows.jsonl"
    done = {(row["network"], row["core"]) for row in read_rows(run)}
    own = [core for core in cores if core not in ALIKE]
    jobs = [(f"random-{i}", random_chain, i, own) for i in range(FITTED)]
    jobs += [(f"pruned-{i}", pruned_network, i, cores if i < JUDGING_ALIKE else own) for i in range(JUDGING)]
    for place, (name, make, number, asked) in enumerate(jobs, 1):
        missing = [core for core in asked if (name, core) not in done]
        if not missing:
            continue
        print(f"{place} of {len(jobs)}: {name} on {', '.join(missing)}", file=sys.stderr, flush=True)
        layers, made = lowered(*make(number))
        for core in missing:
            append_lines(rows, [json.dumps({"network": name, "core": core, **counted(made, layers, core)})])


def lowered(model: nn.Module, shape: tuple[int, ...]) -> tuple[list[Layer], Any]:
    """The layers as the footprint sees them, and the firmware of the int8 file."""
    import torch

    from edgepress.compress.quantize.model import quantize_model
    from edgepress.deploy.export.to_tflite import integer_tflite
    from edgepress.deploy.firmware.sources import firmware
    from edgepress.models.cost.graph import trace_one_sample
    from edgepress.models.footprint.figure import Traced

    example = torch.zeros(1, *shape)
    layers = layers_of(Traced.of(trace_one_sample(model, example)))
    quantized = quantize_model(model, (example,), calibration=[(torch.randn(4, *shape),)], bias_correction=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = firmware(integer_tflite(quantized, (torch.randn(1, *shape),)).data, "net")
    return layers, made


def counted(made: Any, layers: Sequence[Layer], core: str) -> dict[str, Any]:
    """Instructions of one inference, in total and by layer."""
    from edgepress.deploy.firmware.boards import BOARDS
    from edgepress.deploy.firmware.emulated import EmulatedCore
    from edgepress.deploy.firmware.sources import random_sample

    board = BOARDS[core]
    with EmulatedCore(made, core, flash_bytes=board.flash_bytes, ram_bytes=board.ram_bytes) as emulated:
        done = emulated.run(random_sample(made.network), count=True)
    assert done.instructions is not None
    codes = [layer.code for layer in done.instructions.layers]
    kinds = [layer.kind for layer in layers]
    alike = len(codes) == len(kinds) and all(
        code in _OPERATORS.get(kind, (code,)) for code, kind in zip(codes, kinds, strict=True)
    )
    if not alike:
        raise SystemExit(f"layers and kernels do not belong together: {kinds} and {codes}")
    return {
        "total": done.instructions.total,
        "flash_bytes": emulated.sizes.flash,
        "constant_bytes": emulated.sizes.constants,
        "layers": [
            {
                "kind": layer.kind,
                "window": None if layer.window is None else [list(pair) for pair in vars(layer.window).values()],
                "sizes": [int(size) for size in layer.sizes],
                "instructions": found.instructions,
                "fast": step.fast_kernel is not None,
            }
            for layer, found, step in zip(layers, done.instructions.layers, made.network.steps, strict=True)
        ],
    }


def read_rows(run: Path) -> Iterator[dict[str, Any]]:
    """What was counted."""
    path = run / "rows.jsonl"
    if path.is_file():
        yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def layer_of(row: dict[str, Any]) -> Layer:
    """The layer of a counted row."""
    window = None if row["window"] is None else Window(*(tuple(pair) for pair in row["window"]))
    return Layer(row["kind"], window, tuple(row["sizes"]))


def fitted(rows: Sequence[dict[str, Any]], core: str) -> dict[str, Any]:
    """Instructions of each amount on a core: least squares of relative errors, none below zero."""
    from scipy.optimize import nnls

    from edgepress.deploy.firmware.boards import BOARDS

    kernels = "vectors" if BOARDS[core].kernels == "mve" else "tiles"
    found: dict[str, list[tuple[dict[str, float], int]]] = defaultdict(list)
    rest = []
    for row in rows:
        for layer in row["layers"]:
            own = amounts(layer_of(layer), kernels, tuple(float(size) for size in layer["sizes"]))
            kind = layer["kind"] if layer["kind"] in (*AMOUNTS[kernels], "add", "mean") else "other"
            if kind in ("conv", "dense", "depthwise") and not layer["fast"]:
                continue  # sums that may not fit take the plain kernel, which depends on the weights
            found["conv" if kind == "dense" else kind].append((own, layer["instructions"]))
        rest.append(row["total"] - sum(layer["instructions"] for layer in row["layers"]))
    costs: dict[str, dict[str, float]] = {"call": {"layer": float(np.median(rest))}}
    for kind, examples in found.items():
        names = list(examples[0][0])
        table = np.array([[own[name] for name in names] for own, _ in examples])
        counts = np.array([count for _, count in examples], float)
        weights = 1 / np.maximum(counts, 0.003 * counts.max())
        scale = np.maximum((table * weights[:, None]).max(0), 1e-12)
        solution, _ = nnls(table * weights[:, None] / scale, counts * weights, maxiter=20_000)
        costs[kind] = {name: float(f"{value:.5g}") for name, value in zip(names, solution / scale, strict=True)}
    costs["dense"] = costs["conv"]
    if "other" not in costs:
        # An element that is looked up or multiplied costs about what one costs that is added.
        costs["other"] = {name: costs["add"].get(name, 0.0) for name in elements(None, 1.0, 1.0)}
    return {"kernels": kernels, "costs": costs}


def predicted(row: dict[str, Any], core: dict[str, Any]) -> float:
    """Instructions of a counted network by a fitted table."""
    total = core["costs"]["call"]["layer"]
    for layer in row["layers"]:
        own = amounts(layer_of(layer), core["kernels"], tuple(float(size) for size in layer["sizes"]))
        costs = core["costs"].get(layer["kind"], core["costs"]["other"])
        total += sum(costs[name] * amount for name, amount in own.items())
    return total


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/instructions"), help="folder of the counts")
    parser.add_argument("--cores", nargs="*", default=list(CORES), choices=CORES)
    parser.add_argument("--table", type=Path, help="write the table that the footprint reads")
    parser.add_argument("--output", type=Path, help="write how well it predicts")
    given = parser.parse_args(args)
    given.run.mkdir(parents=True, exist_ok=True)
    count(given.run, given.cores)
    cores, judged = {}, []
    for core in given.cores:
        rows = [row for row in read_rows(given.run) if row["core"] == core]
        alike = ALIKE.get(core)
        table = cores[alike] if alike else fitted([row for row in rows if row["network"].startswith("random")], core)
        errors = []
        for row in (row for row in rows if row["network"].startswith("pruned")):
            by_table = predicted(row, table)
            errors.append(by_table / row["total"] - 1)
            judged.append({"network": row["network"], "core": core, "counted": row["total"], "predicted": by_table})
        worst, mean = max(map(abs, errors)), float(np.mean(np.abs(errors)))
        own = {"same_as": alike} if alike else table
        cores[core] = {**own, "worst_error": float(f"{worst:.4g}"), "mean_error": float(f"{mean:.4g}")}
        print(f"{core}: {len(errors)} networks, error {mean:.2%} in the mean, {worst:.2%} at most", file=sys.stderr)
    command = shlex.join(
        ["python", "-m", "edgepress.benchmarks.experiments.budgets.instructions", *(args or sys.argv[1:])]
    )
    if given.table is not None:
        write_json(given.table, {"schema": SCHEMA, "command": command, "cores": cores})
    if given.output is not None:
        from edgepress.benchmarks.measure.environment import environment

        result = {"schema": SCHEMA, "command": command, "fitted": FITTED, "networks": judged}
        write_json(given.output, {**result, "environment": environment()})


if __name__ == "__main__":
    main()
