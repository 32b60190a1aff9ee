"""`compress prune`: which checkpoint, which budget, which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.compress.commands.train import given
from edgepress.compress.pipeline.stages import is_float, open_task, prune_stage, say
from edgepress.compress.provenance import budget_name
from edgepress.models.errors import UsageError
from edgepress.models.limits import METRIC_UNITS, Limits
from edgepress.models.run_directory import RunDirectory
from edgepress.models.units import format_quantity, parse_quantity

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Recipe

_OPTIONS = {
    "macs": "--target-macs",
    "params": "--target-params",
    "weight_bytes": "--target-bytes",
    "peak_activation_bytes": "--target-peak",
}


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
    for name, value in wanted.items():  # a mistyped number is said before anything else is looked at
        parse_quantity(value, METRIC_UNITS[name], name=_OPTIONS[name], relative_to=1)
    if model is not None and checkpoint is not None:
        raise UsageError(f"give either the checkpoint {checkpoint} or --model {model}, not both")
    if model is None and (weights is not None or inputs):
        raise UsageError("--weights and --input belong to --model package.module:factory")
    for out in (state_dict, program):
        if out is not None and out.exists():
            raise UsageError(f"{out} exists already; choose another name")
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
        source, trusted = (data, True) if data else (task_source(parent), trust)
        task = None
        if source is None and changed.method != "one-shot":
            if settings.get("method") is not None or epochs:
                raise UsageError(
                    f"method = {changed.method!r} trains, and {parent} names no task: give --data, or --method one-shot"
                )
            changed = changed.model_copy(update={"method": "one-shot"})
            say("no task is known (--data): one-shot pruning without training")
        if source is not None:
            task = open_task(source, front_end_of(parent), trust=trusted)
            check_fits(parent, task)
        limits = _limits(entry, wanted, device, device_limits, recipe)
        made = prune_stage(
            directory,
            parent,
            limits,
            changed,
            task,
            label=_label(entry, wanted, device),
            seed=_first(seed, recipe and recipe.seed, 0),
            protect=protect,
            trust=trust,
            resume=not restart,
            machine=_machine(machine),
            teacher=opened(teacher, trust),
        )
    _export(Path(made["path"]), state_dict, program, trust)
    print(made["path"])


def recipe_of(checkpoint: Path) -> Recipe | None:
    """The recipe that a checkpoint was trained by, or None where it does not say."""
    from edgepress.compress.recipes.recipe import parse_recipe
    from edgepress.models.checkpoints.checkpoint import read_spec

    written = read_spec(checkpoint).notes.get("recipe")
    return parse_recipe(written, f"the recipe in {checkpoint}", deep=False) if isinstance(written, dict) else None


def task_source(checkpoint: Path) -> str | None:
    from edgepress.models.checkpoints.checkpoint import read_spec

    return read_spec(checkpoint).task


def front_end_of(checkpoint: Path) -> dict[str, Any] | None:
    from edgepress.models.checkpoints.checkpoint import read_spec

    return read_spec(checkpoint).front_end


def opened(teacher: Path | None, trust: bool) -> Any:
    """The teacher that a command line names, or None."""
    if teacher is None:
        return None
    from edgepress.compress.teach.teachers import open_teacher

    return open_teacher(teacher, trust=trust)


def check_fits(checkpoint: Path, task: Any) -> None:
    """That a task gives what the network of the checkpoint takes.

    Raises:
        UsageError: other inputs, or other classes.
    """
    from edgepress.models.checkpoints.checkpoint import read_spec

    spec = read_spec(checkpoint)
    if spec.input_shapes != (tuple(task.input_shape),):
        raise UsageError(
            f"{checkpoint} takes inputs of shape {spec.input_shapes}, but the task {task.name} gives "
            f"{tuple(task.input_shape)}; choose the --data that it was trained on"
        )
    if spec.classes and spec.classes != tuple(task.classes):
        raise UsageError(
            f"{checkpoint} knows the classes {', '.join(spec.classes)}, but the task {task.name} has "
            f"{', '.join(task.classes)}; choose the --data that it was trained on"
        )


def find_entry(directory: RunDirectory, path: Path) -> dict[str, Any]:
    """The entry of a checkpoint given by its path, also of one that was made elsewhere."""
    from edgepress.models.checkpoints.checkpoint import read_metrics, read_spec

    for entry in directory.entries("checkpoint"):
        if Path(entry["path"]).resolve() == path.resolve():
            return entry
    spec, cost = read_spec(path), read_metrics(path).get("cost", {})
    return {
        "kind": "checkpoint",
        "name": path.name,
        "path": path,
        "pruned": spec.plan is not None,
        **{name: cost.get(name) for name in (*_OPTIONS, "rule")},
    }


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
            and (not wanted or any(entry.get(name, 0) > _absolute(entry, name, text) for name, text in wanted.items()))
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


def _absolute(entry: dict[str, Any], name: str, text: str) -> float:
    return parse_quantity(text, METRIC_UNITS[name], name=_OPTIONS[name], relative_to=entry.get(name))


def _limits(
    entry: dict[str, Any], wanted: Mapping[str, str], device: str | None, device_limits: bool, recipe: Recipe | None
) -> Limits:
    """The targets and the limits of the device class, whichever is tighter."""
    from edgepress.models.devices.classes import device_class

    name = device or (recipe.device if recipe else None)
    bound = Limits()
    if name is not None and device_limits:
        found = device_class(name).limits
        bound = Limits(**found.budgets(), rule=found.rule, scheme=found.scheme)  # type: ignore[arg-type]
    return targets_within(entry, wanted, bound, name)


def targets_within(
    entry: dict[str, Any], wanted: Mapping[str, str], bound: Limits, device: str | None, *, refuse: bool = True
) -> Limits:
    """Targets in the rule of a device class, and its limits.

    Raises:
        UsageError: a share of a cost that is known under another rule; with `refuse`, the network costs no more than
            that already.
    """
    if "%" in str(wanted.get("macs", "")) and entry.get("rule") != bound.rule:
        raise UsageError(
            f"--target-macs = {wanted['macs']!r}: {entry['path']} was counted by the rule "
            f"{entry.get('rule')!r}, the device class {device!r} counts by {bound.rule!r}; give an "
            "absolute target, or --no-device-limits"
        )
    own = {metric: _absolute(entry, metric, text) for metric, text in wanted.items()}
    for metric, value in own.items():
        if value <= 0:
            raise UsageError(f"{_OPTIONS[metric]} = {wanted[metric]!r} must be above 0")
    limits = Limits(**own, rule=bound.rule, scheme=bound.scheme).tightest(bound)  # type: ignore[arg-type]
    limits = replace(limits, rule=bound.rule)
    if not limits.budgets():
        raise UsageError(f"device class {device!r} limits nothing that pruning can hold; give a target as well")
    if (
        refuse
        and all(
            isinstance(entry.get(metric), (int, float)) and entry[metric] <= value
            for metric, value in limits.budgets().items()
        )
        and entry.get("rule") == limits.rule
    ):
        raise UsageError(
            f"{entry['path']} is within the budget already ("
            + ", ".join(f"{metric} {entry[metric]:,} <= {value:,}" for metric, value in limits.budgets().items())
            + "); nothing is to be pruned"
        )
    return limits


def _settings(recipe: Recipe | None, changes: dict[str, Any], epochs: int | None) -> Any:
    from edgepress.compress.recipes.recipe import PruneSettings, validated

    base = recipe.prune if recipe else PruneSettings()
    values = {**base.model_dump(), "targets": (), **given(changes)}
    if epochs is not None:
        values["train"] = {**values["train"], "epochs": epochs}
    return validated(PruneSettings, values, "the settings of prune")


def _label(entry: dict[str, Any], wanted: Mapping[str, str], device: str | None) -> str:
    """What was asked for, as part of a name: 20M, 100kp, cortex-m4."""
    own = Limits(**{metric: int(_absolute(entry, metric, text)) for metric, text in wanted.items()})  # type: ignore[arg-type]
    return "-".join([*([budget_name(own)] if wanted else []), *([device] if device else [])])


def _machine(options: tuple[str, str, str, int]) -> Any:
    from edgepress.compress.training.train import Machine

    return Machine(*options)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


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
