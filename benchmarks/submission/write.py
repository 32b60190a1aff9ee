# SPDX-License-Identifier: Apache-2.0
"""A submission folder in the form of DCASE Task 1.

    RUN/submission/
      task1/LABEL_N/LABEL_N.output.csv    predictions of the evaluation set: tab separated, filename, scene_label, one
                                          probability per class (2024: LABEL_N.output.split_5.csv and so on)
      task1/LABEL_N/LABEL_N.meta.yaml     label, authors, complexity, results on the development test, energy
      LABEL.zip                           task1/, as it is handed in
      systems/LABEL_N/...                 the int8 files with their manifests, results.json, development.csv
      predictions/LABEL_N/...             2025: output.csv, complexity.json, test_accuracy.json of the inference package
      submission.json                     the systems, what was left out and why, with command and versions

Predictions come from the int8 files themselves, not from the networks that they were made from.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
import shutil
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.measure.environment import environment
from edgepress.benchmarks.submission.check import Facts, check_folder
from edgepress.benchmarks.submission.evaluation import EvaluationSet, open_evaluation
from edgepress.benchmarks.submission.forms import DEVICES, SCENES, Form
from edgepress.benchmarks.submission.labels import full_label, read_authors
from edgepress.benchmarks.submission.meta import as_yaml, meta_of
from edgepress.benchmarks.submission.predictions import GENERAL, RUNTIME, Predictor, on_evaluation, on_task
from edgepress.benchmarks.submission.systems import Model, System, choose, find_systems
from edgepress.models.atomic import new_directory, write_json, write_text
from edgepress.models.checkpoints.checkpoint import read_spec
from edgepress.models.cost.energy import read_energy
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import read_json
from edgepress.models.run_directory import RunDirectory
from edgepress.models.tasks import Task, load_task
from edgepress.models.tasks.kinds.classification import evaluate
from edgepress.models.tasks.sources.load import front_end_for
from edgepress.models.terminal.words import say


def write_submission(
    runs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    form: Form,
    label: str | None = None,
    authors: str | None = None,
    systems: Sequence[str] = (),
    evaluation: str | Path | None = None,
    report: str | Path | None = None,
    trust: bool = False,
) -> tuple[Path, list[str]]:
    """Write the folder of up to four int8 networks of a run; an older folder of the run is replaced.

    Args:
        runs: run directories; several for a year with subsets of the training data.
        output: the folder; default RUN/submission of the first run, which alone is replaced where it exists.
        form: of the year.
        label: LASTNAME_INST.
        authors: see `read_authors`.
        systems: names of networks; empty chooses.
        evaluation: the unlabelled evaluation set; without one there are no predictions of it, and the folder is not
            ready.
        report: the technical report, a .pdf, to be laid beside the systems.
        trust: the task or a checkpoint may be code.

    Returns:
        The folder, and what is wrong with it by the published checks.

    Raises:
        UsageError: a run holds no int8 TFLite file with its task, `output` exists, or an argument is wrong.
        VerdictError: no network is within the limits.
    """
    people = read_authors(authors)
    full_label(label, 1)
    if report is not None and (Path(report).suffix.lower() != ".pdf" or not Path(report).is_file()):
        raise UsageError(f"--technical-report {report} must be a .pdf file")
    clips = open_evaluation(evaluation) if evaluation is not None else None
    chosen, left_out = choose(find_systems(runs, form, trust=trust), form, systems)
    for name, why in left_out.items():
        say(f"left out: {name}: {why}")
    home = Path(runs[0])
    folder = Path(output) if output else home / "submission"
    if folder.exists() and output is not None:
        raise UsageError(f"{folder} exists already; choose another name")
    store = home / "predictions"
    predictors = [{subset: predictor_of(part) for subset, part in system.parts.items()} for system in chosen]
    predicted = _evaluated(predictors, clips, store)
    made, tasks = [], []
    with new_directory(folder, overwrite=output is None) as temporary:
        for number, (system, parts) in enumerate(zip(chosen, predictors, strict=True), 1):
            own = full_label(label, number)
            results = {}
            for subset, predictor in parts.items():
                task, found = _development(system.parts[subset][GENERAL], predictor, store, trust)
                _write_system(temporary / "systems" / own, subset, system.parts[subset], task, *found)
                results[subset] = found[1]
                tasks.append(task)
            place = temporary / "task1" / own
            place.mkdir(parents=True)
            classes = tasks[-1].classes
            for subset, name in form.output_names(own).items() if clips is not None else ():
                assert clips is not None
                write_text(place / name, output_csv(clips.names, predicted[number - 1][subset], classes))
            meta = meta_of(system, own, people, results, form, _energy(home, system))
            write_text(place / f"{own}.meta.yaml", as_yaml(meta, _remarks(system)))
            if form.by_device:
                _write_predictions(temporary / "predictions" / own, system, place, own, results[""])
            made.append(_summary(own, system, results))
        stem = full_label(label, 1).rpartition("_")[0]
        if report is not None:
            shutil.copy2(report, temporary / "task1" / f"{stem}.technical_report.pdf")
        facts = facts_of(tasks[0], clips, form)
        problems = check_folder(temporary, form, facts)
        _write_zip(temporary / f"{stem}.zip", temporary / "task1")
        write_json(
            temporary / "submission.json",
            {
                "schema": 2,
                "year": form.year,
                "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "environment": environment(),
                "systems": made,
                "left_out": left_out,
                "problems": problems,
                "facts": {
                    "classes": list(facts.classes),
                    "devices": list(facts.devices),
                    "clips": facts.clips,
                    "names": list(facts.names) if facts.names is not None else None,
                },
            },
        )
    return folder, problems


def facts_of(task: Task, clips: EvaluationSet | None, form: Form) -> Facts:
    """What a folder of these data is held against: the challenge's own facts for its own scenes, else the data's."""
    devices = set(task.split(_split(task)).devices or ())
    if set(task.classes) == set(SCENES) and devices == set(DEVICES):
        # Another evaluation set than the challenge's is no reason to pass.
        return Facts(clips=form.clips, names=clips.names if clips is not None and form.clips is None else None)
    return Facts(tuple(sorted(task.classes)), tuple(sorted(devices)), None, clips.names if clips is not None else None)


def read_facts(folder: str | Path, form: Form) -> Facts:
    """The facts that a folder's submission.json names; the challenge's where there is none."""
    path = Path(folder) / "submission.json"
    if not path.is_file():
        return Facts(clips=form.clips)
    found = read_json(path, dict[str, Any]).get("facts") or {}
    return Facts(
        found.get("classes") or SCENES, found.get("devices") or DEVICES, found.get("clips"), found.get("names")
    )


def year_of(folder: str | Path) -> int:
    """The year of a submission folder, or of the device class that a run was made for; 2023 where neither says one."""
    path = Path(folder) / "submission.json"
    if path.is_file():
        return int(read_json(path, dict[str, Any]).get("year", 2023))
    for entry in reversed(RunDirectory(folder).entries("checkpoint")):
        recipe = read_spec(entry["path"]).notes.get("recipe") or {}
        found = re.fullmatch(r"dcase(\d{4})", str(recipe.get("device")))
        if found:
            return int(found[1])
    return 2023


def predictor_of(part: Mapping[str, Model]) -> Predictor:
    """The files of a system on one subset."""
    spec = part[GENERAL].spec
    return Predictor(
        {device: model.file.path for device, model in part.items()},
        {device: model.complexity["sha256"] for device, model in part.items()},
        front_end_for(spec["task"], spec.get("front_end")),
        len(spec["classes"]),
    )


def output_csv(names: Sequence[str], outputs: np.ndarray, classes: Sequence[str]) -> str:
    """The challenge's file of predictions.

    Args:
        names: of the clips; a leading "audio/" is left out.
        outputs: logits [N, K], in the order of `classes`.
        classes: K names; the columns are in alphabetical order.
    """
    order = np.argsort(classes)
    values = np.asarray(outputs, np.float64)
    shifted = np.exp(values - values.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(["filename", "scene_label", *(classes[index] for index in order)])
    for name, row in zip(names, probabilities, strict=True):
        writer.writerow(
            [name.removeprefix("audio/"), classes[int(row.argmax())], *(f"{row[index]:.6f}" for index in order)]
        )
    return buffer.getvalue()


def _evaluated(
    predictors: Sequence[Mapping[str, Predictor]], clips: EvaluationSet | None, store: Path
) -> list[dict[str, np.ndarray]]:
    """System -> subset -> outputs, all made in one pass over the clips."""
    if clips is None:
        return [{} for _ in predictors]
    flat = [(index, subset, predictor) for index, parts in enumerate(predictors) for subset, predictor in parts.items()]
    say(f"predict {len(clips):,} clips of {clips.folder}: {len(flat)} systems on {RUNTIME}")
    rows = on_evaluation([predictor for *_, predictor in flat], clips, store)
    result: list[dict[str, np.ndarray]] = [{} for _ in predictors]
    for (index, subset, _), found in zip(flat, rows, strict=True):
        result[index][subset] = found
    return result


def _split(task: Task) -> str:
    return "test" if task.has("test") else "validation"


def _development(
    model: Model, predictor: Predictor, store: Path, trust: bool
) -> tuple[Task, tuple[np.ndarray, dict[str, Any]]]:
    """The task of a system, its outputs on the development test and their figures."""
    task = load_task(model.spec["task"], front_end=predictor.front_end, trust=trust)
    split = _split(task)
    clips = task.split(split)
    outputs = on_task(predictor, task, split, store).astype(np.float64)
    found = evaluate(outputs, clips.labels, clips.devices, task.classes, clips.identifiers, task.unseen_devices)
    return task, (outputs, {"split": split, "runtime": RUNTIME, **found})


def _write_system(
    folder: Path,
    subset: str,
    part: Mapping[str, Model],
    task: Task,
    outputs: np.ndarray,
    results: Mapping[str, Any],
) -> None:
    place = folder / f"split_{subset}" if subset else folder
    place.mkdir(parents=True)
    complexity = {}
    for device, model in part.items():
        prefix = f"{device}-" if device else ""
        for source in (model.file.path, model.file.path.with_name(f"{model.file.path.name}.manifest.json")):
            if source.exists():
                shutil.copy2(source, place / f"{prefix}{source.name}")
        complexity[device or "general"] = dict(model.complexity)
    write_json(place / "complexity.json", complexity)
    write_json(place / "results.json", dict(results))
    write_text(place / "development.csv", output_csv(task.split(str(results["split"])).names, outputs, task.classes))


def _write_predictions(folder: Path, system: System, place: Path, label: str, results: Mapping[str, Any]) -> None:
    """The folder of 2025's inference package."""
    part = next(iter(system.parts.values()))
    folder.mkdir(parents=True)
    if (place / f"{label}.output.csv").exists():
        shutil.copy2(place / f"{label}.output.csv", folder / "output.csv")
    counts = {
        device or "unknown": {"MACs": model.complexity["macs"], "Params": model.complexity["memory_bytes"]}
        for device, model in sorted(part.items())
    }
    write_json(
        folder / "complexity.json",
        {
            "per_device": counts,
            "max_MACs": max(entry["MACs"] for entry in counts.values()),
            "max_Params": max(entry["Params"] for entry in counts.values()),
        },
    )
    write_json(folder / "test_accuracy.json", {"Test Accuracy": round(100 * results["accuracy"], 2)})


