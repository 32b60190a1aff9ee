"""Submission folders of every year, from real int8 files on synthetic scenes, and on ESC-10 Mobile."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgepress.benchmarks.submission.forms import DEVICES, FORMS, SCENES
from edgepress.benchmarks.submission.systems import choose, find_systems
from edgepress.benchmarks.submission.write import output_csv, write_submission, year_of
from edgepress.models.errors import UsageError, VerdictError
from edgepress.models.run_directory import RunDirectory
from tests.benchmarks.submission.packages import write_scene_data

AUTHORS = "Lo Schmidt <lo@fau.de> (FAU)"
RECIPE = """
name = "tiny"
device = "dcase2023"
front_end = { sample_rate_hz = 8000, n_fft = 256, window = 256, hop = 500, n_mels = 16, fmax_hz = 4000.0 }
[network]
name = "ds_cnn"
arguments = { channels = 8, n_blocks = 1 }
[train]
epochs = 0
[quantize]
clips = 16
[measure]
formats = ["tflite"]
runtimes = []
"""
RIGHT: dict[str, Any] = {"label": "Schmidt_FAU", "authors": AUTHORS}


def make_run(run: Path, data: Path, networks: int = 1) -> Path:
    """A run with untrained networks of different seeds as int8 files: dense, dense-2, ..."""
    pytest.importorskip("litert_torch")
    from edgepress.compress.pipeline.data import task_of_recipe
    from edgepress.compress.pipeline.run import compress_stages, export_stages
    from edgepress.compress.recipes.recipe import read_recipe
    from edgepress.compress.training.machine import Machine

    (recipe_file := run.parent / "tiny.toml").write_text(RECIPE)
    for seed in range(networks):
        recipe = read_recipe(recipe_file, {"task": str(data), "seed": seed})
        directory = RunDirectory(run)
        with directory.lock():
            made = compress_stages(directory, recipe, task_of_recipe(recipe), Machine("cpu", progress=False))
            export_stages(directory, recipe, made)
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[tuple[Path, Path]]:
    """A run of two networks on synthetic scenes, and an evaluation set of the same clips as its test."""
    folder = tmp_path_factory.mktemp("submission")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRESS_CACHE", str(folder / "cache"))
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
        data = write_scene_data(folder / "scenes", folder / "evaluation")
        yield make_run(folder / "run", data, 2), folder / "evaluation"


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))


def probabilities(rows: Sequence[dict[str, str]]) -> np.ndarray:
    return np.array([[float(row[scene]) for scene in SCENES] for row in rows])


@pytest.mark.slow
def test_a_folder_of_2023_holds_what_was_measured(made, tmp_path):
    run, evaluation = made
    folder, problems = write_submission(
        [run], tmp_path / "out", form=FORMS[2023], evaluation=evaluation, systems=["dense"], **RIGHT
    )
    own = "Schmidt_FAU_task1_1"
    system = folder / "task1" / own
    assert problems == [f"{own}: {own}.output.csv: 90 files are predicted; the evaluation set has 118,800"]
    assert year_of(run) == year_of(folder) == 2023
    predicted, heard = rows_of(system / f"{own}.output.csv"), rows_of(folder / "systems" / own / "development.csv")
    assert [row["filename"] for row in predicted] == [f"{number}.wav" for number in range(90)]
    # The evaluation set holds the clips of the test, so that both must be the same.
    np.testing.assert_array_equal(probabilities(predicted), probabilities(heard))
    assert list(predicted[0]) == ["filename", "scene_label", *SCENES]

    meta = yaml.safe_load((system / f"{own}.meta.yaml").read_text())
    results = meta["results"]["development_dataset"]
    truth = [row["filename"].split("-")[0] for row in heard]
    right = np.array([row["scene_label"] == label for row, label in zip(heard, truth, strict=True)])
    losses = -np.log([float(row[label]) for row, label in zip(heard, truth, strict=True)])
    for number, scene in enumerate(SCENES):
        chosen = slice(9 * number, 9 * number + 9)
        assert results["class_wise"][scene]["accuracy"] == pytest.approx(100 * right[chosen].mean(), abs=1e-3)
        assert results["class_wise"][scene]["logloss"] == pytest.approx(losses[chosen].mean(), abs=2e-4)
    for number, device in enumerate(DEVICES):
        assert results["device_wise"][device]["logloss"] == pytest.approx(losses[number::9].mean(), abs=2e-4)
    assert results["overall"]["logloss"] == pytest.approx(losses.mean(), abs=2e-4)

    complexity = meta["system"]["complexity"]
    checkpoint = json.loads((run / "checkpoints" / "dense" / "metrics.json").read_text())["metrics"]["cost"]
    assert (complexity["macs"], complexity["total_parameters"]) == (checkpoint["macs"], checkpoint["params"])
    assert 0 < complexity["total_parameters_non_zero"] <= complexity["total_parameters"]
    assert meta["system"]["energy_consumption"] == {"training": None, "inference": None, "baseline_inference": None}
    with zipfile.ZipFile(folder / "Schmidt_FAU_task1.zip") as archive:
        assert archive.namelist() == [f"task1/{own}/{own}.meta.yaml", f"task1/{own}/{own}.output.csv"]


@pytest.mark.slow
def test_the_command_writes_and_checks(made):
    run, _ = made

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgepress", "benchmarks", "submission", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    done = call("--run", run)
    assert done.returncode == 0, done.stderr
    assert "the label is still LASTNAME_INST: give --label" in done.stderr
    assert "not ready for DCASE 2023" in done.stderr
    assert done.stdout.strip() == str(run / "submission")
    checked = call("--check", run / "submission")
    assert checked.returncode == 1
    assert "output.csv is missing" in checked.stderr
    wrong = call("--run", run, "--label", "FAU")
    assert (wrong.returncode, wrong.stderr.count("--label")) == (2, 1)


@pytest.mark.slow
def test_2024_wants_a_run_for_each_subset(made, tmp_path):
    run, evaluation = made
    runs = []
    for subset in FORMS[2024].subsets:
        runs.append(tmp_path / f"split{subset}")
        shutil.copytree(run, runs[-1], ignore=shutil.ignore_patterns("submission", "predictions"))
        for path in (runs[-1] / "artifacts").glob("*.manifest.json"):
            edit(path, lambda value, part=subset: value["spec"].update(task=f"{value['spec']['task']}@split{part}"))
    with pytest.raises(UsageError, match="the subsets of 10, 50 % of the training data are missing"):
        find_systems([runs[0], runs[2], runs[4]], FORMS[2024])
    with pytest.raises(UsageError, match="two runs hold the subset of 25 %"):
        find_systems([runs[2], runs[2]], FORMS[2024])
    folder, problems = write_submission(
        runs, tmp_path / "out", form=FORMS[2024], evaluation=evaluation, systems=["dense"], **RIGHT
    )
    own = "Schmidt_FAU_task1_1"
    assert {problem.partition(".csv: ")[2] for problem in problems} == {
        "90 files are predicted; the evaluation set has 135,730"
    }
    assert sorted(path.name for path in (folder / "task1" / own).iterdir()) == sorted(
        [f"{own}.meta.yaml", *(f"{own}.output.split_{subset}.csv" for subset in (5, 10, 25, 50, 100))]
    )
    meta = yaml.safe_load((folder / "task1" / own / f"{own}.meta.yaml").read_text())
    assert list(meta["results"]["development_dataset"]) == [f"split_{subset}" for subset in FORMS[2024].subsets]
    # Counted before batch normalisation is folded, as the official figures of 2024 are.
    from edgepress import cost_of, load_checkpoint

    model, spec = load_checkpoint(run / "checkpoints" / "dense")
    wanted = cost_of(model, spec.example_inputs(), rule="torchinfo")
    assert meta["system"]["complexity"]["macs"] == wanted.macs


@pytest.mark.slow
def test_2025_has_a_model_for_each_device(made, tmp_path):
    run, evaluation = made
    own_run = tmp_path / "run"
    shutil.copytree(run, own_run, ignore=shutil.ignore_patterns("submission", "predictions"))
    facts = {"recording_device": "a", "general": "dense"}
    edit(own_run / "checkpoints" / "dense-2" / "metrics.json", lambda value: value["metrics"].update(facts))
    assert [system.name for system in find_systems([own_run], FORMS[2023])] == ["dense"]
    shutil.copytree(evaluation, tmp_path / "evaluation")
    (tmp_path / "evaluation" / "evaluation_setup").mkdir()
    listed = "".join(f"audio/{n}.wav\t{'a' if n % 9 == 0 else 'unknown'}\n" for n in range(90))
    (tmp_path / "evaluation" / "evaluation_setup" / "fold1_test.csv").write_text(f"filename\tdevice_id\n{listed}")
    folder, problems = write_submission(
        [own_run], tmp_path / "out", form=FORMS[2025], evaluation=tmp_path / "evaluation", **RIGHT
    )
    assert problems == []
    own = "Schmidt_FAU_task1_1"
    predicted = probabilities(rows_of(folder / "predictions" / own / "output.csv"))
    alone = {
        name: probabilities(
            rows_of(
                write_submission(
                    [run], tmp_path / name, form=FORMS[2023], evaluation=evaluation, systems=[name], **RIGHT
                )[0]
                / "task1"
                / own
                / f"{own}.output.csv"
            )
        )
        for name in ("dense", "dense-2")
    }
    known = np.arange(90) % 9 == 0
    np.testing.assert_array_equal(predicted[known], alone["dense-2"][known])
    np.testing.assert_array_equal(predicted[~known], alone["dense"][~known])
    assert not np.array_equal(alone["dense"], alone["dense-2"])
    counted = json.loads((folder / "predictions" / own / "complexity.json").read_text())
    assert set(counted["per_device"]) == {"unknown", "a"}
    assert counted["max_MACs"] == counted["per_device"]["a"]["MACs"] > 0
    measured = json.loads((folder / "predictions" / own / "test_accuracy.json").read_text())
    meta = yaml.safe_load((folder / "task1" / own / f"{own}.meta.yaml").read_text())
    assert set(meta["system"]["complexity"]["device_models"]) == {"a"}
    # Every class has nine test clips, so that both accuracies are the same.
    assert meta["results"]["development_dataset"]["overall"]["accuracy"] == pytest.approx(
        measured["Test Accuracy"], abs=0.01
    )


@pytest.mark.slow
def test_only_networks_within_the_limits_and_four_of_them(made, monkeypatch):
    from dataclasses import replace

    run, _ = made
    (first, second) = find_systems([run], FORMS[2023])
    assert first.over == second.over == ()
    (model,) = first.models
    heavy = replace(
        first, name="heavy", parts={"": {"": replace(model, over=("macs 54,103,324 of 30,000,000 allowed",))}}
    )
    chosen, left_out = choose([heavy, first, second], FORMS[2023])
    assert [system.name for system in chosen] == ["dense", "dense-2"]
    assert left_out == {"heavy": "macs 54,103,324 of 30,000,000 allowed"}
    with pytest.raises(VerdictError, match="heavy is not within the limits of dcase2023: macs 54,103,324"):
        choose([heavy, first], FORMS[2023], ["heavy"])
    with pytest.raises(VerdictError, match="no network of the run is within the limits of dcase2023"):
        choose([heavy], FORMS[2023])
    with pytest.raises(UsageError, match="--systems 'sparse' is not in the runs: they hold dense"):
        choose([first], FORMS[2023], ["sparse"])

    def scored(name: str, accuracy: float):
        network = replace(model.network, metrics={"validation": {"accuracy": accuracy}}, integers=None)
        return replace(first, name=name, parts={"": {"": replace(model, network=network)}})

    many = [scored(name, accuracy) for name, accuracy in zip("abcdef", (0.3, 0.6, 0.1, 0.5, 0.4, 0.2), strict=True)]
    chosen, left_out = choose(many, FORMS[2023])
    assert [system.name for system in chosen] == ["a", "b", "d", "e"]
    assert left_out == dict.fromkeys("cf", "others are more accurate on validation data")
    with pytest.raises(UsageError, match="names 5 systems: a submission has 4 at most"):
        choose(many, FORMS[2023], list("abcde"))


def test_predictions_are_written_as_the_challenge_wants_them():
    logits = np.log([[0.25, 0.75], [0.9, 0.1]])
    assert output_csv(("audio/tram-1.wav", "b.wav"), logits, ("tram", "park")) == (
        "filename\tscene_label\tpark\ttram\ntram-1.wav\tpark\t0.750000\t0.250000\nb.wav\ttram\t0.100000\t0.900000\n"
    )


@pytest.mark.slow
def test_esc10_mobile_passes_with_its_own_classes(shared, tmp_path, monkeypatch):
    """Real recordings on nine devices: other scenes than the challenge's, its form all the same."""
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    data = tmp_path / "esc10"
    subprocess.run([sys.executable, shared / "make_esc10_mobile.py", data, "--limit", "2"], check=True)
    test = [line.split("\t")[0] for line in (data / "evaluation_setup" / "fold1_evaluate.csv").read_text().splitlines()]
    (tmp_path / "evaluation" / "audio").mkdir(parents=True)
    for number, name in enumerate(test[1:]):
        shutil.copy(data / name, tmp_path / "evaluation" / "audio" / f"{number}.wav")
    run = make_run(tmp_path / "run", data)
    folder, problems = write_submission([run], form=FORMS[2023], evaluation=tmp_path / "evaluation", **RIGHT)
    assert problems == []
    meta = yaml.safe_load(next(folder.glob("task1/*/*.meta.yaml")).read_text())
    assert set(meta["results"]["development_dataset"]["device_wise"]) == set(DEVICES)
    assert set(meta["results"]["development_dataset"]["class_wise"]) != set(SCENES)
