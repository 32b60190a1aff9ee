"""Growth: exponents by hand, verdicts, the page that is written from the results, one small measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgepress.benchmarks.experiments.scale import SIZES, main, measure, violations
from edgepress.benchmarks.experiments.scale_page import exponent, page
from edgepress.benchmarks.experiments.sweep_overhead import LARGEST_OVERHEAD

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "scale.json"


@pytest.mark.parametrize(("values", "expected"), [((3, 30, 300), 1.0), ((2, 200, 20_000), 2.0), ((5, 5, 5), 0.0)])
def test_exponents(values, expected):
    assert exponent((1, 10, 100), values) == pytest.approx(expected, abs=1e-9)
    assert exponent((1, 10), (0, 1)) is None


def test_the_page_is_what_the_results_say():
    overhead = json.loads(RESULTS.with_name("sweep.json").read_text())
    assert (ROOT / "docs" / "scale.md").read_text() == page(json.loads(RESULTS.read_text()), overhead)
    assert overhead["overhead"] <= LARGEST_OVERHEAD


def test_the_measured_figures_hold():
    result = json.loads(RESULTS.read_text())
    assert set(result["parts"]) <= set(SIZES)
    assert violations(result) == []


def test_a_missed_figure_is_named():
    wait = {"size": 10, "shares": [{"network": "a", "wait_share": 0.2}, {"network": "b", "wait_share": 0.05}]}
    result = {"parts": {"full": [{"size": 10, "peak_rss_bytes": 5e9}], "wait": [wait]}}
    assert violations(result) == ["training on 10 clips took 5.0 GB", "a waits 20.0% of its time for data"]


def test_gathering_reads_every_clip_once(tmp_path):
    found = measure("input", 128, tmp_path)
    assert (found["size"], found["clips"], found["feature_bytes"]) == (128, 128, 128 * 256 * 44 * 4)


def test_an_unknown_part_is_refused(capsys):
    assert main(["--parts", "time"]) == 2
    assert "known are features" in capsys.readouterr().err
