# SPDX-License-Identifier: Apache-2.0
"""Fit what a MAC costs on published systems.

`python -m edgepress.benchmarks.estimate.fit_latency CSV` prints latency_systems.json.

The model: time = a * (conv MACs + k * conv outputs) + b * depthwise MACs + c * dense MACs, with three coefficients
for each system (ns per MAC) and one k for all of them: what an output of a convolution costs beside its MACs
(requantization, gathering of inputs), in MACs. Energy has the same form (nJ per MAC). Held out: KWS is predicted from
the other three models of a system, and VWW from the other three; k comes from the clean systems of other submitters.

The selection of the clean set, written down before anything was fitted (each from the columns, none from a residual):
 1. division "closed": the reference networks as they are;
 2. all four of KWS, VWW, IC and AD in one submission, in int8;
 3. a microcontroller's CPU alone: no accelerator is named, and the system is no Linux board and no phone;
 4. rounds v0.5 to v1.0. From v1.1 on some engines skip zero weights, and 82.8 % of the VWW reference weights are
    zeros; which engines do is not documented, so whole rounds are left out. Round v1.3 published no latencies here.
"All" means every system that has the four figures, whatever it is.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from edgepress.models.command_line import run_command
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import read_text

TASKS = ("kws", "vww", "ic", "ad")
#: MACs by kind (conv, depthwise, dense) and outputs of convolutions of the MLPerf Tiny reference models (int8 .tflite);
#: a test compares with `benchmarks profile` of the files.
REFERENCE = {
    "kws": (2_368_000, 288_000, 768, 40_000),
    "vww": (6_690_816, 798_336, 512, 142_848),
    "ic": (12_500_992, 0, 640, 86_016),
    "ad": (0, 0, 264_192, 0),
}
#: Tried for k; the best over the clean systems of other submitters is used for a held-out system.
OUTPUT_COSTS = (0, 5, 10, 15, 20, 25, 30, 35, 40, 50, 60)
#: The share of held-out models that lie inside the printed interval, and the level at which the quantile is taken for
#: it: systems of one submitter resemble each other, so that the plain quantile covers less than it says.
CLAIM, LEVEL = 0.8, 0.85
#: Systems which run an operating system for applications; the columns do not say it.
_NO_MICROCONTROLLER = re.compile(r"raspberry|snapdragon|linux|K1_BOARD|pynq|Sinian", re.IGNORECASE)
_FLOAT = re.compile(r"(^|[_/])(fp32|float)", re.IGNORECASE)
#: Measured on boards by mcufit-bench (2026-08-16), TFLite Micro: ms for KWS, IC and AD; VWW was not measured.
EXTRA = {
    "mcufit-bench/ESP32": ({"kws": 162_000.0, "ic": 724_000.0, "ad": 49_000.0}, 240.0),
    "mcufit-bench/nRF52840": ({"kws": 225_000.0, "ic": 1_242_000.0, "ad": 22_000.0}, 64.0),
}
SOURCE = (
    "median latencies and energies of mlcommons/tiny_results v0.5 to v1.3 (Apache-2.0); these are coefficients "
    "fitted to them, no MLPerf result"
)


@dataclass
class System:
    """A published system: time in us and energy in uJ by task."""

    name: str
    submitter: str
    clean: bool
    mhz: float | None
    framework: str
    latency_us: dict[str, float] = field(default_factory=dict)
    energy_uj: dict[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return all(task in self.latency_us for task in TASKS)


def read_systems(path: str | Path) -> list[System]:
    """The systems of the published results.

    Raises:
        UsageError: missing, or other columns.
    """
    wanted = {
        "round",
        "division",
        "submitter",
        "system",
        "variant",
        "task",
        "frequency",
        "accelerator",
        "framework",
        "latency_us",
        "energy_uj",
    }
    try:
        rows = list(csv.DictReader(read_text(path).splitlines(keepends=True)))
    except csv.Error as error:
        raise UsageError(f"{path} is no table of comma-separated values: {error}") from None
    if not rows or not wanted <= set(rows[0]):
        raise UsageError(f"{path} lacks the columns {', '.join(sorted(wanted - set(rows[0] if rows else ())))}")
    systems: dict[str, System] = {}
    for row in rows:
        board, _, kind = row["variant"].rpartition("/")
        # The variant is "BOARD/task", or "task/task_int8" where one submission holds two precisions.
        part = kind.rpartition("_")[2] if board == row["task"] else board
        name = "/".join(p for p in (row["round"], row["submitter"], row["system"], part) if p)
        if name not in systems:
            mhz = re.match(r"\s*([\d.]+)\s*(M|G)", row["frequency"], re.IGNORECASE)
            clean = (
                row["division"] == "closed"
                and row["round"] in ("0.5", "0.7", "1.0")
                and not row["accelerator"]
                and not _NO_MICROCONTROLLER.search(name)
                and not _FLOAT.search(name)
            )
            systems[name] = System(
                name,
                row["submitter"],
                clean,
                float(mhz[1]) * (1000 if mhz[2] in "gG" else 1) if mhz else None,
                row["framework"],
            )
        for column, values in (("latency_us", systems[name].latency_us), ("energy_uj", systems[name].energy_uj)):
            if row[column] and float(row[column]) > 0:
                values[row["task"]] = float(row[column])
    return list(systems.values())


def design(tasks: Sequence[str], output_cost: float) -> np.ndarray:
    """[tasks, 3]: what the three coefficients are multiplied with."""
    return np.array(
        [
            [conv + output_cost * outputs, depthwise, dense]
            for conv, depthwise, dense, outputs in (REFERENCE[task] for task in tasks)
        ],
        float,
    )


def fit(figures: dict[str, float], output_cost: float, without: str | None = None) -> np.ndarray:
    """Three non-negative coefficients with the least relative error; figure units per MAC."""
    tasks = [task for task in TASKS if task in figures and task != without]
    y = np.array([figures[task] for task in tasks])
    return nnls(design(tasks, output_cost) / y[:, None], np.ones(len(tasks)))[0]


def held_out(figures: dict[str, float], output_cost: float) -> dict[str, float]:
    """Predicted over published, less one, for KWS and VWW from the other three."""
    return {
        task: float(design([task], output_cost)[0] @ fit(figures, output_cost, task) / figures[task] - 1)
        for task in ("kws", "vww")
    }


def best_output_cost(figures: Sequence[dict[str, float]]) -> float:
    """The k with the least mean |error| over these systems."""

    def error(cost: float) -> float:
        return float(np.mean([abs(e) for one in figures for e in held_out(one, cost).values()]))

    return min(OUTPUT_COSTS, key=error)


def validate(systems: Sequence[System], quantity: str = "latency_us") -> dict[str, Any]:
    """Held-out errors with everything that was chosen taken from other submitters.

    Returns:
        by_system: name -> {"kws", "vww"} errors; clean and all: count, mean_abs, median_abs, coverage, interval (the
        log factor), each; constant: the mean error of "MACs times a constant" on the clean set.
    """
    full = [s for s in systems if all(task in getattr(s, quantity) for task in TASKS)]
    clean = [s for s in full if s.clean]
    costs = {
        s.submitter: best_output_cost([getattr(o, quantity) for o in clean if o.submitter != s.submitter]) for s in full
    }
    errors = {s.name: held_out(getattr(s, quantity), costs[s.submitter]) for s in full}
    result: dict[str, Any] = {"by_system": errors}
    for label, group in (("clean", clean), ("all", full)):
        found = np.array([list(errors[s.name].values()) for s in group])
        inside = []
        for s in group:
            bound = log_factor({o.name: errors[o.name] for o in group if o.submitter != s.submitter}, group)
            inside += [abs(np.log1p(e)) <= bound for e in errors[s.name].values()]
        result[label] = {
            "systems": len(group),
            "mean_abs": float(np.abs(found).mean()),
            "median_abs": float(np.median(np.abs(found))),
            "coverage": float(np.mean(inside)),
            "log_factor": log_factor({s.name: errors[s.name] for s in group}, group),
        }
    naive = [
        abs(
            sum(REFERENCE[task][:3])
            * np.mean([getattr(s, quantity)[o] / sum(REFERENCE[o][:3]) for o in TASKS if o != task])
            / getattr(s, quantity)[task]
            - 1
        )
        for s in clean
        for task in ("kws", "vww")
    ]
    result["constant"] = float(np.mean(naive))
    return result


def log_factor(errors: dict[str, dict[str, float]], systems: Sequence[System]) -> float:
    """The bound of |ln(predicted / published)|: a conformal quantile in which every submitter weighs the same.

    A new system usually comes from somebody new, so the submitters are the sample, not their boards.
    """
    submitters: dict[str, list[float]] = {}
    for system in systems:
        if system.name in errors:
            submitters.setdefault(system.submitter, []).extend(abs(np.log1p(e)) for e in errors[system.name].values())
    points = sorted((error, 1 / len(own)) for own in submitters.values() for error in own)
    reached = 0.0
    for error, weight in points:
        reached += weight
        if reached >= LEVEL * (len(submitters) + 1):
            return float(error)
    return float(points[-1][0])


def table(systems: Sequence[System]) -> dict[str, Any]:
    """What is committed as latency_systems.json."""
    clean = [s for s in systems if s.clean and s.complete]
    made: dict[str, Any] = {
        "schema": 1,
        "source": SOURCE,
        "command": "python -m edgepress.benchmarks.estimate.fit_latency RESULTS.csv",
        "claim": CLAIM,
        "level": LEVEL,
    }
    for quantity in ("latency_us", "energy_uj"):
        full = [s for s in clean if all(task in getattr(s, quantity) for task in TASKS)]
        checked = validate(systems, quantity)
        cost = best_output_cost([getattr(s, quantity) for s in full])
        made[quantity] = {
            "output_cost": cost,
            "validation": {k: v for k, v in checked.items() if k != "by_system"},
            "systems": {},
        }
        extra = (
            [System(name, "mcufit-bench", False, mhz, "TFLite Micro", us) for name, (us, mhz) in EXTRA.items()]
            if quantity == "latency_us"
            else []
        )
        for system in [*systems, *extra]:
            figures = getattr(system, quantity)
            if not {"ic", "ad"} <= set(figures) or not {"kws", "vww"} & set(figures):
                continue
            scale = 1000.0  # us -> ns, uJ -> nJ
            coefficients = [float(f"{value * scale:.5g}") for value in fit(figures, cost)]
            errors = checked["by_system"].get(system.name)
            made[quantity]["systems"][system.name] = {
                "per_mac": dict(zip(("conv", "depthwise", "dense"), coefficients, strict=True)),
                "clean": system.clean,
                "mhz": system.mhz,
                "framework": system.framework[:60],
                "held_out": None if errors is None else {k: round(v, 4) for k, v in errors.items()},
            }
    return made


def report(systems: Sequence[System]) -> str:
    """The validation as text."""
    lines = []
    for quantity in ("latency_us", "energy_uj"):
        found = validate(systems, quantity)
        for label in ("clean", "all"):
            group = found[label]
            lines.append(
                f"{quantity}, {label}: {group['systems']} systems, mean |error| {group['mean_abs']:.1%}, "
                f"median {group['median_abs']:.1%}, {CLAIM:.0%} interval covers {group['coverage']:.1%} "
                f"(factor {np.exp(group['log_factor']):.2f})"
            )
        lines.append(f"{quantity}, clean, MACs times a constant: mean |error| {found['constant']:.1%}")
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Write the table to stdout and the validation to stderr."""
    given = sys.argv[1:] if args is None else args
    if len(given) != 1:
        raise UsageError(
            "usage: python -m edgepress.benchmarks.estimate.fit_latency RESULTS.csv "
            "> models/footprint/latency_systems.json"
        )
    systems = read_systems(given[0])
    print(report(systems), file=sys.stderr)
    print(json.dumps(table(systems), indent=1))


if __name__ == "__main__":
    run_command(main)
