"""The stages of a run: each makes one checkpoint, known by a key of its inputs, and is skipped where it is finished."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.compress.provenance import (
    budget_name,
    command,
    cost_facts,
    data_facts,
    describe,
    identity,
    layer_facts,
    source_of,
    versions,
)
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.limits import Limits
from edgepress.models.run_directory import RunDirectory, follows
from edgepress.models.units import format_quantity

if TYPE_CHECKING:
    from torch import nn

    from edgepress.compress.recipes.recipe import Distill, NetworkSettings, PruneSettings, QuantizeSettings, Recipe
    from edgepress.compress.teach.teachers import Teacher
    from edgepress.compress.training.train import Machine
    from edgepress.models.checkpoints.spec import ModelSpec

#: Part of every key: raise it when a stage computes something else from the same inputs.
REVISION = 1


def say(text: str) -> None:
    """A line of progress, on stderr, where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)


def key_of(stage: str, *parts: Any) -> str:
    """A stage's key: the digest of everything that its result depends on, JSON-able."""
    text = json.dumps([REVISION, stage, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def finished(run: RunDirectory, key: str, what: str, kind: str = "checkpoint") -> dict[str, Any] | None:
    """The checkpoint (or teacher) with this key, made the newest again, or None."""
    from edgepress.models.checkpoints.checkpoint import read_metrics

    for entry in reversed(run.entries(kind)):
        # The checkpoint's own word counts: facts are also copied to what others make from it.
        if entry.get("key") == key and read_metrics(entry["path"]).get("key") == key:
            facts = {k: v for k, v in entry.items() if k not in ("kind", "name", "path", "time")}
            run.add(kind, entry["name"], entry["path"], **facts)
            say(f"{what}: finished before, {entry['path']} is taken")
            return entry
    return None


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


def is_float(entry: dict[str, Any]) -> bool:
    """Whether an entry's checkpoint holds a float network."""
    from edgepress.models.checkpoints.checkpoint import read_quantization

    return read_quantization(entry["path"]) is None


def free_name(run: RunDirectory, name: str, kind: str = "checkpoint") -> str:
    """`name`, or `name-2`, `name-3`, ... where it is taken: nothing finished is overwritten."""
    taken, counter = name, 1
    while run.place(kind, taken).exists():
        counter += 1
        taken = f"{name}-{counter}"
    return taken


def open_task(source: str | None, front_end: Any = None, *, trust: bool = False) -> Any:
    """`load_task`, with the front end by name or by its fields.

    Raises:
        UsageError: no source, or what `load_task` raises.
    """
    if source is None:
        raise UsageError("the recipe names no data: give --data DIR, --data FILE.npz or --data synthetic")
    from edgepress.compress.recipes.checks import resolve_front_end
    from edgepress.models.tasks import load_task

    return load_task(source, front_end=resolve_front_end(front_end), trust=trust)


def calibration_batches(task: Any, clips: int) -> list[Any]:
    """Tuples of one tensor [<= 32, *input_shape], from the task's calibration split, evenly spread over it."""
    import numpy as np
    import torch

    features = task.features("calibration" if task.has("calibration") else "train")
    chosen = np.unique(np.linspace(0, len(features) - 1, min(clips, len(features))).astype(int))
    return [
        (torch.from_numpy(np.ascontiguousarray(features[part])),)
        for part in np.array_split(chosen, -(-len(chosen) // 32))
    ]


def evaluated_splits(task: Any) -> list[str]:
    """The splits that accuracy is reported on."""
    return [split for split in ("validation", "test") if task is not None and task.has(split)]


def rebuild(spec: ModelSpec) -> nn.Module:
    """The network of a spec with fresh weights; the plan of an earlier pruning is applied."""
    from edgepress.models.checkpoints.plan import apply_plan
    from edgepress.models.checkpoints.registry import build, resolve_factory

    model = (
        resolve_factory(spec.factory)(**spec.arguments)
        if ":" in spec.factory
        else build(spec.factory, **spec.arguments)
    )
    return apply_plan(model, spec.plan) if spec.plan is not None else model


def chain_plans(first: dict[str, Any] | None, second: dict[str, Any]) -> dict[str, Any]:
    """One plan for a network that was pruned twice: the kept indices of the second are looked up in the first.

    Raises:
        UsageError: one of them rebuilds the graph, which cannot be done twice.
    """
    if first is None:
        return second
    if (first["kind"], second["kind"]) != ("modules", "modules"):
        raise UsageError("this network was rebuilt when it was pruned and cannot be pruned again; prune the dense one")
    tensors = {name: dict(axes) for name, axes in first["tensors"].items()}
    for name, axes in second["tensors"].items():
        for axis, kept in axes.items():
            before = tensors.setdefault(name, {}).get(axis)
            tensors[name][axis] = list(kept) if before is None else [before[index] for index in kept]
    attributes = {
        path: {**first["attributes"].get(path, {}), **second["attributes"].get(path, {})}
        for path in {**first["attributes"], **second["attributes"]}
    }
    return {**second, "tensors": tensors, "attributes": attributes}


def build_for(network: NetworkSettings, task: Any, seed: int) -> tuple[nn.Module, ModelSpec]:
    """A network with fresh weights that fits the task: its channels and classes unless the recipe gives them.

    Raises:
        UsageError: unknown network or arguments, or it does not fit the task.
    """
    import torch

    from edgepress.models.checkpoints.registry import build, fit_arguments, resolve_factory
    from edgepress.models.checkpoints.spec import ModelSpec

    shape, classes = tuple(task.input_shape), tuple(task.classes)
    arguments = dict(network.arguments)
    if ":" not in network.name:
        arguments = {**fit_arguments(network.name, shape, len(classes)), **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = resolve_factory(network.name)(**arguments) if ":" in network.name else build(network.name, **arguments)
    spec = ModelSpec(
        network.name,
        arguments,
        (shape,),
        classes=classes,
        front_end=task.front_end.to_json() if task.front_end is not None else None,
    )
    with torch.no_grad():
        try:
            outputs = tuple(model.eval()(*spec.example_inputs()).shape)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UsageError(
                f"network {network.name} does not take the inputs of task {task.name}, "
                f"{' x '.join(map(str, shape))}: {error}"
            ) from error
    if outputs != (1, len(classes)):
        raise UsageError(
            f"network {network.name} gives outputs of shape {outputs}, but the task {task.name} has "
            f"{len(classes)} classes; set network.arguments"
        )
    return model.train(), spec


def train_stage(
    run: RunDirectory,
    recipe: Recipe,
    task: Any,
    *,
    machine: Machine,
    name: str = "dense",
    resume: bool = True,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """Train the recipe's network, under a teacher where the recipe has `distill`; returns the checkpoint's entry."""
    distill = recipe.distill if teacher is not None else None
    key = key_of(
        "train",
        recipe.network.model_dump(),
        recipe.train.model_dump(),
        recipe.seed,
        task.fingerprint,
        task.front_end.to_json() if task.front_end is not None else None,
        *_teaching(teacher, distill),
    )
    if entry := finished(run, key, "train"):
        return entry
    from edgepress.compress.training.train import train

    model, spec = build_for(recipe.network, task, recipe.seed)
    spec = replace(
        spec, task=source_of(recipe.task or ""), notes={"stage": "train", "recipe": recipe.model_dump(mode="json")}
    )
    folder = run.path / "training" / f"{name}-{key[:8]}"
    say(f"train: {recipe.network.name} on {task.name}, {recipe.train.epochs} epochs")
    result = train(
        model,
        task,
        recipe.train,
        teacher=_guide(teacher, task, recipe.task, distill, machine),
        distill=distill,
        run=folder,
        resume=resume,
        seed=recipe.seed,
        machine=machine,
        name=name,
    )
    return keep(
        run,
        free_name(run, name),
        result.model,
        spec,
        task,
        key,
        folder,
        stage="train",
        pruned=False,
        seed=recipe.seed,
        seconds=result.seconds,
        history=result.history,
        best_epoch=result.best_epoch,
        details=_taught(teacher, distill),
    )


def _teaching(teacher: Teacher | None, distill: Distill | None) -> list[Any]:
    """What a teacher from outside adds to a stage's key: nothing where there is none, so that older keys stay."""
    return [] if teacher is None or distill is None else [teacher.identity, distill.model_dump()]


def _guide(teacher: Teacher | None, task: Any, source: str | None, distill: Distill | None, machine: Machine) -> Any:
    if teacher is None or distill is None:
        return None
    from edgepress.compress.training.train import inference_device

    return teacher.guide(task, source, distill, inference_device(machine))


def _taught(teacher: Teacher | None, distill: Distill | None) -> dict[str, Any]:
    """What a checkpoint's metrics say about who taught it."""
    if teacher is None or distill is None:
        return {}
    return {"distill": {"teacher": teacher.path.name, "members": len(teacher.members), **distill.model_dump()}}


def prune_stage(
    run: RunDirectory,
    parent: Path,
    limits: Limits,
    settings: PruneSettings,
    task: Any,
    *,
    machine: Machine,
    seed: int,
    protect: tuple[str, ...] = (),
    trust: bool = False,
    resume: bool = True,
    label: str | None = None,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """Prune the checkpoint `parent` to `limits` and train it; returns the new checkpoint's entry.

    Where the settings distil, it follows `teacher`, or the dense network without one. `label` is the budget in its
    name, such as "20M"; without one the limits say it.
    """
    from edgepress.models.checkpoints.checkpoint import load_checkpoint

    model, spec = load_checkpoint(parent, trust=trust)
    used = settings.model_dump(exclude={"targets"})
    key = key_of(
        "prune",
        identity(parent),
        limits.budgets(),
        limits.rule,
        limits.scheme,
        used,
        protect,
        seed,
        task.fingerprint if task is not None else None,
        *_teaching(teacher, settings.distill),
    )
    name = f"{label or budget_name(limits)}-{settings.method}"
    if entry := finished(run, key, f"prune to {name}"):
        return entry
    folder = run.path / "training" / f"{name}-{key[:8]}"
    say(
        f"prune: {parent.name} to {describe(limits)}, {settings.method} with projection {settings.projection}, "
        f"{settings.train.epochs if task is not None else 0} epochs"
    )
    if task is None:
        from edgepress.compress.prune.schedules.trainers import remove_once

        pruned = remove_once(model, spec.example_inputs(), limits, settings, protect, None)
        trained, history, best, seconds = pruned.model, [], 0, 0.0
    else:
        from edgepress.compress.prune.schedules.trainers import prune_and_train

        result = prune_and_train(
            model,
            spec.example_inputs(),
            task,
            limits,
            settings,
            protect=protect,
            teacher=_guide(teacher, task, spec.task, settings.distill, machine),
            fresh=lambda: rebuild(spec),
            run=folder,
            resume=resume,
            seed=seed,
            machine=machine,
            name=name,
        )
        pruned, trained = result.pruned, result.model
        history, best, seconds = result.history, result.best_epoch, result.seconds
    for note in pruned.notes:
        say(f"  note: {note}")
    for frozen in pruned.frozen:
        say(f"  not pruned: {frozen.name}, {frozen.reason}" + (f" ({frozen.operator})" if frozen.operator else ""))
    new = replace(
        spec,
        plan=chain_plans(spec.plan, pruned.plan),
        notes={**spec.notes, "stage": "prune", "parent": parent.name, "method": settings.method},
    )
    facts = {
        "method": settings.method,
        "projection": settings.projection,
        "importance": settings.importance,
        "limits": {**limits.budgets(), "rule": limits.rule, "scheme": limits.scheme},
        "before": cost_facts(pruned.before),
        "after": cost_facts(pruned.after),
        "proof_max_abs_diff": float(pruned.proof.max_abs_diff),
        "layers_before": layer_facts(pruned.before),
        "layers_after": layer_facts(pruned.after),
        "frozen": [str(frozen) for frozen in pruned.frozen],
        "notes": [str(note) for note in pruned.notes],
    }
    return keep(
        run,
        free_name(run, name),
        trained,
        new,
        task,
        key,
        folder,
        stage="prune",
        pruned=True,
        seed=seed,
        seconds=seconds,
        history=history,
        best_epoch=best,
        rule=limits.rule,
        scheme=limits.scheme,
        details={"prune": facts, **_taught(teacher, settings.distill)},
    )


def quantize_stage(
    run: RunDirectory,
    parent: Path,
    settings: QuantizeSettings,
    task: Any,
    *,
    machine: Machine,
    seed: int,
    trust: bool = False,
    resume: bool = True,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """Quantize the checkpoint `parent`, with quantization-aware training where epochs are given.

    Where the settings distil, it follows `teacher`, or its own float network without one.
    """
    from edgepress.models.checkpoints.checkpoint import load_checkpoint

    teacher = teacher if settings.train.epochs else None
    key = key_of(
        "quantize",
        identity(parent),
        settings.model_dump(),
        seed,
        task.fingerprint,
        *_teaching(teacher, settings.distill),
    )
    kind = "qat" if settings.train.epochs else "ptq"
    name = f"{parent.name}-{settings.scheme}-{kind}"
    if entry := finished(run, key, f"quantize {parent.name}"):
        return entry
    from edgepress.compress.quantize import prepare_qat, quantization_json, quantize_model, unfold
    from edgepress.compress.quantize.qat import RangeSchedule
    from edgepress.compress.training.train import evaluate_model, train

    model, spec = load_checkpoint(parent, trust=trust)
    folder = run.path / "training" / f"{name}-{key[:8]}"
    say(f"quantize: {parent.name}, {settings.scheme}, {kind}")
    quantized = quantize_model(
        model,
        spec.example_inputs(),
        calibration_batches(task, settings.clips),
        scheme=settings.scheme,
        method=settings.method,
        exceptions=settings.exceptions,
        per_tensor_dense=settings.per_tensor_dense,
        equalize=settings.equalize,
        bias_correction=settings.bias_correction,
    )
    history: list[dict[str, Any]] = []
    best, seconds = 0, 0.0
    if settings.train.epochs:
        guide = model if teacher is None else _guide(teacher, task, spec.task, settings.distill, machine)
        result = train(
            prepare_qat(quantized, settings.ranges).model,
            task,
            settings.train,
            teacher=guide if settings.distill else None,
            distill=settings.distill,
            penalty=RangeSchedule(settings.freeze_from),
            run=folder,
            resume=resume,
            seed=seed,
            machine=machine,
            name=name,
        )
        quantized = replace(quantized, model=result.model)
        quantized.freeze_ranges()
        history, best, seconds = result.history, result.best_epoch, result.seconds
    new = replace(spec, notes={**spec.notes, "stage": "quantize", "parent": parent.name})
    measured = {split: evaluate_model(quantized.model, task, split) for split in evaluated_splits(task)}
    return keep(
        run,
        free_name(run, name),
        unfold(quantized, model),
        new,
        task,
        key,
        folder,
        stage="quantize",
        pruned=spec.plan is not None,
        seed=seed,
        seconds=seconds,
        history=history,
        best_epoch=best,
        quantization=quantization_json(quantized),
        precision=settings.scheme,
        measured=measured,
        details={"quantize": settings.model_dump(mode="json"), **_taught(teacher, settings.distill)},
    )


def keep(
    run: RunDirectory,
    name: str,
    model: nn.Module,
    spec: ModelSpec,
    task: Any,
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
    from edgepress.compress.training.train import evaluate_model
    from edgepress.models.checkpoints.checkpoint import save_checkpoint
    from edgepress.models.cost.cost import cost_of

    if follows():
        return _kept_by_leader(run, key)
    cost = cost_of(model, spec.example_inputs(), rule=rule, scheme=scheme)
    if measured is None:
        measured = {split: evaluate_model(model, task, split) for split in evaluated_splits(task)}
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
    path = run.place(kind, name)
    save_checkpoint(path, model, spec, metrics, quantization=quantization)
    facts = {
        "key": key,
        "stage": stage,
        "network": spec.factory,
        "task": spec.task,
        "pruned": pruned,
        "scheme": precision,
        "rule": cost.rule,
        "macs": cost.macs,
        "params": cost.params,
        "weight_bytes": cost.weight_bytes,
        "peak_activation_bytes": cost.peak_activation_bytes,
        "parent": spec.notes.get("parent"),
    }
    facts |= {f"{split}_accuracy": measured[split]["accuracy"] for split in measured}
    run.add(kind, name, path, **facts)
    for state in folder.rglob("last.ckpt"):
        state.unlink()
    if not history:
        shutil.rmtree(folder, ignore_errors=True)
    said = ", ".join(
        f"{split} accuracy {format_quantity(measured[split]['accuracy'], 'fraction')}" for split in measured
    )
    say(
        f"  {path}: {format_quantity(cost.macs, 'macs')} MACs ({cost.rule}), {cost.params:,} parameters"
        + (f", {said}" if said else "")
    )
    return {"kind": kind, "name": name, "path": path, **facts}
