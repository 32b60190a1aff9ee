"""`compress prune`: which checkpoint, which budget, which settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.compress.commands.train import given
from edgepress.compress.pipeline.budget import absolute, is_within, label_of, limits_for
from edgepress.compress.pipeline.data import task_of
from edgepress.compress.pipeline.entries import find_entry, is_float, recipe_of
from edgepress.compress.pipeline.progress import say
from edgepress.compress.pipeline.stages import prune_stage
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.units import format_quantity

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import PruneSettings, Recipe


def run_prune(
    checkpoint: Path | None,
    *,
    targets: Mapping[str, str | None],
    device: str | None,
    device_limits: bool,
    settings: dict[str, Any],
    epochs: int | None,
    teacher: Path | None,
    protect: tuple[str, ...],
    model: str | None,
    weights: Path | None,
    inputs: tuple[str, ...],
    state_dict: Path | None,
    program: Path | None,
    data: str | None,
    run: Path,
    seed: int | None,
    trust: bool,
    restart: bool,
    machine: tuple[str, str, str, int],
) -> None:
    """Prune a checkpoint of the run, or a user's own network; prints the new checkpoint's path."""
    wanted = given(dict(targets))
    if not wanted and device is None:
        raise UsageError(
            "prune needs a budget: --target-macs 20e6, --target-params, --target-bytes, --target-peak or --device NAME"
        )
    absolute(dict.fromkeys(wanted, 1), wanted)  # a mistyped number is said before anything else is looked at
    if model is not None and checkpoint is not None:
        raise UsageError(f"give either the checkpoint {checkpoint} or --model {model}, not both")
    if model is None and (weights is not None or inputs):
        raise UsageError("--weights and --input belong to --model package.module:factory")
    for out in (state_dict, program):
        if out is not None and out.exists():
            raise UsageError(f"{out} exists already; choose another name")
    from edgepress.compress.teach.teachers import open_teacher
    from edgepress.compress.training.machine import Machine

    directory = RunDirectory(run)
    with directory.lock():
        if model is not None:
            from edgepress.compress.commands.own_network import enter_own_network

            entry, trust = enter_own_network(directory, model, weights, inputs, data), True
        else:
            entry = _entry(directory, checkpoint, wanted)
        parent = Path(entry["path"])
        recipe = recipe_of(parent)
        changed = _settings(recipe, settings, epochs)
        task = task_of(parent, data, trust=trust)
        if task is None and changed.method != "one-shot":
            if settings.get("method") is not None or epochs:
                raise UsageError(
                    f"method = {changed.method!r} trains, and {parent} names no task: give --data, or --method one-shot"
                )
            changed = changed.model_copy(update={"method": "one-shot"})
            say("no task is known (--data): one-shot pruning without training")
        bound_by = device or (recipe.device if recipe else None)
        limits = limits_for(entry, wanted, bound_by if device_limits else None)
        if is_within(entry, limits):
            raise UsageError(
                f"{entry['path']} is within the budget already ("
                + ", ".join(f"{metric} {entry[metric]:,} <= {value:,}" for metric, value in limits.budgets().items())
                + "); nothing is to be pruned"
            )
        made = prune_stage(
            directory,
            parent,
            limits,
            changed,
            task,
            label=label_of(entry, wanted, device),
            seed=seed if seed is not None else recipe.seed if recipe else 0,
            protect=protect,
            trust=trust,
            resume=not restart,
            machine=Machine(*machine),
            teacher=open_teacher(teacher, trust=trust) if teacher is not None else None,
        )
    _export(Path(made["path"]), state_dict, program, trust)
    print(made["path"])


def _entry(directory: RunDirectory, checkpoint: Path | None, wanted: Mapping[str, str]) -> dict[str, Any]:
    if checkpoint is not None:
        entry = find_entry(directory, checkpoint)
        if not is_float(entry):
            raise UsageError(f"{checkpoint} is quantized; prune the float checkpoint that it came from")
        return entry

    def fits(entry: dict[str, Any]) -> bool:
        return (
            is_float(entry)
            and not entry.get("pruned")
            and (not wanted or any(entry.get(name, 0) > value for name, value in absolute(entry, wanted).items()))
        )

    above = ", ".join(f"{text} {name}" for name, text in wanted.items())
    entry = directory.newest(
        "checkpoint",
        fits,
        first="compress train",
        wanted="unpruned float checkpoint" + (f" above {above}" if wanted else ""),
    )
    say(
        f"prune: the newest unpruned float checkpoint is {entry['path']} "
        f"({format_quantity(entry['macs'], 'macs')} MACs)"
    )
    return entry


def _settings(recipe: Recipe | None, changes: dict[str, Any], epochs: int | None) -> PruneSettings:
    from edgepress.compress.recipes.recipe import PruneSettings, validated

    base = recipe.prune if recipe else PruneSettings()
    values = {**base.model_dump(), "targets": (), **given(changes)}
    if epochs is not None:
        values["train"] = {**values["train"], "epochs": epochs}
    return validated(PruneSettings, values, "the settings of prune")


def _export(path: Path, state_dict: Path | None, program: Path | None, trust: bool) -> None:
    if state_dict is not None:
        from edgepress.models.checkpoints.checkpoint import export_state_dict

        say(f"state dict: {export_state_dict(path, state_dict)}")
    if program is not None:
        import io

        import torch

        from edgepress.models.atomic import write_bytes
        from edgepress.models.checkpoints.checkpoint import load_checkpoint

        model, spec = load_checkpoint(path, trust=trust)
        buffer = io.BytesIO()
        torch.export.save(torch.export.export(model, spec.example_inputs(), strict=False), buffer)
        say(f"torch.export program: {write_bytes(program, buffer.getvalue())}")
