# SPDX-License-Identifier: Apache-2.0
"""`compress run`: a whole recipe, stage after stage, each skipped where it is finished.

Training, pruning and quantization happen in this process. Export, benchmarks, gate and report lie to the right of
`compress` and are not imported: they are called as the public commands they are (`edgepress deploy export ...`), in
the same run directory, whose lock this process holds for them (`RunDirectory.environment_for_children`).
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from edgepress.compress.pipeline.budget import describe, is_within, label_of, limits_for, targets_of, with_footprint
from edgepress.compress.pipeline.data import task_of_recipe
from edgepress.compress.pipeline.entries import key_of
from edgepress.compress.pipeline.provenance import source_of
from edgepress.compress.pipeline.stages import prune_stage, quantize_stage, train_stage
from edgepress.compress.recipes.checks import is_code
from edgepress.compress.recipes.sections import RUNS
from edgepress.models.atomic import write_json
from edgepress.models.checkpoints.digests import identity
from edgepress.models.errors import EdgepressError, RuntimeFailure, UsageError, VerdictError
from edgepress.models.files.reading import file_sha256, parse_json, read_json
from edgepress.models.run_directory import RunDirectory, follows
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Recipe
    from edgepress.compress.teach.teachers import Teacher
    from edgepress.compress.training.machine import Machine
    from edgepress.models.tasks import Task


def run_recipe(
    source: str,
    *,
    data: str | None,
    run: Path,
    seed: int | None,
    trust: bool,
    machine: Machine,
    targets: tuple[str, ...] = (),
    device: str | None = None,
    overrides: Sequence[str] = (),
    report: bool = True,
) -> None:
    """Run a recipe to its end and print the table and the report's path.

    Args:
        source: a shipped recipe's name or a file.
        data: another task than the recipe's.
        run: the run directory.
        seed: another seed than the recipe's.
        trust: the recipe may name code.
        machine: what to train on.
        targets: others than the recipe's.
        device: another device class than the recipe's.
        report: write the HTML page.
        overrides: single keys of the recipe, "train.epochs=1".

    Raises:
        ConfigError: everything that is wrong with the recipe, together.
        UsageError: bad data, or the run directory is in use.
        RuntimeFailure: a child command failed.
    """
    from edgepress.compress.pipeline.table import print_table

    recipe = recipe_of(source, data, seed, device, targets, overrides, trust)
    directory = RunDirectory(run)
    with directory.lock():
        say(f"recipe {recipe.name} in {run}")
        task = task_of_recipe(recipe)
        networks = compress_stages(directory, recipe, task, machine)
        if follows():
            return
        files = export_stages(directory, recipe, networks)
        results = benchmark_stages(directory, recipe, files)
        if recipe.measure.submission:
            say("submission")
            # That no network is within the limits is a verdict, no reason to leave out the report.
            _child(directory, ["benchmarks", "submission", "--run", str(run), *_trusted(recipe)], verdict=True)
        page = report_stage(directory) if report else None
        print_table(networks, files, results)
    print(f"report: {page}" if page else "report: not written")


def recipe_of(
    source: str,
    data: str | None,
    seed: int | None,
    device: str | None,
    targets: tuple[str, ...],
    overrides: Sequence[str],
    trust: bool,
) -> Recipe:
    """The recipe with what the command line changes; arguments and errors are those of `run_recipe`."""
    from edgepress.compress.recipes.recipe import read_recipe

    changes = {name: value for name, value in (("task", data), ("seed", seed), ("device", device)) if value is not None}
    sections = {"prune": {"targets": targets}} if targets else {}
    return read_recipe(source, changes, sections=sections, overrides=overrides, trust=trust)


def compress_stages(run: RunDirectory, recipe: Recipe, task: Task, machine: Machine) -> list[dict[str, Any]]:
    """Dense, pruned and quantized checkpoints: one record {"name", "float", "int8"} of entries per network.

    The recipe's teachers and their ensemble come first; every student that distils follows them.
    """
    from edgepress.compress.pipeline.teaching import teach_stages

    if recipe.teacher is not None and recipe.teacher.experiments:
        from edgepress.compress.pipeline.experiments import experiment_stages

        experiment_stages(run, recipe, machine=machine, trust=True)
    teacher = teach_stages(run, recipe, machine=machine, trust=True)
    dense = train_stage(run, recipe, task, machine=machine, teacher=teacher)
    entries = [dense]
    for target in recipe.prune.targets:
        wanted = targets_of(target)
        dense = with_footprint(dense, wanted, recipe.device, trust=True)
        limits = limits_for(dense, wanted, recipe.device)
        source = entries[-1] if recipe.prune.progressive else dense
        if is_within(source, limits):
            say(f"prune to {describe(limits)}: {source['name']} is within this budget already; skipped")
            continue
        settings = recipe.prune.model_copy(update={"targets": (), "progressive": False})
        entries.append(
            prune_stage(
                run,
                Path(source["path"]),
                limits,
                settings,
                task,
                machine=machine,
                seed=recipe.seed,
                trust=True,
                label=label_of(dense, wanted),
                teacher=teacher,
            )
        )
    networks = [quantize_int8(run, recipe, entry, task, machine, teacher) for entry in entries]
    if recipe.adapt is not None:
        from edgepress.compress.pipeline.adapting import adapt_stages

        # Of the networks that were asked for: the dense one only where nothing is pruned.
        for entry in entries[1:] or entries:
            common: dict[str, Any] = {"machine": machine, "seed": recipe.seed, "trust": True}
            for own, part in adapt_stages(run, entry, recipe.adapt, task, **common):
                networks.append(quantize_int8(run, recipe, own, part, machine, None))
    return networks


def quantize_int8(
    run: RunDirectory, recipe: Recipe, entry: dict[str, Any], task: Task, machine: Machine, teacher: Teacher | None
) -> dict[str, Any]:
    """The record of a network: {"name", "float", "int8"}, with the entries of both checkpoints."""
    common: dict[str, Any] = {"machine": machine, "seed": recipe.seed, "trust": True, "teacher": teacher}
    int8 = quantize_stage(run, Path(entry["path"]), recipe.quantize, task, **common)
    return {"name": entry["name"], "float": entry, "int8": int8}


def export_stages(run: RunDirectory, recipe: Recipe, networks: Sequence[dict[str, Any]]) -> dict[str, dict[str, Path]]:
    """Every int8 checkpoint in every format of the recipe: name -> format -> file."""
    files: dict[str, dict[str, Path]] = {}
    for network in networks:
        checkpoint = network["int8"]
        for form in recipe.measure.formats:
            key = key_of("export", identity(Path(checkpoint["path"])), form)
            done = _done(run, key)
            if done is None:
                say(f"export: {checkpoint['name']} as {form}")
                _child(
                    run,
                    [
                        "deploy",
                        "export",
                        str(checkpoint["path"]),
                        "--format",
                        form,
                        "--run",
                        str(run.path),
                        *_trusted(recipe),
                    ],
                )
                made = [
                    entry
                    for entry in run.entries("artifact")
                    if entry.get("checkpoint") == checkpoint["name"] and entry.get("format") == form
                ]
                if not made:
                    raise RuntimeFailure(f"deploy export left no {form} file of {checkpoint['name']} in {run.path}")
                done = {"artifact": made[-1]["name"], "sha256": _file_sha256(made[-1]["path"])}
                _finish(run, key, done)
            else:
                say(f"export {checkpoint['name']} as {form}: finished before")
            files.setdefault(network["name"], {})[form] = run.place("artifact", done["artifact"])
    return files


def benchmark_stages(run: RunDirectory, recipe: Recipe, files: dict[str, dict[str, Path]]) -> dict[str, dict[str, Any]]:
    """Accuracy of every file on its runtimes, and its verdict per device class: file name -> {"runs", "gates"}."""
    results: dict[str, dict[str, Any]] = {}
    devices = recipe.measure.devices or ((recipe.device,) if recipe.device else ())
    for formats in files.values():
        for form, path in formats.items():
            if form == "c":
                continue
            fits = [name for name in recipe.measure.runtimes if form in RUNS[name]]
            found: dict[str, Any] = {"runs": [], "gates": {}}
            if fits:
                command = [
                    "benchmarks",
                    "run",
                    str(path),
                    "--data",
                    source_of(recipe.task or ""),
                    "--runtime",
                    ",".join(fits),
                    *(word for metric in recipe.measure.metrics for word in ("--metric", metric)),
                    *_trusted(recipe),
                ]
                found["runs"] = _measured(run, path, command)["results"]
            if form == "tflite":
                for device in devices:
                    found["gates"][device] = _measured(
                        run, path, ["benchmarks", "gate", str(path), "--device", device, "--no-fixes"], verdict=True
                    )
            results[path.name] = found
    return results


def judged_classes(run: RunDirectory) -> tuple[str, ...]:
    """The device classes that the files of a run were held against by `compress run` or `compress fit`."""
    found: dict[str, None] = {}
    for path in sorted((run.path / "stages").glob("*.json")):
        try:
            result = read_json(path, _StageRecord)["result"]
        except UsageError:
            continue
        if isinstance(result.get("checks"), list) and isinstance(result.get("devices"), list):
            found |= dict.fromkeys(name for name in result["devices"] if isinstance(name, str))
    return tuple(found)


def _trusted(recipe: Recipe) -> list[str]:
    """Code that this recipe was allowed to name, its child commands may load too."""
    code = is_code(recipe.network.name) or is_code(recipe.task) or recipe.measure.metrics
    return ["--trust"] if code else []


def report_stage(run: RunDirectory) -> Path | None:
    """The HTML page of the run; made anew each time, since it shows all that is there."""
    say("report")
    try:
        printed = _child(run, ["benchmarks", "report", "--run", str(run.path)], capture=True)
    except EdgepressError as error:
        say(f"  no report: {error}")
        return None
    return Path(printed.strip().splitlines()[-1]) if printed.strip() else None


def _measured(run: RunDirectory, path: Path, command: list[str], verdict: bool = False) -> dict[str, Any]:
    """The JSON object that a benchmark prints, kept by what went in."""
    key = key_of("benchmark", _file_sha256(path), command[1:2], command[3:])
    done = _done(run, key)
    if done is None:
        say(f"{command[1]}: {path.name} {' '.join(command[3:])}")
        printed = _child(run, [*command, "--run", str(run.path), "--format", "json"], capture=True, verdict=verdict)
        try:
            done = parse_json(printed, "its output", dict[str, Any])
        except UsageError:
            raise RuntimeFailure(f"`{' '.join(command)}` printed no JSON") from None
        _finish(run, key, done)
    else:
        say(f"{command[1]} {path.name}: finished before")
    return done


def _child(run: RunDirectory, command: list[str], capture: bool = False, verdict: bool = False) -> str:
    """Run a command of the project; its messages pass through to stderr, and so does its output unless captured.

    Raises:
        UsageError, VerdictError, RuntimeFailure: by its exit code; 1 is no error where a verdict is wanted.
        KeyboardInterrupt: it was interrupted.
    """
    arguments = [sys.executable, "-m", "edgepress", *command]
    process = subprocess.Popen(
        arguments, env=run.environment_for_children(), stdout=subprocess.PIPE if capture else sys.stderr, text=True
    )
    try:
        printed, _ = process.communicate()
    except BaseException:
        # A child that outlives us would go on writing into a run directory that nobody watches.
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    code = process.returncode
    if code == 0 or (verdict and code == 1):
        return printed or ""
    if code in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    kind = {1: VerdictError, 2: UsageError}.get(code, RuntimeFailure)
    raise kind(f"`{' '.join(command)}` ended with exit code {code}; its message is above")


def _file_sha256(path: Path) -> str | None:
    """None where there is no such file."""
    try:
        return file_sha256(path)
    except UsageError:
        return None


class _StageRecord(TypedDict):
    """What a finished child stage left."""

    key: str
    result: dict[str, Any]


def _record(run: RunDirectory, key: str) -> Path:
    return run.path / "stages" / f"{key[:32]}.json"


def _done(run: RunDirectory, key: str) -> dict[str, Any] | None:
    """What a finished child stage left, or None; an artifact that was deleted by hand makes it unfinished."""
    path = _record(run, key)
    try:
        found = read_json(path, _StageRecord)
    except UsageError:
        return None
    if found["key"] != key:
        return None
    artifact = found["result"].get("artifact")
    if artifact is None:
        return found["result"]
    # A file that was changed or deleted by hand is made again.
    made = run.place("artifact", artifact)
    return found["result"] if _file_sha256(made) == found["result"].get("sha256") else None


def _finish(run: RunDirectory, key: str, result: dict[str, Any]) -> None:
    write_json(_record(run, key), {"key": key, "result": result})
