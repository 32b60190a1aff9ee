"""The moving average of weights: what a training keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.recipes.recipe import TrainSettings
from edgepress.compress.training.train import train
from tests.compress.train_cases import small_net, small_task


class Recorder:
    """A shaping that does nothing to the weights and notes them behind every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def start(self, model: nn.Module, steps: int) -> None:
        self._model = model

    def penalty(self) -> None:
        return None

    def after_step(self) -> None:
        self.steps.append({name: value.clone() for name, value in self._model.state_dict().items()})

    def figures(self) -> dict[str, float]:
        return {}

    def finished(self) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_a_training_keeps_the_average_and_does_not_train_on_it(tmp_path):
    """Weights and batch statistics: the first step is copied, then a_t = d a_(t-1) + (1 - d) w_t with a rising d."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, task = small_net(), small_task(tmp_path)
    settings = TrainSettings(epochs=2, batch_size=16, precision="32-true", select="last")
    plain, seen = train(network, task, settings), Recorder()
    averaged = train(network, task, settings.model_copy(update={"average": 0.6}), penalty=seen)
    assert [r["train_loss"] for r in averaged.history] == [r["train_loss"] for r in plain.history]
    assert averaged.history[-1]["validation_loss"] != pytest.approx(plain.history[-1]["validation_loss"])
    for name, kept in averaged.model.state_dict().items():
        if kept.is_floating_point():
            expected = seen.steps[0][name]
            for steps, step in enumerate(seen.steps[1:], 1):
                decay = min(0.6, (1 + steps) / (10 + steps))
                expected = decay * expected + (1 - decay) * step[name]
            torch.testing.assert_close(kept, expected)
            torch.testing.assert_close(plain.model.state_dict()[name], seen.steps[-1][name])
