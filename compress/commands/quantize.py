# SPDX-License-Identifier: Apache-2.0
"""`compress quantize`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
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
from edgepress.compress.pipeline.data import task_of
from edgepress.compress.pipeline.entries import find_entry, is_float, recipe_of
from edgepress.compress.pipeline.stages import quantize_stage
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.compress.recipes.recipe import QuantizeSettings, Recipe
    from edgepress.models.tasks import Task

#: Epochs of quantization-aware training where neither the recipe nor the command line says.
QAT_EPOCHS = 5
#: Clips on which every layer is measured alone: each layer needs a pass over them.
SENSITIVITY_CLIPS = 256


def quantize(
    checkpoint: Annotated[Path | None, typer.Argument(help="A float checkpoint; otherwise the newest.")] = None,
    scheme: Annotated[str | None, typer.Option(help="w8a8 or a16w8.")] = None,
    method: Annotated[
        str | None, typer.Option(help="How ranges follow from calibration: mse, minmax, percentile or entropy.")
    ] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips to calibrate on.")] = None,
    qat: Annotated[
        bool,
        typer.Option("--qat", help="Train the weights under the rounding (5 epochs unless --epochs says otherwise)."),
    ] = False,
    epochs: Epochs = None,
    ranges: Annotated[str | None, typer.Option(help="In training: learned, averaged or frozen.")] = None,
    in_float: Annotated[
        list[str] | None, typer.Option("--float", help="Leave this layer or module in float; may be repeated.")
    ] = None,
    in_16_bits: Annotated[
        list[str] | None, typer.Option("--a16w8", help="16-bit activations for this layer or module; may be repeated.")
    ] = None,
    equalize: Annotated[bool | None, typer.Option(help="Balance neighbouring layers first.")] = None,
    bias_correction: Annotated[
        bool | None, typer.Option(help="Take the mean error of each layer out of its bias.")
    ] = None,
    per_tensor_dense: Annotated[
        bool | None, typer.Option(help="One weight scale per fully connected layer, for old TFLite Micro.")
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Also measure what rounding each layer costs: a table, a figure, a JSON file."
        ),
    ] = False,
    teacher: Teacher = None,
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
    """Make an int8 checkpoint: calibrate activation ranges, optionally train under them."""
    exceptions = {**dict.fromkeys(in_float or (), "float"), **dict.fromkeys(in_16_bits or (), "a16w8")}
    settings = {
        "scheme": scheme,
        "method": method,
        "clips": clips,
        "ranges": ranges,
        "equalize": equalize,
        "bias_correction": bias_correction,
        "per_tensor_dense": per_tensor_dense,
        "exceptions": exceptions or None,
    }
    if epochs and not qat:
        raise UsageError(f"--epochs {epochs} belongs to quantization-aware training: add --qat")
    from edgepress.compress.teach.teachers import open_teacher
    from edgepress.compress.training.machine import Machine

    directory = RunDirectory(run)
    with directory.lock():
        if checkpoint is not None:
            entry = find_entry(directory, checkpoint)
            if not is_float(entry):
                raise UsageError(f"{checkpoint} is quantized already; choose the float checkpoint that it came from")
        else:
            entry = directory.newest("checkpoint", is_float, wanted="float checkpoint", first="compress train")
            say(f"quantize: the newest float checkpoint is {entry['path']}")
        parent = Path(entry["path"])
        recipe = recipe_of(parent, trust=trust)
        task = task_of(parent, data, trust=trust)
        if task is None:
            raise UsageError(f"{parent} names no task to calibrate on: give --data")
        made = quantize_stage(
            directory,
            parent,
            _settings(recipe, settings, qat, epochs, overrides or (), trust),
            task,
            trust=trust,
            resume=not restart,
            machine=Machine(accelerator, devices, strategy, nodes, loggers=tuple(logger)),
            teacher=open_teacher(teacher, trust=trust) if teacher is not None else None,
            seed=seed if seed is not None else recipe.seed if recipe else 0,
        )
        if sensitivity:
            _sensitivity(directory, made, task, trust)
    print(made["path"])


def _sensitivity(directory: RunDirectory, made: dict[str, Any], task: Task, trust: bool) -> None:
    """What each layer of a quantized checkpoint costs on the validation split: table, figure and JSON in the run."""
    import json

    from edgepress.compress.quantize import restore_quantized
    from edgepress.compress.quantize.sensitivity import figure, layer_sensitivity, table
    from edgepress.models.atomic import write_text
    from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_quantization

    model, spec = load_checkpoint(made["path"], trust=trust)
    quantized = restore_quantized(model, spec.example_inputs(), read_quantization(made["path"]) or {})
    inputs, score = labelled_batches(task, "validation" if task.has("validation") else "test")
    say(f"sensitivity: every layer alone, {sum(len(x) for (x,) in inputs)} clips")
    results = layer_sensitivity(quantized, inputs, score)
    path = directory.place("result", f"{made['name']}-sensitivity.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(
        path,
        json.dumps(
            {
                "schema": 1,
                "kind": "sensitivity",
                "checkpoint": made["name"],
                "clips": sum(len(x) for (x,) in inputs),
                "layers": [asdict(entry) for entry in results],
            },
            indent=1,
        )
        + "\n",
    )
    say(table(results))
    drawing = path.with_suffix(".svg")
    write_text(drawing, figure(results, made["name"]))
    say(f"  {path}, {drawing}")


def labelled_batches(
    task: Task, split: str, clips: int = SENSITIVITY_CLIPS
) -> tuple[list[tuple[Tensor]], Callable[[Tensor, int], float]]:
    """(batches of one tensor each, evenly spread over a split; outputs and index of a batch -> its accuracy)."""
    import numpy as np
    import torch

    labels, features = np.asarray(task.split(split).labels), task.features(split)
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(clips, len(labels))).astype(int))
    parts = [part for part in np.array_split(chosen, -(-len(chosen) // 64)) if len(part)]
    return (
        [(torch.from_numpy(np.ascontiguousarray(features[part])),) for part in parts],
        lambda outputs, index: float((outputs.argmax(1).numpy() == labels[parts[index]]).mean()),
    )


def _settings(
    recipe: Recipe | None,
    changes: dict[str, Any],
    qat: bool,
    epochs: int | None,
    overrides: Sequence[str],
    trust: bool,
) -> QuantizeSettings:
    """What the recipe says, then `--set`, then the options that say the same by a name of their own."""
    from edgepress.compress.recipes.recipe import QuantizeSettings, section_changed, validated

    base = (recipe.quantize if recipe else QuantizeSettings()).model_dump()
    values = {**section_changed("quantize", base, overrides, trust), **given(changes)}
    if qat and isinstance(values["train"], dict):  # anything else is said below
        values["train"] = {**values["train"], "epochs": epochs or values["train"]["epochs"] or QAT_EPOCHS}
    return validated(QuantizeSettings, values, "the settings of quantize")
