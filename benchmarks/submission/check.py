# SPDX-License-Identifier: Apache-2.0
"""A submission folder held against the published checks of its year, and against the rules behind them."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.benchmarks.submission.forms import (
    AUTHOR,
    DEVICES,
    EXTERNAL_DATASET,
    LONGEST_ABBREVIATION,
    MEASURES,
    MOST_SYSTEMS,
    RESULTS,
    SCENES,
    SUBMISSION,
    Form,
)
from edgepress.benchmarks.submission.labels import PLACEHOLDER
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.files.reading import read_text
from edgepress.models.terminal.installation import how_to_install

#: How many rows of a file are named before the rest is only counted.
_SHOWN = 3


@dataclass(frozen=True)
class Facts:
    """What the data of the challenge are: other data in the same form have their own.

    Attributes:
        classes: the scenes.
        devices: recording devices of the development test.
        clips: of the evaluation set, called 0.wav to CLIPS-1.wav; None where the names are free.
        names: the files of the evaluation set where they are free and known, else None.
    """

    classes: Sequence[str] = SCENES
    devices: Sequence[str] = DEVICES
    clips: int | None = None
    names: Sequence[str] | None = None


def check_folder(folder: str | Path, form: Form, facts: Facts | None = None) -> list[str]:
    """Everything that is wrong with a folder that holds task1/LABEL/..., a sentence each; empty where it is right.

    Args:
        folder: the package.
        form: of the year.
        facts: None takes TAU Urban Acoustic Scenes.

    Raises:
        UsageError: no such folder.
    """
    folder = Path(folder)
    facts = facts or Facts(clips=form.clips)
    if not (folder / "task1").is_dir():
        raise UsageError(f"{folder} holds no folder task1: name the package that `benchmarks submission` wrote")
    systems, problems = [], []
    for path in sorted((folder / "task1").iterdir()):
        if path.is_dir():
            systems.append(path)
        elif path.suffix != ".pdf":
            problems.append(f"task1/{path.name} is no part of the form: only folders of systems and a .pdf are")
    if not 1 <= len(systems) <= MOST_SYSTEMS:
        problems.append(f"task1 holds {len(systems)} systems: 1 to {MOST_SYSTEMS} are allowed")
    for system in systems:
        problems += [f"{system.name}: {problem}" for problem in check_system(system, form, facts)]
    return problems


def check_system(system: Path, form: Form, facts: Facts) -> list[str]:
    """What is wrong with one system: its names, its predictions, its meta file."""
    label = system.name
    problems = _label_problems(label)
    outputs = set(form.output_names(label).values())
    expected = {*outputs, f"{label}.meta.yaml"}
    present = {path.name for path in system.iterdir()}
    problems += [f"{name} is missing" for name in sorted(expected - present)]
    problems += [f"{name} is no part of the form" for name in sorted(present - expected) if not name.endswith(".pdf")]
    for name in sorted(outputs & present):
        problems += [f"{name}: {problem}" for problem in check_output(system / name, facts)]
    if f"{label}.meta.yaml" in present:
        meta, errors = _read_yaml(system / f"{label}.meta.yaml")
        problems += errors or [f"{label}.meta.yaml: {problem}" for problem in check_meta(meta, label, form, facts)]
    return problems


def _label_problems(label: str) -> list[str]:
    parts = label.split("_")
    if len(parts) != 4 or parts[2] != "task1":
        return [f"the label {label!r} is not LASTNAME_INST_task1_N"]
    problems = []
    if not re.fullmatch(f"[1-{MOST_SYSTEMS}]", parts[3]):
        problems.append(f"the number {parts[3]!r} of the label must be from 1 to {MOST_SYSTEMS}")
    if label.startswith(f"{PLACEHOLDER}_"):
        problems.append(f"the label is still {PLACEHOLDER}: give --label")
    return problems


def check_output(path: Path, facts: Facts) -> list[str]:
    """What is wrong with a file of predictions."""
    fields = ["filename", "scene_label", *sorted(facts.classes)]
    problems: list[str] = []
    counts: dict[str, int] = {}

    def note(kind: str, sentence: str) -> None:
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _SHOWN:
            problems.append(sentence)

    seen: set[str] = set()
    names = set(facts.names) if facts.names is not None else None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter="\t")
            header = next(rows, [])
            if not set(fields) <= set(header) or len(set(header)) != len(header):
                return [f"the header is {','.join(header)[:200] or 'missing'}; it must be {','.join(fields)}"]
            columns = {field: header.index(field) for field in fields}
            for number, row in enumerate(rows, 2):
                if len(row) != len(fields):
                    note("fields", f"line {number} has {len(row)} fields, not {len(fields)}")
                    continue
                _check_row(row, number, columns, facts, names, seen, note)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [*problems, f"cannot be read: {error}"]
    wanted = facts.clips if facts.clips is not None else None if names is None else len(names)
    if wanted is not None and len(seen) != wanted:
        problems.append(f"{len(seen):,} files are predicted; the evaluation set has {wanted:,}")
    if not seen:
        problems.append("no file is predicted")
    problems += [f"{count - _SHOWN} more lines like these ({kind})" for kind, count in counts.items() if count > _SHOWN]
    return problems


def _check_row(
    row: Sequence[str],
    number: int,
    columns: Mapping[str, int],
    facts: Facts,
    names: set[str] | None,
    seen: set[str],
    note: Any,
) -> None:
    name = os.path.basename(row[columns["filename"]])
    if name in seen:
        note("twice", f"line {number}: {name} is predicted twice")
    seen.add(name)
    stem, suffix = os.path.splitext(name)
    if suffix != ".wav":
        note("suffix", f"line {number}: {name} does not end in .wav")
    if facts.clips is not None and not (stem.isascii() and stem.isdecimal() and int(stem) < facts.clips):
        note("index", f"line {number}: {name} is none of 0.wav to {facts.clips - 1}.wav")
    if names is not None and name not in names:
        note("name", f"line {number}: {name} is not in the evaluation set")
    label = row[columns["scene_label"]]
    if label not in facts.classes:
        note("scene", f"line {number}: {label!r} is no scene")
        return
    try:
        values = {scene: float(row[columns[scene]]) for scene in facts.classes}
    except ValueError:
        note("number", f"line {number}: a probability is no number")
        return
    total = math.fsum(values.values())
    if not all(0 <= value <= 1 for value in values.values()) or not abs(total - 1) < 1e-3:
        note("probability", f"line {number}: the probabilities are not between 0 and 1 with a sum of 1")
    elif values[label] < max(values.values()) - 1e-5:
        note("largest", f"line {number}: {label} is not the class with the largest probability")


def check_meta(meta: Any, label: str, form: Form, facts: Facts) -> list[str]:
    """What is wrong with a meta file."""
    if not isinstance(meta, Mapping):
        return ["it is no mapping with submission, system and results"]
    problems = [f"{name} is missing" for name in ("submission", "system", "results") if name not in meta]
    problems += _submission_problems(_part(meta, "submission"), label)
    system = _part(meta, "system")
    problems += _lacking(system, form.system, "system")
    problems += _lacking(_part(system, "description"), form.description, "system.description")
    complexity = _part(system, "complexity")
    problems += _lacking(complexity, form.complexity, "system.complexity")
    for name in form.complexity:
        if name in complexity and not _is_count(complexity[name]):
            problems.append(f"system.complexity.{name} = {complexity[name]!r} must be a whole number")
    if form.energy:
        problems += _lacking(_part(system, "energy_consumption"), form.energy, "system.energy_consumption")
    external = system.get("external_datasets")
    for number, entry in enumerate(external if isinstance(external, list) else []):
        problems += _lacking(entry, EXTERNAL_DATASET, f"system.external_datasets[{number}]")
    if external is not None and not isinstance(external, list):
        problems.append("system.external_datasets must be a list or null")
    development = _part(_part(meta, "results"), "development_dataset")
    if not development:
        return [*problems, "results.development_dataset is missing"]
    parts = {f"split_{subset}": development.get(f"split_{subset}") for subset in form.subsets}
    for name, part in (parts or {"": development}).items():
        where = f"results.development_dataset{f'.{name}' if name else ''}"
        problems += _result_problems(part, where, facts)
    return problems


def _submission_problems(submission: Mapping[str, Any], label: str) -> list[str]:
    problems = _lacking(submission, SUBMISSION, "submission")
    if submission.get("label") != label:
        problems.append(f"submission.label = {submission.get('label')!r} is not the name of the folder, {label!r}")
    abbreviation = str(submission.get("abbreviation", ""))
    if len(abbreviation) > LONGEST_ABBREVIATION:
        problems.append(f"submission.abbreviation = {abbreviation!r} is longer than {LONGEST_ABBREVIATION} characters")
    authors = submission.get("authors")
    if not isinstance(authors, list) or not authors:
        return [*problems, "submission.authors is empty: give --authors"]
    for number, author in enumerate(authors):
        problems += _lacking(author, AUTHOR, f"submission.authors[{number}]")
    corresponding = sum(bool(author.get("corresponding")) for author in authors if isinstance(author, Mapping))
    if corresponding != 1:
        problems.append(f"{corresponding} authors are marked as corresponding: it must be one")
    return problems


def _result_problems(part: Any, where: str, facts: Facts) -> list[str]:
    problems = _lacking(part, RESULTS, where)
    if problems:
        return problems
    problems += _measure_problems(part["overall"], f"{where}.overall")
    for name, wanted in (("class_wise", facts.classes), ("device_wise", facts.devices)):
        problems += _lacking(part[name], wanted, f"{where}.{name}")
        for key, entry in part[name].items() if isinstance(part[name], Mapping) else ():
            problems += _measure_problems(entry, f"{where}.{name}.{key}")
    return problems


def _measure_problems(entry: Any, where: str) -> list[str]:
    problems = _lacking(entry, MEASURES, where)
    return problems or [
        f"{where}.{name} = {value!r} is no number" for name, value in entry.items() if not _is_number(value)
    ]


def _lacking(part: Any, wanted: Sequence[str], where: str) -> list[str]:
    if not isinstance(part, Mapping):
        return [f"{where} is missing or no mapping"]
    missing = [name for name in wanted if name not in part]
    return [f"{where} lacks {', '.join(missing)}"] if missing else []


def _part(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_yaml(path: Path) -> tuple[Any, list[str]]:
    try:
        import yaml
    except ImportError:
        raise RuntimeFailure(f"reading a meta file needs PyYAML: {how_to_install('yaml')}") from None
    try:
        return yaml.safe_load(read_text(path)), []
    except yaml.YAMLError as error:
        return None, [f"{path.name} is no YAML: {' '.join(str(error).split())[:200]}"]
