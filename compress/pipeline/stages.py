# SPDX-License-Identifier: Apache-2.0
"""The stages of a run: each makes one checkpoint, known by a key of its inputs, and is skipped where it is finished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.compress.pipeline.budget import budget_name, describe
from edgepress.compress.pipeline.data import calibration_batches, evaluated_splits
from edgepress.compress.pipeline.entries import finished, free_name, keep, key_of
from edgepress.compress.pipeline.networks import build_for
from edgepress.compress.pipeline.provenance import cost_facts, layer_facts, source_of
from edgepress.models.checkpoints.checkpoint import fresh_network, load_checkpoint
from edgepress.models.checkpoints.digests import identity
from edgepress.models.checkpoints.plan import chain_plans, empty_plan, removes
from edgepress.models.limits import Limits
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from edgepress.compress.recipes.recipe import Distill, PruneSettings, QuantizeSettings, Recipe
    from edgepress.compress.teach.teachers import Teacher
    from edgepress.compress.training.machine import Machine
    from edgepress.models.checkpoints.spec import ModelSpec
    from edgepress.models.tasks import Task


def train_stage(
    run: RunDirectory,
    recipe: Recipe,
    task: Task,
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
    trained, spec = _without_branches(result.model, spec)
    return keep(
        run,
        free_name(run, name),
        trained,
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


def _without_branches(model: nn.Module, spec: ModelSpec) -> tuple[nn.Module, ModelSpec]:
    """The network as it is deployed: parallel branches of training are merged, and the plan of its spec says so."""
    from edgepress.compress.prune.removal.merging import merged_branches

    merged, notes = merged_branches(model, spec.example_inputs())
    for note in notes:
        say(f"  note: {note}")
    if merged is None:
        return model, spec
    return merged, replace(spec, plan={**(spec.plan or empty_plan()), "reparameterized": True})


def _teaching(teacher: Teacher | None, distill: Distill | None) -> list[Any]:
    """What a teacher from outside adds to a stage's key: nothing where there is none, so that older keys stay."""
    return [] if teacher is None or distill is None else [teacher.identity, distill.model_dump()]


def _guide(
    teacher: Teacher | None, task: Task, source: str | None, distill: Distill | None, machine: Machine
) -> nn.Module | np.ndarray | None:
    if teacher is None or distill is None:
        return None
    from edgepress.compress.training.machine import inference_device

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
    task: Task | None,
    *,
    machine: Machine,
    seed: int,
    trust: bool = False,
    resume: bool = True,
    label: str | None = None,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """Prune the checkpoint `parent` to `limits` and train it; returns the new checkpoint's entry.

    Where the settings distil, it follows `teacher`, or the dense network without one. `label` is the budget in its
    name, such as "20M"; without one the limits say it.
    """
    model, spec = load_checkpoint(parent, trust=trust)
    used = settings.model_dump(exclude={"targets"})
    key = key_of(
        "prune",
        identity(parent),
        limits.budgets(),
        limits.rule,
        limits.scheme,
        used,
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
    from edgepress.compress.prune.schedules.trainers import importance_for

    if task is None:
        from edgepress.compress.prune.schedules.trainers import remove_once

        pruned = remove_once(model, spec.example_inputs(), limits, settings, None)
        trained, history, best, seconds = pruned.model, [], 0, 0.0
    else:
        from edgepress.compress.prune.schedules.trainers import prune_and_train

        result = prune_and_train(
            model,
            spec.example_inputs(),
            task,
            limits,
            settings,
            teacher=_guide(teacher, task, spec.task, settings.distill, machine),
            fresh=lambda: fresh_network(spec),
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
        "importance": importance_for(settings, task),
        "limits": {**limits.budgets(), "rule": limits.rule, "scheme": limits.scheme, "device": limits.device},
        "on_device": dict(pruned.on_device),
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
    task: Task,
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
    from edgepress.compress.training.evaluate import evaluate_model
    from edgepress.compress.training.train import train

    model, spec = _without_branches(*load_checkpoint(parent, trust=trust))
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
        pruned=removes(spec.plan),
        seed=seed,
        seconds=seconds,
        history=history,
        best_epoch=best,
        quantization=quantization_json(quantized),
        precision=settings.scheme,
        measured=measured,
        details={"quantize": settings.model_dump(mode="json"), **_taught(teacher, settings.distill)},
    )
