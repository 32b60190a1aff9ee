# SPDX-License-Identifier: Apache-2.0
"""The stages of teaching: teachers, their ensemble, a student that follows them; each skipped where it is finished."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.compress.pipeline.data import evaluated_splits, open_task
from edgepress.compress.pipeline.entries import finished, free_name, keep, key_of
from edgepress.compress.pipeline.networks import build_for
from edgepress.compress.pipeline.provenance import command, data_facts, source_of, versions
from edgepress.models.checkpoints.digests import identity
from edgepress.models.checkpoints.plan import removes
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import file_sha256
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say
from edgepress.models.units import format_quantity

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from edgepress.compress.recipes.recipe import Distill, NetworkSettings, Recipe, TeacherSettings, TrainSettings
    from edgepress.compress.teach.ensemble import GeneralizedMean, Mode
    from edgepress.compress.teach.teachers import Teacher
    from edgepress.compress.training.machine import Machine
    from edgepress.models.checkpoints.spec import ModelSpec
    from edgepress.models.tasks import Task


def teacher_settings(recipe: Recipe) -> TeacherSettings:
    """The recipe's [teacher], or its own network and training as one."""
    from edgepress.compress.recipes.recipe import TeacherSettings

    found = recipe.teacher or TeacherSettings(train=recipe.train)
    return found.model_copy(
        update={
            "network": found.network or recipe.network,
            "front_end": recipe.front_end if found.front_end is None else found.front_end,
        }
    )


def teach_stages(run: RunDirectory, recipe: Recipe, *, machine: Machine, trust: bool = False) -> Teacher | None:
    """The recipe's teachers and, of more than one, their ensemble; None for a recipe without [teacher]."""
    if recipe.teacher is None:
        return None
    from edgepress.compress.teach.teachers import open_teacher

    settings = teacher_settings(recipe)
    task = open_task(recipe.task, settings.front_end, trust=True)
    entries = [
        teacher_stage(
            run,
            settings,
            task,
            recipe.task,
            seed=100 * recipe.seed + index,
            machine=machine,
            name=f"teacher-{index + 1}",
        )
        for index in range(settings.count)
    ]
    if len(entries) > 1:
        entries = [
            ensemble_stage(
                run,
                [Path(entry["path"]) for entry in entries],
                task,
                recipe.task,
                mode=settings.mode,
                machine=machine,
                trust=trust,
            )
        ]
    return open_teacher(entries[0]["path"], trust=trust)


def teacher_stage(
    run: RunDirectory,
    settings: TeacherSettings,
    task: Task,
    source: str | None,
    *,
    seed: int,
    machine: Machine,
    name: str = "teacher",
    resume: bool = True,
) -> dict[str, Any]:
    """Train one teacher, run it once over all clips, and probe its latent for the recording device.

    Args:
        run: where it is kept, as kind "teacher".
        settings: complete (`teacher_settings`).
        task: through the teacher's front end.
        source: of the task.
        seed: of weights, order and augmentation.
        machine: what to train on.
        name: of the teacher; `name-2` where it is taken.
        resume: go on from a killed training.

    Returns:
        The entry.

    Raises:
        UsageError: a network that does not fit the task, or a bad file of weights.
    """
    network, weights = settings.network, settings.weights
    assert network is not None
    key = key_of(
        "teacher",
        network.model_dump(),
        settings.train.model_dump(),
        seed,
        task.fingerprint,
        task.front_end.to_json() if task.front_end is not None else None,
        _file_digest(weights) if weights else None,
    )
    if entry := finished(run, key, name, "teacher"):
        return entry
    from edgepress.compress.teach.teachers import cached_outputs
    from edgepress.compress.training.evaluate import evaluate_logits
    from edgepress.compress.training.machine import inference_device
    from edgepress.compress.training.train import train

    model, spec = fresh_teacher(network, settings.train, task, source, seed, weights)
    folder = run.path / "training" / f"{name}-{key[:8]}"
    say(f"{name}: {network.name} on {task.name}, {settings.train.epochs} epochs, seed {seed}")
    result = train(model, task, settings.train, run=folder, resume=resume, seed=seed, machine=machine, name=name)
    device = inference_device(machine)
    outputs = {
        split: cached_outputs(result.model, spec, task, split, device) for split in ("train", *evaluated_splits(task))
    }
    measured = {split: evaluate_logits(outputs[split].logits, task, split) for split in evaluated_splits(task)}
    last = evaluated_splits(task)[-1]
    details = {
        "train_settings": settings.train.model_dump(mode="json"),
        "weights": weights,
        "device_probe": probe_devices(outputs[last].latents, task, last),
    }
    return keep(
        run,
        free_name(run, name, "teacher"),
        result.model,
        spec,
        task,
        key,
        folder,
        stage="teacher",
        pruned=False,
        seed=seed,
        seconds=result.seconds,
        history=result.history,
        best_epoch=result.best_epoch,
        measured=measured,
        details=details,
        kind="teacher",
    )


