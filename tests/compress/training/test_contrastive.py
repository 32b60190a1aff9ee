"""The inverse contrastive loss by hand, against its reference, by finite differences; stratified orders."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.compress.training.batches import BatchOrder, Strata
from edgepress.compress.training.contrastive import (
    InverseContrastive,
    inverse_contrastive,
    inverse_contrastive_continuous,
    pairwise_distances,
    regularized,
    stratified_order,
)
from edgepress.models.errors import UsageError

#: Three clips on a line: 0 and 3 from device 0, 7 from device 1.
LINE = torch.tensor([[0.0], [3.0], [7.0]], dtype=torch.float64)
DEVICES = torch.tensor([0, 0, 1])
RAW = InverseContrastive(alpha=1.0, distance="euclidean")


def test_plain_by_hand() -> None:
    """9 ordered pairs: 3 with themselves, 2 of one device at distance 3, and 2 each at 7 and 4 of different ones."""
    result = inverse_contrastive(LINE, DEVICES, RAW)
    assert float(result.terms["push"]) == pytest.approx((3 * math.e + 2 * math.exp(1 - 3)) / 9)
    assert float(result.terms["pull"]) == pytest.approx((2 * 49 + 2 * 16) / 9)
    assert float(result.loss) == pytest.approx(float(result.terms["push"] + result.terms["pull"]))
    assert float(result.terms["distance_same"]) == pytest.approx(3)
    assert float(result.terms["distance_different"]) == pytest.approx((7 + 4) / 2)


def test_balanced_by_hand() -> None:
    """Device 0 has two clips of weight 1/2, device 1 one of weight 1; C = 2, so everything is divided by 4.

    Pairs within device 0: (2 e + 2 exp(-2)) / 4; within device 1: e; between them, both ways: 2 * (49 + 16) / 2.
    """
    result = inverse_contrastive(LINE, DEVICES, InverseContrastive(alpha=1.0, distance="euclidean", mode="balanced"))
    assert float(result.terms["push"]) == pytest.approx(((2 * math.e + 2 * math.exp(-2)) / 4 + math.e) / 4)
    assert float(result.terms["pull"]) == pytest.approx(65 / 4)


def test_same_is_pushed_and_different_is_pulled() -> None:
    """The formula, not the report's prose: a step down the gradient parts equal devices and joins different ones."""
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    for devices, grows in ((torch.tensor([0, 0]), True), (torch.tensor([0, 1]), False)):
        (gradient,) = torch.autograd.grad(inverse_contrastive(z, devices).loss, z)
        before, after = (float(pairwise_distances(v.detach(), "normalized")[0, 1]) for v in (z, z - 0.1 * gradient))
        assert (after > before) == grows


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_balanced_is_the_reference_over_a_constant(beta: float) -> None:
    """Akash et al.: sum of d^2 s s' over different + (C - 1) sum of exp(a - b d) s s' over equal, s = 1 / n_c."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    c = torch.tensor([0] * 7 + [1] * 3 + [4] * 2)
    reference = 0.0
    for i in range(12):
        for j in range(12):
            d = float((z[i] - z[j]).norm())
            share = 1 / (int((c == c[i]).sum()) * int((c == c[j]).sum()))
            reference += share * (2 * math.exp(0.3 - beta * d) if c[i] == c[j] else d * d)
    config = InverseContrastive(alpha=0.3, beta=beta, mode="balanced", distance="euclidean")
    assert float(inverse_contrastive(z, c, config).loss) == pytest.approx(reference / (2 * 3 * 2))


@pytest.mark.parametrize("mode", ["plain", "balanced"])
@pytest.mark.parametrize("distance", ["normalized", "rms", "euclidean"])
def test_gradient_by_finite_differences(mode: str, distance: str) -> None:
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    c = torch.tensor([0, 0, 1, 1, 1, 2])
    config = InverseContrastive(alpha=0.4, mode=mode, distance=distance)
    assert torch.autograd.gradcheck(lambda x: inverse_contrastive(x, c, config).loss, (z,))


def test_distances() -> None:
    z = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-3.0, -4.0]], dtype=torch.float64)
    assert pairwise_distances(z, "normalized")[0].tolist() == pytest.approx([0, math.sqrt(0.4), 2], abs=1e-6)
    assert pairwise_distances(z, "rms")[0].tolist() == pytest.approx([0, math.sqrt(13 / 2), math.sqrt(50)])


@given(st.floats(0.1, 100), st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_normalized_loss_does_not_depend_on_the_scale(factor: float, n: int) -> None:
    z = torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    c = torch.arange(n) % 3
    scaled, plain = inverse_contrastive(z * factor, c), inverse_contrastive(z, c)
    assert float(scaled.loss) == pytest.approx(float(plain.loss), rel=1e-6)


@pytest.mark.parametrize("mode", ["plain", "balanced"])
@pytest.mark.parametrize("distance", ["normalized", "rms", "euclidean"])
@pytest.mark.parametrize("case", ["zeros", "equal", "huge", "one", "one device", "none known"])
def test_gradients_are_finite(mode: str, distance: str, case: str) -> None:
    z = {
        "zeros": torch.zeros(4, 3),
        "equal": torch.ones(4, 3),
        "huge": torch.randn(4, 3) * 1e6,
        "one": torch.ones(1, 3),
    }.get(case, torch.randn(4, 3)).requires_grad_()
    c = torch.arange(len(z)) % 2
    if case == "one device":
        c = torch.zeros(4, dtype=torch.long)
    elif case == "none known":
        c = torch.full((4,), -1)
    result = inverse_contrastive(z, c, InverseContrastive(alpha=30.0, mode=mode, distance=distance))
    result.loss.backward()
    loss = float(result.loss.detach())
    assert math.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    assert all(torch.isfinite(term) for term in result.terms.values())
    if case == "none known":
        assert loss == 0
    if case == "one device":
        assert "distance_different" not in result.terms
        assert (loss == 0) == (mode == "balanced")


def test_clips_of_unknown_device_count_for_nothing() -> None:
    z = torch.cat([LINE, torch.tensor([[99.0]], dtype=torch.float64)])
    known = inverse_contrastive(LINE, DEVICES, RAW)
    assert torch.equal(inverse_contrastive(z, torch.tensor([0, 0, 1, -1]), RAW).loss, known.loss)


def test_float32_under_autocast() -> None:
    """In bfloat16 the distance of two close latents would be rounded away."""
    z = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    c = torch.arange(8) % 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = inverse_contrastive(z, c)
    assert inside.loss.dtype == torch.float32
    assert torch.equal(inside.loss, inverse_contrastive(z, c).loss)
    assert inverse_contrastive(z.bfloat16(), c).loss.dtype == torch.float32


def test_equation_two() -> None:
    config = InverseContrastive(weight=0.5)
    contrastive = inverse_contrastive(LINE, DEVICES, config)
    total = regularized(torch.tensor(2.0), contrastive, config)
    assert float(total) == pytest.approx(2 + 0.5 * float(contrastive.loss))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "fair"}, "mode = 'fair' is unknown: allowed are plain, balanced"),
        ({"distance": "cosine"}, "distance = 'cosine' is unknown"),
        ({"alpha": 31}, "alpha = 31 must be a number from -1000 to 30"),
        ({"weight": -1}, "weight = -1 must be a number from 0 to 1000"),
        ({"alpha": float("nan")}, "alpha = nan must be"),
        ({"beta": 0}, "beta = 0 must be"),
    ],
)
def test_wrong_settings(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        InverseContrastive(**changes)


def test_wrong_shapes() -> None:
    with pytest.raises(UsageError, match=r"latents \(3, 1\) and devices \(2,\) must be \[B, D\] and \[B\]"):
        inverse_contrastive(LINE, DEVICES[:2])


class TestStratifiedOrder:
    """Every stretch of the order mirrors the whole."""

    TAU = np.repeat(["a", "b", "c", "s1", "s2", "s3"], [730, 54, 54, 54, 54, 54])

    def test_every_clip_once_and_every_batch_in_shares(self) -> None:
        order = stratified_order(self.TAU, seed=3)
        assert sorted(order.tolist()) == list(range(1000))
        for start in range(0, 1000 - 64, 64):
            counts = Counter(self.TAU[order[start : start + 64]])
            assert abs(counts["a"] - 64 * 0.73) < 2
            assert all(2 <= counts[device] <= 5 for device in ("b", "c", "s1", "s2", "s3"))

    def test_balanced_batches(self) -> None:
        order = stratified_order(self.TAU, balance=1.0)
        assert len(order) == 1000
        totals = Counter(self.TAU[order])
        assert set(totals.values()) == {166, 167}
        # A rare clip comes three or four times, none of them far more often than another.
        assert set(Counter(order[self.TAU[order] == "b"].tolist()).values()) == {3, 4}

    @given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=6), balance=st.floats(0, 1), seed=st.integers(0, 9))
    @settings(max_examples=60, deadline=None)
    def test_any_stretch_of_any_set(self, counts: list[int], balance: float, seed: int) -> None:
        devices = np.repeat(np.arange(len(counts)), counts)
        order = stratified_order(devices, balance=balance, seed=seed)
        assert len(order) == len(devices)
        drawn = devices[order]
        for device in range(len(counts)):
            share = (drawn == device).mean()
            seen = np.concatenate([[0], np.cumsum(drawn == device)])
            # Between evenly spaced members of several devices at most one clip of each other device is out of step.
            assert np.abs(seen - share * np.arange(len(drawn) + 1)).max() <= len(counts) + 1
        if balance == 0:
            assert sorted(order.tolist()) == list(range(len(devices)))

    def test_seed_and_epoch(self) -> None:
        first = stratified_order(self.TAU, seed=1, epoch=2)
        assert np.array_equal(first, stratified_order(self.TAU, seed=1, epoch=2))
        assert not np.array_equal(first, stratified_order(self.TAU, seed=1, epoch=3))
        assert not np.array_equal(first, stratified_order(self.TAU, seed=2, epoch=2))

    def test_the_batches_of_a_training_are_stratified(self) -> None:
        order = BatchOrder(1000, 50, 1, shuffle=True, strata=Strata(self.TAU))
        first = list(order)
        assert len(first) == 20
        assert all(len(set(self.TAU[batch])) == 6 for batch in first)
        order.set_epoch(1)
        assert any((a != b).any() for a, b in zip(first, order, strict=True))

    @pytest.mark.parametrize(
        ("devices", "balance", "message"),
        [([], 0, "devices is empty"), (["a"], 1.5, "balance = 1.5 must be from 0 to 1")],
    )
    def test_wrong_arguments(self, devices: list, balance: float, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            stratified_order(devices, balance=balance)


def test_the_largest_alpha_still_has_a_gradient() -> None:
    """Two clips of one device at distance 1: push = exp(alpha - d) / 2 over four pairs, so that its slope is finite."""
    z = torch.tensor([[0.0], [1.0]], requires_grad=True)
    inverse_contrastive(
        z, torch.zeros(2, dtype=torch.long), InverseContrastive(30.0, distance="euclidean")
    ).loss.backward()
    assert z.grad is not None
    assert z.grad[1].item() == pytest.approx(-math.exp(29.0) / 2, rel=1e-5)


class TestContinuous:
    """The form for numeric attributes; points on a line at 0, 1 and 3."""

    POINTS = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    GAINS = torch.tensor([0.0, 0.5, 2.0])

    def test_by_hand(self) -> None:
        config = InverseContrastive(alpha=1.0, beta=2.0, distance="euclidean")
        found = inverse_contrastive_continuous(self.POINTS, self.GAINS, 1.0, config)
        # Neighbours are 0 and 1 (0.5 apart) and every clip with itself; 0 and 3, 1 and 3 are pulled.
        push = (3 * math.exp(1.0) + 2 * math.exp(1.0 - 2.0)) / 9
        pull = 2 * (3.0**2 + 2.0**2) / 9
        assert found.terms["push"].item() == pytest.approx(push)
        assert found.terms["pull"].item() == pytest.approx(pull)
        assert found.loss.item() == pytest.approx(push + pull)

    def test_of_device_numbers_it_is_the_plain_form(self) -> None:
        z, c = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
        plain = inverse_contrastive(z, c).loss
        assert inverse_contrastive_continuous(z, c, 0.5).loss.item() == pytest.approx(plain.item())
        assert inverse_contrastive_continuous(z, c, 2).terms["pull"].item() == 0, "all are neighbours"

    def test_unknown_attributes_are_left_out_and_bad_arguments_refused(self) -> None:
        z = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
        values = torch.tensor([0.1, float("nan"), 2.0, float("inf")])
        known = inverse_contrastive_continuous(z[[0, 2]], values[[0, 2]], 0.5).loss
        assert inverse_contrastive_continuous(z, values, 0.5).loss.item() == pytest.approx(known.item())
        with pytest.raises(UsageError, match="threshold = -1 must be a number of 0 or more"):
            inverse_contrastive_continuous(z, values, -1)
        with pytest.raises(UsageError, match="'balanced' balances devices"):
            inverse_contrastive_continuous(z, values, 1, InverseContrastive(mode="balanced"))
        with pytest.raises(UsageError, match=r"must be \[B, D\] and \[B\]"):
            inverse_contrastive_continuous(z, values[:3], 1)
