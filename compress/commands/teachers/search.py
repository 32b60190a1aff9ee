# SPDX-License-Identifier: Apache-2.0
"""`compress search`: Adam's parameters, searched on Optuna."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepress.compress.commands.options import DEFAULT_RUN, Accelerator, Data, Overrides, Run, Seed, Trust, given
from edgepress.compress.pipeline.data import task_of_recipe
from edgepress.compress.pipeline.networks import build_for
from edgepress.compress.pipeline.provenance import command, data_facts, source_of, versions
from edgepress.compress.pipeline.teaching import fresh_teacher, teacher_settings
from edgepress.models.atomic import write_json, write_text
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    from optuna import Study

    from edgepress.compress.recipes.recipe import NetworkSettings, Recipe, TrainSettings
    from edgepress.compress.teach.search import Search
    from edgepress.compress.training.machine import Machine
    from edgepress.models.tasks import Task


def search(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file; its network and [train].")] = ("default"),
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Of the recipe's [teacher]: its network, front end, weights and training.")
    ] = False,
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, those of before included.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Of every trial.")] = 5,
    weight_decay: Annotated[
        bool, typer.Option("--weight-decay", help="Also search the weight decay, in the learning rate's range.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(help="URL of a database that several machines share; otherwise a file of the run.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the search; the same name goes on. Default: adam, of a teacher adam-teacher.")
    ] = None,
    instances: Annotated[
        int, typer.Option(min=1, max=1000, help="Processes that share the search, started on Ray.")
    ] = 1,
    address: Annotated[
        str | None, typer.Option(help="With --instances: a Ray cluster, auto or host:port; otherwise this machine.")
    ] = None,
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    overrides: Overrides = None,
    trust: Trust = False,
    accelerator: Accelerator = "auto",
) -> None:
    """Search Adam's learning rate, beta1, beta2 and epsilon in the report's ranges; killed, it goes on."""
    from edgepress.compress.recipes.recipe import read_recipe
    from edgepress.compress.teach.search import Search
    from edgepress.compress.training.machine import Machine

    checked = read_recipe(recipe, given({"task": data, "seed": seed}), overrides=tuple(overrides or ()), trust=trust)
    subject = _subject(checked, teacher)
    name = name or ("adam-teacher" if teacher else "adam")
    search = Search(name, trials, epochs, weight_decay, checked.seed, subject.described)
    directory, began = RunDirectory(run), time.monotonic()
    machine = Machine(accelerator, progress=False)
    folder = directory.path / "search"
    if instances > 1:
        storage = storage or f"sqlite:///{(folder / f'{name}.db').resolve()}"
        folder.mkdir(parents=True, exist_ok=True)
        options = {"--data": data, "--seed": seed, "--accelerator": accelerator, "--run": run, "--name": name}
        options |= {"--trials": trials, "--epochs": epochs}
        flags = {"--teacher": teacher, "--weight-decay": weight_decay, "--trust": trust}
        words = [
            recipe,
            *(word for option, value in options.items() if value is not None for word in (option, str(value))),
            *(flag for flag, is_set in flags.items() if is_set),
            *(word for override in overrides or () for word in ("--set", override)),
        ]
        rows = _side_by_side(search, words, storage, instances, address)
    else:
        # Several processes may share a database; a file has one.
        with directory.lock() if storage is None else nullcontext():
            rows = _in_this_process(search, subject, storage or folder / f"{name}.journal", machine, folder)
    say(f"{time.monotonic() - began:.0f} s in this call")
    for row in sorted((row for row in rows if row["state"] == "complete"), key=lambda row: row["log_loss"])[:5]:
        betas = f"[{row['beta1']:.6g}, {row['beta2']:.6g}]"
        print(
            f"log loss {row['log_loss']:.4f}, accuracy {100 * row['accuracy']:.1f} %: learning_rate = "
            f"{row['learning_rate']:.3g}, betas = {betas}, epsilon = {row['epsilon']:.3g}"
            + (f", weight_decay = {row['weight_decay']:.3g}" if "weight_decay" in row else "")
        )
    print(folder / f"{name}.json")
    if (folder / f"{name}.svg").exists():
        print(folder / f"{name}.svg")


@dataclass(frozen=True)
class _Subject:
    """What is trained in every trial.

    Attributes:
        recipe: whose student, or whose teacher it is.
        network, front_end, settings, weights: of it.
        teacher: whether it is the teacher.
    """

    recipe: Recipe
    network: NetworkSettings
    front_end: dict[str, Any] | str | None
    settings: TrainSettings
    weights: str | None = None
    teacher: bool = False

    @property
    def described(self) -> str:
        """What a study of a teacher is kept apart by; a student's is told by its settings, as ever."""
        if not self.teacher:
            return ""
        return json.dumps([self.network.model_dump(mode="json"), self.front_end, self.weights], sort_keys=True)

    def open_task(self) -> Task:
        from edgepress.compress.pipeline.data import open_task

        return open_task(self.recipe.task, self.front_end, trust=True) if self.teacher else task_of_recipe(self.recipe)


