# SPDX-License-Identifier: Apache-2.0
"""Accuracy at equal budget and equal training: edgepress, Torch-Pruning and training from scratch.

    python -m edgepress.benchmarks.experiments.peers.accuracy --data ./esc10-mobile \\
        --output benchmarks/results/peers_accuracy.json

Every finished training is kept in the run directory; the same command goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgepress.benchmarks.experiments.peers.trial import (
    METHODS,
    OURS,
    PEERS,
    SHARES,
    Experiment,
    Trial,
    experiments,
    finished_result,
    open_data,
    run_trial,
    write_digits,
)
from edgepress.models.command_line import run_command
from edgepress.models.errors import UsageError

SCHEMA = 1
#: Seconds per clip, epoch and MAC of a training step on one core (forward and backward), and per optimizer step.
_SECONDS_PER_MAC, _SECONDS_PER_STEP = 2.5e-10, 0.012
_STARTING_SECONDS = 8.0

app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[str | None, typer.Option(help="Folder of ESC-10 Mobile; without it only the digits.")] = None,
    run: Annotated[Path, typer.Option(help="Keeps every finished training.")] = Path("runs/peers"),
    seeds: Annotated[str, typer.Option(help="Seeds on ESC-10 Mobile.")] = "0,1,2",
    digit_seeds: Annotated[str, typer.Option(help="Seeds on the digits.")] = "0,1,2,3,4",
    methods: Annotated[str, typer.Option(help="Methods; default: all.")] = ",".join(METHODS),
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at once, one core each.")] = 2,
    epochs: Annotated[str | None, typer.Option(help="For a try: the same number of epochs everywhere.")] = None,
    output: Annotated[Path | None, typer.Option(help="The results file.")] = None,
) -> None:
    """Train every method at every budget with every seed, and compare them on the test clips."""
    names = methods.split(",")
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise UsageError(f"--methods = {unknown[0]!r} is unknown: known are {', '.join(METHODS)}")
    short = (int(epochs), int(epochs)) if epochs else None
    known = experiments(dict.fromkeys(("esc10-mobile", "digits"), short) if short else None)
    sources = {"digits": str(write_digits(run / "digits.npz"))}
    if data is not None:
        sources["esc10-mobile"] = data
    wanted = {"esc10-mobile": _numbers(seeds), "digits": _numbers(digit_seeds)}
    trials = [
        Trial(known[name], sources[name], seed, method, share)
        for name in ("esc10-mobile", "digits")
        if name in sources
        for seed in wanted[name]
        for method, share in [(None, 1.0), *((m, s) for m in names for s in SHARES)]
    ]
    _claim(run, [known[name] for name in sources])
    _say_estimate(run, trials, jobs)
    results = run_all(run, trials, jobs)
    report = summary(results, {name: known[name] for name in sources}, sources)
    if output is not None:
        from edgepress.models.atomic import write_json

        write_json(output, report)
    print(table(report))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"seeds = {text!r} must be whole numbers, separated by commas") from error


def _claim(run: Path, chosen: Sequence[Experiment]) -> None:
    """Results of other settings are never mixed in."""
    from edgepress.models.atomic import write_json

    for experiment in chosen:
        note = run / experiment.name / "settings.json"
        facts = json.loads(json.dumps(experiment.facts()))
        if not note.exists():
            write_json(note, facts)
        elif json.loads(note.read_text()) != facts:
            raise UsageError(f"{note.parent} holds trainings with other settings; choose another --run")


def estimate_seconds(trial: Trial, clips: int, macs: float) -> float:
    """Of one training on a quiet core, roughly: the products of all steps, and the time between them."""
    settings = trial.experiment.dense if trial.method is None else trial.experiment.prune.train
    steps = settings.epochs * clips / settings.batch_size
    size = macs
    if trial.method is not None:
        shaped = trial.experiment.prune.shaping_share if trial.method.startswith(("admm", "gradual")) else 0.0
        # The teacher runs forward only: a third of a step.
        size = macs * (shaped + (1 - shaped) * trial.share) + (1 - shaped) * macs / 3
    return _STARTING_SECONDS + settings.epochs * clips * size * _SECONDS_PER_MAC + steps * _SECONDS_PER_STEP


def _say_estimate(run: Path, trials: Sequence[Trial], jobs: int) -> None:
    from edgepress.benchmarks.experiments.peers.trial import dense_network
    from edgepress.models.cost.cost import cost_of

    macs: dict[str, tuple[int, float]] = {}
    seconds, left = 0.0, 0
    for trial in trials:
        if trial.experiment.name not in macs:
            task = open_data(trial)
            model, spec = dense_network(trial, task)
            macs[trial.experiment.name] = (len(task.split("train")), cost_of(model, spec.example_inputs()).macs)
        if finished_result(run, trial) is None:
            left += 1
            seconds += estimate_seconds(trial, *macs[trial.experiment.name])
    for name, (clips, count) in macs.items():
        print(f"{name}: {clips} training clips, {count / 1e6:.2f} M MACs (dcase)", file=sys.stderr)
    print(
        f"{left} of {len(trials)} trainings are left, about {seconds / jobs / 60:.0f} minutes on {jobs} quiet cores",
        file=sys.stderr,
        flush=True,
    )


def run_all(run: Path, trials: Sequence[Trial], jobs: int) -> list[dict[str, Any]]:
    """Results of all trials, in their order; dense networks first, since the others start from them."""
    results: dict[int, dict[str, Any]] = {}
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        for dense in (True, False):
            futures = {
                pool.submit(run_trial, run, trial): number
                for number, trial in enumerate(trials)
                if (trial.method is None) is dense
            }
            for done, future in enumerate(as_completed(futures), 1):
                number = futures[future]
                results[number] = result = future.result()
                print(
                    f"[{done}/{len(futures)}] {trials[number].experiment.name} {trials[number].name}: test "
                    f"{100 * result['test_accuracy']:.1f} %, {result['macs']:,} MACs, {result['seconds']} s",
                    file=sys.stderr,
                    flush=True,
                )
    return [results[number] | {"experiment": trial.experiment.name} for number, trial in enumerate(trials)]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def summary(
    results: Sequence[dict[str, Any]], chosen: dict[str, Experiment], sources: dict[str, str]
) -> dict[str, Any]:
    """The results file: rows by experiment, budget and method, and the differences that the issue asks for.

    A difference is the mean over seeds and clips. Its interval is a paired bootstrap over recordings, the seeds of one
    recording kept together: it speaks of other recordings, not of other seeds.
    """
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.compress.pipeline.provenance import command, versions

    found: dict[str, Any] = {}
    for name, experiment in chosen.items():
        own = [result for result in results if result["experiment"] == name]
        task = open_data(Trial(experiment, sources[name], 0))
        identifiers = task.split("test").identifiers
        right = {
            key: np.mean(
                [_bits(result["right"]) for result in own if (result["share"], result["method"]) == key], axis=0
            )
            for key in dict.fromkeys((result["share"], result["method"]) for result in own)
        }
        rows = [_row([result for result in own if (result["share"], result["method"]) == key]) for key in right]
        found[name] = {
            "settings": experiment.facts(),
            "clips": {split: len(task.split(split)) for split in ("train", "validation", "test")},
            "recordings": len(set(identifiers)) if identifiers else None,
            "rows": rows,
            "comparisons": [
                comparison
                for share in sorted({key[0] for key in right} - {1.0}, reverse=True)
                for comparison in _comparisons(rows, right, share, identifiers)
            ],
        }
    return {
        "schema": SCHEMA,
        "command": command(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
        "versions": {**versions(), "torch-pruning": package_version("torch-pruning")},
        "experiments": found,
        "default": default_method(found),
    }


def package_version(package: str) -> str | None:
    """The installed version, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _bits(text: str) -> np.ndarray:
    return np.array([character == "1" for character in text], np.float64)