def fresh_teacher(
    network: NetworkSettings,
    train: TrainSettings,
    task: Task,
    source: str | None,
    seed: int,
    weights: str | None,
    *,
    quiet: bool = False,
) -> tuple[nn.Module, ModelSpec]:
    """The network to train and its spec, with published weights where a file of them is given.

    `quiet` leaves out which tensors of the file are used.
    """
    model, spec = build_for(network, task, seed)
    spec = replace(
        spec, task=source_of(source or ""), notes={"stage": "teacher", "train": train.model_dump(mode="json")}
    )
    if weights:
        from edgepress.models.zoo.published import load_published

        loaded = load_published(model, weights)
        for what, names in (
            ("cut to size", loaded.adapted),
            ("fresh, for these classes", loaded.fresh),
            ("of the file not used", loaded.unused),
        ):
            if names and not quiet:
                say(f"  {weights}: {len(names)} tensors {what}: {', '.join(names[:4])}")
        model = loaded.model.train()
    return model, spec


def probe_devices(latents: np.ndarray, task: Task, split: str) -> dict[str, Any] | None:
    """What a linear probe finds about the recording device (compress/teach/probe.py); None where it cannot be asked."""
    from edgepress.compress.teach.probe import probe_latents

    found = task.split(split)
    if not latents.shape[1] or found.devices is None or found.identifiers is None:
        return None
    try:
        return {"split": split, **probe_latents(latents, found.devices, found.identifiers).to_json()}
    except UsageError as error:  # one device only, or too few places: nothing that a training should fail for
        say(f"  no device probe: {error}")
        return None


