"""The pure comparison: checks, levels, baselines, exit codes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.benchmarks.gate.figures import Figure
from edgepress.benchmarks.gate.formats import render
from edgepress.benchmarks.gate.gate import NO_DEVICE, compare, evaluate_gate, exit_code, runs_on
from edgepress.models.devices.classes import device_class
from edgepress.models.devices.device import Rule
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.limits import Limits
from tests.benchmarks.measure.profiles import small_profile


def only(verdict, metric, kind=None):
    found = [c for c in verdict["checks"] if c["metric"] == metric and kind in (None, c["kind"])]
    assert len(found) == 1
    return found[0]


def test_a_figure_at_its_limit_passes_and_one_more_fails():
    at = evaluate_gate(small_profile(), {"macs": "1722"})
    over = evaluate_gate(small_profile(), {"macs": "1721"}, try_fixes=False)
    assert at["passed"]
    assert exit_code(at) == 0
    assert not over["passed"]
    assert exit_code(over) == 1
    assert over["violations"] == [
        {"device": NO_DEVICE, "metric": "macs", "kind": "max", "value": 1722, "limit": 1721, "over": 1}
    ]
    assert only(over, "macs")["headroom"] == -1


def test_limits_of_the_api_count_under_their_own_rule():
    verdict = evaluate_gate(small_profile(), Limits(macs=1600, weight_bytes=208, accuracy=None, rule="core"))
    assert verdict["passed"]
    assert only(verdict, "macs")["rule"] == "core"
    assert only(verdict, "weights")["value"] == 208


def test_a_rule_that_the_file_cannot_give_is_never_replaced_by_another_number():
    with pytest.raises(UsageError, match=r"'vela'.*never compared: known here are core"):
        evaluate_gate(small_profile(macs={"core": 5, "vela": None}), Limits(macs=10, rule="vela"))


def test_torchinfo_falls_back_to_dcase_and_says_so():
    check = only(evaluate_gate(small_profile(), device="dcase2025"), "macs")
    assert (check["value"], check["rule"]) == (1722, "dcase")
    assert "torchinfo cannot be derived" in check["note"]


def test_flash_is_the_file_and_the_runtime():
    check = only(evaluate_gate(small_profile(), device="cortex-m4"), "flash")
    assert check["value"] == 1000 + 115_000
    assert "115.0 kB of runtime" in check["note"]


def test_failures_come_first_and_wall_clock_only_warns():
    profile = small_profile(sha256="cd" * 32)
    results = [{"schema": 1, "kind": "latency", "sha256": "cd" * 32, "runtime": "litert", "p50_ms": 7.0, "p99_ms": 9.0}]
    verdict = evaluate_gate(
        profile, {"macs": "2000", "latency": "5 ms", "file": "999 B"}, results=results, try_fixes=False
    )
    assert [check["status"] for check in verdict["checks"]] == ["failed", "warned", "passed"]
    assert [w["metric"] for w in verdict["warnings"]] == ["latency"]
    assert exit_code(evaluate_gate(profile, {"latency": "5 ms"}, results=results)) == 0


def test_accuracy_counts_only_for_the_very_same_file_and_the_named_runtime():
    record = {"schema": 1, "kind": "accuracy", "sha256": "ab" * 32, "runtime": "tflm", "accuracy": 0.9, "total": 10}
    other = {**record, "sha256": "00" * 32, "accuracy": 0.1}
    verdict = evaluate_gate(small_profile(), {"accuracy": "90%"}, results=[record, other])
    assert verdict["passed"]
    assert only(verdict, "accuracy")["value"] == 0.9
    newer = {**record, "accuracy": 0.5}
    assert not evaluate_gate(small_profile(), {"accuracy": "90%"}, results=[record, newer])["passed"]


def test_a_run_on_a_real_device_counts_for_its_class(tmp_path):
    """What `deploy run --on` prints holds an accuracy and a latency of one device."""
    answer = {
        "schema": 1,
        "file": "m.tflite",
        "sha256": "ab" * 32,
        "runtime": "litert",
        "samples": 10,
        "labels": [1],
        "correct": 9,
        "total": 10,
        "accuracy": 0.9,
        "device_class": "raspberry-pi-4",
        "latency_ms": {"p50": 7.0, "p90": 8.0, "p99": 9.0, "mean": 7.1, "repeats": 50},
        "device": {"host": "pi", "machine": "aarch64", "interpreter": "tflite-runtime", "version": "2.14.0"},
    }
    path = tmp_path / "pi.json"
    path.write_text(json.dumps(answer))
    budgets = tmp_path / "budgets.toml"
    budgets.write_text(
        '[device.raspberry-pi-4]\naccuracy = { min = "95%" }\nlatency = "5 ms"\n'
        '[device.raspberry-pi-5]\nlatency = "5 ms"\n'
    )
    verdict = evaluate_gate(small_profile(), budgets=budgets, results=path, try_fixes=False)
    found = {(check["device"], check["metric"]): check for check in verdict["checks"]}
    accuracy, latency = found["raspberry-pi-4", "accuracy"], found["raspberry-pi-4", "latency"]
    assert (accuracy["status"], accuracy["value"]) == ("failed", 0.9)
    assert (latency["status"], latency["value"], latency["how"]) == ("warned", 7.0, "measured")
    assert found["raspberry-pi-5", "latency"]["status"] == "not measured"


def test_a_figure_that_was_not_measured_fails_unless_it_is_allowed_to_stay_open(tmp_path):
    asked = evaluate_gate(small_profile(), {"accuracy": "90%"})
    assert not asked["passed"]
    assert "benchmarks run m.tflite --data DATA" in only(asked, "accuracy")["note"]
    assert "1 not measured, 1 check" in render(asked, "text")
    without = small_profile(arena_bytes={"tflm": None}, notes={"arena": "install edgepress[tflm]"})
    shipped = evaluate_gate(without, device="cortex-m4")
    assert [v["metric"] for v in shipped["violations"]] == ["arena"]
    assert "install edgepress[tflm]; not measured is not passed" in only(shipped, "arena")["note"]
    allowed = evaluate_gate(without, device="cortex-m4", allow_unmeasured=["arena"])
    assert allowed["passed"]
    assert (only(allowed, "arena")["status"], only(allowed, "arena")["passed"]) == ("not measured", None)
    budgets = tmp_path / "budgets.toml"
    budgets.write_text('[device.cortex-m4]\narena = { level = "warn" }\n')
    assert evaluate_gate(without, budgets=budgets)["passed"]
    with pytest.raises(UsageError, match=r"--allow-unmeasured areena: allowed are macs, .* and baseline"):
        evaluate_gate(without, device="cortex-m4", allow_unmeasured=["areena"])


def test_growth_without_a_baseline_is_not_passed(tmp_path):
    budgets = tmp_path / "budgets.toml"
    budgets.write_text('[device.cortex-m4]\nflash = { max_growth = "5%" }\n')
    alone = evaluate_gate(small_profile(), budgets=budgets)
    assert [(v["metric"], v["kind"]) for v in alone["violations"]] == [("flash", "max_growth")]
    assert "--baseline FILE or git:REV" in only(alone, "flash", "max_growth")["note"]
    assert evaluate_gate(small_profile(), budgets=budgets, allow_unmeasured=["baseline"])["passed"]
    with_one = {"schema": 1, "profile": small_profile(file_bytes=990), "results": [], "environment": {}}
    assert evaluate_gate(small_profile(), budgets=budgets, baseline=with_one)["passed"]


def test_a_file_that_the_runtime_of_a_machine_refuses_fails_there_and_not_in_a_challenge():
    vela = small_profile(refused={"tflm": {"CUSTOM ethos-u": "needs the NPU"}, "litert": {"A": "x", "B": "y"}})
    (check,) = runs_on(vela, device_class("cortex-m4"))
    assert (check["status"], check["value"], check["limit"], check["over"]) == ("failed", 1, 0, 1)
    assert "CUSTOM ethos-u: needs the NPU" in check["note"]
    assert runs_on(vela, device_class("phone"))[0]["value"] == 2
    assert runs_on(vela, device_class("cortex-m55-ethos-u55")) == []
    assert runs_on(vela, device_class("dcase2023")) == []
    assert runs_on(small_profile(), device_class("cortex-m4")) == [], "a profile of an older version says nothing"


def test_what_cannot_be_counted_is_no_zero():
    custom = {"operator": "ethos-u", "count": 1, "rules": ["core", "dcase"], "reason": "profile the file before Vela"}
    profile = small_profile(uncountable=[custom], macs={"core": None, "dcase": None, "st": 5})
    verdict = evaluate_gate(profile, {"macs": "20M"})
    assert not verdict["passed"]
    assert only(verdict, "macs")["value"] is None
    assert "ethos-u (1) cannot be counted: profile the file before Vela" in only(verdict, "macs")["note"]
    assert evaluate_gate(profile, {"macs": "20M"}, rule="st")["passed"]


def test_a_drop_against_the_baseline_is_not_decided_by_binary_dust():
    rule = Rule("accuracy", max_drop=0.01)
    assert compare(rule, Figure(0.89), Figure(0.9))[0]["status"] == "passed"
    assert compare(rule, Figure(0.8899), Figure(0.9))[0]["status"] == "failed"
    assert compare(rule, Figure(0.89))[0]["status"] == "failed"
    assert compare(rule, Figure(0.89), allowed=["baseline"])[0]["status"] == "not measured"
    assert compare(Rule("macs", max_growth=0.05), Figure(105), Figure(100))[0]["status"] == "passed"
    assert compare(Rule("macs", max_growth=0.05), Figure(106), Figure(100))[0]["over"] == pytest.approx(1)


def test_figures_of_different_rules_are_not_subtracted():
    (check,) = compare(Rule("macs", maximum=200), Figure(100, rule="core"), Figure(90, rule="dcase"))
    assert check["baseline"] is None
    assert check["change"] is None


def test_the_same_bytes_with_other_tools_are_told_from_a_new_model():
    old = {
        "schema": 1,
        "profile": small_profile(arena_bytes={"tflm": 1500}),
        "results": [],
        "environment": {"tools": {"tflite-micro": "0.dev1"}},
        "manifest": {},
    }
    same = evaluate_gate(small_profile(), {"arena": "3 kB"}, baseline=old)
    assert only(same, "arena")["change"] == 500
    assert same["cause"]["model_changed"] is False
    assert "same to the byte" in same["cause"]["summary"]
    assert "tflite-micro 0.dev1 ->" in same["cause"]["summary"]
    changed = evaluate_gate(
        small_profile(sha256="ef" * 32, layers=small_profile()["layers"][:2]), {"arena": "3 kB"}, baseline=old
    )
    assert changed["cause"]["model_changed"] is True
    assert changed["cause"]["operators"] == {"FULLY_CONNECTED": [1, 0]}


def test_the_largest_contributor_is_named_with_its_share():
    verdict = evaluate_gate(small_profile(), {"macs": "1 k"})
    first = verdict["contributors"][0]
    assert (first["layer"], first["value"]) == ("stem", 1100)
    assert first["share"] == pytest.approx(1100 / 1722)
    assert verdict["fixes"][0]["command"] == "compress prune --target-macs 1000"


def test_a_float_model_is_told_to_become_int8():
    verdict = evaluate_gate(small_profile(weight_bytes=640), {"weights": "208 B"}, try_fixes=False)
    fix = verdict["fixes"][0]
    assert fix["fix"].startswith("int8")
    assert fix["after"] == 160
    assert fix["measured"] is False


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"file": "banana"}, "is not a quantity"),
        ({"file": "100"}, "has no unit"),
        ({"macs": "20 kB"}, "unknown unit"),
        ({"speed": "1"}, "the metric 'speed' is unknown"),
        ({"macs": "-1"}, "not negative"),
        ({"macs": "nan"}, "is not a quantity"),
        ({"accuracy": "1e400"}, "finite"),
        ({}, "nothing to check"),
    ],
)
def test_limits_that_are_wrong(limits, message):
    with pytest.raises(UsageError, match=message):
        evaluate_gate(small_profile(), limits)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_no_verdict(value):
    with pytest.raises(UsageError, match="no usable figure"):
        evaluate_gate(small_profile(params=value), {"params": "200"})


def test_an_unknown_device_names_the_near_one():
    with pytest.raises(UsageError, match=r"did you mean 'cortex-m4'\?.*raspberry-pi-5"):
        evaluate_gate(small_profile(), device="cortex-m44")


def test_off_is_neither_checked_nor_measured():
    assert compare(Rule("arena", maximum=1, level="off"), Figure(5)) == []


@given(value=st.integers(0, 10**12), limit=st.integers(0, 10**12))
def test_a_maximum_fails_exactly_above_it(value, limit):
    (check,) = compare(Rule("macs", maximum=limit), Figure(value))
    assert (check["status"] == "failed") == (value > limit)
    assert check["over"] == max(0, value - limit)
    assert check["headroom"] == limit - value


@given(value=st.floats(0, 1), limit=st.floats(0, 1))
def test_a_minimum_fails_exactly_below_it(value, limit):
    (check,) = compare(Rule("accuracy", minimum=limit), Figure(value))
    assert (check["status"] == "failed") == (value < limit)


def test_a_compiler_that_fails_on_a_file_takes_no_verdict_away(monkeypatch):
    def fails(profile, device):
        raise RuntimeFailure("vela: cannot compile m.tflite")

    monkeypatch.setattr("edgepress.benchmarks.estimate.estimate.estimate_latency", fails)
    verdict = evaluate_gate(small_profile(), device="cortex-m55-ethos-u55", allow_unmeasured=["arena"])
    latency = next(check for check in verdict["checks"] if check["metric"] == "latency")
    assert (latency["status"], "cannot compile" in latency["note"]) == ("not measured", True)
    strict = evaluate_gate(small_profile(), device="cortex-m55-ethos-u55", strict=True)
    assert "latency" in {violation["metric"] for violation in strict["violations"]}
