# SPDX-License-Identifier: Apache-2.0
"""Accuracy at equal budget and equal training: edgepress, Torch-Pruning and training from scratch.

    python -m edgepress.benchmarks.experiments.peers.accuracy --cifar cifar10.zip --esc ./esc10-mobile \\
        --output benchmarks/results/peers_accuracy.json

Every finished training is a line of `trainings.jsonl` in the run directory; the same command goes on where it was, also
after `--minutes`. `make peers-gpu` runs the whole in such parts on one GPU.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.benchmarks.experiments.peers.data import FASHION, LENGTHS, Experiment, experiments, sources
from edgepress.benchmarks.experiments.peers.methods import METHODS, OURS
from edgepress.benchmarks.experiments.peers.plan import Log, Plan
from edgepress.benchmarks.experiments.peers.summary import overall, summarize_cell
from edgepress.benchmarks.experiments.peers.trial import Trial, open_data, run_trial
from edgepress.models.children import end_spawned_process_with_parent
from edgepress.models.command_line import run_command
from edgepress.models.errors import RuntimeFailure, UsageError

SCHEMA = 2
_TRIES = 3

app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run: Annotated[Path, typer.Option(help="Keeps every finished training.")] = Path("runs/peers"),
    only: Annotated[str | None, typer.Option(help="Experiments; default: all whose data are given.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, by commas; default: all.")] = None,
    lengths: Annotated[str, typer.Option(help="short, long.")] = ",".join(LENGTHS),
    seeds: Annotated[int | None, typer.Option(min=1, help="At most so many; default: as planned.")] = None,
    shares: Annotated[str | None, typer.Option(help="Budgets, such as 0.25,0.12; default: as planned.")] = None,
    halving: Annotated[
        bool, typer.Option(help="Train the best third of each kind on validation with all seeds, not every method.")
    ] = False,
    keep: Annotated[str | None, typer.Option(help="Methods, by commas, that --halving never drops.")] = None,
    cifar: Annotated[
        Path | None, typer.Option(help="CIFAR-10 as a zip archive of train/CLASS/ and test/CLASS/.")
    ] = None,
    fashion: Annotated[Path, typer.Option(help="Folder of Fashion-MNIST's four .gz files.")] = FASHION,
    esc: Annotated[Path | None, typer.Option(help="Folder of ESC-10 Mobile.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Trainings at once, one thread each; 0: only sum up.")] = 2,
    minutes: Annotated[float | None, typer.Option(min=0, help="Start no training after so long.")] = None,
    accelerator: Annotated[str, typer.Option(help="cpu or gpu; all trainings share one.")] = "cpu",
    epochs: Annotated[int | None, typer.Option(min=2, help="For a try: the same number of epochs everywhere.")] = None,
    output: Annotated[Path | None, typer.Option(help="The results file.")] = None,
) -> None:
    """Train every method at every budget with every seed, and compare them on the test clips."""
    names = methods.split(",") if methods else list(METHODS)
    kept = keep.split(",") if keep else []
    if kept and not halving:
        raise UsageError("--keep names methods that --halving never drops: give --halving as well")
    known = experiments((epochs, epochs) if epochs else None)
    given = sources(run, fashion, cifar, esc)
    wanted = only.split(",") if only else list(given)
    for option, values, allowed in (
        ("--methods", names, METHODS),
        ("--keep", kept, tuple(names)),
        ("--only", wanted, tuple(known)),
        ("--lengths", lengths.split(","), tuple(LENGTHS)),
    ):
        unknown = [value for value in values if value not in allowed]
        if unknown:
            raise UsageError(f"{option} = {unknown[0]!r} is unknown: known are {', '.join(allowed)}")
    missing = [name for name in wanted if name not in given]
    if missing:
        raise UsageError(f"the data of {missing[0]} are not given: --cifar ARCHIVE, --fashion FOLDER or --esc FOLDER")
    chosen = {name: (known[name], given[name]()) for name in known if name in wanted}
    _claim(run, [experiment for experiment, _ in chosen.values()])
    plan = Plan(chosen, names, lengths.split(","), seeds, _shares(shares, chosen), halving, kept)
    log = Log(run / "trainings.jsonl")
    if jobs:
        run_all(run, plan, log, jobs, accelerator, None if minutes is None else time.monotonic() + 60 * minutes)
    report = report_of(log, known, chosen, accelerator, seeds, kept if halving else None)
    if output is not None:
        from edgepress.models.atomic import write_json

        write_json(output, report)
    print(f"{len(log.found)} of {Plan({**chosen}).total()} trainings of {', '.join(chosen)} are finished")


def _shares(text: str | None, chosen: Mapping[str, tuple[Experiment, str]]) -> list[float] | None:
    """The budgets of --shares.

    Raises:
        UsageError: one that no chosen experiment has.
    """
    if text is None:
        return None
    known = sorted({share for experiment, _ in chosen.values() for share in experiment.shares})
    listed = ", ".join(f"{share:g}" for share in known)
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--shares = {text!r} must be numbers with commas between: {listed}") from None
    for share in shares:
        if share not in known:
            raise UsageError(f"--shares = {share:g} is no budget of {', '.join(chosen)}: they have {listed}")
    return shares


def _claim(run: Path, chosen: Sequence[Experiment]) -> None:
    """Results of other settings are never mixed in."""
    from edgepress.models.atomic import write_json

    for experiment in chosen:
        note = run / "settings" / f"{experiment.name}.json"
        facts = json.loads(json.dumps(experiment.facts()))
        if not note.exists():
            write_json(note, facts)
        elif json.loads(note.read_text()) != facts:
            raise UsageError(f"{run} holds trainings of {experiment.name} with other settings; choose another --run")


def run_all(run: Path, plan: Plan, log: Log, jobs: int, accelerator: str, until: float | None) -> None:
    """Run what is left, several at once, and add every result to the log as soon as it is there.

    A process that dies (for want of memory, of a fault in native code) takes those beside it along: all are run again.

    Raises:
        RuntimeFailure: a training whose process died `_TRIES` times.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    died: Counter[str] = Counter()
    while lost := _run_until_a_process_dies(run, plan, log, jobs, accelerator, until):
        died.update(lost)
        name, times = died.most_common(1)[0]
        if times >= _TRIES:
            raise RuntimeFailure(f"the process of {name} died {times} times; what is finished is kept in {run}")
        print(f"a process died, of these: {', '.join(lost)}; they are run again", file=sys.stderr, flush=True)


