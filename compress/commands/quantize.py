"""`compress quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.commands.prune import check_fits, find_entry, front_end_of, opened, recipe_of, task_source
from compress.commands.train import given
from compress.stages import is_float, open_task, quantize_stage, say
from models.errors import UsageError
from models.run_directory import RunDirectory

#: Epochs of quantization-aware training where neither the recipe nor the command line says.
QAT_EPOCHS = 5


def run_quantize(checkpoint: Path | None, *, settings: dict[str, Any], qat: bool, epochs: int | None,
                 teacher: Path | None, data: str | None, run: Path, seed: int | None, trust: bool, restart: bool,
                 machine: tuple[str, str, str, int]) -> None:
    """Quantize the newest float checkpoint, or a given one; prints the new checkpoint's path."""
    from compress.train import Machine

    if epochs and not qat:
        raise UsageError(f"--epochs {epochs} belongs to quantization-aware training: add --qat")
    directory = RunDirectory(run)
    with directory.lock():
        if checkpoint is not None:
            entry = find_entry(directory, checkpoint)
            if not is_float(entry):
                raise UsageError(f"{checkpoint} is quantized already; choose the float checkpoint that it came from")
        else:
            entry = directory.newest("checkpoint", is_float,
                                     wanted="float checkpoint", first="compress train")
            say(f"quantize: the newest float checkpoint is {entry['path']}")
        parent = Path(entry["path"])
        recipe = recipe_of(parent)
        source = data or task_source(parent)
        if source is None:
            raise UsageError(f"{parent} names no task to calibrate on: give --data")
        task = open_task(source, front_end_of(parent), trust=trust or data is not None)
        check_fits(parent, task)
        made = quantize_stage(directory, parent, _settings(recipe, settings, qat, epochs), task, trust=trust,
                              resume=not restart, machine=Machine(*machine), teacher=opened(teacher, trust),
                              seed=seed if seed is not None else recipe.seed if recipe else 0)
    print(made["path"])


def _settings(recipe: Any, changes: dict[str, Any], qat: bool, epochs: int | None) -> Any:
    from compress.recipe import QuantizeSettings, validated

    base = recipe.quantize if recipe else QuantizeSettings()
    wanted = (epochs or base.train.epochs or QAT_EPOCHS) if qat else base.train.epochs
    values = {**base.model_dump(), **given(changes)}
    values["train"] = {**values["train"], "epochs": wanted}
    return validated(QuantizeSettings, values, "the settings of quantize")
