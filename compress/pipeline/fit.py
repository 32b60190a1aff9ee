# SPDX-License-Identifier: Apache-2.0
"""`compress fit`: one recipe in, for every device class the most accurate network that fits, exported and judged.

The teachers and the dense network are trained once. Each class prunes to its own limits; every network that comes out
is then held against every class, since what was made for a small device may be the better one on a large device, too.
The choice is made on the validation split, and of equal ones the cheapest is taken; the test split is only reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.compress.pipeline.budget import describe, is_within, limits_for, with_footprint
from edgepress.compress.pipeline.data import open_task
from edgepress.compress.pipeline.run import benchmark_stages, export_stages, quantize_int8, report_stage
from edgepress.compress.pipeline.stages import prune_stage, train_stage
from edgepress.models.devices.choice import Candidate, ranked
from edgepress.models.devices.classes import device_class
from edgepress.models.devices.device import is_better_higher
from edgepress.models.errors import UsageError
from edgepress.models.footprint.table import held_limits
from edgepress.models.run_directory import RunDirectory
from edgepress.models.tasks.kinds.table import metric_text
from edgepress.models.terminal.words import say
from edgepress.models.text_tables import table_text
from edgepress.models.units import format_quantity

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Recipe
    from edgepress.compress.training.machine import Machine
    from edgepress.models.limits import Limits
    from edgepress.models.tasks import Task


@dataclass(frozen=True)
class Fit:
    """What one device class gets.

    Attributes:
        device: the class.
        network: its record of the run, or None where nothing fits.
        file: of that network.
        on_device: predicted figures of the network on the class, by metric.
        accuracy: on the class's runtime, on the test split, or what else the task is measured by; None where it was
            not measured.
        metric: what that figure is.
    """

    device: str
    network: Mapping[str, Any] | None
    file: Path | None = None
    on_device: Mapping[str, float] | None = None
    accuracy: float | None = None
    metric: str = "accuracy"


def fit_recipe(
    source: str,
    *,
    devices: Sequence[str],
    data: str | None,
    run: Path,
    seed: int | None,
    trust: bool,
    machine: Machine,
    overrides: Sequence[str] = (),
    report: bool = True,
    before: Callable[[RunDirectory, Recipe, Task, Machine], Any] | None = None,
) -> bool:
    """Fit a recipe to device classes and print a line for each; whether every class has a network.

    Args:
        source: a shipped recipe's name or a file; its own targets and device are left aside.
        devices: names of device classes.
        data, run, seed, trust, machine, overrides, report: as in `compress run`.
        before: called under the lock of the run, to make some of its networks elsewhere: what is finished is taken.

    Raises:
        ConfigError: everything that is wrong with the recipe, together.
        UsageError: an unknown class, bad data, or the run directory is in use.
        InfeasibleBudget: the smallest network is above the limits of a class.
        RuntimeFailure: a child command failed.
    """
    from edgepress.compress.recipes.recipe import read_recipe

    if not devices:
        raise UsageError("fit needs a device class: --device NAME, once for each (compress list devices shows them)")
    classes = [device_class(name) for name in dict.fromkeys(devices)]
    changes = {name: value for name, value in (("task", data), ("seed", seed)) if value is not None}
    recipe = read_recipe(source, changes, overrides=overrides, trust=trust)
    forms = tuple(dict.fromkeys("onnx" if c.runtime == "onnxruntime" else "tflite" for c in classes))
    runtimes = tuple(dict.fromkeys(c.runtime for c in classes))
    measure = {"formats": forms, "runtimes": runtimes, "devices": tuple(c.name for c in classes)}
    recipe = recipe.model_copy(update={"measure": recipe.measure.model_copy(update=measure)})
    directory = RunDirectory(run)
    with directory.lock():
        say(f"fit: recipe {recipe.name} to {', '.join(c.name for c in classes)} in {run}")
        task = open_task(recipe.task, recipe.front_end, trust=True)
        if before is not None:
            before(directory, recipe, task, machine)
        networks = fitted_networks(directory, recipe, task, machine)
        files = export_stages(directory, recipe, networks)
        results = benchmark_stages(directory, recipe, files)
        page = report_stage(directory) if report else None
        fits = [chosen(c.name, c.runtime, networks, files, results) for c in classes]
    print(table_text(*fit_table(fits)))
    if page is not None:
        print(f"report: {page}")
    return all(fit.network is not None for fit in fits)


def fitted_networks(run: RunDirectory, recipe: Recipe, task: Task, machine: Machine) -> list[dict[str, Any]]:
    """The dense network, and one for the limits of each class of `recipe.measure.devices` that it is above."""
    from edgepress.compress.pipeline.teaching import teach_stages

    teacher = teach_stages(run, recipe, machine=machine, trust=True)
    dense = train_stage(run, recipe, task, machine=machine, teacher=teacher)
    entries = [dense]
    for device, limits in wanted_limits(dense, recipe.measure.devices).items():
        say(f"{device}: {describe(limits)}")
        settings = recipe.prune.model_copy(update={"targets": ()})
        common: dict[str, Any] = {"machine": machine, "seed": recipe.seed, "trust": True, "teacher": teacher}
        entries.append(prune_stage(run, Path(dense["path"]), limits, settings, task, label=device, **common))
    return [quantize_int8(run, recipe, entry, task, machine, teacher) for entry in entries]


def wanted_limits(dense: Mapping[str, Any], devices: Sequence[str]) -> dict[str, Limits]:
    """Device class -> its limits, for those that need a network of their own; why the others do not is said."""
    found: dict[str, Limits] = {}
    made: dict[tuple[tuple[str, float], ...], str] = {}
    for device in devices:
        if not held_limits(device).budgets():
            say(f"{device}: limits nothing that pruning can hold; the dense network stands for it")
            continue
        known = with_footprint(dense, {}, device, trust=True)
        limits = limits_for(known, {}, device)
        if is_within(known, limits):
            say(f"{device}: the dense network is within its limits")
            continue
        budgets = tuple(sorted(limits.budgets().items()))
        if budgets in made:
            say(f"{device}: the network for {made[budgets]} is for the same limits")
            continue
        made[budgets], found[device] = device, limits
    return found


def chosen(
    device: str,
    runtime: str,
    networks: Sequence[Mapping[str, Any]],
    files: Mapping[str, Mapping[str, Path]],
    results: Mapping[str, Mapping[str, Any]],
) -> Fit:
    """Of the networks whose file passed the gate of the class the one that `edgepress.models.devices.choice` takes."""
    form = "onnx" if runtime == "onnxruntime" else "tflite"
    candidates, found = [], {}
    for network in networks:
        path = files.get(network["name"], {}).get(form)
        result = results.get(path.name) if path is not None else None
        if path is None or result is None:
            continue
        figure = {run["runtime"]: run.get("accuracy", run.get("value")) for run in result["runs"]}.get(runtime)
        found[network["name"]] = (network, path, figure)
        candidates.append(
            Candidate(
                network["name"],
                _validated(network),
                network["float"]["macs"],
                path.stat().st_size,
                fits=bool(result["gates"].get(device, {}).get("passed")),
                measured=figure is not None,
                higher=is_better_higher(f"metric.{network['float'].get('metric', 'accuracy')}") is not False,
            )
        )
    order = ranked(candidates)
    if not order:
        return Fit(device, None)
    network, path, figure = found[order[0].name]
    figures = with_footprint(network["float"], {}, device, trust=True)
    return Fit(device, network, path, figures, figure, network["float"].get("metric", "accuracy"))


def _validated(network: Mapping[str, Any]) -> float | None:
    """Its figure on the validation split, in integers where that was measured."""
    for form in ("int8", "float"):
        for name in ("validation_accuracy", "validation_value"):
            if network[form].get(name) is not None:
                return network[form][name]
    return None


def fit_table(fits: Sequence[Fit]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of cells."""
    header = ["device class", "network", "MACs", "file", "arena", "latency", "int8 test", "verdict"]
    rows = []
    for fit in fits:
        if fit.network is None or fit.file is None:
            rows.append([fit.device, "none fits", "-", "-", "-", "-", "-", "failed"])
            continue
        figures = fit.on_device or {}
        rows.append(
            [
                fit.device,
                str(fit.network["name"]),
                format_quantity(fit.network["float"]["macs"], "macs"),
                format_quantity(fit.file.stat().st_size, "bytes"),
                format_quantity(figures.get("arena_bytes"), "bytes"),
                format_quantity(figures.get("latency_ms"), "ms"),
                metric_text(fit.metric, fit.accuracy),
                "passed",
            ]
        )
    return header, rows
