"""Which one to ship: chosen on validation, never one that was not measured; and the page that says so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgepress.benchmarks.report.gather import File, Network, _root
from edgepress.benchmarks.report.networks.fronts import BEHIND, FRONT, NEAR, envelope, placed, states
from edgepress.benchmarks.report.networks.overview import overview_block
from edgepress.benchmarks.report.networks.recommendation import Recommendation
from edgepress.benchmarks.report.networks.run_page import classes_to_show, findings, render
from edgepress.models.devices.classes import device_class
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from tests.benchmarks.report.test_report import exported as exported
from tests.benchmarks.report.test_report import network

M4 = device_class("cortex-m4")


@pytest.fixture
def made(exported):
    """A function: a network with its file, validated at an accuracy and tested on a runtime with an interval."""

    def make(
        name: str, validation: float | None, macs: int, *, arena: int = 60_000, runtime="tflm", **facts
    ) -> Network:
        sha = name.ljust(64, "0")
        test = {"accuracy": 0.5, "interval": [0.4, 0.6], "correct": 5, "total": 10}
        test |= {"runtime": runtime, "sha256": sha, **facts}
        file = File(
            Path(f"{name}.tflite"),
            exported.manifest,
            {**exported.profile, "sha256": sha, "arena_bytes": {"tflm": arena}, "file_bytes": macs},
            {runtime: test} if runtime else {},
        )
        one = network(name, macs, (file,))
        return replace(
            one, integers={"validation": {"accuracy": validation}} if validation else None, dense=facts.get("dense")
        )

    return make


def recommended(*networks: Network, device: str = "cortex-m4") -> Recommendation:
    (found,) = findings(networks, "r", {device: device_class(device)}, True).recommended
    return found


def test_the_most_accurate_on_validation_that_fits(made):
    found = recommended(
        made("dense", 0.9, 100, arena=10**9),
        made("half", 0.8, 50, accuracy=0.6, interval=[0.55, 0.65]),
        made("quarter", 0.7, 25, accuracy=0.62, interval=[0.52, 0.72]),
    )
    assert found.network.name == "half"
    assert found.why.startswith("the best of 2 that fit: accuracy 80.00 % on validation, next quarter 70.00 %")
    assert "quarter is not told apart from it (95 % intervals overlap) and has 50 % fewer MACs" in found.why
    assert found.to_json()["test"] == 0.6
    assert found.to_json()["test_interval"] == [0.55, 0.65]
    assert found.to_json()["file"] == "half.tflite"


def test_a_larger_difference_than_the_intervals_has_no_second_thought(made):
    found = recommended(
        made("half", 0.8, 50, accuracy=0.9, interval=[0.85, 0.95]),
        made("quarter", 0.7, 25, accuracy=0.5, interval=[0.4, 0.6]),
    )
    assert "told apart" not in found.why


def test_of_equal_ones_the_cheapest(made):
    found = recommended(made("dense", 0.8, 100), made("half", 0.8, 50))
    assert found.network.name == "half"
    assert found.why.startswith("as good as dense (accuracy 80.00 % on validation) and cheaper")


def test_what_was_not_measured_on_the_runtime_of_the_class_is_not_shipped(made):
    found = recommended(made("dense", 0.9, 100, runtime="litert"), made("half", 0.5, 50))
    assert found.network.name == "half"
    assert "Not considered, since not measured on tflm: dense" in found.why
    nothing = recommended(made("dense", 0.9, 100, runtime=""))
    assert nothing.network is None
    assert nothing.why.startswith("dense would fit, but nothing was measured on tflm: `benchmarks run")
    assert nothing.to_json()["network"] is None


def test_a_class_that_nothing_fits_says_by_how_much(made):
    found = recommended(made("dense", 0.9, 100, arena=10**9), made("half", 0.5, 50, arena=10**8))
    assert found.network is None
    assert found.why.startswith("none fits; half: arena 100.00 MB over ")
    assert recommended(network("dense", 5)).why == "no int8 file was exported: `deploy export` makes one"


def test_the_page_answers_first_and_marks_the_dense_network(made):
    networks = [made("dense", 0.9, 100), made("half", 0.5, 50, arena=30_000, dense="dense")]
    page = render(findings(networks, "r", {"cortex-m4": M4}, True))
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[:2] == ["Which one do I ship?", "All networks"]
    block = overview_block(networks)
    assert block is not None
    assert block["table"]["marked"] == [0]
    name, macs, *_ = block["table"]["rows"][1]
    assert (name["below"], macs["below"]) == ("", "-50.0 %")
    assert block["table"]["rows"][0][0]["below"] == "the dense network"
    assert block["table"]["rows"][1][5]["below"] == "-50.0 %"  # the arena
    assert block["table"]["rows"][1][7]["below"] == "+0.00 points"  # int8 on the test split
    assert 'tr class="marked"' in page
    # Only the class that was named, in every table.
    assert not re.search(r"<td[^>]*>(?:<span>)?cortex-m0plus", page)


def test_columns_that_a_task_has_nothing_for_are_left_out(made):
    with_devices = made("dense", 0.9, 100)
    test = {name: value for name, value in with_devices.metrics["test"].items() if "devices" not in name}
    without = replace(with_devices, metrics={**with_devices.metrics, "test": test})
    for one, there in ((with_devices, True), (without, False)):
        block = overview_block([one])
        assert block is not None
        assert ("unseen, fp32" in block["table"]["columns"]) is there
        assert ("unseen in training" in block["text"]) is there
        assert "TFLM arena" in block["table"]["columns"]
        assert all(len(row) == len(block["table"]["columns"]) for row in block["table"]["rows"])


def test_contents_lead_somewhere_and_heads_are_buttons(made):
    page = render(findings([made("dense", 0.9, 100)], "r", {"cortex-m4": M4}, True))
    targets = re.findall(r'<a href="#([^"]+)">', page)
    assert len(targets) == len(set(targets)) > 5
    assert all(f'<section id="{target}">' in page for target in targets)
    heads = re.findall(r"<th [^>]*>(.*?)</th>", page)
    assert heads
    assert all(head == "" or head.startswith('<button type="button"') for head in heads)


def test_the_front_claims_no_more_than_the_intervals():
    """(cost, low, figure, high): b beats c by its figure alone, and d by its whole interval."""
    points = [(1, 0.4, 0.5, 0.6), (2, 0.6, 0.7, 0.8), (3, 0.5, 0.65, 0.75), (4, 0.3, 0.4, 0.55)]
    assert states(points) == [FRONT, FRONT, NEAR, BEHIND]
    assert envelope(points) == [(1, 0.4, 0.5, 0.6), (2, 0.6, 0.7, 0.8), (4, 0.6, 0.7, 0.8)]
    # A wide interval above the front lifts the band and not the line.
    assert envelope([(1, 0.4, 0.5, 0.6), (2, 0.1, 0.5, 0.9)]) == [(1, 0.4, 0.5, 0.6), (2, 0.4, 0.5, 0.9)]


def test_the_front_of_an_error_lies_below():
    rows = [
        {"series": "s", "cost": cost, "accuracy": value, "low": low, "high": high}
        for cost, low, value, high in ((1, 4.0, 5.0, 6.0), (2, 1.0, 2.0, 3.0), (3, 8.0, 9.0, 10.0))
    ]
    band = placed(rows, higher=False)
    assert [row["front"] for row in rows] == [FRONT, FRONT, BEHIND]
    assert [(row["cost"], row["low"], row["accuracy"], row["high"]) for row in band] == [
        (1, 4.0, 5.0, 6.0),
        (2, 1.0, 2.0, 3.0),
        (3, 1.0, 2.0, 3.0),
    ]


def test_the_first_of_a_line_of_networks():
    assert _root("c", {"a": None, "b": "a", "c": "b"}) == "a"
    assert _root("a", {"a": "elsewhere"}) is None
    assert _root("a", {"a": "b", "b": "a"}) == "b"


def test_which_classes_a_report_shows(tmp_path):
    run = RunDirectory(tmp_path)
    pruned = network("half", 5)
    pruned.metrics["prune"] = {"limits": {"device": "esp32"}}
    assert list(classes_to_show(run, [pruned])[0]) == ["esp32"]
    shown, named = classes_to_show(run, [network("dense", 5)])
    assert len(shown) > 10
    assert not named
    assert list(classes_to_show(run, [pruned], ["cortex-m4", "cortex-m7"])[0]) == ["cortex-m4", "cortex-m7"]
    assert len(classes_to_show(run, [pruned], ["all"])[0]) == len(shown)
    with pytest.raises(UsageError, match="cortex-m9"):
        classes_to_show(run, [pruned], ["cortex-m9"])
    own = tmp_path / "budgets.toml"
    own.write_text('[device.mine]\nlike = "cortex-m4"\n')
    assert list(classes_to_show(run, [pruned], budgets=own)[0]) == ["esp32", "mine"]
