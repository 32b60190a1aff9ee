"""A UNet, a regressor, a multi-label network and an auto-encoder, from data to the gate, on every runtime."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
from typer.testing import CliRunner

from edgepress.benchmarks.cli import app as benchmarks
from edgepress.benchmarks.measure.result_log import of_run
from edgepress.compress.pipeline.run import run_recipe
from edgepress.compress.training.machine import AUTO
from edgepress.deploy.runtimes.registry import available_runtimes
from edgepress.models.run_directory import RunDirectory

NETWORKS = """
import torch
from torch import nn


def block(a, b, stride=1):
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.down, self.middle = block(1, 8), block(8, 16, 2), block(16, 16)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.last, self.head = block(24, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        kept = self.first(x)
        return self.head(self.last(torch.cat([self.up(self.middle(self.down(kept))), kept], 1)))


def unet():
    return UNet()


def conv_net(outputs=1):
    return nn.Sequential(block(1, 12), block(12, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, outputs))


def worst(outputs, labels):
    return abs(outputs - labels).max()
"""


def blobs(count, rng):
    """[N, 1, 16, 16] images with one bright square, its mask, its size and its side."""
    x, mask = 0.6 * rng.normal(size=(count, 1, 16, 16)), np.zeros((count, 16, 16), np.uint8)
    size, side = rng.integers(3, 9, count), rng.integers(0, 2, count)
    for i in range(count):
        left = rng.integers(0, 8 - size[i] + 1) + (8 if side[i] else 0) if size[i] <= 8 else 0
        top = rng.integers(0, 16 - size[i])
        mask[i, top : top + size[i], left : left + size[i]] = 1
    x[:, 0] += 2.0 * mask
    return x.astype(np.float32), mask, size, side


def data_of(kind, rng):
    x, mask, size, side = blobs(320, rng)
    split = np.array(["train"] * 200 + ["validation"] * 40 + ["test"] * 80)
    if kind == "segmentation":
        return {"x": x, "y": mask, "split": split, "labels": ["ground", "square"]}
    if kind == "regression":
        return {"x": x, "y": (size / 4).astype(np.float32), "split": split}
    if kind == "multi-label":
        return {
            "x": x,
            "y": np.stack([side == 0, size > 5], 1).astype(int),
            "split": split,
            "labels": ["left", "large"],
        }
    # Normal samples lie on a plane of three dimensions, anomalous ones do not.
    basis, odd = rng.normal(size=(3, 32)), np.zeros(320, int)
    odd[240::2] = 1
    x = (rng.normal(size=(320, 3)) @ basis + 0.8 * odd[:, None] * rng.normal(size=(320, 32))).astype(np.float32)
    return {"x": x, "y": odd, "split": split, "kind": "anomaly", "groups": np.where(np.arange(320) % 3, "fan", "pump")}


CASES = {
    # network, arguments, metric, what float must reach, how far a runtime's figure may be from it
    "segmentation": ("masks_net:unet", {}, "mean_iou", 0.85, 0.02),
    "regression": ("numbers_net:conv_net", {"outputs": 1}, "mae", 0.15, 0.05),
    "multi-label": ("labels_net:conv_net", {"outputs": 2}, "map", 0.85, 0.05),
    "anomaly": ("autoencoder", {"hidden": 24, "latent": 3, "n_layers": 1}, "auc", 0.85, 0.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_from_data_to_the_gate_on_every_runtime(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, arguments, metric, reached, near = CASES[kind]
    # A module of its own for each case: they run in one process.
    (tmp_path / f"{network.split(':')[0]}.py").write_text(textwrap.dedent(NETWORKS))
    np.savez(tmp_path / "own.npz", **data_of(kind, np.random.default_rng(3)))
    listed = ", ".join(f"{name} = {value}" for name, value in arguments.items())
    (tmp_path / "own.toml").write_text(
        f'''
        name = "own"
        task = "own.npz"
        device = "cortex-m4"
        network = {{ name = "{network}", arguments = {{ {listed} }} }}
        train = {{ epochs = 40, batch_size = 20, learning_rate = 1e-2 }}
        [prune]
        targets = ["60%"]
        train = {{ epochs = 16, batch_size = 20, learning_rate = 1e-2 }}
        [quantize]
        train = {{ epochs = 1, batch_size = 20, learning_rate = 1e-4 }}
        [measure]
        formats = ["tflite", "onnx"]
        runtimes = ["tflm", "litert", "litert-reference", "onnxruntime"]
        '''
    )
    # Its children write to the file that stands behind stderr, which CliRunner's has not.
    own = ("measure.metrics=['numbers_net:worst']",) if kind == "regression" else ()
    run_recipe(
        "own.toml", data=None, run=tmp_path / "made", seed=None, trust=True, machine=AUTO, overrides=own, report=False
    )
    run = RunDirectory(tmp_path / "made")
    records = [record for record in of_run(run) if record["kind"] == "accuracy"]
    there = {n for form in ("tflite", "onnx") for n, missing in available_runtimes(form).items() if missing is None}
    assert {r["runtime"] for r in records} == {"tflm", "litert", "litert-reference", "onnxruntime"} & there
    checkpoints = {entry["name"]: entry for entry in run.entries("checkpoint")}
    dense = checkpoints["dense"]
    assert dense["metric"] == metric
    better = dense["test_value"] >= reached if metric != "mae" else dense["test_value"] <= reached
    assert better, dense["test_value"]
    pruned = next(entry for entry in checkpoints.values() if entry["stage"] == "prune")
    assert pruned["macs"] < 0.62 * dense["macs"]
    artifacts = {entry["sha256"]: entry for entry in run.entries("artifact")}
    for record in records:
        assert record["task_kind"] == kind
        checkpoint = checkpoints[artifacts[record["sha256"]]["checkpoint"]]
        assert record["metrics"][metric] == pytest.approx(checkpoint["test_value"], abs=near)
        low, high = record["intervals"][metric]
        assert low <= record["value"] <= high
        if kind == "anomaly":
            assert set(record["by_machine"]) == {"fan", "pump"}
            assert record["threshold"]["false_alarms"] <= 0.35
        if own:
            assert record["metrics"]["worst"] >= record["metrics"]["mae"]
    file = next(entry["path"] for entry in artifacts.values() if entry["format"] == "tflite")
    fine, harsh = ("9", "0.0001") if metric == "mae" else ("0.3", "1.5")
    for bound, code in ((f"metric.{metric}={fine}", 0), (f"metric.{metric}={harsh}", 1)):
        gate = ["gate", str(file), "--run", "made", "--limit", bound]
        result = CliRunner().invoke(benchmarks, gate)
        assert result.exit_code == code, result.output
        assert f"metric.{metric}" in result.output
    page = CliRunner().invoke(benchmarks, ["report", "--run", "made"], catch_exceptions=False)
    assert page.exit_code == 0, page.output
    assert metric in (tmp_path / "made" / "report.html").read_text()