def _summary(label: str, system: System, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    general = system.general
    return {
        "label": label,
        "name": system.name,
        "files": sorted(model.file.path.name for model in system.models),
        **{key: value for key, value in general.complexity.items() if key != "notes"},
        "results": {
            subset or "all": {
                key: found.get(key)
                for key in ("accuracy", "macro_accuracy", "log_loss", "seen_devices", "unseen_devices")
            }
            for subset, found in results.items()
        },
    }


def _remarks(system: System) -> list[str]:
    complexity = system.general.complexity
    return [
        f"MACs are counted by the rule {complexity['rule']} of edgepress.",
        "total_model_size: bytes of the parameters. memory_use: bytes of activations alive at once, at most.",
        "accuracy: percent; overall, the mean over the classes. logloss: nats. energy: kWh, null where not measured.",
        *(" ".join(note.split()) for note in complexity["notes"]),
    ]


def _energy(run: Path, system: System) -> dict[str, float]:
    """training_kwh of the run, inference_kwh and baseline_inference_kwh of the system's file: what was measured."""
    found = read_energy(run)
    known: dict[str, float] = {}
    if found.get("training"):
        known["training_kwh"] = sum(record["kwh"] for record in found["training"])
    record = found.get("inference", {}).get(system.general.complexity["sha256"])
    if record is not None:
        known["inference_kwh"] = record["kwh"]
        if "baseline" in record:
            known["baseline_inference_kwh"] = record["baseline"]["kwh"]
    return known


def _write_zip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent).as_posix())
