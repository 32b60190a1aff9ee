# SPDX-License-Identifier: Apache-2.0
"""Budgets of device classes: what was asked, what pruning reached, what the tools measure of the file that comes out.

`python -m edgepress.benchmarks.experiments.budgets.held --output benchmarks/results/budgets.json --docs
docs/budgets.md` prunes three networks with random weights to each budget alone and to all together, for six device
classes, exports the int8 files and measures them: bytes, TFLite Micro's arena, the estimate of the latency from the
file, and of our firmware on the emulated core its flash, arena and instructions. Rows that are there are not made
again, unless they are marked as of before a change ("before"); a figure that is the same for several classes is
measured for one. Accuracy is `accuracy` beside this.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgepress.benchmarks.experiments.budgets.page import page
from edgepress.models.atomic import write_json, write_text
from edgepress.models.files.reading import read_json

if TYPE_CHECKING:
    from torch import nn

SCHEMA = 2
DEVICES = ("cortex-m0plus", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "raspberry-pi-4")
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "DS-CNN": ("ds_cnn", {}, (1, 49, 10)),
    "ResNet-8": ("resnet8", {}, (3, 32, 32)),
    "CP-ResNet": ("cp_resnet", {"rho": 6, "n_blocks": (2, 1, 1), "base_channels": 24}, (1, 128, 44)),
}
#: Share of the dense network's figure that is asked.
SHARES = {
    "macs": 0.5,
    "latency_ms": 0.5,
    "instructions": 0.5,
    "arena_bytes": 0.7,
    "firmware_arena_bytes": 0.7,
    "file_bytes": 0.6,
    "firmware_flash_bytes": 0.6,
}
#: The class on which each budget alone is measured, too; on the others all together.
MEASURED_ALONE = "cortex-m4"
#: Calls of which the quickest counts; those for MACs alone are made beside them, in the same process.
TRIES = 2


@cache
def dense_figures(name: str, device: str) -> dict[str, float]:
    """What a network takes of a device class before pruning, of what can be asked."""
    from edgepress.models.cost.cost import cost_of
    from edgepress.models.footprint.table import footprint

    model, example = built(name)
    found = {"macs": float(cost_of(model, example).macs), **footprint(model, example, device)}
    return {metric: found[metric] for metric in SHARES if metric in found}


def cases() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(network, device class, budgets that are asked)."""
    for name in NETWORKS:
        for device in DEVICES:
            there = tuple(dense_figures(name, device))
            yield from ((name, device, (metric,)) for metric in there)
            if len(there) > 1:
                yield name, device, there


def built(name: str) -> tuple[nn.Module, Any]:
    """A network with random weights, and an example."""
    import torch

    from edgepress.models.checkpoints.registry import build

    factory, arguments, shape = NETWORKS[name]
    torch.manual_seed(0)
    return build(factory, **arguments).eval(), torch.zeros(1, *shape)


def targets_of(name: str, device: str, metrics: Sequence[str]) -> dict[str, float]:
    """What is asked: shares of the dense network's figures."""
    dense = dense_figures(name, device)
    return {metric: dense[metric] * SHARES[metric] for metric in metrics}


def measured(name: str, device: str, metrics: Sequence[str]) -> dict[str, Any]:
    """One row: targets, what was reached, the time of the call, and what the tools say of the file."""
    from edgepress.compress.prune import prune_model

    model, example = built(name)
    targets, macs = targets_of(name, device, metrics), targets_of(name, device, ["macs"])

    def timed(device: str | None, asked: dict[str, Any]) -> tuple[float, Any]:
        start = time.process_time()
        pruned = prune_model(model, example, device=device, **asked)
        return time.process_time() - start, pruned

    alone, asked = [], []
    for _ in range(TRIES):
        alone.append(timed(None, macs)[0])
        asked.append(timed(None if tuple(metrics) == ("macs",) else device, targets))
    pruned = asked[-1][1]
    reached = {"macs": pruned.after.macs, **{m: v for m, v in pruned.on_device.items() if m in metrics}}
    row = {
        "network": name,
        "device": device,
        "budgets": list(metrics),
        "targets": targets,
        "reached": {metric: reached[metric] for metric in metrics},
        "cpu_seconds": min(seconds for seconds, _ in asked),
        "cpu_seconds_macs": min(alone),
        "notes": list(pruned.notes),
        "measured": {},
    }
    if len(metrics) > 1 or (device == MEASURED_ALONE and metrics != ("macs",)):
        row["measured"] = by_tools(pruned.model, example, device, metrics)
    return row


