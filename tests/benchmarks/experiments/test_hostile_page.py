"""The page on safety is made from the results of the hostile experiment."""

from __future__ import annotations

from edgepress.benchmarks.experiments.hostile.files import is_bad, shares, summary
from edgepress.benchmarks.experiments.hostile.page import PAGE, RESULTS, page
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
