"""The measurements of integers: aggregation by hand, marks, the page that is made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepress.benchmarks.experiments.integers import accuracy as integer_accuracy
from edgepress.benchmarks.experiments.integers import files as integer_files
from edgepress.benchmarks.experiments.integers import page as integers_page
from edgepress.benchmarks.experiments.integers.networks import portable, write_digits


def _measured(seed: int, ptq: float, lsb: float) -> dict:
    return {
        "network": "net",
        "seed": seed,
        "task": "task",
        "macs": 10,
        "rule": "dcase",
        "params": 3,
        "clips": 4,
        "precisions": {
            "fp32": {"file_bytes": {}, "runtimes": {"torch": {"accuracy": 0.75, "seconds": 1.0}}},
            "ptq": {
                "file_bytes": {"tflite": 5},
                "departs": {"tflm": "MEAN (pool)"},
                "runtimes": {
                    "tflm": {"accuracy": ptq, "seconds": 2.0, "max_lsb": lsb, "mean_lsb": 0.1, "label_agreement": 1.0}
                },
            },
        },
    }


def test_seeds_are_averaged_by_clip_and_compared_with_fp32() -> None:
    answers = [
        {"fp32/torch": np.array([1, 1, 1, 0], bool), "ptq/tflm": np.array([1, 1, 0, 0], bool)},
        {"fp32/torch": np.array([1, 1, 1, 0], bool), "ptq/tflm": np.array([1, 1, 1, 1], bool)},
    ]
    found = integer_accuracy.aggregate([_measured(1, 0.5, 2), _measured(2, 1.0, 4)], answers, ["a", "a", "b", "b"])
    assert found["seeds"] == [1, 2]
    row = next(row for row in found["rows"] if row["runtime"] == "tflm")
    # By clip: 1, 1, 0.5, 0.5 against 1, 1, 1, 0, so location a differs by 0 and b by 0: every draw gives 0.
    assert (row["accuracy"], row["accuracies"], row["points"]) == (0.75, [0.5, 1.0], 0)
    assert row["interval_points"] == [0, 0]
    assert (row["clusters"], row["max_lsb"], row["mean_lsb"]) == (2, 4, 0.1)
    result = {"networks": [found]}
    assert integer_accuracy.violations(result) == [
        "net, ptq, tflm: 4 LSB at most, allowed are 3; the first layer that departs is MEAN (pool)"
    ]
    row |= {"points": -1.5, "max_lsb": 1, "label_agreement": 0.98}
    assert [line.split(": ")[1] for line in integer_accuracy.violations(result)] == [
        "-1.50 points, allowed are -1",
        "labels agree on 98.00 %, allowed are 99",
    ]


def test_two_calls_are_timed_in_turn() -> None:
    calls: list[str] = []
    found = integer_files.interleaved(lambda: calls.append("a"), lambda: calls.append("b"), rounds=4, round_ms=0)
    assert "".join(calls) == "ab" + "a" + "ab" + "ba" + "ab" + "ba"
    assert (found["rounds"], found["runs_per_round"]) == (4, 1)
    assert found["interval"][0] <= found["ratio"] <= found["interval"][1]


def test_a_file_that_is_larger_slower_or_worse_is_named() -> None:
    side = {"file_bytes": 10, "arena_bytes": 5, "accuracy": 0.5}
    pair = {
        "ours": {**side, "file_bytes": 11},
        "theirs": side,
        "points": -1.0,
        "interval_points": [-2.0, -0.1],
        "latency": {"ratio": 1.2, "interval": [1.1, 1.3]},
    }
    lines = integer_files.violations({"networks": [{"network": "net", "formats": {"onnx": pair}}]})
    assert lines == [
        "net, onnx: file_bytes 11, theirs has 10",
        "net, onnx: 1.200 times their latency (1.100 to 1.300)",
        "net, onnx: -1.00 points against theirs",
    ]


def test_the_page_is_made_from_the_results() -> None:
    made = integers_page.page(integers_page.read(integers_page.ACCURACY), integers_page.read(integers_page.PEERS))
    assert made == integers_page.PAGE.read_text(), "run python -m edgepress.benchmarks.experiments.integers.page"


def test_digits_are_a_task(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from edgepress.models.tasks import load_task

    task = load_task(write_digits(tmp_path / "digits.npz"))
    assert task.input_shape == (1, 32, 32)
    assert {name: len(task.split(name).labels) for name in ("train", "validation", "test")} == {
        "train": 748,
        "validation": 150,
        "test": 899,
    }


def test_commands_are_kept_without_folders() -> None:
    assert (
        portable("benchmarks.x", ["--runs", "/a/b/runs/seed1", "--epochs", "4"])
        == "python -m benchmarks.x --runs runs/seed1 --epochs 4"
    )
