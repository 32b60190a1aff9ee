"""Tensors of a converted file found by value."""

from __future__ import annotations

import numpy as np

from edgepress.deploy.verify.match import match_file, match_values

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


def test_values_are_found_however_far_the_roundings_of_a_file_grow() -> None:
    """Each step doubles a difference, as y -> 4 y (1 - y) does: after 30 of them 1e-7 is more than the values are."""
    start = np.linspace(0.1, 0.9, 50)
    ours = {"step0": start}
    for index in range(1, 31):
        ours[f"step{index}"] = 4 * ours[f"step{index - 1}"] * (1 - ours[f"step{index - 1}"])
    runs = []

    def run(given: dict[int, np.ndarray]) -> list[tuple[int, np.ndarray]]:
        runs.append(sorted(given))
        made = [(0, start.astype(np.float32))]
        for index in range(1, 31):
            read = given.get(index - 1, made[-1][1])
            made.append((index, (4 * read * (1 - read)).astype(np.float32)))
        return [(index, given.get(index, value)) for index, value in made]

    assert len(match_values(ours, run({}))) < 20
    found, values = match_file(ours, run)
    assert found == {index: [f"step{index}"] for index in range(31)}
    assert np.allclose(values[30], ours["step30"], atol=1e-3)
    assert len(runs) <= 4, runs


def test_what_is_nothing_of_ours_is_asked_for_once() -> None:
    runs = []

    def run(given: dict[int, np.ndarray]) -> list[tuple[int, np.ndarray]]:
        runs.append(given)
        return [(0, VALUES), (1, VALUES + 1)]

    assert match_file({"a": VALUES}, run)[0] == {0: ["a"]}
    assert runs == [{}]