def ensemble_stage(
    run: RunDirectory,
    members: Sequence[Path],
    task: Task,
    source: str | None,
    *,
    mode: Mode = "stable",
    shared_exponent: bool = False,
    machine: Machine,
    trust: bool = False,
    name: str = "ensemble",
) -> dict[str, Any]:
    """Join teachers by the generalised mean, fitted on the validation split; measured beside its controls.

    Args:
        run: where it is kept, as kind "ensemble".
        members: two or more checkpoints.
        task: their data.
        source: of the task.
        mode: "stable" or "paper".
        shared_exponent: one exponent for all classes.
        machine: where the members run, once per clip.
        trust: members may name code outside edgepress.
        name: of the ensemble.

    Returns:
        The entry.

    Raises:
        UsageError: fewer than two members, or members of other classes.
    """
    if len(members) < 2:
        raise UsageError(
            f"an ensemble needs two or more teachers, not {len(members)}: train more with `compress teach --count N`"
        )
    key = key_of("ensemble", [identity(member) for member in members], mode, shared_exponent, task.fingerprint)
    for entry in reversed(run.entries("ensemble")):
        if entry.get("key") == key:
            say(f"ensemble: finished before, {entry['path']} is taken")
            return entry
    from edgepress.compress.teach.teachers import save_ensemble

    mean, metrics = fit_and_measure(members, task, source, mode, shared_exponent, machine, trust)
    name = free_name(run, name, "ensemble")
    path = run.place("ensemble", name)
    metrics = {
        "stage": "ensemble",
        "key": key,
        "command": command(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "data": data_facts(task, source_of(source or "")),
        **metrics,
    }
    save_ensemble(path, members, mean, metrics)
    facts = {"key": key, "members": len(members), "mode": mode}
    run.add("ensemble", name, path, **facts)
    return {"kind": "ensemble", "name": name, "path": path, **facts}


def fit_and_measure(
    members: Sequence[Path],
    task: Task,
    source: str | None,
    mode: Mode,
    shared_exponent: bool,
    machine: Machine,
    trust: bool,
) -> tuple[GeneralizedMean, dict[str, Any]]:
    """The fitted mean, and figures of it, of its members and of the plain means of logits and of probabilities."""
    import numpy as np
    import torch

    from edgepress.compress.teach.ensemble import fit_ensemble, logit_mean, probability_mean
    from edgepress.compress.teach.teachers import open_teacher
    from edgepress.compress.training.evaluate import evaluate_logits
    from edgepress.compress.training.machine import inference_device

    device = inference_device(machine)
    teachers = [open_teacher(member, trust=trust) for member in members]
    if any(teacher.mean is not None for teacher in teachers):
        raise UsageError("an ensemble cannot be a member of another: name its teachers")
    splits = evaluated_splits(task)
    if "validation" not in splits:
        raise UsageError(f"the task {task.name} has no validation split to fit an ensemble on")
    logits = {
        split: torch.from_numpy(np.stack([teacher.logits(task, source, split, device) for teacher in teachers]))
        for split in splits
    }
    labels = torch.from_numpy(np.asarray(task.split("validation").labels))
    fit = fit_ensemble(logits["validation"], labels, mode, shared_exponent=shared_exponent)
    measured: dict[str, Any] = {}
    for split in splits:
        joined = {"ensemble": fit.ensemble, "logit_mean": logit_mean, "probability_mean": probability_mean}
        measured[split] = {
            name: evaluate_logits(join(logits[split]).numpy(), task, split) for name, join in joined.items()
        }
        measured[split]["members"] = [evaluate_logits(one.numpy(), task, split) for one in logits[split]]
    return fit.ensemble, {
        "names": [member.name for member in members],
        "shares": list(fit.ensemble.shares),
        "effective_models": fit.ensemble.effective_models,
        "log_loss_before": fit.log_loss_before,
        "log_loss_after": fit.log_loss_after,
        "figures": measured,
    }


def student_stage(
    run: RunDirectory,
    student: Path,
    settings: TrainSettings,
    distill: Distill,
    teacher: Teacher,
    task: Task,
    *,
    seed: int,
    machine: Machine,
    trust: bool = False,
    resume: bool = True,
) -> dict[str, Any]:
    """Train a checkpoint on under a teacher, a pruned one too; returns the new checkpoint's entry."""
    from edgepress.models.checkpoints.checkpoint import load_checkpoint

    key = key_of(
        "distill",
        identity(student),
        settings.model_dump(),
        distill.model_dump(),
        teacher.identity,
        seed,
        task.fingerprint,
    )
    if entry := finished(run, key, f"distill {student.name}"):
        return entry
    from edgepress.compress.training.machine import inference_device
    from edgepress.compress.training.train import train

    model, spec = load_checkpoint(student, trust=trust)
    name = f"{student.name}-distilled"
    folder = run.path / "training" / f"{name}-{key[:8]}"
    say(f"distill: {student.name} from {teacher.path.name}, {settings.epochs} epochs")
    result = train(
        model,
        task,
        settings,
        teacher=teacher.guide(task, spec.task, distill, inference_device(machine)),
        distill=distill,
        run=folder,
        resume=resume,
        seed=seed,
        machine=machine,
        name=name,
    )
    new = replace(spec, notes={**spec.notes, "stage": "distill", "parent": student.name})
    return keep(
        run,
        free_name(run, name),
        result.model,
        new,
        task,
        key,
        folder,
        stage="distill",
        pruned=removes(spec.plan),
        seed=seed,
        seconds=result.seconds,
        history=result.history,
        best_epoch=result.best_epoch,
        details={"distill": {"teacher": teacher.path.name, "members": len(teacher.members), **distill.model_dump()}},
    )


def ensemble_text(metrics: dict[str, Any], split: str) -> str:
    """Weights like the report's Figure 3, and the ensemble beside its members and controls."""
    lines = ["teacher              weight   accuracy   log loss"]
    figures = metrics["figures"][split]

    def row(name: str, share: str, found: dict[str, Any]) -> str:
        accuracy = format_quantity(found["accuracy"], "fraction")
        return f"{name:<20} {share:>7}   {accuracy:>8}   {found['log_loss']:8.4f}"

    for name, share, found in zip(metrics["names"], metrics["shares"], figures["members"], strict=True):
        lines.append(row(name, f"{share:.4f}", found))
    for name, title in (
        ("ensemble", "ensemble"),
        ("logit_mean", "mean of logits"),
        ("probability_mean", "mean of probabilities"),
    ):
        lines.append(row(title, "", figures[name]))
    lines.append(
        f"on {split}; weights as shares of 1, {metrics['effective_models']:.2f} effective models; fitting "
        f"took the validation log loss from {metrics['log_loss_before']:.4f} to "
        f"{metrics['log_loss_after']:.4f}"
    )
    return "\n".join(lines)


def _file_digest(path: str) -> str:
    return file_sha256(path) if Path(path).is_file() else ""