def _run_until_a_process_dies(
    run: Path, plan: Plan, log: Log, jobs: int, accelerator: str, until: float | None
) -> list[str]:
    """The names of the trainings that ran when one died; none where all came to their end."""
    total = plan.total()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        running: dict[Future[dict[str, Any]], Trial] = {}
        while True:
            busy = {trial.name for trial in running.values()}
            try:
                for trial in plan.ready(log):
                    if len(running) >= jobs or (until is not None and time.monotonic() > until):
                        break
                    if trial.name not in busy:
                        running[pool.submit(run_trial, run, trial, accelerator)] = trial
                if not running:
                    return []
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    trial = running.pop(future)
                    log.add(result)
                    print(
                        f"[{len(log.found)}/{total}] {trial.name}: test {100 * result['test_accuracy']:.1f} %, "
                        f"{result['macs']:,} MACs, {result['seconds']} s",
                        file=sys.stderr,
                        flush=True,
                    )
            except BrokenProcessPool:
                return [trial.name for trial in running.values()]


def _one_thread() -> None:
    import torch

    end_spawned_process_with_parent()
    torch.set_num_threads(1)


def report_of(
    log: Log,
    known: Mapping[str, Experiment],
    chosen: Mapping[str, tuple[Experiment, str]],
    accelerator: str,
    seeds: int | None = None,
    keep: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The results file: every experiment, budget, length and method, measured or not.

    Args:
        seeds: at most so many of each experiment.
        keep: with halving, the methods that are never dropped; None without halving.
    """
    from edgepress.benchmarks.experiments.peers.torch_pruning import available
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.compress.pipeline.provenance import versions

    found: dict[str, Any] = {}
    differences: list[dict[str, Any]] = []
    for name, experiment in known.items():
        own = [result for result in log.found.values() if result["experiment"] == name]
        task = open_data(Trial(experiment, chosen[name][1], 0)) if name in chosen else None
        wanted = experiment.seeds if seeds is None else min(seeds, experiment.seeds)
        identifiers = task.split("test").identifiers if task is not None else None
        cells = []
        for length in LENGTHS:
            for share in experiment.shares:
                here = [r for r in own if (r["share"], r["length"]) == (share, length) and r["method"] is not None]
                cell, more = summarize_cell(here, experiment.rates, wanted, identifiers, keep)
                differences += [{"experiment": name, "share": share, "length": length, **one} for one in more]
                cells.append({"share": share, "length": length, **cell})
        dense = sorted((r for r in own if r["method"] is None), key=lambda r: r["seed"])
        found[name] = {
            "settings": experiment.facts(),
            "seeds": wanted,
            "rates": list(experiment.rates),
            "clips": {split: len(task.split(split)) for split in ("train", "validation", "test")} if task else None,
            "recordings": len(set(identifiers)) if identifiers else None,
            "dense": [{key: r[key] for key in ("seed", "test_accuracy", "macs", "params")} for r in dense],
            "cells": cells,
        }
    return {
        "schema": SCHEMA,
        "command": shlex.join(["python", "-m", "edgepress.benchmarks.experiments.peers.accuracy", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "accelerator": accelerator,
        "halving": keep is not None,
        "kept": list(keep or ()),
        "environment": environment(),
        "versions": {**versions(), "torch-pruning": package_version("torch-pruning") if available() else None},
        "experiments": found,
        "differences": [{key: value for key, value in one.items() if key != "draws"} for one in differences],
        "overall": [
            {"ours": ours, "against": who, **mean}
            for ours in OURS
            for who in ("theirs", "scratch")
            if (mean := overall([d for d in differences if (d["ours"], d["against"]) == (ours, who)])) is not None
        ],
    }


def package_version(package: str) -> str | None:
    """The installed version, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    run_command(app)
