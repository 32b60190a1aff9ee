"""Limits: merging, and figures of different rules."""

from __future__ import annotations

import pytest

from edgepress.models.errors import UsageError
from edgepress.models.limits import Limits


def test_tightest_takes_the_smaller_maximum_and_the_larger_minimum():
    merged = Limits(macs=30_000_000, accuracy=0.5).tightest(Limits(macs=20_000_000, weight_bytes=128_000, accuracy=0.6))
    assert merged.given() == {"macs": 20_000_000, "weight_bytes": 128_000, "accuracy": 0.6}
    assert merged.budgets() == {"macs": 20_000_000, "weight_bytes": 128_000}


def test_the_rule_follows_the_limit_that_uses_it():
    assert Limits(params=5).tightest(Limits(macs=7, rule="core")).rule == "core"


def test_different_rules_are_never_compared():
    with pytest.raises(UsageError, match=r"different rules.*'dcase'.*'core'"):
        Limits(macs=1).tightest(Limits(macs=1, rule="core"))
