# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in a run directory: known by a key of their inputs, measured, saved and entered in one place."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.compress.pipeline.data import evaluated_splits
from edgepress.compress.pipeline.provenance import command, cost_facts, data_facts, versions
from edgepress.models.checkpoints.checkpoint import read_metrics, read_quantization, read_spec, save_checkpoint
from edgepress.models.checkpoints.plan import removes
from edgepress.models.errors import ConfigError, RuntimeFailure
from edgepress.models.limits import BUDGET_METRICS
from edgepress.models.run_directory import RunDirectory, follows
from edgepress.models.tasks.kinds.table import metric_text
from edgepress.models.tasks.kinds.table import said as said_first
from edgepress.models.terminal.words import say
from edgepress.models.units import format_quantity

if TYPE_CHECKING:
    from torch import nn

    from edgepress.compress.recipes.recipe import Recipe
    from edgepress.models.checkpoints.spec import ModelSpec
    from edgepress.models.cost.cost import Cost
    from edgepress.models.tasks import Task

#: Part of every key: raise it when a stage computes something else from the same inputs.
REVISION = 1


def key_of(stage: str, *parts: Any) -> str:
    """A stage's key: the digest of everything that its result depends on, JSON-able."""
    text = json.dumps([REVISION, stage, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def finished(run: RunDirectory, key: str, what: str, kind: str = "checkpoint") -> dict[str, Any] | None:
    """The checkpoint (or teacher) with this key, made the newest again, or None."""
    for entry in reversed(run.entries(kind)):
        # The checkpoint's own word counts: facts are also copied to what others make from it.
        if entry.get("key") == key and read_metrics(entry["path"]).get("key") == key:
            run.add(kind, entry["name"], entry["path"], **facts_of(entry))
            say(f"{what}: finished before, {entry['path']} is taken")
            return entry
    return None


def facts_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry says about its network, without its own name, place and time: for another entry of that network."""
    return {name: value for name, value in entry.items() if name not in ("kind", "name", "path", "time")}


def _kept_by_leader(run: RunDirectory, key: str, seconds: float = 600.0) -> dict[str, Any]:
    """The entry that rank 0 of this training makes; the folder must be one that all machines share.

    Raises:
        RuntimeFailure: it does not appear in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for entry in reversed(run.entries("checkpoint")):
            if entry.get("key") == key:
                return entry
        time.sleep(0.2)
    raise RuntimeFailure(
        f"rank 0 left no checkpoint in {run.path} within {seconds:g} s; --run must be a folder that all machines share"
    )


def is_float(entry: Mapping[str, Any]) -> bool:
    """Whether an entry's checkpoint holds a float network."""
    return read_quantization(entry["path"]) is None


def free_name(run: RunDirectory, name: str, kind: str = "checkpoint") -> str:
    """`name`, or `name-2`, `name-3`, ... where it is taken: nothing finished is overwritten."""
    taken, counter = name, 1
    while run.place(kind, taken).exists():
        counter += 1
        taken = f"{name}-{counter}"
    return taken


def find_entry(directory: RunDirectory, path: Path) -> dict[str, Any]:
    """The entry of a checkpoint given by its path, also of one that was made elsewhere."""
    for entry in directory.entries("checkpoint"):
        if Path(entry["path"]).resolve() == path.resolve():
            return entry
    spec, cost = read_spec(path), read_metrics(path).get("cost", {})
    return {
        "kind": "checkpoint",
        "name": path.name,
        "path": path,
        "pruned": removes(spec.plan),
        **{name: cost.get(name) for name in (*BUDGET_METRICS, "constant_bytes", "rule")},
    }


def recipe_of(checkpoint: Path, *, trust: bool = False) -> Recipe | None:
    """The recipe that a checkpoint was trained by, or None where it does not say.

    Raises:
        ConfigError: it is none, or it names a loss or a metric that is code, which takes `trust`.
    """
    from edgepress.compress.recipes.checks import code_errors
    from edgepress.compress.recipes.recipe import parse_recipe

    written, subject = read_spec(checkpoint).notes.get("recipe"), f"the recipe in {checkpoint}"
    if not isinstance(written, dict):
        return None
    recipe = parse_recipe(written, subject, deep=False)
    if errors := code_errors(written, trust):
        raise ConfigError(errors, subject)
    return recipe


def network_facts(spec: ModelSpec, cost: Cost, *, key: str, stage: str, pruned: bool, scheme: str) -> dict[str, Any]:
    """What the entry of a checkpoint says about its network, beside accuracies."""
    return {
        "key": key,
        "stage": stage,
        "network": spec.factory,
        "task": spec.task,
        "pruned": pruned,
        "scheme": scheme,
        "rule": cost.rule,
        "macs": cost.macs,
        "params": cost.params,
        "weight_bytes": cost.weight_bytes,
        "peak_activation_bytes": cost.peak_activation_bytes,
        "constant_bytes": cost.constant_bytes,
        "parent": spec.notes.get("parent"),
    }


def enter(
    run: RunDirectory,
    kind: str,
    name: str,
    model: nn.Module,
    spec: ModelSpec,
    metrics: dict[str, Any],
    facts: dict[str, Any],
    *,
    quantization: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Save a checkpoint in its place in the run and enter it with these facts; returns the entry."""
    path = save_checkpoint(run.place(kind, name), model, spec, metrics, quantization=quantization)
    run.add(kind, name, path, **facts)
    return {"kind": kind, "name": name, "path": path, **facts}


def keep(
    run: RunDirectory,
    name: str,
    model: nn.Module,
    spec: ModelSpec,
    task: Task | None,
    key: str,
    folder: Path,
    *,
    stage: str,
    pruned: bool,
    seed: int,
    seconds: float,
    history: list[dict[str, Any]],
    best_epoch: int,
    quantization: dict[str, Any] | None = None,
    precision: str = "float32",
    rule: str = "dcase",
    scheme: str = "w8a8",
    measured: dict[str, Any] | None = None,
    details: dict[str, Any] | None = None,
    kind: str = "checkpoint",
) -> dict[str, Any]:
    """Measure and save a checkpoint, enter it in the run, and drop the training state that it came from."""
    from edgepress.compress.training.evaluate import evaluate_model
    from edgepress.models.cost.cost import cost_of

    if follows():
        return _kept_by_leader(run, key)
    cost = cost_of(model, spec.example_inputs(), rule=rule, scheme=scheme)
    if measured is None:
        measured = {} if task is None else {s: evaluate_model(model, task, s) for s in evaluated_splits(task)}
    metrics = {
        "stage": stage,
        "key": key,
        "command": command(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 3),
        "seed": seed,
        "epochs": len(history),
        "best_epoch": best_epoch,
        "scheme": precision,
        "cost": cost_facts(cost),
        "data": data_facts(task, spec.task),
        **measured,
        "versions": versions(),
        "history": history,
        **(details or {}),
    }
    facts = network_facts(spec, cost, key=key, stage=stage, pruned=pruned, scheme=precision)
    for split, found in measured.items():
        metric, value = said_first(found)
        facts |= {"metric": metric, f"{split}_value": value}
        if "accuracy" in found:
            facts[f"{split}_accuracy"] = found["accuracy"]
    entry = enter(run, kind, name, model, spec, metrics, facts, quantization=quantization)
    for state in folder.rglob("last.ckpt"):
        state.unlink()
    if not history:
        shutil.rmtree(folder, ignore_errors=True)
    said = ", ".join(
        f"{split} {name.replace('_', ' ')} {metric_text(name, value)}"
        for split, found in measured.items()
        for name, value in [said_first(found)]
    )
    say(
        f"  {entry['path']}: {format_quantity(cost.macs, 'macs')} MACs ({cost.rule}), {cost.params:,} parameters"
        + (f", {said}" if said else "")
    )
    return entry
