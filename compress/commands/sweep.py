# SPDX-License-Identifier: Apache-2.0
"""`compress sweep`: a grid of runs on Ray, on this machine or on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepress.compress.commands.options import Data, Overrides, Trust
from edgepress.compress.sweep.cluster import Resources, connected, task_options
from edgepress.compress.sweep.forecast import duration
from edgepress.compress.sweep.sweep import Grid, SweepTask, make_grid, plan, read_grid
from edgepress.compress.sweep.task import STATE, finished, last_line, read_json, run_task
from edgepress.models.atomic import write_json
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say
from edgepress.models.units import parse_quantity

if TYPE_CHECKING:
    from rich.table import Table

    from edgepress.compress.recipes.recipe import Recipe

RESULTS = "results.json"


def sweep(
    grid: Annotated[
        Path | None, typer.Argument(help="A TOML file with recipes, budgets, seeds, devices, data.")
    ] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="May be repeated, like the next three.")] = None,
    budget: Annotated[list[str] | None, typer.Option(help="MACs, 20M or 50%.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Of everything random.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Device class.")] = None,
    data: Data = None,
    run: Annotated[Path, typer.Option("--run", help="Folder that collects all tasks.")] = Path("runs/sweep"),
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster: auto or host:port; otherwise this machine. --run must be on a shared disk."),
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores and threads of a task.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of a task; one where there are any.")] = None,
    memory: Annotated[str, typer.Option(help="Memory of a task, for how many run at once.")] = "2 GB",
    retries: Annotated[int, typer.Option(min=0, help="How often a killed or failed task starts again.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and an estimate of time.")] = False,
    report: Annotated[bool, typer.Option(help="Write the Pareto report.")] = True,
    overrides: Overrides = None,
    trust: Trust = False,
) -> None:
    """A grid of recipes, budgets, seeds and device classes on Ray; killed, the same command goes on where it was."""
    found = _grid(grid, {"recipes": recipe, "budgets": budget, "seeds": seed, "devices": device, "data": data})
    tasks, recipes = plan(found, trust=trust, overrides=tuple(overrides or ()))
    resources = Resources(address, cpus, gpus, int(parse_quantity(memory, "bytes", name="--memory")), retries)
    if dry_run:
        print_plan(tasks, recipes, run, resources)
        return
    directory = RunDirectory(run)
    with directory.lock():
        write_json(run / "plan.json", {"tasks": [task.to_json() for task in tasks]})
        results = run_tasks(tasks, run, resources)
        runs = [task for task in tasks if task.kind == "run"]
        failed = [task.name for task in runs if results[task.name].get("state") != "done"]
        if report and len(failed) < len(runs):
            _report(run, [task for task in runs if task.name not in failed])
    if failed:
        raise RuntimeFailure(
            f"{len(failed)} of {len(runs)} tasks failed: {', '.join(failed)}; their log.txt says why, "
            "and the same command tries them again"
        )


def _grid(path: Path | None, given: dict[str, Any]) -> Grid:
    written = {key: value for key, value in given.items() if value}
    if path is None:
        return make_grid(written, "the sweep")
    if written:
        raise UsageError(f"the grid is {path}: leave out --{next(iter(written)).rstrip('s')}, or the file")
    return read_grid(path)


def run_tasks(tasks: Sequence[SweepTask], sweep: Path, resources: Resources) -> dict[str, dict[str, Any]]:
    """Run tasks on Ray until each has ended; name -> what `run_task` returned, or {"state": "failed", ...}."""
    results: dict[str, dict[str, Any]] = {}
    dense = {task.name: task for task in tasks if task.kind == "dense"}
    for task in tasks:
        done = finished(task.folder(sweep), task)
        if done is not None:
            results[_id(task)] = done
    waiting = [task for task in tasks if _id(task) not in results]
    write_results(sweep, tasks, results)
    if not waiting:
        say("every task was finished before")
        return results
    with connected(resources.address) as ray:
        options = task_options(ray.cluster_resources(), resources, len(tasks) - len(dense))
        threads, accelerator = options["num_cpus"], "gpu" if options["num_gpus"] else "cpu"
        remote = ray.remote(**options)(run_task)
        running: dict[Any, SweepTask] = {}
        with _live() as show:
            while waiting or running:
                for task in list(waiting):
                    if task.dense is None or f"dense/{task.dense}" in results:
                        waiting.remove(task)
                        started = remote.remote(task.to_json(), str(sweep.resolve()), threads, accelerator)
                        running[started] = task
                ended, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                for one in ended:
                    task = running.pop(one)
                    results[_id(task)] = _result(ray, one, task)
                    write_results(sweep, tasks, results)
                show(tasks, sweep, results)
    return results


def _id(task: SweepTask) -> str:
    return task.name if task.kind == "run" else f"dense/{task.name}"


def _result(ray: Any, reference: Any, task: SweepTask) -> dict[str, Any]:
    try:
        return ray.get(reference)
    except Exception as error:  # whatever ended one task: the others go on
        return {**task.to_json(), "state": "failed", "message": str(error).strip().splitlines()[-1]}


def write_results(sweep: Path, tasks: Sequence[SweepTask], results: dict[str, dict[str, Any]]) -> None:
    """All results so far in one file, whole at any time."""
    write_json(
        sweep / RESULTS,
        {"schema": 1, "tasks": [results.get(_id(task)) or {**task.to_json(), "state": "open"} for task in tasks]},
    )


@contextmanager
def _live() -> Iterator[Any]:
    """A table that follows the tasks on a terminal; elsewhere a line for each that ends."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2) as live:
            yield lambda tasks, sweep, results: live.update(table(tasks, sweep, results))
        return
    said: set[str] = set()

    def lines(tasks: Sequence[SweepTask], sweep: Path, results: dict[str, dict[str, Any]]) -> None:
        for name, result in results.items():
            if name not in said:
                said.add(name)
                say(f"{len(results)}/{len(tasks)} {name}: {result['state']} ({result.get('message', '')})")

    yield lines


