"""The generalized mean: special exponents by hand, gradients, fitting, and its JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from edgepress.compress.teach.ensemble import (
    GeneralizedMean,
    fit_ensemble,
    generalized_mean,
    logit_mean,
    probability_mean,
)
from edgepress.models.errors import UsageError

#: Two models, one clip, two classes: probabilities (0.8, 0.2) and (0.2, 0.8).
TWO = torch.tensor([[[0.8, 0.2]], [[0.2, 0.8]]], dtype=torch.float64).log()


def random_logits(models: int, clips: int, classes: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(models, clips, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_of(log_probs: torch.Tensor, weights: list[float], exponents: list[float]) -> torch.Tensor:
    return generalized_mean(
        log_probs, torch.tensor(weights, dtype=torch.float64).log(), torch.tensor(exponents, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        (1.0, 0.5),
        (2.0, math.sqrt((0.64 + 0.04) / 2)),
        (-1.0, 1 / ((1 / 0.8 + 1 / 0.2) / 2)),
        (0.0, math.sqrt(0.8 * 0.2)),
        (1e-5, math.sqrt(0.8 * 0.2)),
        (300.0, 0.8),
        (-300.0, 0.2),
    ],
)
def test_power_means_by_hand(exponent: float, expected: float) -> None:
    value = mean_of(TWO, [1, 1], [exponent, exponent]).exp()
    assert value[0].tolist() == pytest.approx([expected, expected], rel=3e-3 if abs(exponent) == 300 else 1e-4)


def test_weights_and_an_exponent_per_class_by_hand() -> None:
    """w = (1.5, 0.5): class 0 with p = 1 is (1.5 * 0.8 + 0.5 * 0.2) / 2, class 1 with p = 2 a root mean square."""
    value = mean_of(TWO, [1.5, 0.5], [1.0, 2.0]).exp()[0]
    assert value.tolist() == pytest.approx([0.65, math.sqrt((1.5 * 0.04 + 0.5 * 0.64) / 2)])


def test_the_papers_weights_are_a_bias() -> None:
    """Weights of sum 0.6903 over 8 models shift every class by log(0.6903 / 8) / p_j = -2.450 / p_j."""
    weights = [0.0226, 0.0224, 0.0838, 0.0792, 0.0306, 0.1666, 0.0322, 0.2529]
    logs = functional.log_softmax(random_logits(8, 5, 3), 2)
    normalized = [8 * w / sum(weights) for w in weights]
    shift = mean_of(logs, weights, [0.5, 1, 2]) - mean_of(logs, normalized, [0.5, 1, 2])
    assert shift[0].tolist() == pytest.approx([-4.900, -2.450, -1.225], abs=1e-3)
    ensemble = GeneralizedMean(tuple(weights), (1.0,) * 3, (0.0,) * 3, mode="paper")
    assert ensemble.effective_models == pytest.approx(4.41, abs=0.01)
    assert ensemble.shares[7] == pytest.approx(0.366, abs=1e-3)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_series_meets_the_quotient(sign: int) -> None:
    logs = functional.log_softmax(random_logits(4, 6, 2), 2)
    inside, outside = (mean_of(logs, [2, 1, 0.5, 0.5], [sign * p] * 2) for p in (0.99e-4, 1.01e-4))
    slope = mean_of(logs, [2, 1, 0.5, 0.5], [sign * 3.01e-4] * 2) - outside
    assert torch.allclose(outside - inside, slope / 100, atol=1e-6)


@pytest.mark.parametrize("exponents", [[1.0, 0.5, -2.0], [0.0, 5e-5, 3.0]])
def test_gradient_by_finite_differences(exponents: list[float]) -> None:
    logs = functional.log_softmax(random_logits(3, 2, 3), 2)
    scores = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    p = torch.tensor(exponents, dtype=torch.float64, requires_grad=True)

    def value(scores: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return generalized_mean(logs, functional.log_softmax(scores, 0) + math.log(3), p)

    assert torch.autograd.gradcheck(value, (scores, p), eps=1e-6, atol=1e-4)


def test_controls_are_special_cases() -> None:
    logits = random_logits(5, 7, 4)
    assert torch.allclose(GeneralizedMean.of_equals(5, 4, 1.0)(logits), probability_mean(logits))
    assert torch.allclose(GeneralizedMean.of_equals(5, 4, 0.0)(logits), logit_mean(logits))
    assert torch.allclose(probability_mean(logits).exp(), functional.softmax(logits, 2).mean(0))
    one = functional.log_softmax(logits[:1], 2)[0]
    assert torch.allclose(GeneralizedMean.of_equals(1, 4, 3.7)(logits[:1]), one)


@given(st.integers(1, 4), st.integers(2, 5), st.floats(-8, 8), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_a_mean_lies_between_its_members_and_probabilities_sum_to_one(
    models: int, classes: int, exponent: float, seed: int
) -> None:
    logits = random_logits(models, 3, classes, seed)
    logs = functional.log_softmax(logits, 2)
    weights = torch.rand(models, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    weights = (models * weights / weights.sum()).tolist()
    value = mean_of(logs, weights, [exponent] * classes)
    assert (value <= logs.max(0).values + 1e-6).all()
    assert (value >= logs.min(0).values - 1e-6).all()
    assert (mean_of(logs, weights, [exponent + 0.5] * classes) >= value - 1e-6).all()
    assert GeneralizedMean(tuple(weights), (exponent,) * classes, (0.0,) * classes)(logits).exp().sum(
        1
    ).tolist() == pytest.approx([1, 1, 1])


def noisy_teachers(clips: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a good, a fair and a worthless model, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (clips,), generator=generator)
    truth = functional.one_hot(labels, 4).double()
    noise = torch.randn(3, clips, 4, generator=generator, dtype=torch.float64)
    spread = torch.tensor([1.0, 1.0, 2.5], dtype=torch.float64)[:, None, None]
    return torch.stack([3 * truth, 1.5 * truth, 0 * truth]) + noise * spread, labels


@pytest.mark.parametrize("mode", ["stable", "paper"])
@pytest.mark.parametrize("shared", [False, True])
def test_fitting_finds_the_good_model_and_helps_on_other_clips(mode: str, shared: bool) -> None:
    logits, labels = noisy_teachers(400, 0)
    fit = fit_ensemble(logits, labels, mode, shared_exponent=shared)
    assert fit.log_loss_after < fit.log_loss_before
    assert fit.ensemble.mode == mode
    assert fit.ensemble.shares[0] > fit.ensemble.shares[1] > fit.ensemble.shares[2]
    assert fit.log_loss_after == pytest.approx(float(functional.nll_loss(fit.ensemble(logits), labels)))
    if shared:
        assert len(set(fit.ensemble.exponents)) == 1
    if mode == "stable":
        assert sum(fit.ensemble.weights) == pytest.approx(3)
    else:
        assert set(fit.ensemble.biases) == {0.0}
        assert fit.ensemble.temperature == 1
    fresh, fresh_labels = noisy_teachers(2000, 1)
    losses = [
        float(functional.nll_loss(v, fresh_labels))
        for v in (fit.ensemble(fresh), logit_mean(fresh), probability_mean(fresh), functional.log_softmax(fresh[0], 1))
    ]
    assert losses[0] < min(losses[1:3])
    if mode == "stable":
        # The paper's mode has no temperature to make up for a power mean's sharpness: it only reaches the best model.
        assert losses[0] < losses[3]


def test_the_fit_is_stationary() -> None:
    """The stable objective at the fit is no higher than at small steps away from it, in every direction tried."""
    logits, labels = noisy_teachers(300, 2)
    ensemble = fit_ensemble(logits, labels, ridge=0.0).ensemble

    def loss(weights: list[float], exponents: list[float], biases: list[float]) -> float:
        moved = GeneralizedMean(tuple(weights), tuple(exponents), tuple(biases), ensemble.temperature)
        return float(functional.nll_loss(moved(logits), labels))

    fields = [list(ensemble.weights), list(ensemble.exponents), list(ensemble.biases)]
    best = loss(*fields)
    assert best == pytest.approx(float(functional.nll_loss(ensemble(logits), labels)))
    for field in (1, 2):
        for index in range(4):
            for step in (-0.05, 0.05):
                moved = [list(values) for values in fields]
                moved[field][index] += step
                assert loss(*moved) >= best - 1e-7
    for index, other in ((0, 1), (1, 2), (2, 0)):
        moved = [list(values) for values in fields]
        step = 0.3 * moved[0][index]
        moved[0][index] -= step
        moved[0][other] += step
        assert loss(*moved) >= best - 1e-7


def test_one_model_of_one_clip_and_float32() -> None:
    fit = fit_ensemble(torch.tensor([[[1.0, 0.0]]]), torch.tensor([0]))
    assert fit.ensemble.weights == (1.0,)
    assert fit.log_loss_after <= fit.log_loss_before
    assert fit.ensemble(torch.tensor([[[1.0, 0.0]]])).dtype == torch.float32


@pytest.mark.parametrize(
    ("logits", "labels", "keywords", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3).long(), {}, r"logits \(2, 3\) must be floating numbers \[models, clips"),
        (torch.zeros(2, 3, 4), torch.zeros(2).long(), {}, "labels must be 3 whole numbers from 0 to 3"),
        (torch.zeros(2, 3, 4), torch.full((3,), 4), {}, "labels must be 3 whole numbers from 0 to 3"),
        (torch.zeros(2, 3, 4), torch.zeros(3), {}, "labels must be 3 whole numbers"),
        (torch.full((2, 3, 4), math.nan), torch.zeros(3).long(), {}, "logits hold numbers that are not finite"),
        (torch.zeros(2, 3, 4), torch.zeros(3).long(), {"mode": "best"}, "mode = 'best' is unknown"),
        (torch.zeros(2, 3, 4), torch.zeros(3).long(), {"ridge": -1}, "ridge = -1 must be"),
    ],
)
def test_wrong_input(logits: torch.Tensor, labels: torch.Tensor, keywords: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit_ensemble(logits, labels, **keywords)


def test_json_round_trip() -> None:
    logits, labels = noisy_teachers(50, 0)
    ensemble = fit_ensemble(logits, labels).ensemble
    again = GeneralizedMean.from_json(json.loads(json.dumps(ensemble.to_json())))
    assert again == ensemble
    assert torch.equal(again(logits), ensemble(logits))
    with pytest.raises(UsageError, match="the ensemble has 3 models and 4 classes, the logits 2 and 4"):
        again(logits[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mean"}, "must be a JSON object of kind 'generalized mean'"),
        ({"schema": 2}, "has schema 2; this edgepress reads 1"),
        ({"surplus": 1}, "must have exactly the keys"),
        ({"weights": [1.0, 0.0]}, "weights = .* must be positive"),
        ({"weights": []}, "weights = .* must be a list of finite numbers"),
        ({"exponents": [float("inf"), 1]}, "exponents = .* must be a list of finite numbers"),
        ({"exponents": "12"}, "exponents = '12' must be a list"),
        ({"biases": [0.0]}, "2 exponents and 1 biases"),
        ({"temperature": 0}, "temperature = 0 must be a positive number"),
        ({"mode": "x"}, "mode = 'x' is unknown"),
    ],
)
def test_json_from_strangers(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GeneralizedMean.from_json({**GeneralizedMean.of_equals(2, 2).to_json(), **change})
    with pytest.raises(UsageError, match="must be a JSON object"):
        GeneralizedMean.from_json([])


def test_the_papers_mode_does_not_run_away() -> None:
    """Models so sure that the smallest exponent and any weight would do: both stay near their start."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (60,), generator=generator)
    truth = functional.one_hot(labels, 4).double()
    logits = torch.stack([12 * truth, 6 * truth, torch.randn(60, 4, generator=generator).double()])
    free = fit_ensemble(logits, labels, "paper", ridge=0.0).ensemble
    kept = fit_ensemble(logits, labels, "paper").ensemble
    assert all(0.1 < p < 10 for p in kept.exponents)
    assert all(1e-3 < weight < 1e3 for weight in kept.weights)
    assert max(free.weights) > max(kept.weights), "without the ridge they leave"
    assert kept.shares[0] > kept.shares[2]
