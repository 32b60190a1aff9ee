"""Limits on what a task measures: metric.NAME, in budgets and on the command line, against baselines and intervals."""

import pytest

from edgepress.benchmarks.defaults import limits_of
from edgepress.benchmarks.gate.compare import compare_files
from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.measure.result_log import read
from edgepress.models.devices.classes import read_budgets, rule_from_text
from edgepress.models.errors import ConfigError, UsageError

PROFILE = {
    "schema": 1,
    "file": "machine.tflite",
    "sha256": "a",
    "macs": {"core": 1},
    "params": 1,
    "weight_bytes": 1,
    "file_bytes": 1,
}


def result(auc=0.9, sha256="a", data="d", runtime="tflm", **more):
    return {
        "schema": 1,
        "kind": "accuracy",
        "sha256": sha256,
        "runtime": runtime,
        "task_kind": "anomaly",
        "metrics": {"auc": auc, "mae": 0.2, "own": 3.0},
        "intervals": {"auc": [auc - 0.02, auc + 0.02], "mae": None},
        "data": {"fingerprint": data, "name": "fans"},
        "total": 40,
        **more,
    }


def verdict(limits, results, **more):
    return evaluate_gate(PROFILE, limits, results=results, try_fixes=False, **more)


@pytest.mark.parametrize(("least", "passed"), [("0.85", True), ("0.95", False)])
def test_a_least_auc_on_the_command_line(least, passed):
    made = verdict(limits_of([f"metric.auc={least}"]), [result()])
    assert made["passed"] is passed
    (check,) = made["checks"]
    assert (check["metric"], check["kind"], check["value"], check["interval"]) == (
        "metric.auc",
        "min",
        0.9,
        [0.88, 0.92],
    )


def test_less_is_better_of_errors_and_own_metrics_say_it_themselves():
    assert rule_from_text("metric.mae", "0.5").maximum == 0.5
    assert verdict(limits_of(["metric.mae=0.1"]), [result()])["passed"] is False
    assert verdict(limits_of(["metric.own>=2", "metric.auc=0.8"]), [result()])["passed"]
    assert not verdict(limits_of(["metric.own<=2"]), [result()])["passed"]
    with pytest.raises(UsageError, match=r"'metric\.own>=0\.8' or 'metric\.own<=0\.8'"):
        rule_from_text("metric.own", "0.8")
    with pytest.raises(UsageError, match=r"metric\.NAME of the task"):
        rule_from_text("auc", "0.8")


def test_a_drop_is_counted_from_a_baseline_on_the_same_data():
    from edgepress.models.devices.device import DeviceClass, Rule

    device = DeviceClass("mine", "", {"metric.auc": Rule("metric.auc", minimum=0.85, max_drop=0.01)}, "tflm")
    before = {"schema": 1, "profile": {**PROFILE, "sha256": "b"}, "results": [result(0.905, "b")]}
    made = evaluate_gate(PROFILE, None, device, baseline=before, results=[result()], try_fixes=False)
    assert {check["kind"]: check["passed"] for check in made["checks"]} == {"min": True, "max_drop": True}
    before["results"] = [result(0.92, "b")]
    made = evaluate_gate(PROFILE, None, device, baseline=before, results=[result()], try_fixes=False)
    assert {check["kind"]: check["passed"] for check in made["checks"]} == {"min": True, "max_drop": False}
    before["results"] = [result(0.905, "b", data="other")]
    made = evaluate_gate(PROFILE, None, device, baseline=before, results=[result()], try_fixes=False)
    dropped = next(check for check in made["checks"] if check["kind"] == "max_drop")
    assert dropped["over"] is None
    assert "on the same data" in dropped["note"]


def test_what_was_not_measured_is_not_passed():
    made = verdict({"metric.pauc": "0.5"}, [result()])
    assert not made["passed"]
    assert "benchmarks run machine.tflite" in made["checks"][0]["note"]
    assert verdict({"metric.pauc": "0.5"}, [result()], allow_unmeasured=["metric.pauc"])["passed"]
    with pytest.raises(UsageError, match=r"metric\.NAME and baseline"):
        verdict({"metric.auc": "0.5"}, [result()], allow_unmeasured=["auc"])


def test_budgets_take_them_and_name_mistakes(tmp_path):
    path = tmp_path / "budgets.toml"
    path.write_text(
        '[device.fan]\nlike = "cortex-m4"\nmetric.auc = { min = 0.85, max_drop = 0.01 }\nmetric.mae = 0.3\n'
    )
    rules = read_budgets(path).devices["fan"].rules
    assert (rules["metric.auc"].minimum, rules["metric.auc"].max_drop) == (0.85, 0.01)
    assert rules["metric.mae"].maximum == 0.3
    assert read_budgets(path).devices["fan"].limits.macs == read_budgets(path).devices["cortex-m4"].limits.macs
    path.write_text(
        '[device.fan]\nlike = "cortex-m4"\nmetric.auc = { max = 0.85 }\n'
        '[device.pump]\nlike = "cortex-m4"\nmetric.own = 3\n'
        '[device.saw]\nlike = "cortex-m4"\nmetric.auc = { least = 1 }\n'
    )
    with pytest.raises(ConfigError) as caught:
        read_budgets(path)
    text = str(caught.value)
    assert "more is better: write min and max_drop" in text
    assert "write { min = 3 } or { max = ... }" in text
    assert "least" in text


def test_files_of_results_are_compared_by_every_metric(tmp_path):
    import json

    for name, auc in (("a", 0.9), ("b", 0.8)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(result(auc)) + "\n")
    rows = {
        row["metric"]: (row["a"], row["b"]) for row in compare_files(tmp_path / "a.jsonl", tmp_path / "b.jsonl")["rows"]
    }
    assert rows["auc (tflm)"] == (0.9, 0.8)
    (tmp_path / "c.jsonl").write_text(json.dumps({**result(), "metrics": {"auc": "high"}}) + "\n")
    with pytest.raises(UsageError, match=r"metrics\.auc = 'high' is no figure"):
        read(tmp_path / "c.jsonl")
