"""The recipe dcase2023 from its teachers to the submission folder, with everything made small."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.compress.recipes.recipe import read_recipe
from edgepress.models.run_directory import RunDirectory
from tests.compress.train_cases import write_scenes

ROOT = Path(__file__).resolve().parents[3]
FRONT_END = "{ sample_rate_hz = 8000, n_fft = 256, window = 256, hop = 250, n_mels = %d, fmax_hz = 4000.0 }"
TEACHER = (
    '{ name = "passt_tiny", arguments = { patch_size = 8, stride = 8, embed_dim = 16, depth = 1, num_heads = 2 } }'
)
SMALL = (
    "teacher.count=2",
    f"teacher.network={TEACHER}",
    f"front_end={FRONT_END % 32}",
    f"teacher.front_end={FRONT_END % 24}",
    "teacher.train.epochs=2",
    "teacher.train.batch_size=8",
    "teacher.train.augment.frequency_mask=4",
    "teacher.train.augment.time_mask=4",
    "teacher.train.augment.roll_samples=500",
    "teacher.train.learning_rate=1e-3",
    "network.arguments={ rho = 8, n_blocks = [2, 1, 1], base_channels = 8 }",
    "train.epochs=6",
    "train.batch_size=8",
    "train.augment.frequency_mask=2",
    "prune.train.augment.frequency_mask=2",
    'prune.targets=["75%"]',
    "prune.train.epochs=8",
    # Fewer epochs give logits of a few steps: one step more in the mean is then more than parity allows.
    "prune.train.batch_size=8",
    "prune.updates=2",
    'prune.projection="knapsack"',
    'prune.importance="l2"',
    "quantize.train.epochs=1",
    "quantize.train.batch_size=8",
    'measure.formats=["tflite"]',
    'measure.runtimes=["litert"]',
)


def test_the_recipe_is_the_whole_report():
    recipe = read_recipe("dcase2023")
    assert (recipe.teacher.count, recipe.teacher.network.name, recipe.measure.submission) == (8, "passt", True)
    assert (recipe.teacher.train.contrastive.alpha, recipe.teacher.train.contrastive.weight) == (0.2, 0.5)
    assert recipe.prune.targets == ("30M", "20M", "10M", "5M")
    assert None not in (recipe.distill, recipe.prune.distill, recipe.quantize.distill)


def test_teachers_are_trained_as_published():
    teacher = read_recipe("dcase2023").teacher
    assert teacher is not None
    assert teacher.network is not None
    assert teacher.network.arguments["time_positions"] == 99
    augment = teacher.train.augment
    assert (augment.fmax_jitter_hz, augment.frequency_mask, augment.time_mask) == (1000, 48, 20)


@pytest.mark.parametrize("name", ["dcase2024", "dcase2025"])
def test_the_baseline_of_the_later_years_is_counted_as_published(name):
    import torch

    from edgepress import build, cost_of

    network = read_recipe(name).network
    found = cost_of(build(network.name, **network.arguments), torch.randn(1, 1, 256, 65), rule="torchinfo")
    assert (found.params, found.macs) == (61_148, 29_419_156)


def run_small(folder: Path, recipe: str, data: str, overrides: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "edgepress.compress", "run", recipe, "--data", data, "--run", "run", "--no-report"),
            *(part for text in overrides for part in ("--set", text)),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "EDGEPRESS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def write_subset(folder: Path) -> None:
    """Scenes whose subset of 25 % is all of them."""
    setup = write_scenes(folder, places=9) / "evaluation_setup"
    (setup / "split25.csv").write_bytes((setup / "fold1_train.csv").read_bytes())


@pytest.mark.slow
def test_2024_on_a_subset_to_an_int8_file(tmp_path):
    write_subset(tmp_path)
    small = (
        f"front_end={FRONT_END % 32}",
        "network.arguments={ base_channels = 8, grn = false, n_blocks = [1, 1, 1], strides = {} }",
        "train.epochs=8",
        "train.batch_size=8",
        "train.augment.roll_samples=400",
        "train.augment.frequency_mask=4",
        "quantize.clips=16",
        "quantize.train.epochs=0",
    )
    done = run_small(tmp_path, "dcase2024", "scenes@split25", small)
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "run")
    (artifact,) = run.entries("artifact")
    manifest = json.loads(Path(f"{artifact['path']}.manifest.json").read_text())
    assert manifest["spec"]["task"].endswith("scenes@split25")
    assert not (run.path / "submission").exists(), "the package needs a run for each subset"


@pytest.mark.slow
def test_2025_from_the_general_network_to_one_for_each_device(tmp_path):
    write_subset(tmp_path)
    small = (
        f"front_end={FRONT_END % 32}",
        'network={ name = "ds_cnn", arguments = { channels = 8, n_blocks = 1 } }',
        "train.epochs=1",
        "train.batch_size=8",
        "train.augment.roll_samples=0",
        "train.augment.frequency_mask=4",
        "adapt.train.epochs=1",
        "adapt.train.batch_size=4",
        "adapt.train.augment.roll_samples=0",
        "adapt.train.augment.frequency_mask=4",
        "adapt.min_clips=4",
        "adapt.devices=['b']",
        "quantize.clips=8",
    )
    done = run_small(tmp_path, "dcase2025", "scenes@split25", small)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "run" / "device_models" / "dense.json").read_text())
    assert set(figures["test"]) == {"general", "device_models"}
    submitted = json.loads((tmp_path / "run" / "submission" / "submission.json").read_text())
    assert submitted["year"] == 2025
    (system,) = submitted["systems"]
    assert len(system["files"]) == 2, "the general network and that of device b"
    counted = json.loads(
        (tmp_path / "run" / "submission" / "predictions" / system["label"] / "complexity.json").read_text()
    )
    assert set(counted["per_device"]) == {"unknown", "b"}


@pytest.mark.slow
def test_at_30_m_the_student_uses_both_budgets():
    """Random filters stand for trained ones: where the budgets bind together hangs on the shapes, little on norms."""
    import torch

    from edgepress import build, cost_of, prune_model

    recipe = read_recipe("dcase2023")
    torch.manual_seed(0)
    model, x = build(recipe.network.name, **recipe.network.arguments).eval(), torch.randn(1, 1, 256, 44)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter)
    dense = cost_of(model, x)
    assert (dense.macs, dense.weight_bytes) == (33_731_772, 144_484)
    pruned = prune_model(model, x, macs=30e6, device="dcase2023", projection=recipe.prune.projection)
    assert 0.99 <= pruned.after.macs / 30e6 <= 1
    assert 0.99 <= pruned.after.weight_bytes / 128_000 <= 1


@pytest.mark.slow
def test_from_teachers_to_the_submission_folder(tmp_path):
    write_scenes(tmp_path, places=9)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "EDGEPRESS_CACHE": str(tmp_path / "cache"),
    }
    overrides = [part for text in SMALL for part in ("--set", text)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "edgepress.compress",
            "run",
            "dcase2023",
            "--data",
            "scenes",
            "--run",
            "run",
            *overrides,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "run")
    assert [len(run.entries(kind)) for kind in ("teacher", "ensemble")] == [2, 1]
    taught = [
        json.loads((entry["path"] / "metrics.json").read_text())["metrics"]["distill"]
        for entry in run.entries("checkpoint")
    ]
    assert len(taught) == 4  # dense and pruned, each as float and as integers
    assert all((found["teacher"], found["members"]) == ("ensemble", 2) for found in taught)

    folder = tmp_path / "run" / "submission"
    submitted = json.loads((folder / "submission.json").read_text())
    assert len(submitted["systems"]) == 2
    assert all("output.csv" in problem or "--" in problem for problem in submitted["problems"])
    for system in submitted["systems"]:
        own = folder / "systems" / system["label"]
        assert (own / system["files"][0]).stat().st_size == system["file_bytes"]
        results = json.loads((own / "results.json").read_text())
        assert set(results["by_recording_device"]) == {"a", "b", "s4"}
        assert system["rule"] == "dcase"
        rows = list(csv.DictReader((own / "development.csv").read_text().splitlines(), delimiter="\t"))
        assert list(rows[0]) == ["filename", "scene_label", "park", "tram"]
        assert len(rows) == results["total"] == 18
        right = 0
        for row in rows:
            assert not row["filename"].startswith("audio/")
            assert float(row["park"]) + float(row["tram"]) == pytest.approx(1, abs=1e-5)
            right += row["scene_label"] == row["filename"].split("-")[0]
        assert right == results["correct"]
    page = (tmp_path / "run" / "report.html").read_text()
    report = subprocess.run(
        [sys.executable, "-m", "edgepress.benchmarks", "report", "--run", "run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.returncode == 0, report.stderr
    assert "s4 (unseen)" in report.stdout
    assert "effective models" in report.stdout
    assert "dense" in report.stdout.partition("All networks")[2]
    assert "Weights of the ensemble" in page
    assert "Per recording device" in page