def _row(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def spread(key: str) -> dict[str, float]:
        values = [result[key] for result in results]
        return {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}

    first = results[0]
    row = {
        "method": first["method"] or "dense",
        "share": first["share"],
        "seeds": sorted(r["seed"] for r in results),
        **{key: spread(key) for key in ("test_accuracy", "log_loss", "macs", "params")},
        "validation_accuracy": spread("validation_accuracy"),
        "seconds": spread("seconds"),
    }
    if "target_macs" in first:
        row["target_macs"] = first["target_macs"]
    return row


def best_of(rows: Sequence[dict[str, Any]], share: float, names: Sequence[str]) -> str | None:
    """The method with the highest mean test accuracy at one budget, of those given that were run."""
    found = [row for row in rows if row["share"] == share and row["method"] in names]
    return max(found, key=lambda row: row["test_accuracy"]["mean"])["method"] if found else None


def _comparisons(
    rows: Sequence[dict[str, Any]],
    right: dict[tuple[float, Any], np.ndarray],
    share: float,
    identifiers: Sequence[str] | None,
) -> list[dict[str, Any]]:
    from edgepress.models.tasks.metrics import paired_cluster_bootstrap

    peer = best_of(rows, share, PEERS)
    others = [("torch-pruning (best)", peer), ("from-scratch", best_of(rows, share, ("from-scratch",)))]
    best = best_of(rows, share, OURS)
    return [
        {
            "share": share,
            "method": ours,
            "best_of_ours": ours == best,
            "against": label,
            "peer": other,
            **paired_cluster_bootstrap(right[share, ours], right[share, other], identifiers),
        }
        for ours in OURS
        if (share, ours) in right
        for label, other in others
        if other is not None
    ]


def default_method(found: dict[str, Any]) -> str | None:
    """Ours with the highest test accuracy, averaged over experiments and budgets."""
    scores: dict[str, list[float]] = {}
    for experiment in found.values():
        for row in experiment["rows"]:
            if row["method"] in OURS:
                scores.setdefault(row["method"], []).append(row["test_accuracy"]["mean"])
    return max(scores, key=lambda name: float(np.mean(scores[name]))) if scores else None


def table(report: dict[str, Any]) -> str:
    """The rows and comparisons as text."""
    lines = []
    for name, experiment in report["experiments"].items():
        lines.append(name)
        for row in experiment["rows"]:
            accuracy = row["test_accuracy"]
            lines.append(
                f"  {100 * row['share']:4.0f} %  {row['method']:22} {100 * accuracy['mean']:5.2f} % "
                f"({100 * accuracy['min']:.1f} to {100 * accuracy['max']:.1f}), "
                f"{row['macs']['mean']:,.0f} MACs"
            )
        for line in experiment["comparisons"]:
            low, high = line["interval"]
            lines.append(
                f"  {100 * line['share']:4.0f} %  {line['method']} minus {line['peer']}: "
                f"{100 * line['difference']:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"
                + (", best of ours" if line["best_of_ours"] else "")
            )
    lines.append(f"highest over all: {report['default']}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(app)
