"""The Pareto front by hand, and the page of many runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgepress.benchmarks.report.networks import pareto
from edgepress.benchmarks.report.networks.pareto import Point, front, write_pareto
from edgepress.models.errors import UsageError
from tests.benchmarks.report.test_report import exported as exported
from tests.benchmarks.report.test_report import figures_of, network


def point(name: str, accuracy: float, macs: int, weight_bytes: int) -> Point:
    return Point(name, accuracy, macs, weight_bytes, network(name, macs))


def test_the_front_holds_what_no_other_point_beats():
    points = [
        point("big", 0.9, 100, 100),
        point("worse and as big", 0.8, 100, 100),
        point("small", 0.7, 10, 50),
        point("light", 0.7, 20, 40),
        point("beaten by light", 0.6, 30, 40),
        point("twin of small", 0.7, 10, 50),
    ]
    assert [one.name for one in front(points)] == ["small", "light", "big"]
    assert front([]) == []


@pytest.fixture
def gathered(monkeypatch, exported):
    runs = {
        "a": (network("dense", 7_000_000, (exported,)), network("<b>small", 1_000_000)),
        "b": (network("dense", 7_000_000),),
    }
    for number, networks in enumerate(runs.values()):
        for one in networks:
            one.metrics["key"] = one.name if one.name == "dense" else f"{one.name} {number}"
    monkeypatch.setattr(pareto, "gather", lambda run, arena: runs[run.path.name])
    return runs


def test_the_page_shows_every_network_once_and_escapes_names(gathered, tmp_path):
    page, best = write_pareto(["a", "b"], tmp_path / "pareto.html")
    text = page.read_text()
    rows = figures_of(text)["pareto-chart"][0]["data"]["values"]
    assert [row["network"] for row in rows] == ["a/dense", "a/<b>small"]
    assert {one.name for one in best} <= {"a/dense", "a/<b>small"}
    assert "<b>small" not in text.split("<script")[0]


def test_figures_of_different_data_are_not_joined(gathered, tmp_path):
    other = gathered["b"][0]
    other.metrics["key"], other.metrics["data"] = "other", {**other.metrics["data"], "fingerprint": "another"}
    with pytest.raises(UsageError, match="other data"):
        write_pareto(["a", "b"], tmp_path / "pareto.html")
    gathered["b"] = (replace(other, metrics={"cost": other.metrics["cost"]}),)
    with pytest.raises(UsageError, match="none of these runs"):
        write_pareto(["b"], tmp_path / "pareto.html")
