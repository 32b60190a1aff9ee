# SPDX-License-Identifier: Apache-2.0
"""What the commands take where nothing is named: the newest artifact, its task, the budgets of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    from edgepress.models.devices.classes import GateDefaults
    from edgepress.models.devices.device import DeviceClass


def model_of(file: Path | None, run: Path, runtimes: Sequence[str] = ()) -> Path:
    """The file that was named, else the newest artifact that all of these runtimes take (none: any model file)."""
    if file is not None:
        if not file.exists():
            raise UsageError(f"there is no model {file}: name an existing .tflite, .onnx or checkpoint")
        return file
    from edgepress.deploy.runtimes.registry import KINDS, RUNTIMES

    suffixes = {kind: suffix for suffix, kind in KINDS.items()} | {"checkpoint": ".checkpoint"}
    kinds = {suffixes[RUNTIMES[name].file_kind] for name in runtimes if name in RUNTIMES} or {".tflite", ".onnx"}
    if runtimes and len(kinds) > 1:
        raise UsageError(
            f"{', '.join(dict.fromkeys(runtimes))} take different files ({', '.join(sorted(kinds))}): name the file"
        )
    wanted = " or ".join(sorted(kinds, reverse=True))
    newest = RunDirectory(run).newest(
        "artifact",
        lambda entry: entry["path"].suffix in kinds,
        wanted=f"exported {wanted}",
        first=f"deploy export --format {KINDS.get(next(iter(kinds)), 'tflite') if len(kinds) == 1 else 'tflite'}",
    )
    say(f"taking the newest artifact of {run}: {newest['path']}")
    return newest["path"]


def classes_of(devices: Sequence[str], budgets: Path | None) -> list[DeviceClass]:
    """Device classes by name; without names, those that a budgets.toml adds or changes.

    Raises:
        UsageError: an unknown name, or mistakes in the budgets.
    """
    from edgepress.models.devices.classes import device_classes, pick, read_budgets

    if not devices and budgets is None:
        return []
    book = read_budgets(budgets) if budgets is not None else None
    known = book.devices if book else device_classes()
    return [pick(name, known) for name in devices or (book.own if book else ())]


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
    say(f"taking the task of the model: {task}")
    return task


def limits_of(given: list[str]) -> dict[str, str]:
    """--limit METRIC=QUANTITY, each once, as metric -> quantity; with <= or >=, as metric -> "<QUANTITY".

    Raises:
        UsageError: another form, or a metric twice.
    """
    limits: dict[str, str] = {}
    for text in given:
        metric, equals, quantity = text.partition("=")
        if metric[-1:] in ("<", ">"):  # metric.own>=0.8: which bound it is goes with the quantity
            metric, quantity = metric[:-1], metric[-1] + quantity
        metric = metric.strip()
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


def budgets_of(given: Path | None) -> tuple[Path | None, GateDefaults]:
    """The named budgets, else the budgets.toml of this folder, and what its [gate] says; (None, nothing) without."""
    from edgepress.models.devices.classes import GateDefaults, read_budgets

    path = given if given is not None else Path("budgets.toml") if Path("budgets.toml").is_file() else None
    if path is None:
        return None, GateDefaults()
    if given is None:
        say(f"using {path}")
    return path, read_budgets(path).gate


def beside(budgets: Path | None, name: str | None) -> Path | None:
    """A file that the budgets name, which counts from where they are."""
    return None if budgets is None or name is None else budgets.parent / name


def files_of(given: Sequence[Path], budgets: Path | None, names: Sequence[str]) -> list[Path | None]:
    """The files that were given, else those that the budgets name, patterns filled in; [None] where nobody names one.

    A pattern that fits nothing stays as it is, for the error that names it.
    """
    found: list[Path | None] = []
    for path in given or [budgets.parent / name for name in names if budgets is not None]:
        matches = [] if path.exists() else sorted(glob(str(path), recursive=True))
        found += [Path(match) for match in matches] or [path]
    return found or [None]


def baselines_of(path: Path, given: Sequence[str], budgets: Path | None, named: GateDefaults) -> tuple[list[str], bool]:
    """The baselines that a file may take, and whether one was named for this very file.

    Args:
        path: the file.
        given: on the command line; they replace those of the budgets.
        budgets, named: a budgets.toml, and what its [gate] says.
    """
    if given or budgets is None:
        return list(given), False

    def placed(text: str) -> str:
        return text if text.startswith("git:") else str(budgets.parent / text)

    for file, text in named.baseline_by_file.items():
        if (budgets.parent / file).resolve() == path.resolve():
            return [placed(text)], True
    return [placed(text) for text in named.baselines], False


def results_of(given: Path | None, run: Path) -> list[dict[str, Any]]:
    """The results of a file that was named, else those of the run."""
    from edgepress.benchmarks.measure.result_log import of_run, read

    return read(given) if given is not None else of_run(RunDirectory(run))
