"""The comparison with other tools: its arithmetic, its page, a tiny run of it."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import sys
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
from typer.testing import CliRunner

from edgepress.benchmarks.experiments.peers import accuracy
from edgepress.benchmarks.experiments.peers.accuracy import app
from edgepress.benchmarks.experiments.peers.accuracy_page import _said, accuracy_lines
from edgepress.benchmarks.experiments.peers.data import _idx, experiments, write_digits, write_images
from edgepress.benchmarks.experiments.peers.fastnas import INSTALL
from edgepress.benchmarks.experiments.peers.methods import DEFAULT, METHODS, OURS, PEERS, SCRATCH
from edgepress.benchmarks.experiments.peers.pages import PAGE, SEARCH, page
from edgepress.benchmarks.experiments.peers.plan import Log, Plan, best_rate
from edgepress.benchmarks.experiments.peers.summary import bootstrap, overall, summarize_cell
from edgepress.benchmarks.experiments.peers.torch_pruning import Progress, Ranking
from edgepress.benchmarks.experiments.peers.trial import Trial
from edgepress.compress.recipes.recipe import PruneSettings
from edgepress.models.errors import RuntimeFailure, UsageError


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


def cell_results(right: dict[str, list[str]], rates: tuple[float, ...] = (1e-3,)) -> list[dict[str, object]]:
    """One training for each method, seed and rate; validation says that the first of each kind is best."""
    return [
        {
            "method": method,
            "seed": seed,
            "rate": rate,
            "right": bits,
            "validation_accuracy": 0.5 + 0.1 * (method in ("gradual fisher", "TP local taylor")),
            "test_accuracy": bits.count("1") / len(bits),
            "log_loss": 1.0,
            "macs": 90,
            "target_macs": 100,
            "params": 5,
            "epochs": 3,
            "seconds": 1.0,
        }
        for method, by_seed in right.items()
        for seed, bits in enumerate(by_seed)
        for rate in rates
    ]


def test_differences_by_hand() -> None:
    """Two seeds, four clips of two recordings; the best of each kind are those of the validation split."""
    right = {name: ["1100", "1000"] for name in METHODS}
    right["gradual fisher"], right["TP local taylor"] = ["1110", "1110"], ["1010", "0010"]
    right["TP global l2"] = ["1111", "1111"]  # better on the test, but not chosen by it
    cell, differences = summarize_cell(cell_results(right), (1e-3,), 2, ["a", "a", "b", "b"])
    assert cell["best"] == {"ours": "gradual fisher", "theirs": "TP local taylor", "scratch": "from scratch"}
    found = {(d["ours"], d["other"]): d for d in differences}
    assert len(found) == 2 * len(OURS)
    # 6 of 8 right against 3 of 8; against 3 of 8 from scratch, too.
    assert found["gradual fisher", "TP local taylor"]["difference"] == pytest.approx(3 / 8)
    assert found["gradual fisher", "TP local taylor"]["best_of_ours"]
    assert found["gradual l2", "TP local taylor"]["difference"] == pytest.approx(0)
    assert not found["gradual l2", "TP local taylor"]["best_of_ours"]
    mean = overall([found["gradual fisher", "TP local taylor"], found["gradual l2", "TP local taylor"]])
    assert mean["cells"] == 2
    assert mean["difference"] == pytest.approx(3 / 16)
    assert mean["interval"][0] <= 3 / 16 <= mean["interval"][1]


def test_a_method_that_is_not_finished_is_no_row_to_compare_with() -> None:
    right = {name: ["11", "10"] for name in METHODS}
    complete = cell_results(right)
    left_out = [r for r in complete if not (r["method"] == "TP isomorphic l2" and r["seed"] == 1)]
    cell, differences = summarize_cell(left_out, (1e-3,), 2, None)
    row = next(row for row in cell["rows"] if row["method"] == "TP isomorphic l2")
    assert (row["complete"], row["trainings"], row["seeds"]) == (False, 1, [])
    assert "theirs" not in cell["best"]
    assert {d["against"] for d in differences} == {"scratch"}
    assert [row["method"] for row in summarize_cell([], (1e-3,), 2, None)[0]["rows"]] == list(METHODS)


def test_the_bootstrap_draws_seeds_and_recordings() -> None:
    """All spread lies between seeds: the interval is that of the mean of two coins; and the same for recordings."""
    by_seed = np.array([[1.0] * 50, [0.0] * 50])
    assert np.unique(bootstrap(by_seed, None)).tolist() == [0, 0.5, 1]
    by_clip = np.array([[1.0, 1.0, 0.0, 0.0]] * 5)
    means = bootstrap(by_clip, ["a", "a", "b", "b"])
    assert np.unique(means).tolist() == [0, 0.5, 1]
    assert np.mean(means == 0.5) == pytest.approx(0.5, abs=0.05)
    assert set(np.unique(bootstrap(by_clip, None)).tolist()) == {0, 0.25, 0.5, 0.75, 1}


def test_the_rate_is_chosen_on_validation_and_ties_go_to_the_smaller() -> None:
    results = [
        {"rate": rate, "validation_accuracy": accuracy}
        for rate, accuracy in ((0.001, 0.5), (0.003, 0.7), (0.01, 0.9), (0.001, 0.5), (0.003, 0.7), (0.01, 0.5))
    ]
    assert best_rate(results) == 0.003


def test_the_plan_searches_first_and_counts_all(tmp_path) -> None:
    experiment = experiments()["digits"]
    plan, log = Plan({"digits": (experiment, "")}, ("gradual l2", "TP local l2"), ("short",)), Log(tmp_path / "t.jsonl")
    # 10 dense networks; 2 methods, 2 budgets, 2 searched seeds at 3 rates and 8 seeds at one.
    assert plan.total() == 10 + 2 * 2 * (2 * 3 + 8)
    ready = plan.ready(log)
    assert [trial.method for trial in ready] == [None] * 10
    for trial in ready:
        log.add({**trial.key, "validation_accuracy": 0.5})
    ready = plan.ready(log)
    assert len(ready) == 2 * 2 * 6
    for trial in ready:
        log.add({**trial.key, "validation_accuracy": 0.5 + trial.rate})
    ready = plan.ready(Log(tmp_path / "t.jsonl"))
    assert len(ready) == 2 * 2 * 8
    assert {trial.rate for trial in ready} == {3e-2}
    assert {trial.seed for trial in ready} == set(range(2, 10))


def test_a_torn_line_is_one_training_and_no_more(tmp_path) -> None:
    trials = [Trial(experiments()["digits"], "", seed) for seed in range(3)]
    log = Log(tmp_path / "t.jsonl")
    for trial in trials[:2]:
        log.add(trial.key)
    text = log.path.read_text()
    log.path.write_text(text[:-20])
    again = Log(log.path)
    assert [again.get(trial) is not None for trial in trials] == [True, False, False]
    again.add(trials[2].key)
    assert [Log(log.path).get(trial) is not None for trial in trials] == [True, False, True]


def test_all_methods_share_training_and_target() -> None:
    for experiment in experiments().values():
        settings = [
            Trial(experiment, "", 0, name, experiment.shares[0], "long", 3e-3).settings()
            for name in METHODS
            if not SCRATCH.get(name)
        ]
        assert len({(made.train.model_dump_json(), made.distill.model_dump_json()) for made in settings}) == 1
        longer = Trial(experiment, "", 0, "from scratch, dense steps added", 0.25, "short", 3e-3).settings()
        assert longer.train.epochs == experiment.prune.train.epochs + experiment.dense.epochs
    assert {ranking.scope for ranking, _ in PEERS.values()} == {"local", "global", "isomorphic"}
    assert all(ranking.most <= 0.9 for ranking, _ in PEERS.values())


def test_the_page_says_what_is_not_measured(tmp_path) -> None:
    right = {name: ["1100", "1000"] for name in METHODS if name != "TP global l2"}
    experiment = experiments()["digits"]
    cell, differences = summarize_cell(cell_results(right), (1e-3,), 2, None)
    empty, _ = summarize_cell([], (1e-3,), 2, None)
    report = {
        "command": "measure",
        "accelerator": "cpu",
        "halving": False,
        "kept": [],
        "environment": {"cpu": "C", "tools": {"torch": "2"}},
        "versions": {"torch-pruning": "1"},
        "experiments": {
            "digits": {
                "settings": experiment.facts(),
                "seeds": 2,
                "rates": [1e-3],
                "clips": {"train": 1, "validation": 1, "test": 4},
                "recordings": None,
                "dense": [{"seed": 0, "test_accuracy": 0.75, "macs": 1000, "params": 10}],
                "cells": [{"share": 0.25, "length": "short", **cell}, {"share": 0.12, "length": "long", **empty}],
            }
        },
        "differences": [{"experiment": "digits", "share": 0.25, "length": "short", **d} for d in differences],
        "overall": [],
    }
    lines = accuracy_lines(report)
    # The search knows one rate, which is the largest, too.
    edge = f"In {len(METHODS) - 1} of {len(METHODS) - 1} of these the best rate is the largest that was tried."
    said = next(line for line in lines if line.startswith("Measured"))
    assert said.startswith(f"Measured: {len(METHODS) - 1} of {2 * len(METHODS)} rows. {edge}")
    assert any("no lead in accuracy is claimed" in line for line in lines)
    assert "| TP global l2 | not measured (0 trainings of its search) | - | - | - | - | - |" in lines
    assert "| TP local l2 | 2 of 2 | 0.001 | 50.00 | 37.50 (25.0 to 50.0) | 90.0 | 5 |" in lines
    assert f"12 % of the MACs, long: not measured, {len(METHODS)} rows." in lines
    assert "1,000 MACs, 75.00 % on the test over 1 seeds." in "\n".join(lines)


def test_idx_files_are_read(tmp_path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header = bytes([0, 0, 8, 3]) + np.array(values.shape, ">u4").tobytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + values.tobytes()))
    np.testing.assert_array_equal(_idx(tmp_path / "a.gz"), values)
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"no idx"))
    with pytest.raises(UsageError, match="no IDX file"):
        _idx(tmp_path / "b.gz")


def test_images_of_an_archive_become_a_task(tmp_path) -> None:
    from PIL import Image

    from edgepress.models.tasks import load_task

    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for split, count in (("train", 16), ("test", 4)):
            for label, value in (("cat", 0), ("dog", 255)):
                for number in range(count // 2):
                    buffer = io.BytesIO()
                    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "png")
                    archive.writestr(f"{split}/{label}/{number}.png", buffer.getvalue())
    task = load_task(write_images(tmp_path / "images.zip", tmp_path / "images.npz"))
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [14, 2, 4]
    assert task.input_shape == (3, 4, 4)
    for features, label in zip(task.features("test"), task.split("test").labels, strict=True):
        assert features[0, 0, 0] == (1.0 if label else -1.0)
        assert (features[1:] == -1).all()


def test_results_of_other_settings_are_refused(tmp_path) -> None:
    write_digits(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as arrays:
        assert (arrays["x"].shape, sorted(set(arrays["split"]))) == ((1797, 1, 8, 8), ["test", "train", "validation"])
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "digits.json").write_text("{}")
    ran = CliRunner().invoke(app, ["--run", str(tmp_path), "--only", "digits"])
    assert isinstance(ran.exception, UsageError)
    assert "other settings" in str(ran.exception)
    for option, value in (("--methods", "magic"), ("--only", "mnist"), ("--lengths", "endless")):
        ran = CliRunner().invoke(app, ["--run", str(tmp_path), option, value])
        assert value in str(ran.exception)
    ran = CliRunner().invoke(app, ["--run", str(tmp_path), "--only", "cifar-10"])
    assert "--cifar ARCHIVE" in str(ran.exception)


def test_torch_pruning_is_driven_to_its_target_and_may_learn_in_between() -> None:
    pytest.importorskip("torch_pruning")
    import torch

    from edgepress.models.checkpoints.registry import build

    torch.manual_seed(0)
    model, x = build("resnet8"), torch.randn(1, 3, 32, 32)
    progress = Progress(model, x, Ranking("l2", "local"))
    progress.until(0.6 * progress.dense)
    assert 0.45 * progress.dense < progress.macs <= 0.6 * progress.dense
    with torch.no_grad():
        learned = {name: value + 1 for name, value in progress.model.state_dict().items()}
    progress.model.load_state_dict(learned)
    progress.until(0.3 * progress.dense)
    assert progress.macs <= 0.3 * progress.dense
    assert float(progress.model.stem[-2].weight.detach().min()) >= 1.9  # it goes on from what was learned
    least = [module.out_channels for module in progress.model.modules() if isinstance(module, torch.nn.Conv2d)]
    dense = [module.out_channels for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert all(few >= 0.1 * many for few, many in zip(least, dense, strict=True))
    filled = Progress(model, x, Ranking("l2", "local", filled=True))
    filled.until(0.3 * filled.dense)
    assert progress.macs <= filled.macs <= 0.3 * filled.dense


def _dies(run, trial, accelerator) -> dict:
    """A training whose process is killed as often as `trial` says, as for want of memory."""
    marks = run / trial.name
    marks.mkdir(exist_ok=True)
    count = len(list(marks.iterdir()))
    if count < trial.deaths:
        (marks / str(count)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"name": trial.name, "test_accuracy": 0.5, "macs": 1, "seconds": 1.0}


@dataclass(frozen=True)
class _Trial:
    name: str
    deaths: int


class _Trials:
    """What `run_all` asks of a plan and of a log."""

    def __init__(self, *trials: _Trial):
        self.trials, self.found = trials, {}

    def ready(self, log) -> list[_Trial]:
        return [trial for trial in self.trials if trial.name not in self.found]

    def total(self) -> int:
        return len(self.trials)

    def add(self, result) -> None:
        self.found[result["name"]] = result


@pytest.mark.slow
def test_a_training_whose_process_died_is_run_again_and_not_for_ever(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(accuracy, "run_trial", _dies)
    once = _Trials(_Trial("whole", 0), _Trial("dies once", 1))
    accuracy.run_all(tmp_path, once, once, 1, "cpu", None)
    assert set(once.found) == {"whole", "dies once"}
    assert "a process died, of these: dies once; they are run again" in capfd.readouterr().err
    always = _Trials(_Trial("dies", 9))
    with pytest.raises(RuntimeFailure, match=r"the process of dies died 3 times; what is finished is kept in"):
        accuracy.run_all(tmp_path, always, always, 1, "cpu", None)


@pytest.mark.slow
def test_a_tiny_comparison_is_resumed(tmp_path, monkeypatch) -> None:
    pytest.importorskip("torch_pruning")
    arguments = ["--run", str(tmp_path / "run"), "--only", "digits", "--seeds", "1", "--epochs", "2", "--jobs", "1"]
    arguments += ["--lengths", "short", "--methods", "gradual fisher,TP isomorphic taylor,from scratch"]
    arguments += ["--output", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["edgepress.benchmarks.experiments.peers.accuracy"])
    first = CliRunner().invoke(app, [*arguments, "--minutes", "0"])
    assert first.exception is None
    assert not Log(tmp_path / "run" / "trainings.jsonl").found
    assert CliRunner().invoke(app, arguments).exception is None
    found = Log(tmp_path / "run" / "trainings.jsonl").found.values()
    assert len(found) == 1 + 3 * 2 * 3
    assert all(result["macs"] <= result["target_macs"] for result in found if result["method"])
    assert {result["epochs"] for result in found} == {2}
    report = json.loads((tmp_path / "out.json").read_text())
    rows = [row for cell in report["experiments"]["digits"]["cells"] for row in cell["rows"]]
    assert sum(row["trainings"] for row in rows) == 3 * 2 * 3
    assert {len(row["seeds"]) for row in rows if row["trainings"]} == {1}  # as many as were asked for
    assert {row["complete"] for row in rows if row["trainings"]} == {True}
    before = (tmp_path / "run" / "trainings.jsonl").read_text()
    assert CliRunner().invoke(app, arguments).exception is None
    assert (tmp_path / "run" / "trainings.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([0.01, 0.03], "is ahead of"),
        ([-0.03, -0.01], "is behind"),
        ([-0.01, 0.03], "cannot be told apart from"),
    ],
)
def test_the_page_says_of_the_default_what_its_interval_carries(interval: list[float], said: str) -> None:
    mean = {"ours": DEFAULT, "against": "theirs", "cells": 2, "difference": 0.02, "interval": interval}
    others = [
        {"ours": DEFAULT, "against": "theirs", "interval": [-0.02, -0.01]},
        {"ours": DEFAULT, "against": "scratch", "interval": [-0.02, -0.01]},
        {"ours": "gradual l2", "against": "theirs", "interval": [-0.02, -0.01]},
    ]
    text = _said(mean, "the best of Torch-Pruning", {"differences": others})
    assert text.startswith(f"Over the 2 measured cells, each one weight, the default, `{DEFAULT}`, {said} the best of")
    assert "+2.00 points" in text
    assert text.endswith("significantly behind in 1).")


def test_the_default_of_the_page_is_that_of_the_recipes() -> None:
    settings, own = PruneSettings(), OURS[DEFAULT]
    assert (settings.method, settings.projection) == (own["method"], own["projection"])
    assert (settings.importance, own["importance"]) == (None, "fisher")  # see test_what_a_channel_is_worth_unasked
