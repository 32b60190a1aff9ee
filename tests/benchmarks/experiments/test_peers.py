"""The comparison with other tools: its arithmetic, its page, a tiny run of it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from edgepress.benchmarks.experiments.peers.accuracy import app, default_method, estimate_seconds, summary
from edgepress.benchmarks.experiments.peers.fastnas import INSTALL
from edgepress.benchmarks.experiments.peers.pages import PAGE, SEARCH, page
from edgepress.benchmarks.experiments.peers.trial import METHODS, OURS, PEERS, SHARES, Trial, experiments, write_digits
from edgepress.models.errors import UsageError


def test_the_page_is_what_the_results_say() -> None:
    assert PAGE.read_text() == page(), "run python -m edgepress.benchmarks.experiments.peers.pages"


def test_the_measured_search_reaches_what_was_asked() -> None:
    """Figures of the results file, so far as it holds them: these are counts, which no load on a machine moves."""
    parts = json.loads(SEARCH.read_text())["parts"] if SEARCH.exists() else {}
    if not {"closeness", "retained", "calls"} & set(parts):
        pytest.skip("no results yet: python -m edgepress.benchmarks.experiments.peers.search")
    for found in parts.get("closeness", {}).get("results", ()):
        for row in found["rows"]:
            assert 0.99 <= row["macs"]["macs"] <= 1
            both = (row["macs_and_params"]["macs"], row["macs_and_params"]["params"])
            assert 0.99 <= max(both) <= 1
    for row in parts.get("retained", {}).get("results", ()):
        assert row["knapsack"] >= row["threshold"], row
    for row in parts.get("calls", {}).get("results", ()):
        assert row["tool"] != "edgepress" or 0.99 <= row["ratio"] <= 1


def test_the_page_shows_fastnas_where_it_was_measured(tmp_path) -> None:
    ours = {"macs": 0.5, "params": 0.25}
    part = {
        "command": "measure",
        "environment": {"cpu": "C", "tools": {}},
        "torch-pruning": "1",
        "results": [
            {"network": name, "rows": [{"share": 0.7, "macs": ours, "macs_and_params": ours}]}
            for name in ("small", "large")
        ],
    }
    fastnas = {
        "command": "measure it",
        "nvidia-modelopt": "0.47.0",
        "torchprofile": "0.0.4",
        "left_out": {"large": "takes long"},
        "results": [{"network": "small", "channel_divisor": 2, "rows": [{"share": 0.7, "fastnas": 0.875}]}],
    }
    results = tmp_path / "search.json"
    results.write_text(json.dumps({"parts": {"closeness": part}}))
    without = page(tmp_path / "none.json", results)
    assert "| small | 70 % | 0.5000 | 0.5000 | 0.2500 | - |\n" in without
    assert f"FastNAS is not measured yet: `{INSTALL}`" in without
    results.write_text(json.dumps({"parts": {"closeness": part, "fastnas": fastnas}}))
    found = page(tmp_path / "none.json", results)
    assert "| small | 70 % | 0.5000 | 0.5000 | 0.2500 | - | 0.8750 |\n" in found
    assert "| large | 70 % | 0.5000 | 0.5000 | 0.2500 | - | - |\n" in found
    assert "FastNAS: `measure it`, nvidia-modelopt 0.47.0" in found
    assert "large (takes long)" in found


@pytest.mark.slow
def test_fastnas_stays_below_its_target() -> None:
    pytest.importorskip("modelopt.torch.prune")
    import torch

    from edgepress.benchmarks.experiments.peers.fastnas import macs_over_target

    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    dense, divisor, (ratio, impossible) = macs_over_target(model, torch.randn(1, 1, 6, 6), (0.5, 0.01))
    assert dense == 16 * (8 * 9 + 8 * 4)  # by hand: 4 x 4 positions
    assert (divisor, ratio) == (1, 1.0)  # four of eight channels
    assert "NOT all constraints can be satisfied" in impossible


def test_all_methods_share_training_and_target() -> None:
    for experiment in experiments().values():
        settings = [experiment.prune.model_copy(update=METHODS[name]) for name in OURS]
        assert len({(made.train.model_dump_json(), made.distill.model_dump_json()) for made in settings}) == 1
    assert set(OURS) | set(PEERS) | {"from-scratch"} == set(METHODS)
    assert SHARES == (0.25, 0.12)


def result(seed: int, method: str | None, right: str, share: float = 0.25) -> dict[str, object]:
    return {
        "experiment": "digits",
        "seed": seed,
        "method": method,
        "share": share if method else 1.0,
        "right": right,
        "test_accuracy": right.count("1") / len(right),
        "validation_accuracy": 0.5,
        "log_loss": 1.0,
        "macs": 10,
        "params": 5,
        "seconds": 1.0,
    }


def test_differences_by_hand(tmp_path, monkeypatch) -> None:
    """Three clips, two seeds: 4/6 and 5/6 right against 3/6 of the better peer and 2/6 from scratch."""
    found = [result(0, None, "111"), result(1, None, "111")]
    found += [result(0, "one-shot+threshold", "110"), result(1, "one-shot+threshold", "110")]
    found += [result(0, "gradual+threshold", "111"), result(1, "gradual+threshold", "110")]
    found += [result(0, "torch-pruning-l2", "101"), result(1, "torch-pruning-l2", "001")]
    found += [result(0, "torch-pruning-lamp", "001"), result(1, "torch-pruning-lamp", "001")]
    found += [result(0, "from-scratch", "001"), result(1, "from-scratch", "100")]
    monkeypatch.setattr("edgepress.benchmarks.experiments.peers.accuracy.open_data", lambda trial: _Task())
    report = summary(found, {"digits": experiments()["digits"]}, {"digits": ""})
    differences = {(c["method"], c["peer"]): c["difference"] for c in report["experiments"]["digits"]["comparisons"]}
    assert differences == pytest.approx(
        {
            ("one-shot+threshold", "torch-pruning-l2"): 1 / 6,
            ("one-shot+threshold", "from-scratch"): 2 / 6,
            ("gradual+threshold", "torch-pruning-l2"): 2 / 6,
            ("gradual+threshold", "from-scratch"): 3 / 6,
        }
    )
    best = {c["method"] for c in report["experiments"]["digits"]["comparisons"] if c["best_of_ours"]}
    assert best == {"gradual+threshold"}
    assert report["default"] == default_method(report["experiments"]) == "gradual+threshold"


class _Task:
    class _Split:
        identifiers = ("a", "a", "b")

        def __len__(self) -> int:
            return 3

    def split(self, name: str) -> _Split:
        return self._Split()


def test_the_estimate_grows_with_the_work() -> None:
    experiment = experiments()["esc10-mobile"]
    seconds = [
        estimate_seconds(Trial(experiment, "", 0, method, share), 1716, 1e7)
        for method, share in (
            ("one-shot+threshold", 0.12),
            ("one-shot+threshold", 0.25),
            ("gradual+threshold", 0.25),
            (None, 1.0),
        )
    ]
    assert seconds == sorted(seconds)
    assert 20 < seconds[0] < 90


def test_results_of_other_settings_are_refused(tmp_path) -> None:
    write_digits(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as arrays:
        assert (arrays["x"].shape, sorted(set(arrays["split"]))) == ((1797, 1, 8, 8), ["test", "train", "validation"])
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "settings.json").write_text("{}")
    ran = CliRunner().invoke(app, ["--run", str(tmp_path), "--digit-seeds", "0"])
    assert isinstance(ran.exception, UsageError)
    assert "other settings" in str(ran.exception)
    ran = CliRunner().invoke(app, ["--run", str(tmp_path), "--methods", "magic"])
    assert "magic" in str(ran.exception)


@pytest.mark.slow
def test_a_tiny_comparison_is_resumed(tmp_path, monkeypatch) -> None:
    pytest.importorskip("torch_pruning")
    arguments = [
        "--run",
        str(tmp_path / "run"),
        "--digit-seeds",
        "0",
        "--epochs",
        "2",
        "--jobs",
        "1",
        "--methods",
        "one-shot+threshold,from-scratch,torch-pruning-l2",
        "--output",
        str(tmp_path / "out.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["edgepress.benchmarks.experiments.peers.accuracy"])
    first = CliRunner().invoke(app, arguments)
    assert first.exception is None
    report = json.loads((tmp_path / "out.json").read_text())
    rows = report["experiments"]["digits"]["rows"]
    assert len(rows) == 7
    assert all(row["macs"]["mean"] <= row["target_macs"] for row in rows if row["method"] != "dense")
    again = CliRunner().invoke(app, arguments)
    assert "0 of 7 trainings are left" in again.stderr
    assert json.loads((tmp_path / "out.json").read_text())["experiments"] == report["experiments"]
