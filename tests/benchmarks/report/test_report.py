"""The report: what it shows of a run, offline, with every name escaped."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.measure.result_log import append
from edgepress.benchmarks.report.devices import devices_block
from edgepress.benchmarks.report.gather import File, Network, gather
from edgepress.benchmarks.report.history import history_block, read_history
from edgepress.benchmarks.report.networks.fronts import pareto
from edgepress.benchmarks.report.networks.run_page import findings, render
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.tasks.kinds.classification import evaluate
from tests.benchmarks.measure.profiles import small_profile

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
    page = render(findings([network("dense", 7_000_000, (exported,)), network("small", 1_000_000)], "runs/x"))
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
    assert ("dense", "int8 on tflm", "on the front") in {(row["network"], row["series"], row["front"]) for row in shown}
    assert {(row["network"], row["series"]) for row in shown} == {
        ("dense", "fp32"),
        ("dense", "int8 on tflm"),
        ("small", "fp32"),
    }
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in shown)
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.S)
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", markup)


def test_names_are_escaped():
    page = render(findings([replace(network("dense", 5), name="<img src=x onerror=alert(1)>")], "runs/<b>"))
    assert "<img src=x" not in page
    assert "runs/<b>" not in page
    assert "<script>alert(1)" not in page


def test_a_device_class_that_is_exceeded_says_so(exported):
    page = render(findings([network("dense", 7_000_000, (exported,))], "r"))
    row = re.search(r'id="every-device-class.*?(<td[^>]*><span>dcase2023</span></td>.*?</tr>)', page, re.S)
    assert row is not None
    assert ">over 117 %<" in row[1]
    assert "150.0 kB over 128.0 kB" in row[1]


def test_a_run_without_networks_names_the_command_to_run_first(tmp_path):
    with pytest.raises(UsageError, match="compress train"):
        gather(RunDirectory(tmp_path))


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(5, 0.7), (10, 0.72), (20, 0.71), (40, 0.73)], [True, True, False, True]),
        ([(5, 0.7), (5, 0.6), (6, 0.7)], [True, False, False]),
        ([(5, 0.7), (5, 0.7)], [True, True]),
    ],
)
def test_the_pareto_front(points, front):
    assert pareto(points) == front


@pytest.mark.parametrize(
    ("value", "limit", "shown"),
    [
        (99, 100, "fits 99 %"),
        (99.9, 100, "fits 99.9 %"),
        (100, 100, "fits 100 %"),
        (100.1, 100, "over 100.1 %"),
        (101, 100, "over 101 %"),
        (0.1, 100, "fits <1 %"),
    ],
)
def test_a_share_says_100_only_where_it_is(value, limit, shown):
    verdict = evaluate_gate(small_profile(params=value), {"params": str(limit)}, try_fixes=False)
    block = devices_block([{**verdict, "network": "n", "device": "d"}])
    assert block["table"]["rows"][0][1]["text"] == shown


def test_a_warning_is_neither_fits_nor_over(exported):
    slow = [{"kind": "latency", "sha256": "0" * 64, "runtime": "tflm", "device_class": "cortex-m4", "p50_ms": 2000.0}]
    verdict = evaluate_gate(exported.profile, device="cortex-m4", results=slow)
    block = devices_block([{**verdict, "network": "n", "device": "cortex-m4"}])
    _, shown, complaint = block["table"]["rows"][0]
    assert (shown["text"], shown["kind"]) == ("warns 200 %", "warns")
    assert complaint == "n: latency 2,000 ms over 1,000 ms (warns)"


def test_parity_and_layers_are_shown(exported):
    pair = {
        "a": "torch",
        "b": "tflm",
        "max_lsb": 2,
        "mean_lsb": 0.25,
        "equal": 0.9,
        "label_agreement": 1.0,
        "label_interval": [0.98, 1.0],
        "samples": 200,
    }
    file = replace(
        exported,
        manifest={**exported.manifest, "parity": {"pairs": [pair]}},
        profile={**exported.profile, "layers": small_profile()["layers"]},
    )
    file.profile["layers"] = [{"share": 0.5, **layer} for layer in file.profile["layers"]]
    page = render(findings([network("dense", 7_000_000, (file,))], "r"))
    assert ">2 LSB<" in page
    assert ">0.250 LSB<" in page
    assert ">DEPTHWISE_CONV_2D<" in page
    assert 'data-table="parity-chart"' in page


def record(seconds: float, accuracy: float, **changes) -> dict:
    return {
        "schema": 1,
        "kind": "accuracy",
        "time": seconds,
        "file": "a/m.tflite",
        "sha256": "1" * 64,
        "runtime": "tflm",
        "data": {"fingerprint": "x", "split": "test"},
        "accuracy": accuracy,
        "log_loss": 1.0,
        "environment": {"tools": {"numpy": "1"}},
        "origin": "first",
        **changes,
    }


def test_history_tells_a_new_model_from_new_tools():
    records = [
        record(1, 0.5),
        record(2, 0.6, sha256="2" * 64),
        record(3, 0.7, file="b/m.tflite", origin="second", sha256="2" * 64, environment={"tools": {"numpy": "2"}}),
        record(4, 0.1, data={"fingerprint": "other"}),
    ]
    block = history_block(records)
    assert [choice["name"] for choice in block["choices"]] == [
        "accuracy",
        "accuracy, table",
        "log loss",
        "log loss, table",
    ]
    rows = block["choices"][1]["table"]["rows"]
    assert [row[1] for row in rows] == ["first", "first #2", "second"]
    assert [row[4]["text"] for row in rows] == ["-", "+10.00 %", "+10.00 %"]
    assert [row[5] for row in rows] == [
        "first",
        "another model, the same tools",
        "the same model, other tools: numpy 1 -> 2",
    ]
    assert history_block(records[:1] + records[3:]) is None


def test_history_reads_runs_and_files_of_results(tmp_path):
    run = RunDirectory(tmp_path / "old")
    append(run, [{key: value for key, value in record(5, 0.5).items() if key != "origin"}])
    kept = tmp_path / "kept.jsonl"
    kept.write_text(json.dumps(record(1, 0.4)) + "\n")
    found = read_history([run.path, kept, run.path])
    assert [(one["origin"], one["accuracy"]) for one in found] == [("kept", 0.4), ("old", 0.5)]
    with pytest.raises(UsageError, match="no run directory or file of results"):
        read_history([tmp_path / "none"])
