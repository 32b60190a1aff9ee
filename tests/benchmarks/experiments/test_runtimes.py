"""The page of formats and runtimes: its figures are those of the results file, and what misses its mark is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgepress.benchmarks.experiments.runtimes import ROWS
from edgepress.benchmarks.experiments.runtimes_page import PAGE, RESULTS, page, runtime_tables, violations
from edgepress.deploy.runtimes.registry import RUNTIMES


def row(name: str, correct: int, **figures: float) -> dict[str, Any]:
    known = {
        "max_lsb": 1,
        "mean_lsb": 0.01,
        "label_agreement": 1.0,
        "min_ms": 0.5,
        "p50_ms": 0.75,
        "file_bytes": 12_345,
    }
    return {"row": name, "correct": correct, "total": 1000, "accuracy": correct / 1000, **known, **figures}


def result(*rows: dict[str, Any]) -> dict[str, Any]:
    network = {
        "network": "ds_cnn",
        "task": "digits",
        "macs": 2_000_000,
        "rule": "dcase",
        "params": 22_000,
        "samples": 1000,
        "torch_accuracy": 0.95,
        "rows": list(rows),
        "spread": None,
    }
    return {
        "command": "python -m this",
        "date": "2026-11-27T00:00:00+0000",
        "environment": {"cpu": "some", "tools": {"torch": "2.13.0", "executorch": "1.5.1"}},
        "limits": {"max_lsb": 3.0, "mean_lsb": 0.5},
        "networks": [network],
    }


def test_what_is_beyond_the_marks_is_named() -> None:
    good = result(row("litert", 950), row("executorch", 948))
    assert violations(good) == []
    assert "within 0.2 points" in page(good)
    bad = result(row("litert", 950), row("executorch", 947, max_lsb=4), row("openvino", 952, mean_lsb=0.5))
    assert violations(bad) == [
        "ds_cnn, executorch: -0.30 points from LiteRT, allowed are 0.2",
        "ds_cnn, executorch: 4 LSB at most, allowed are 3",
        "ds_cnn, openvino: 0.500 LSB in the mean, allowed are below 0.5",
    ]
    assert "Beyond the marks" in page(bad)
    assert "| executorch | 94.70 % | 4 | 0.010 | 100.00 % | 12,345 | 0.500 | 0.750 |" in runtime_tables(bad)


def test_a_network_that_amplifies_roundings_is_allowed_what_it_makes_of_its_own() -> None:
    amplified = result(row("litert", 950, max_lsb=5), row("executorch", 950, max_lsb=7))
    assert violations(amplified) == [
        "ds_cnn, litert: 5 LSB at most, allowed are 3",
        "ds_cnn, executorch: 7 LSB at most, allowed are 3",
    ]
    amplified["networks"][0]["spread"] = {
        "draws": 3,
        "max_lsb": 7.0,
        "max_lsb_by_draw": [4.0, 6.0, 7.0],
        "mean_lsb": 0.02,
    }
    assert violations(amplified) == []
    assert "but for ds_cnn (7 LSB, its spread is 7): these amplify" in page(amplified)
    assert "Spread of 3 draws: at most 7 LSB (median 6), 0.020 in the mean." in page(amplified)
    amplified["networks"][0]["rows"][1]["max_lsb"] = 8
    assert violations(amplified) == ["ds_cnn, executorch: 8 LSB at most, allowed are 7"]


def test_the_page_is_what_the_results_say() -> None:
    measured = json.loads(RESULTS.read_text()) if RESULTS.exists() else None
    assert PAGE.read_text() == page(measured)
    if measured is not None:
        assert len(measured["networks"]) >= 1
        assert not violations(measured)


def test_every_row_is_a_runtime_that_runs_the_format() -> None:
    for _, form, name in ROWS:
        assert RUNTIMES[name].runs(form)
    with pytest.raises(KeyError):
        RUNTIMES["other"]
