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
    "train.epochs=2",
    "train.batch_size=8",
    'prune.targets=["75%"]',
    "prune.train.epochs=2",
    # Two epochs give logits of a few steps: with other channels one step more in the mean than parity allows.
    "prune.train.batch_size=8",
    "prune.updates=2",
    'prune.projection="knapsack"',
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
    networks = json.loads((folder / "submission.json").read_text())["networks"]
    assert len(networks) == 2
    for network in networks:
        own = folder / network["name"]
        assert (folder / network["file"]).stat().st_size == network["file_bytes"]
        results = json.loads((own / "results.json").read_text())
        assert set(results["by_recording_device"]) == {"a", "b", "s4"}
        assert json.loads((own / "complexity.json").read_text())["rule"] == "dcase"
        rows = list(csv.DictReader((own / "output.csv").read_text().splitlines(), delimiter="\t"))
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
