# SPDX-License-Identifier: Apache-2.0
"""`compress search`: Adam's parameters, searched on Optuna."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepress.compress.commands.options import DEFAULT_RUN, Accelerator, Data, Run, Seed, Trust, given
from edgepress.compress.pipeline.data import open_task
from edgepress.compress.pipeline.networks import build_for
from edgepress.compress.pipeline.progress import say
from edgepress.compress.pipeline.provenance import command, data_facts, source_of, versions
from edgepress.models.atomic import write_json, write_text
from edgepress.models.run_directory import RunDirectory

if TYPE_CHECKING:
    from optuna import Study

    from edgepress.compress.recipes.recipe import TrainSettings


def search(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file; its network and [train].")] = ("default"),
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, those of before included.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Of every trial.")] = 5,
    weight_decay: Annotated[
        bool, typer.Option("--weight-decay", help="Also search the weight decay, in the learning rate's range.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(help="URL of a database that several machines share; otherwise a file of the run.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the search; the same name goes on with it.")] = "adam",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    trust: Trust = False,
    accelerator: Accelerator = "auto",
) -> None:
    """Search Adam's learning rate, beta1, beta2 and epsilon in the report's ranges; killed, it goes on."""
    from edgepress.compress.recipes.recipe import read_recipe
    from edgepress.compress.teach.search import Search, rows_of, run_trials
    from edgepress.compress.training.machine import Machine
    from edgepress.compress.training.train import train

    checked = read_recipe(recipe, given({"task": data, "seed": seed}), trust=trust)
    directory, began = RunDirectory(run), time.monotonic()
    machine = Machine(accelerator, progress=False)
    search = Search(name, trials, epochs, weight_decay, checked.seed)
    folder = directory.path / "search"
    place: str | Path = storage or folder / f"{name}.journal"
    with directory.lock():
        task = open_task(checked.task, checked.front_end, trust=True)
        facts = {
            "schema": 1,
            "command": command(),
            "versions": versions(),
            "network": checked.network.model_dump(),
            "data": data_facts(task, source_of(checked.task or "")),
            "epochs": epochs,
        }

        def one(settings: TrainSettings, watch: Callable[[dict[str, float]], None]) -> None:
            train(
                build_for(checked.network, task, checked.seed)[0],
                task,
                settings,
                seed=checked.seed,
                machine=machine,
                watch=watch,
            )

        def note(study: Study) -> None:
            rows = rows_of(study)
            last = rows[-1]
            ended = [row for row in rows if row["state"] in ("complete", "pruned")]
            loss = "diverged" if last["log_loss"] is None else f"log loss {last['log_loss']:.4f}"
            say(
                f"{len(ended)} of {trials}: {last['state']}, {loss}, learning rate {last['learning_rate']:.2g}, "
                f"beta1 {last['beta1']:.4g}, beta2 {last['beta2']:.4g}, epsilon {last['epsilon']:.2g}"
            )
            _write(folder / name, facts, rows)

        study = run_trials(search, checked.train, place, one, note)
        rows = rows_of(study)
        _write(folder / name, facts, rows)
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


def _write(path: Path, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The trials as JSON and, where vl-convert is installed, their figure."""
    from edgepress.compress.teach.search import figure_of

    write_json(path.with_name(f"{path.name}.json"), {**facts, "trials": rows})
    try:
        import vl_convert
    except ModuleNotFoundError:
        return
    write_text(path.with_name(f"{path.name}.svg"), vl_convert.vegalite_to_svg(figure_of(rows)))