def by_tools(model: nn.Module, example: Any, device: str, metrics: Sequence[str]) -> dict[str, float]:
    """The figures of the exported int8 file, and of its firmware on the emulated core of the class."""
    import torch

    from edgepress.benchmarks.estimate.estimate import estimate_latency
    from edgepress.benchmarks.measure.profiling import profile
    from edgepress.compress.quantize.model import quantize_model
    from edgepress.deploy.export.export import export_model
    from edgepress.models.devices.classes import device_class

    quantized = quantize_model(model, example, calibration=[(torch.randn(4, *example.shape[1:]),)])
    with TemporaryDirectory(prefix="edgepress-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "net.tflite"
        export_model(quantized, example, str(path))
        found = profile(str(path), arena="arena_bytes" in metrics)
        figures: dict[str, float | None] = {
            "file_bytes": found["file_bytes"],
            "arena_bytes": found["arena_bytes"]["tflm"],
            "latency_ms": estimate_latency(found, device_class(device)).latency_ms,
            **by_firmware(path, device, metrics),
        }
    return {metric: value for metric, value in figures.items() if metric in metrics and value is not None}


def by_firmware(path: Path, device: str, metrics: Sequence[str]) -> dict[str, float | None]:
    """Flash as it is linked, the arena, and instructions on the emulated core; nothing where there is none."""
    from edgepress.deploy.firmware.boards import BOARDS, missing_tools
    from edgepress.deploy.firmware.emulated import EmulatedCore
    from edgepress.deploy.firmware.sources import firmware, random_sample

    if device not in BOARDS or missing_tools(device) is not None:
        return {}
    made, board, counted = firmware(path, "net"), BOARDS[device], None
    with EmulatedCore(made, device, flash_bytes=board.flash_bytes, ram_bytes=board.ram_bytes) as core:
        if "instructions" in metrics:
            done = core.run(random_sample(made.network), count=True)
            assert done.instructions is not None
            counted = done.instructions.total
        sizes = core.sizes
    return {"instructions": counted, "firmware_flash_bytes": sizes.flash, "firmware_arena_bytes": sizes.arena}


def case_of(row: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    return row["network"], row["device"], tuple(row["budgets"])


def is_replaced(row: dict[str, Any], case: tuple[str, str, tuple[str, ...]]) -> bool:
    """Whether a row is one of before for the same case; of all budgets together there is one, whatever they are."""
    one, other = case_of(row), case
    alike = one[2] == other[2] or min(len(one[2]), len(other[2])) > 1
    return bool(row.get("before")) and one[:2] == other[:2] and alike


def alike(metric: str, device: str) -> str:
    """Device classes of which this is equal have one figure, and so one row that is measured."""
    from edgepress.models.devices.classes import device_class
    from edgepress.models.footprint.cores import kernels_of

    if metric in ("macs", "arena_bytes", "file_bytes"):
        return metric
    return f"{metric} {kernels_of(device_class(device), metric)}" if metric == "firmware_arena_bytes" else device


def twin_of(rows: Sequence[dict[str, Any]], case: tuple[str, str, tuple[str, ...]]) -> dict[str, Any] | None:
    """The row of another class for the same figure of the same network."""
    name, device, metrics = case
    if len(metrics) != 1:
        return None
    (metric,) = metrics
    return next(
        (
            {**row, "device": device, "like": row["device"], "measured": {}}
            for row in rows
            if row["network"] == name
            and row["budgets"] == list(metrics)
            and not {"like", "before"} & set(row)
            and alike(metric, row["device"]) == alike(metric, device)
        ),
        None,
    )


def written(output: Path) -> str:
    """The page, from the results in the folder of `output`; those of trainings may be missing."""
    results = {
        "budgets_accuracy": {"rows": []},
        "budgets_against_macs": {"pairs": []},
        "budgets_real_sets": {"pairs": []},
    }
    for name in (*results, "instructions", "firmware_flash"):
        if (path := output.with_name(f"{name}.json")).is_file() or name not in results:
            results[name] = read_json(path, dict[str, Any])
    return page({**results, "budgets": read_json(output, dict[str, Any])}, SHARES, TRIES)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/budgets.json"), help="results; rows there are kept")
    parser.add_argument("--docs", type=Path, help="write the page")
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    given = parser.parse_args(args)
    from edgepress.benchmarks.measure.environment import environment

    rows: list[dict[str, Any]] = read_json(given.output, dict[str, Any])["rows"] if given.output.is_file() else []
    known = {case_of(row) for row in rows if not row.get("before")}
    command = shlex.join(["python", "-m", "edgepress.benchmarks.experiments.budgets.held", *(args or sys.argv[1:])])
    every = list(cases())
    place_of = {case: place for place, case in enumerate(every)}
    todo = [case for case in every if case[0] in given.networks and case not in known]
    todo.sort(key=lambda case: case[1] != MEASURED_ALONE)
    for place, case in enumerate(todo, 1):
        print(f"{place} of {len(todo)}: {case[0]}, {case[1]}, {', '.join(case[2])}", file=sys.stderr, flush=True)
        row = twin_of(rows, case) or measured(*case)
        rows = [other for other in rows if not is_replaced(other, case)] + [row]
        rows.sort(key=lambda row: place_of.get(case_of(row), len(every)))
        result = {"schema": SCHEMA, "command": command, "rows": rows, "environment": environment()}
        write_json(given.output, result)
    if given.docs is not None:
        write_text(given.docs, written(given.output))


if __name__ == "__main__":
    main()
