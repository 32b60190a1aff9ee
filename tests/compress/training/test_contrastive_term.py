"""The contrastive term of a training: of a numeric attribute, through a projection head, with a weight that rises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgepress.compress.recipes.sections import Contrastive, TrainSettings
from edgepress.compress.training.contrastive import ContrastiveTerm, inverse_contrastive, stratified_order, values_of
from edgepress.compress.training.train import train
from edgepress.models.errors import UsageError
from edgepress.models.tasks import Split, load_task
from tests.compress.train_cases import latent_net, small_net, write_device_task
from tests.compress.training.test_train import Killed, killed_after, same_weights

LATENTS = torch.tensor([[0.0, 1.0], [3.0, 1.0], [7.0, -1.0]], dtype=torch.float64)


def settings(**term) -> TrainSettings:
    return TrainSettings.model_validate(
        {"epochs": 3, "batch_size": 16, "precision": "32-true", "contrastive": {"distance": "euclidean", **term}}
    )


@pytest.fixture
def tasks(tmp_path):
    """The same samples with recording devices, and with a number that says the same."""
    path = write_device_task(tmp_path)
    with np.load(path) as stored:
        arrays = dict(stored)
    numbers = np.array([{"a": -2.0, "b": 1.0, "s4": 8.0}[name] for name in arrays.pop("device")])
    np.savez(tmp_path / "numbers.npz", **arrays, attribute=numbers)
    return load_task(path), load_task(tmp_path / "numbers.npz")


def a_network():
    torch.manual_seed(0)
    return latent_net()


def test_numbers_that_tell_devices_apart_train_the_same_network(tasks):
    by_device, by_number = (
        train(a_network(), task, settings(balance=0.5, **extra), seed=2)
        for task, extra in zip(tasks, ({}, {"threshold": 2.9}), strict=True)
    )
    assert same_weights(by_device.model, by_number.model)
    assert by_device.history[-1]["push"] == by_number.history[-1]["push"]
    # At a threshold of their distance all are neighbours, and nothing is pulled.
    assert train(a_network(), tasks[1], settings(threshold=3.0), seed=2).history[-1]["pull"] == 0


def test_the_strata_of_numbers_are_as_wide_as_the_threshold():
    split = Split(tuple("abcde"), np.zeros(5, int), attributes=np.array([0.1, 0.9, 1.1, np.nan, np.inf]))
    values, strata = values_of(Contrastive(threshold=1.0), split)
    assert strata.tolist() == [0, 0, 1, np.inf, np.inf]
    assert values[:3].tolist() == [0.1, 0.9, 1.1]
    assert values[3:].isnan().all()
    assert values_of(Contrastive(threshold=0.0), split)[1].tolist() == [0.1, 0.9, 1.1, np.inf, np.inf]
    assert len(stratified_order(strata, balance=1.0)) == 5
    assert values_of(Contrastive(), split) == (None, None)


def test_the_weight_rises_over_its_share_of_the_steps():
    section = Contrastive(weight=2.0, rise=0.5, distance="rms")
    term = ContrastiveTerm(section, a_network(), torch.tensor([0, 0, 1]), torch.zeros(1, 1, 12, 8), 0)
    alone = inverse_contrastive(LATENTS, torch.tensor([0, 0, 1]), term.config).loss
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        total = term.add(torch.tensor(3.0), LATENTS, torch.arange(3), progress)
        assert float(total) == pytest.approx(3 + share * 2 * float(alone))
    assert term.figures()["distance_same"] == pytest.approx(3 / 2**0.5)
    term.start_epoch()
    assert term.figures() == {}


def test_the_projection_head_is_trained_and_not_kept(tasks, tmp_path, monkeypatch):
    wanted = settings(projection=5, rise=0.3)
    whole = train(a_network(), tasks[0], wanted, seed=2, run=tmp_path / "whole")
    assert set(whole.model.state_dict()) == set(a_network().state_dict())
    state = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)["state_dict"]
    heads = {name: value for name, value in state.items() if "projection" in name}
    assert [tuple(value.shape) for value in heads.values()] == [(5, 12), (5,), (5, 5), (5,)]
    sample = torch.zeros(1, 1, 12, 8)
    first = ContrastiveTerm(wanted.contrastive, a_network(), torch.zeros(1), sample, 2).projection.state_dict()
    assert all(not torch.equal(now, then) for now, then in zip(heads.values(), first.values(), strict=True))
    with monkeypatch.context() as patched:
        killed_after(patched, 1)
        with pytest.raises(Killed):
            train(a_network(), tasks[0], wanted, seed=2, run=tmp_path / "killed")
    assert same_weights(whole.model, train(a_network(), tasks[0], wanted, seed=2, run=tmp_path / "killed").model)


def test_what_is_missing_is_named(tasks):
    with pytest.raises(UsageError, match=r"threshold needs a number for every clip, the array attribute"):
        train(a_network(), tasks[0], settings(threshold=1.0))
    with pytest.raises(UsageError, match=r"train\.contrastive needs the recording device of every clip"):
        train(a_network(), tasks[1], settings())
    with pytest.raises(UsageError, match="SmallNet has no method forward_with_latent"):
        train(small_net(), tasks[0], settings())
    with pytest.raises(ValueError, match='threshold goes with mode = "plain"'):
        Contrastive(threshold=1.0, mode="balanced")
    with pytest.raises(
        UsageError, match=r"attributes must be 2 numbers, one for each label, not int64 of shape \(3,\)"
    ):
        Split(("a", "b"), np.zeros(2, int), attributes=np.arange(3))


def test_what_says_nothing_new_is_not_written():
    assert set(Contrastive().model_dump()) == {"alpha", "weight", "beta", "mode", "distance", "balance"}
    assert settings(threshold=1.5).model_dump()["contrastive"]["threshold"] == 1.5
