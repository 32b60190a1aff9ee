"""The device probe: separable, meaningless and place-bound latents; the regression against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from edgepress.compress.teach.probe import _folds, logistic_regression, probe_latents
from edgepress.models.errors import UsageError


def clips(places: int = 60) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Devices of four clips from each place, the first of three devices in 70 % of them, and the places."""
    random = np.random.default_rng(0)
    devices = random.choice(["d0", "d1", "d2"], 4 * places, p=[0.7, 0.15, 0.15])
    return devices, np.repeat([f"p{i}" for i in range(places)], 4), random


def test_a_latent_that_tells_the_device() -> None:
    devices, places, random = clips()
    latents = random.normal(size=(240, 6))
    latents[:, 0] += 20 * (devices == "d1")
    latents[:, 1] += 20 * (devices == "d2")
    probe = probe_latents(latents, devices, places)
    assert probe.balanced_accuracy == 1
    assert probe.information == 1
    assert probe.interval == (1, 1)
    assert probe.recall == {"d0": 1, "d1": 1, "d2": 1}
    assert (probe.samples, probe.identifiers, probe.folds) == (240, 60, 5)


def test_a_latent_that_tells_nothing() -> None:
    """Plain accuracy would reach 0.7 by always naming the frequent device; balanced accuracy stays at chance."""
    devices, places, random = clips(places=300)
    probe = probe_latents(random.normal(size=(1200, 6)), devices, places)
    assert probe.chance == pytest.approx(1 / 3)
    assert abs(probe.balanced_accuracy - probe.chance) < 0.07
    assert probe.interval[0] < probe.chance < probe.interval[1]


def test_a_latent_that_tells_the_place_only() -> None:
    """Each place has its own latent and its own device: a probe that saw the place would name the device."""
    random = np.random.default_rng(0)
    places = np.repeat(np.arange(40), 8)
    devices = random.integers(0, 2, 40)[places]
    latents = np.eye(40)[places] + 0.01 * random.normal(size=(320, 40))
    honest = probe_latents(latents, devices, places)
    leaking = probe_latents(latents, devices, np.arange(320))
    assert leaking.balanced_accuracy > 0.99
    assert honest.balanced_accuracy < 0.7


def test_information_grows_with_the_shift() -> None:
    devices, places, random = clips(places=100)
    noise = random.normal(size=(400, 4))
    shifted = [noise + shift * (devices == "d1")[:, None] for shift in (0, 1, 3)]
    found = [probe_latents(latents, devices, places).information for latents in shifted]
    assert found[0] < found[1] < found[2]


def test_unchanged_by_shift_and_scale_of_the_features() -> None:
    devices, places, random = clips()
    latents = random.normal(size=(240, 5)) + (devices == "d1")[:, None]
    first = probe_latents(latents, devices, places)
    again = probe_latents(latents * [1e-3, 1, 10, 1e4, 2] + 7, devices, places)
    assert again.balanced_accuracy == pytest.approx(first.balanced_accuracy, abs=0.01)


def test_a_constant_feature_is_no_trouble() -> None:
    devices, places, random = clips()
    latents = np.concatenate([random.normal(size=(240, 2)), np.full((240, 1), 3.0)], 1)
    assert np.isfinite(probe_latents(latents.astype(np.float32), devices, places).balanced_accuracy)


def test_regression_against_another_optimizer() -> None:
    """The loss written down once more, minimised by SciPy from another start with numerical gradients."""
    random = np.random.default_rng(1)
    y = random.choice(3, 120, p=[0.7, 0.2, 0.1])
    x = random.normal(size=(120, 2)) + np.eye(3, 2)[y]
    counts = np.bincount(y)

    def loss(parameters: np.ndarray) -> float:
        weights, bias = parameters[:6].reshape(3, 2), parameters[6:]
        scores = x @ weights.T + bias
        losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(120), y]
        return sum(losses[y == c].sum() / counts[c] for c in range(3)) / 3 + 0.01 / 2 * (weights**2).sum()

    theirs = minimize(loss, random.normal(size=9), method="BFGS", options={"gtol": 1e-6})
    weights, bias = logistic_regression(x, y, 3, ridge=0.01)
    assert loss(np.concatenate([weights.ravel(), bias])) == pytest.approx(theirs.fun, abs=1e-8)
    assert np.allclose(weights, theirs.x[:6].reshape(3, 2), atol=1e-3)


def test_regression_by_hand() -> None:
    """Two points at -1 and 1 of two classes: by symmetry w = (-v, v) with 2 sigma(-2 v) = 2 ridge v."""
    weights, bias = logistic_regression(np.array([[-1.0], [1.0]]), np.array([0, 1]), 2, ridge=0.1)
    v = weights[1, 0]
    assert weights[0, 0] == pytest.approx(-v)
    assert bias == pytest.approx([0, 0], abs=1e-9)
    assert 1 / (1 + np.exp(2 * v)) == pytest.approx(0.1 * v, abs=1e-6)


@given(sizes=st.lists(st.integers(1, 9), min_size=5, max_size=40), folds=st.integers(2, 5), seed=st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_folds_keep_identifiers_together_and_are_even(sizes: list[int], folds: int, seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    fold_of = _folds(groups, folds, np.random.default_rng(seed))
    assert all(len(set(fold_of[groups == group])) == 1 for group in range(len(sizes)))
    loads = np.bincount(fold_of, minlength=folds)
    assert loads.max() - loads.min() <= max(sizes)


def test_same_seed_same_result_and_json() -> None:
    devices, places, random = clips()
    latents = random.normal(size=(240, 3))
    first, second = (probe_latents(latents, devices, places, seed=4) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first.to_json()))["interval"] == list(first.interval)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"latents": np.zeros((3, 2))},
            r"latents \(3, 2\), 240 targets and 240 identifiers must belong to the same clips",
        ),
        ({"latents": np.full((240, 2), np.nan)}, "latents hold numbers that are not finite"),
        ({"targets": ["a"] * 240}, "at least two different targets, not 1"),
        ({"identifiers": ["x"] * 240}, r"folds = 5 must be from 2 to the number of identifiers \(1\)"),
        ({"folds": 1}, "folds = 1 must be from 2"),
        ({"targets": ["rare"] + ["a"] * 239}, "'rare' occurs only within one fold"),
    ],
)
def test_wrong_input(change: dict, message: str) -> None:
    devices, places, random = clips()
    given_all = {"latents": random.normal(size=(240, 2)), "targets": devices, "identifiers": places, **change}
    with pytest.raises(UsageError, match=message):
        probe_latents(given_all.pop("latents"), given_all.pop("targets"), given_all.pop("identifiers"), **given_all)