def _subject(recipe: Recipe, teacher: bool) -> _Subject:
    """Raises:
    UsageError: the recipe has no [teacher] whose training could be searched."""
    if not teacher:
        return _Subject(recipe, recipe.network, recipe.front_end, recipe.train)
    if recipe.teacher is None:
        raise UsageError(f"--teacher: the recipe {recipe.name} has no section [teacher]; leave it out, or add one")
    found = teacher_settings(recipe)
    assert found.network is not None
    return _Subject(recipe, found.network, found.front_end, found.train, found.weights, True)


def _in_this_process(
    search: Search, subject: _Subject, place: str | Path, machine: Machine, folder: Path
) -> list[dict[str, Any]]:
    """Draw and train; the trials of all processes, when enough are finished."""
    from edgepress.compress.teach.search import rows_of, run_trials
    from edgepress.compress.training.train import train

    task = subject.open_task()
    facts = {
        "schema": 1,
        "command": command(),
        "versions": versions(),
        "network": subject.network.model_dump(),
        "teacher": subject.teacher,
        "data": data_facts(task, source_of(subject.recipe.task or "")),
        "epochs": search.epochs,
    }
    seed = subject.recipe.seed

    def one(settings: TrainSettings, watch: Callable[[dict[str, float]], None]) -> None:
        if subject.teacher:
            model, _ = fresh_teacher(
                subject.network, settings, task, subject.recipe.task, seed, subject.weights, quiet=True
            )
        else:
            model, _ = build_for(subject.network, task, seed)
        train(model, task, settings, seed=seed, machine=machine, watch=watch)

    def note(study: Study) -> None:
        rows = rows_of(study)
        last = rows[-1]
        ended = [row for row in rows if row["state"] in ("complete", "pruned")]
        loss = "diverged" if last["log_loss"] is None else f"log loss {last['log_loss']:.4f}"
        say(
            f"{len(ended)} of {search.trials}: {last['state']}, {loss}, learning rate {last['learning_rate']:.2g}, "
            f"beta1 {last['beta1']:.4g}, beta2 {last['beta2']:.4g}, epsilon {last['epsilon']:.2g}"
        )
        _write(folder / search.name, facts, rows)

    rows = rows_of(run_trials(search, subject.settings, place, one, note))
    _write(folder / search.name, facts, rows)
    return rows


def _side_by_side(
    search: Search, words: list[str], storage: str, instances: int, address: str | None
) -> list[dict[str, Any]]:
    """So many processes of this command on Ray, which share the database.

    Raises:
        RuntimeFailure: all of them failed, or trials are missing; the reason is that of one that failed.
    """
    from edgepress.compress.sweep.cluster import Resources, connected, task_options

    command_line = [sys.executable, "-m", "edgepress.compress", "search", *words, "--storage", storage]
    failures: list[str] = []
    with connected(address) as ray:
        options = task_options(ray.cluster_resources(), Resources(address, memory_bytes=0, retries=0), instances)
        # All at once, as asked for, however few the cores are.
        options["num_cpus"] = min(options["num_cpus"], ray.cluster_resources().get("CPU", 1) / instances)
        options["num_gpus"] = min(options["num_gpus"], ray.cluster_resources().get("GPU", 0.0) / instances)
        threads = max(1, int(options["num_cpus"]))
        remote = ray.remote(**options)(run_instance)
        waiting = [remote.remote(command_line, os.getcwd(), threads) for _ in range(instances)]
        say(f"{instances} instances share {storage}")
        while waiting:
            ended, waiting = ray.wait(waiting, num_returns=1, timeout=1.0)
            for one in ended:
                try:
                    failure = ray.get(one)
                except Exception as error:  # a worker of Ray's that died: the others go on
                    failure = str(error).strip().splitlines()[-1]
                if failure:
                    failures.append(failure)
                    say(f"an instance failed: {failure}")
    from edgepress.compress.teach.search import rows_in

    rows = rows_in(search, storage)
    ended = sum(row["state"] in ("complete", "pruned") for row in rows)
    if ended < search.trials:
        why = failures[0] if failures else "the instances ended early"
        raise RuntimeFailure(
            f"{ended} of {search.trials} trials are finished: {why}; the same command goes on with the rest"
        )
    return rows


def run_instance(command_line: list[str], folder: str, threads: int) -> str | None:
    """One process of a search, in a task of Ray; the last line of its errors where it failed."""
    import subprocess

    done = subprocess.run(
        command_line,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else None


def _write(path: Path, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The trials as JSON and, where vl-convert is installed, their figure."""
    from edgepress.compress.teach.search import figure_of

    write_json(path.with_name(f"{path.name}.json"), {**facts, "trials": rows})
    try:
        import vl_convert
    except ModuleNotFoundError:
        return
    write_text(path.with_name(f"{path.name}.svg"), vl_convert.vegalite_to_svg(figure_of(rows)))
