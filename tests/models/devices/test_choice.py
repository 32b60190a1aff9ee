"""The rule by which a device class gets a network, on hand-made candidates."""

from __future__ import annotations

import math

import pytest

from edgepress.models.devices.choice import Candidate, ranked


def test_the_most_accurate_then_the_least_macs_then_the_smallest_file():
    order = ranked(
        [
            Candidate("large", 0.8, 20, 10),
            Candidate("small, large file", 0.8, 10, 20),
            Candidate("small", 0.8, 10, 10),
            Candidate("best", 0.9, 30, 99),
            Candidate("worst", 0.1, 1, 1),
        ]
    )
    assert [one.name for one in order] == ["best", "small", "small, large file", "large", "worst"]


@pytest.mark.parametrize(
    "changes", [{"fits": False}, {"measured": False}, {"score": None}, {"score": math.nan}], ids=str
)
def test_what_does_not_fit_or_was_not_measured_is_never_chosen(changes):
    facts = {"name": "best", "score": 0.9, "macs": 1, **changes}
    assert [one.name for one in ranked([Candidate(**facts), Candidate("other", 0.1, 5)])] == ["other"]


def test_an_error_is_better_where_it_is_smaller():
    order = ranked([Candidate("far", 2.0, 1, higher=False), Candidate("near", 1.0, 2, higher=False)])
    assert [one.name for one in order] == ["near", "far"]
