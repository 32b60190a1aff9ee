"""Cutting validation by location and choosing calibration clips."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.models.tasks.splitting import cut_validation, pick_calibration


def test_whole_locations_and_about_an_eighth_of_every_class():
    labels = np.repeat(np.arange(10), 320)
    groups = [f"city-{label}-{number % 32}" for number, label in enumerate(labels)]
    held = cut_validation(labels, groups)
    assert np.bincount(labels[held]).tolist() == [40] * 10
    names = np.array(groups)
    assert not set(names[held]) & set(names[~held])


def test_two_locations_give_one_each_and_a_single_one_stays_in_train():
    labels = np.array([0, 0, 0, 1, 1])
    held = cut_validation(labels, ["p", "q", "q", "r", "r"])
    assert held[:3].any()
    assert not held[:3].all()
    assert not held[3:].any()


def test_a_location_shared_by_classes_never_empties_one():
    # "home" holds every clip of class 1: taking it for class 0 would leave class 1 without training clips.
    labels = np.array([0, 0, 0, 1, 0, 0])
    groups = ["home", "home", "p", "home", "q", "r"]
    held = cut_validation(labels, groups)
    assert not held[3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=120), st.randoms())
def test_any_cut_keeps_groups_whole_and_classes_alive_in_any_order(clips, random):
    labels, groups = np.array([label for label, _ in clips]), [str(group) for _, group in clips]
    held = cut_validation(labels, groups)
    names = np.array(groups)
    assert not set(names[held]) & set(names[~held])
    assert set(labels[~held]) == set(labels)
    order = list(range(len(clips)))
    random.shuffle(order)
    assert np.array_equal(cut_validation(labels[order], [groups[index] for index in order]), held[order])


def test_calibration_mirrors_classes_and_devices():
    labels = np.repeat(np.arange(4), 250)
    devices = ["b" if number % 5 == 0 else "a" for number in range(1000)]
    chosen = pick_calibration(labels, devices, [f"clip-{number}" for number in range(1000)], 100)
    assert len(set(chosen.tolist())) == 100
    assert np.bincount(labels[chosen]).tolist() == [25] * 4
    assert sum(devices[index] == "b" for index in chosen) == 20


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 80))
def test_calibration_has_the_size_that_was_asked_for(labels, clips):
    chosen = pick_calibration(np.array(labels, int), None, [str(number) for number in range(len(labels))], clips)
    assert len(set(chosen.tolist())) == len(chosen) == min(clips, len(labels))
