"""The accuracy matrix: published figures on the real runtimes, and the bookkeeping around it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgepress.benchmarks.estimate.latency import measure_latency
from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.measure.accuracy import (
    _flips,
    measure_accuracy,
    model_sha256,
    records,
)
from edgepress.benchmarks.measure.result_log import append, of_run, read
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.tasks.kinds.classification import looks_like_probabilities


@pytest.fixture(scope="module")
def keywords(shared):
    return shared / "data" / "reference_models" / "kws_ref_model.tflite", shared / "data" / "kws01.npz"


@pytest.fixture(scope="module")
def measured(keywords):
    return measure_accuracy(*keywords, ["tflm", "litert", "litert-reference"])


@pytest.mark.slow
def test_the_keyword_model_gives_the_published_counts(measured):
    assert {r["runtime"]: (r["correct"], r["total"]) for r in measured["results"]} == {
        "tflm": (901, 1000),
        "litert": (902, 1000),
        "litert-reference": (901, 1000),
    }
    assert measured["failures"] == []
    for result in measured["results"]:
        low, high = result["interval"]
        assert low < result["accuracy"] < high
        assert sum(part["correct"] for part in result["by_class"].values() if part) == result["correct"]
        assert result["outputs"] == "probabilities"


@pytest.mark.slow
def test_seven_labels_flip_between_xnnpack_and_the_reference_kernels(measured):
    flips = {(f["a"], f["b"]): f["labels_differ"] for f in measured["flips"]}
    assert flips == {("tflm", "litert"): 7, ("tflm", "litert-reference"): 0, ("litert", "litert-reference"): 7}


@pytest.mark.slow
def test_results_are_kept_and_decide_the_gate(measured, keywords, tmp_path):
    run = RunDirectory(tmp_path / "run")
    append(run, records(measured))
    stored = of_run(run)
    assert [r["runtime"] for r in stored] == ["tflm", "litert", "litert-reference"]
    first = stored[0]
    assert first["sha256"] == model_sha256(keywords[0])
    assert first["data"]["samples"] == 1000
    assert first["data"]["fingerprint"]
    assert first["environment"]["tools"]["tflite-micro"]
    assert [e["name"] for e in run.entries("result")] == ["results.jsonl"]
    assert evaluate_gate(keywords[0], {"accuracy": "90.1%"}, results=stored[:1])["passed"]
    assert not evaluate_gate(keywords[0], {"accuracy": "90.2%"}, results=stored[:1])["passed"]


def test_a_device_class_chooses_its_runtime(keywords):
    found = measure_accuracy(*keywords, devices=["cortex-m4", "dcase2023"], limit=20)
    (result,) = found["results"]
    assert (result["runtime"], result["device_classes"], result["total"]) == ("tflm", ["cortex-m4", "dcase2023"], 20)


def test_float_inputs_are_quantized_by_the_session(keywords, tmp_path):
    with np.load(keywords[1], allow_pickle=False) as arrays:
        x, y = arrays["x"][:50], arrays["y"][:50]
    from edgepress.deploy.runtimes.sessions import open_session

    with open_session(keywords[0], "litert-reference") as session:
        details = session.input
    real = (x.astype(np.float32) - details.zero_point) * np.float32(details.scale)
    np.savez(tmp_path / "float.npz", x=real.transpose(0, 3, 1, 2), y=y, labels=np.array([f"c{i}" for i in range(12)]))
    np.savez(tmp_path / "raw.npz", x=x, y=y, labels=np.array([f"c{i}" for i in range(12)]))
    correct = [
        measure_accuracy(keywords[0], tmp_path / f"{name}.npz", ["litert-reference"])["results"][0]["correct"]
        for name in ("float", "raw")
    ]
    assert correct[0] == correct[1]


def test_probabilities_are_told_from_logits():
    assert looks_like_probabilities(np.array([[0.25, 0.746], [0, 0.996]]))
    assert not looks_like_probabilities(np.array([[-1.0, 2.0]]))
    assert not looks_like_probabilities(np.array([[0.25, 0.25]]))


def test_flips_count_who_was_right():
    (found,) = _flips({"a": np.array([0, 1, 2]), "b": np.array([0, 2, 1])}, np.array([0, 1, 1]))
    assert (found["labels_differ"], found["only_a_correct"], found["only_b_correct"]) == (2, 1, 1)


def test_a_runtime_that_fails_is_named_and_the_others_still_answer(keywords, monkeypatch):
    import edgepress.deploy.runtimes.sessions

    opened = edgepress.deploy.runtimes.sessions.open_session

    def broken(path, runtime, **options):
        if runtime == "tflm":
            raise RuntimeFailure("the child process died with signal 11")
        return opened(path, runtime, **options)

    monkeypatch.setattr(edgepress.deploy.runtimes.sessions, "open_session", broken)
    found = measure_accuracy(*keywords, ["tflm", "litert"], limit=10)
    assert [r["runtime"] for r in found["results"]] == ["litert"]
    assert found["failures"] == [{"runtime": "tflm", "error": "tflm: the child process died with signal 11"}]


@pytest.mark.parametrize(
    ("runtimes", "data", "message"),
    [
        (["abacus"], None, "'abacus' is unknown: allowed are"),
        (["onnxruntime"], None, "onnx"),
        (["tflm"], "nowhere.npz", "nowhere.npz"),
    ],
)
def test_usage_errors(keywords, runtimes, data, message):
    with pytest.raises(UsageError, match=message):
        measure_accuracy(keywords[0], data or keywords[1], runtimes)


def test_data_of_another_shape_is_one_sentence(keywords, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 1, 7, 7), np.float32), y=np.array([0, 1, 0, 1]))
    with pytest.raises(UsageError, match="shape"):
        measure_accuracy(keywords[0], tmp_path / "d.npz", ["litert"])


@pytest.mark.parametrize(
    "line",
    [
        '{"schema": 1, "accuracy": NaN}',
        '{"schema": 1, "accuracy": 1.5}',
        '{"schema": 9}',
        "[]",
        '{"schema": 1, "accuracy": "high"}',
        '{"schema": 1, "log_loss": Infinity}',
        "\x00",
    ],
)
def test_results_that_are_no_results(tmp_path, line):
    path = tmp_path / "r.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UsageError, match=r"r\.jsonl"):
        read(path)


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"schema": 1, "accuracy": 0.5}\n{"schema": 1, "acc')
    assert len(read(path)) == 1


def test_nan_is_never_stored(tmp_path):
    with pytest.raises(UsageError, match="NaN"):
        append(RunDirectory(tmp_path), [{"accuracy": float("nan")}])
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_the_json_of_the_command_is_a_file_of_results(measured, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(measured))
    assert [r["accuracy"] for r in read(path)] == [0.901, 0.902, 0.901]


def test_latency_is_measured_after_a_warm_up_with_its_surroundings(keywords):
    found = measure_latency(keywords[0], "litert", runs=20, seconds=0.05)
    assert found["runs"] >= 20
    assert 0 < found["min_ms"] <= found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert found["environment"]["cpu"]
    assert (found["threads"], found["warm_up_runs"], found["round_trip"]) == (1, 5, False)
    with pytest.raises(UsageError, match="runs = 0"):
        measure_latency(keywords[0], "litert", runs=0)
