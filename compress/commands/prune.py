# SPDX-License-Identifier: Apache-2.0
"""`compress prune`: which checkpoint, which budget, which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepress.compress.commands.options import (
    DEFAULT_RUN,
    LOGGERS,
    Accelerator,
    Data,
    Devices,
    Epochs,
    Logger,
    Nodes,
    Overrides,
    Restart,
    Run,
    Seed,
    Strategy,
    Teacher,
    Trust,
    given,
)
from edgepress.compress.pipeline.budget import absolute, is_within, label_of, limits_for, with_footprint
from edgepress.compress.pipeline.data import task_of
from edgepress.compress.pipeline.entries import find_entry, is_float, recipe_of
from edgepress.compress.pipeline.stages import prune_stage
from edgepress.models.errors import UsageError
from edgepress.models.limits import DEVICE_METRICS, METRIC_UNITS
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say
from edgepress.models.units import format_against, format_quantity

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import PruneSettings, Recipe


def prune(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint; otherwise the newest unpruned float one of the run above the target."),
    ] = None,
    target_macs: Annotated[str | None, typer.Option(help="20e6, 20M, or a share such as 50%.")] = None,
    target_params: Annotated[str | None, typer.Option(help="61148, 128k, or a share.")] = None,
    target_bytes: Annotated[str | None, typer.Option(help="Of weights: 128 kB, 64 KiB, or a share.")] = None,
    target_peak: Annotated[str | None, typer.Option(help="Of activations alive at once: 64 KiB, or a share.")] = None,
    target_latency: Annotated[str | None, typer.Option(help="Of an inference on --device: 100ms.")] = None,
    target_energy: Annotated[str | None, typer.Option(help="Of an inference on --device: 500uJ.")] = None,
    target_instructions: Annotated[
        str | None, typer.Option(help="Of our firmware, an inference on the core of --device: 10M.")
    ] = None,
    target_arena: Annotated[str | None, typer.Option(help="Of TFLite Micro, head and tail: 64 KiB.")] = None,
    target_firmware_arena: Annotated[
        str | None, typer.Option(help="Of our own firmware (c-inference), on the core of --device: 64 KiB.")
    ] = None,
    target_file: Annotated[str | None, typer.Option(help="Of the int8 .tflite file: 100 kB.")] = None,
    target_flash: Annotated[str | None, typer.Option(help="Of the file and the runtime on --device: 256 KiB.")] = None,
    target_firmware_flash: Annotated[
        str | None, typer.Option(help="Of our own firmware (c-inference), linked for the core of --device: 64 KiB.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device class whose limits bind too; the recipe's otherwise.")
    ] = None,
    no_device_limits: Annotated[
        bool, typer.Option("--no-device-limits", help="Only the targets bind, on --device.")
    ] = False,
    method: Annotated[str | None, typer.Option(help="admm, gradual, one-shot or from-scratch.")] = None,
    projection: Annotated[str | None, typer.Option(help="threshold, knapsack or algorithm-1.")] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="l2, l1, bn, fisher, taylor, lamp, fpgm, distance, fisher-distance or random; unasked fisher with the "
            "data of a classification task, else l2."
        ),
    ] = None,
    epochs: Epochs = None,
    teacher: Teacher = None,
    divisor: Annotated[int | None, typer.Option(min=1, help="Channels in multiples of this.")] = None,
    min_channels: Annotated[
        int | None, typer.Option(min=0, help="Channels that every group keeps; 0 lets whole residual branches go.")
    ] = None,
    floor: Annotated[float | None, typer.Option(min=0, max=1, help="Share of its width that a group keeps.")] = None,
    protect: Annotated[
        list[str] | None, typer.Option(help="Module whose outputs keep their width; may be repeated.")
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="Module or parameter that keeps its shape; may be repeated.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Your own, package.module:factory, or timm:NAME, torchvision:NAME (code is run).")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Its weights, .safetensors or .pt.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Shape of an input with the batch, 1,3,32,32; once per input.")
    ] = None,
    state_dict: Annotated[Path | None, typer.Option(help="Also write a state dict, .safetensors or .pt.")] = None,
    program: Annotated[Path | None, typer.Option(help="Also write a torch.export program, .pt2.")] = None,
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    overrides: Overrides = None,
    trust: Trust = False,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
    logger: Logger = LOGGERS,
) -> None:
    """Prune a network to hard budgets: train, remove channels, prove the removal, fine-tune."""
    targets = {
        "macs": target_macs,
        "params": target_params,
        "weight_bytes": target_bytes,
        "peak_activation_bytes": target_peak,
        "latency_ms": target_latency,
        "energy_uj": target_energy,
        "instructions": target_instructions,
        "arena_bytes": target_arena,
        "firmware_arena_bytes": target_firmware_arena,
        "file_bytes": target_file,
        "flash_bytes": target_flash,
        "firmware_flash_bytes": target_firmware_flash,
    }
    settings = {
        "method": method,
        "projection": projection,
        "importance": importance,
        "divisor": divisor,
        "min_channels": min_channels,
        "floor": floor,
        "protect": tuple(protect) if protect else None,
        "freeze": tuple(freeze) if freeze else None,
    }
    wanted = given(targets)
    if not wanted and device is None:
        raise UsageError(
            "prune needs a budget: --target-macs 20e6, --target-params, --target-bytes, --target-peak or --device NAME "
            "(and on it --target-latency, --target-energy, --target-instructions, --target-arena, --target-file, "
            "--target-flash, --target-firmware-arena, --target-firmware-flash)"
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

            entry, trust = enter_own_network(directory, model, weights, tuple(inputs or ()), data), True
        else:
            entry = _entry(directory, checkpoint, wanted)
        parent = Path(entry["path"])
        recipe = recipe_of(parent, trust=trust)
        changed = _settings(recipe, settings, epochs, overrides or (), trust)
        task = task_of(parent, data, trust=trust)
        if task is None and changed.method != "one-shot":
            if method is not None or epochs:
                raise UsageError(
                    f"method = {changed.method!r} trains, and {parent} names no task: give --data, or --method one-shot"
                )
            changed = changed.model_copy(update={"method": "one-shot"})
            say("no task is known (--data): one-shot pruning without training")
        bound_by = device or (recipe.device if recipe else None)
        if no_device_limits and not set(wanted) & set(DEVICE_METRICS):
            bound_by = None
        entry = with_footprint(entry, wanted, bound_by, trust)
        limits = limits_for(entry, wanted, bound_by, targets_alone=no_device_limits)
        if is_within(entry, limits):
            raise UsageError(
                f"{entry['path']} is within the budget already ("
                + ", ".join(
                    f"{metric} " + " <= ".join(format_against(entry[metric], value, METRIC_UNITS[metric]))
                    for metric, value in limits.budgets().items()
                )
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
            trust=trust,
            resume=not restart,
            machine=Machine(accelerator, devices, strategy, nodes, loggers=tuple(logger)),
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


def _settings(
    recipe: Recipe | None, changes: dict[str, Any], epochs: int | None, overrides: Sequence[str], trust: bool
) -> PruneSettings:
    """What the recipe says, then `--set`, then the options that say the same by a name of their own."""
    from edgepress.compress.recipes.recipe import PruneSettings, section_changed, validated

    base = {**(recipe.prune if recipe else PruneSettings()).model_dump(), "targets": ()}
    values = section_changed("prune", base, overrides, trust)
    if values["targets"]:
        raise UsageError("--set prune.targets is for `compress run`: give --target-macs and its like")
    values = {**values, **given(changes)}
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
