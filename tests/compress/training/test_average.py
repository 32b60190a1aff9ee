"""The moving average of weights: hand-worked numbers, and what a training keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgepress.compress.recipes.recipe import TrainSettings
from edgepress.compress.training.average import WeightAverage
from edgepress.compress.training.train import train
from tests.compress.train_cases import small_net, small_task


def test_two_steps_by_hand_and_the_trained_weights_come_back():
    network = nn.BatchNorm1d(1)
    average = WeightAverage(network, 0.75)
    for weight, mean in ((1.0, 4.0), (2.0, 8.0), (4.0, 0.0)):
        network.weight.data.fill_(weight)
        network.running_mean.fill_(mean)  # type: ignore[union-attr]
        average.update()
    average.swap_in()
    # The first call copies: 1, 0.75 * 1 + 0.25 * 2 = 1.25, 0.75 * 1.25 + 0.25 * 4 = 1.9375; statistics: 4, 5, 3.75.
    assert network.weight.item() == 1.9375
    assert network.running_mean.item() == 3.75  # type: ignore[union-attr]
    average.swap_out()
    assert (network.weight.item(), network.running_mean.item()) == (4.0, 0.0)  # type: ignore[union-attr]


def test_a_training_keeps_the_average_and_does_not_train_on_it(tmp_path):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, task = small_net(), small_task(tmp_path)
    settings = TrainSettings(epochs=2, batch_size=16, precision="32-true", select="last")
    plain = train(network, task, settings)
    averaged = train(network, task, settings.model_copy(update={"average": 0.9}))
    assert [r["train_loss"] for r in averaged.history] == [r["train_loss"] for r in plain.history]
    moved, final = (
        sum(
            float((p - q).detach().abs().sum())
            for p, q in zip(result.model.parameters(), network.parameters(), strict=True)
        )
        for result in (averaged, plain)
    )
    assert 0 < moved < final  # the average lags behind
    assert averaged.history[-1]["validation_loss"] != pytest.approx(plain.history[-1]["validation_loss"])
