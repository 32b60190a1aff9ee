"""The page on safety is made from the results of the hostile experiment; what counts as a fault there."""

from __future__ import annotations

import json

import pytest

from edgepress.benchmarks.experiments.hostile.endings import signals
from edgepress.benchmarks.experiments.hostile.endings.log import Log
from edgepress.benchmarks.experiments.hostile.endings.project import COMMANDS
from edgepress.benchmarks.experiments.hostile.endings.whole import others
from edgepress.benchmarks.experiments.hostile.files import is_bad, read_all, shares, summary
from edgepress.benchmarks.experiments.hostile.page import PAGE, RESULTS, page
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import read_json


def test_page_and_results_belong_together():
    assert PAGE.read_text(encoding="utf-8") == page(read_json(RESULTS))


def test_what_counts_as_a_fault():
    good = {"kind": "text", "number": 0, "code": 2, "said": "error: it is damaged", "cpu_s": 0.1, "peak_mb": 50.0}
    assert is_bad(good) is None
    for change, why in (
        ({"code": "hang"}, "hang"),
        ({"cpu_s": 10.1}, "hang"),
        ({"code": "crash -11: "}, "crash"),
        ({"code": "traceback: KeyError: 'a'"}, "traceback"),
        ({"said": "Traceback (most recent call last):"}, "traceback"),
        ({"said": "internal error: KeyError"}, "internal error"),
        ({"code": 130}, "exit code"),
        ({"said": ""}, "exit code"),
        ({"peak_mb": 1001.0}, "memory"),
    ):
        assert is_bad({**good, **change}) == why
    found = summary([good, {**good, "code": "hang", "number": 1}])
    assert (found["cases"], found["faults"], found["bad"][0]["number"]) == (2, {"hang": 1}, 1)
    assert shares(3000) == {"tflite": 1500, "onnx": 400, "checkpoint": 400, "arrays": 200, "text": 300, "audio": 200}


def test_what_counts_as_a_fault_of_an_ending():
    good = {"signal": "SIGTERM", "code": 143, "finished": False, "seconds": 1.0, "load": 1.0, "left": []}
    good |= {"said": "training\nerror: ended by SIGTERM", "traceback": False}
    assert signals.fault(good) is None
    assert signals.fault({**good, "seconds": 30.0, "load": 8.0}) is None
    assert signals.fault({**good, "finished": True, "code": 1}) is None
    for change, why in (
        ({"code": -15}, "exit code -15"),
        ({"code": 130}, "exit code 130"),
        ({"finished": True, "code": 2}, "exit code 2"),
        ({"traceback": True}, "traceback"),
        ({"left": ["process sleep"]}, "left process sleep"),
        ({"said": "error: a\nerror: b"}, "not one sentence"),
        ({"said": ""}, "not one sentence"),
        ({"seconds": 11.0}, "slow"),
    ):
        assert signals.fault({**good, **change}) == why


def test_what_is_stopped_are_commands():
    from typer.main import get_command

    from edgepress.benchmarks.cli import app as benchmarks
    from edgepress.compress.cli import app as compress
    from edgepress.deploy.cli import app as deploy

    apps = {"compress": compress, "deploy": deploy, "benchmarks": benchmarks}
    named = {f"{app} {name}" for app, typed in apps.items() for name in get_command(typed).commands}  # type: ignore[attr-defined]
    assert {command.name for command in COMMANDS} <= named


def test_a_measurement_goes_on_behind_its_last_whole_line(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    assert log.once("a", lambda: {"x": 1}) == {"x": 1}
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"case": "b", "x')  # killed while it wrote
    again = Log(tmp_path / "log.jsonl")
    assert again.once("a", lambda: pytest.fail("measured twice")) == {"x": 1}
    assert again.once("b", lambda: {"x": 2}) == {"x": 2}
    assert Log(tmp_path / "log.jsonl").entries == {"a": {"x": 1}, "b": {"x": 2}}


def test_cases_that_were_read_are_not_read_again(tmp_path):
    log = tmp_path / "text.jsonl"
    lines = [json.dumps({"kind": "text", "number": number, "code": 2}) for number in range(3)]
    log.write_text("\n".join(lines) + '\n{"kind": "te')
    assert [entry["number"] for entry in read_all("text", 3, tmp_path, tmp_path, print)] == [0, 1, 2]
    log.write_text(lines[1] + "\n")
    with pytest.raises(UsageError, match="holds other cases"):
        read_all("text", 3, tmp_path, tmp_path, print)


def test_what_differs_is_named():
    assert others({"a": 1, "b": 2}, {"a": 1, "c": 3}) == ["other b", "other c"]
    assert others({"a": 1}, {"a": 1}) == []
