"""The report: what it shows of a run, offline, with every name escaped."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gather import File, Network, gather
from benchmarks.report import render
from models.errors import UsageError
from models.run_directory import RunDirectory
from models.tasks.metrics import evaluate

CLASSES = ("rain", "<script>alert(1)</script>")


def measured(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return evaluate(
        rng.normal(size=(60, 2)), rng.integers(0, 2, 60), ["a", "s4"] * 30, CLASSES, ["x", "y", "z"] * 20, ["s4"]
    )


def network(name: str, macs: int, files: tuple[File, ...] = ()) -> Network:
    layers = [{"name": "conv", "operator": "conv", "macs": macs, "params": 9}]
    return Network(
        name,
        {
            "cost": {"macs": macs, "params": 1000, "weight_bytes": 1100, "rule": "dcase"},
            "test": measured(macs),
            "seed": 3,
            "data": {"task": "t & t", "clips": {"train": 5, "test": 60}, "unseen_devices": ["s4"]},
            "history": [{"validation_accuracy": 0.5}, {"validation_accuracy": 0.75}],
            "best_epoch": 2,
            "epochs": 2,
            "seconds": 9.0,
            "prune": {"method": "admm", "proof_max_abs_diff": 1e-7, "layers_before": layers, "layers_after": layers},
            "versions": {"torch": "2.13.0"},
            "command": "compress run",
        },
        None,
        files,
    )


@pytest.fixture
def exported() -> File:
    profile = {
        "sha256": "0" * 64,
        "file": "m.tflite",
        "format": "tflite",
        "file_bytes": 200_000,
        "params": 150_000,
        "weight_bytes": 150_000,
        "macs": {
            "core": 7_000_000,
            "dcase": 7_100_000,
            "torchinfo": None,
            "nessi-tflite": 7_000_000,
            "vela": 7_000_000,
            "st": 7_000_000,
        },
        "arena_bytes": {"tflm": 60_000},
        "peak_activation_bytes": 50_000,
        "layers": [],
        "notes": {},
        "uncounted": [],
        "memory": [],
    }
    record = {**measured(1), "runtime": "tflm", "sha256": "0" * 64}
    return File(Path("m.tflite"), {"scheme": "w8a8", "tools": {"torch": "2.13.0"}}, profile, {"tflm": record})


def figures_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_the_figures_and_loads_nothing(exported):
    page = render([network("dense", 7_000_000, (exported,)), network("small", 1_000_000)], "runs/x")
    specs = figures_of(page)
    assert {
        "accuracy-chart",
        "recording-chart",
        "limits-chart",
        "layers-chart",
        "confusion-chart",
        "training-chart",
    } <= set(specs)
    shown = specs["accuracy-chart"][0]["data"]["values"]
    assert {(row["network"], row["series"]) for row in shown} == {
        ("dense", "fp32"),
        ("dense", "int8 on tflm"),
        ("small", "fp32"),
    }
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in shown)
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.S)
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", markup)


def test_names_are_escaped():
    page = render([replace(network("dense", 5), name="<img src=x onerror=alert(1)>")], "runs/<b>")
    assert "<img src=x" not in page
    assert "runs/<b>" not in page
    assert "<script>alert(1)" not in page


def test_a_device_class_that_is_exceeded_says_so(exported):
    page = render([network("dense", 7_000_000, (exported,))], "r")
    row = re.search(r"<td[^>]*>dcase2023</td>.*?</tr>", page, re.S)
    assert row is not None
    assert ">over<" in row[0]
    assert "150.0 kB over 128.0 kB" in row[0]


def test_a_run_without_networks_names_the_command_to_run_first(tmp_path):
    with pytest.raises(UsageError, match="compress train"):
        gather(RunDirectory(tmp_path))
