# SPDX-License-Identifier: Apache-2.0
"""What the commands take where nothing is named: the newest artifact, its task, the budgets of this folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory


def model_of(file: Path | None, run: Path, runtimes: Sequence[str] = ()) -> Path:
    """The file that was named, else the newest artifact that all of these runtimes take (none: any model file)."""
    if file is not None:
        if not file.exists():
            raise UsageError(f"there is no model {file}: name an existing .tflite, .onnx or checkpoint")
        return file
    from edgepress.deploy.runtimes.registry import RUNTIMES

    kinds = {f".{RUNTIMES[name].file_kind}" for name in runtimes if name in RUNTIMES} or {".tflite", ".onnx"}
    if runtimes and len(kinds) > 1:
        raise UsageError(
            f"{', '.join(dict.fromkeys(runtimes))} take different files ({', '.join(sorted(kinds))}): name the file"
        )
    wanted = " or ".join(sorted(kinds, reverse=True))
    newest = RunDirectory(run).newest(
        "artifact",
        lambda entry: entry["path"].suffix in kinds,
        wanted=f"exported {wanted}",
        first=f"deploy export --format {'onnx' if kinds == {'.onnx'} else 'tflite'}",
    )
    print(f"taking the newest artifact of {run}: {newest['path']}", file=sys.stderr)
    return newest["path"]


def runtimes_of(devices: Sequence[str], budgets: Path | None) -> list[str]:
    """The runtimes that stand for device classes; without names, those that a budgets.toml adds or changes."""
    from edgepress.models.devices.classes import device_classes, pick, read_budgets

    if not devices and budgets is None:
        return []
    book = read_budgets(budgets) if budgets is not None else None
    known = book.devices if book else device_classes()
    return [pick(name, known).runtime for name in devices or (book.own if book else ())]


def task_of(path: Path) -> str:
    """The data that the model was made for, as far as it says so."""
    if path.is_dir():
        from edgepress.models.checkpoints.checkpoint import read_spec

        task = read_spec(path).task
    else:
        from edgepress.benchmarks.measure.manifests import spec_beside

        task = spec_beside(path).get("task")
    if not isinstance(task, str):
        raise UsageError(f"{path} does not say which data it was made for: give --data FOLDER or FILE.npz")
    print(f"taking the task of the model: {task}", file=sys.stderr)
    return task


def limits_of(given: list[str]) -> dict[str, str]:
    """--limit METRIC=QUANTITY, each once, as metric -> quantity.

    Raises:
        UsageError: another form, or a metric twice.
    """
    limits: dict[str, str] = {}
    for text in given:
        metric, equals, quantity = text.partition("=")
        if not equals:
            raise UsageError(f"--limit {text}: write METRIC=QUANTITY, such as macs=20M or file=128kB")
        if metric in limits:
            raise UsageError(f"--limit {metric} is given twice")
        limits[metric] = quantity
    return limits


def shapes_of(given: list[str] | None) -> dict[str, tuple[int, ...]]:
    """--shape INPUT=1,3,512,512 as input -> sizes.

    Raises:
        UsageError: another form.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given or ():
        name, equals, sizes = text.rpartition("=")
        numbers = sizes.replace("x", ",").split(",")
        if not equals or not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
            raise UsageError(f"--shape {text}: write the input's name and its sizes, such as input=1,3,512,512")
        shapes[name] = tuple(map(int, numbers))
    return shapes


def budgets_of(given: Path | None) -> tuple[Path | None, dict[str, str]]:
    """The named budgets, else the budgets.toml of this folder, and what its [gate] says; (None, {}) without."""
    path = given if given is not None else Path("budgets.toml") if Path("budgets.toml").is_file() else None
    if path is None:
        return None, {}
    from edgepress.models.devices.classes import read_budgets

    if given is None:
        print(f"using {path}", file=sys.stderr)
    return path, read_budgets(path).gate


def beside(budgets: Path | None, name: str | None) -> Path | None:
    """A file that the budgets name, which counts from where they are."""
    return None if budgets is None or name is None else budgets.parent / name


def baseline_of(budgets: Path | None, text: str | None) -> str | None:
    """The baseline that the budgets name: a git revision, or a file beside them."""
    return text if text is None or text.startswith("git:") else str(beside(budgets, text))


def results_of(given: Path | None, run: Path) -> list[dict[str, Any]]:
    """The results of a file that was named, else those of the run."""
    from edgepress.benchmarks.measure.result_log import of_run, read

    return read(given) if given is not None else of_run(RunDirectory(run))