def table(tasks: Sequence[SweepTask], sweep: Path, results: dict[str, dict[str, Any]]) -> Table:
    """Every task with its state, attempts, time and the newest line of its log."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(f"{sweep}: {sum(r['state'] == 'done' for r in results.values())} of {len(tasks)} done"))
    for name in ("task", "state", "attempts", "minutes", "last word"):
        shown.add_column(name, justify="right" if name in ("attempts", "minutes") else "left", no_wrap=True)
    for task in tasks:
        folder = task.folder(sweep)
        state = results.get(_id(task)) or read_json(folder / STATE) or {"state": "waiting"}
        seconds = state.get("seconds", time.time() - state["started"] if "started" in state else None)
        shown.add_row(
            Text(_id(task)),
            state["state"],
            str(state.get("attempts", "")),
            "" if seconds is None else f"{seconds / 60:.1f}",
            Text(last_line(folder)[:80]),  # no markup: "edgepress[train]" must stay as it is
        )
    return shown


def print_plan(tasks: Sequence[SweepTask], recipes: dict[str, Recipe], sweep: Path, resources: Resources) -> None:
    """What would run, and about how long; a few training steps are timed, nothing is written."""
    from edgepress.compress.pipeline.data import open_task
    from edgepress.compress.sweep.estimate import seconds_per_clip, task_seconds

    cpus = resources.cpus or 1
    slots = max(1, (os.cpu_count() or 1) // cpus)
    measured: dict[str, tuple[int, float]] = {}
    total = chain = 0.0
    before: dict[str, float] = {}
    for task in tasks:
        recipe = recipes[_id(task)]
        if task.recipe not in measured:
            data = open_task(recipe.task, recipe.front_end, trust=True)
            measured[task.recipe] = len(data.split("train")), seconds_per_clip(recipe, data)
        seconds = (
            task_seconds(recipe, *measured[task.recipe], dense=task.kind == "dense", dense_given=task.dense is not None)
            / cpus
        )
        done = finished(task.folder(sweep), task) is not None
        seconds = 0.0 if done else seconds
        before[_id(task)] = seconds
        total, chain = total + seconds, max(chain, seconds + before.get(f"dense/{task.dense}", 0.0))
        print(
            f"{_id(task):40s} {'finished' if done else duration(seconds):>10s}  compress "
            + " ".join(task.arguments(task.folder(sweep)))
        )
    where = (
        f"on the cluster {resources.address}: {duration(total)} of one slot"
        if resources.address
        else f"{slots} at a time on this machine: about {duration(max(chain, total / slots))}"
    )
    print(f"{len(tasks)} tasks, {where} (three steps of each dense network were timed; pruned networks train faster)")


def _report(sweep: Path, tasks: Sequence[SweepTask]) -> None:
    """The Pareto page over all tasks; benchmarks lies to the right of compress and is called as the command it is."""
    page = sweep / "pareto.html"
    command = [
        sys.executable,
        "-m",
        "edgepress.benchmarks",
        "pareto",
        *(str(task.folder(sweep)) for task in tasks),
        "--output",
        str(page),
        "--overwrite",
    ]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        say(f"  no report: `{' '.join(command[1:4])} ...` failed; its message is above")
    else:
        print(f"report: {page}")
