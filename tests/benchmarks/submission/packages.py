"""Submission packages made by hand: every file is right, so that one change shows one check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.benchmarks.submission.forms import DEVICES, SCENES, Form
from edgepress.benchmarks.submission.meta import as_yaml

LABEL = "Schmidt_FAU_task1_1"
CLIPS = 12


def write_scene_data(root: Path, evaluation: Path | None = None, recordings: int = 2) -> Path:
    """A folder in the layout of TAU 2022 Mobile: ten scenes as tones under noise, nine devices, s4 to s6 in test only.

    Args:
        root: the new folder.
        evaluation: where the test clips are written once more without labels, as 0.wav, 1.wav, ...
        recordings: places of a scene in the train part; the test has one.
    """
    import numpy as np
    import soundfile

    rng, time_s = np.random.default_rng(0), np.arange(8000) / 8000
    for folder in (root / "audio", root / "evaluation_setup", *([evaluation / "audio"] if evaluation else [])):
        folder.mkdir(parents=True)
    rows: dict[str, list[str]] = {"meta": [], "train": [], "test": []}
    for number, scene in enumerate(SCENES):
        tone = np.sin(2 * np.pi * (200 + 330 * number) * time_s)
        for place in range(recordings + 1):
            test = place == recordings
            for device in DEVICES if test else ("a", "b", "s1"):
                name = f"audio/{scene}-paris-{place}-{number}-0-{device}.wav"
                heard = 0.1 * tone + 0.03 * rng.standard_normal(8000)
                weights = (0.9, 0.1) if device < "s" else (0.6, 0.4)
                soundfile.write(root / name, np.convolve(heard, weights)[:8000], 8000, subtype="PCM_16")
                rows["meta"].append(f"{name}\t{scene}\tparis-{scene}{place}\t{device}\n")
                rows["test" if test else "train"].append(f"{name}\t{scene}\n")
    header, setup = "filename\tscene_label", root / "evaluation_setup"
    (root / "meta.csv").write_text(f"{header}\tidentifier\tsource_label\n" + "".join(rows["meta"]))
    (setup / "fold1_train.csv").write_text(f"{header}\n" + "".join(rows["train"]))
    for subset in (5, 10, 25, 50, 100):
        (setup / f"split{subset}.csv").write_text(f"{header}\n" + "".join(rows["train"]))
    (setup / "fold1_evaluate.csv").write_text(f"{header}\n" + "".join(rows["test"]))
    for number, row in enumerate(rows["test"] if evaluation else []):
        assert evaluation is not None
        (evaluation / "audio" / f"{number}.wav").hardlink_to(root / row.split("\t")[0])
    return root


def good_meta(form: Form) -> dict[str, Any]:
    """A meta file that holds everything."""
    measured = {"accuracy": 51.2, "logloss": 1.37}
    results = {
        "overall": dict(measured),
        "class_wise": {scene: dict(measured) for scene in SCENES},
        "device_wise": {device: dict(measured) for device in DEVICES},
    }
    system: dict[str, Any] = {
        "description": dict.fromkeys(form.description),
        "complexity": dict.fromkeys(form.complexity, 1000),
        "external_datasets": None,
        "source_code": None,
    }
    if form.energy:
        system["energy_consumption"] = dict.fromkeys(form.energy)
    return {
        "submission": {
            "label": LABEL,
            "name": "Pruned",
            "abbreviation": "pruned",
            "authors": [
                {
                    "lastname": "Schmidt",
                    "firstname": "Lo",
                    "email": "lo@fau.de",
                    "affiliation": {"abbreviation": "FAU"},
                    "corresponding": True,
                }
            ],
        },
        "system": system,
        "results": {
            "development_dataset": {f"split_{subset}": results for subset in form.subsets} if form.subsets else results
        },
    }


def good_rows(clips: int = CLIPS) -> list[list[str]]:
    """Header and a line for each of 0.wav, 1.wav, ..."""
    header = ["filename", "scene_label", *SCENES]
    return [header, *([f"{n}.wav", "bus", "0.1", "0.2", "0.0", *["0.1"] * 7] for n in range(clips))]


def write_package(folder: Path, form: Form, meta: dict[str, Any] | None = None, rows: Any = None) -> Path:
    """A package with one system."""
    system = folder / "task1" / LABEL
    system.mkdir(parents=True)
    (system / f"{LABEL}.meta.yaml").write_text(as_yaml(meta or good_meta(form), ["by hand"]))
    for name in form.output_names(LABEL).values():
        (system / name).write_text("".join("\t".join(row) + "\n" for row in rows or good_rows()))
    return folder
