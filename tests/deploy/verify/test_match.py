"""Tensors of a converted file found by value."""

from __future__ import annotations

import numpy as np

from edgepress.deploy.verify.match import match_values

VALUES = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def test_layouts_and_float_noise_do_not_matter() -> None:
    ours = {"a": VALUES, "b": VALUES * 2}
    theirs = [(7, (VALUES * 2).transpose(0, 2, 3, 1) * np.float32(1 + 1e-6)), (8, VALUES), (9, VALUES + 1)]
    assert match_values(ours, theirs) == {7: ["b"], 8: ["a"]}


def test_equal_values_follow_the_order_of_the_graph() -> None:
    flat = VALUES.reshape(2, -1)
    assert match_values({"a": VALUES, "view": flat}, [(0, VALUES), (1, flat)]) == {0: ["a", "view"], 1: ["view", "a"]}


def test_a_sum_with_a_small_constant_is_not_what_it_was_added_to() -> None:
    """A thousandth of the largest value: within the tolerance of converters, but another value is nearer."""
    total = VALUES + np.float32(5e-4) * np.abs(VALUES).max()
    assert match_values({"product": VALUES, "sum": total}, [(0, VALUES), (1, total)]) == {0: ["product"], 1: ["sum"]}
    assert match_values({"product": VALUES}, [(1, total)]) == {1: ["product"]}
