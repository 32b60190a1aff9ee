"""A moving average of the weights of a training, which is what is validated and kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """The exponential moving average of a network's parameters and buffers over the optimizer steps.

    Freq-MixStyle changes the statistics of whole batches, so that the running statistics of batch normalisation, and
    with them the accuracy, jump from epoch to epoch; their average does not. Batch statistics are averaged like
    weights. After Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim.
    1992.

    Args:
        network: trained in place by others; its device counts.
        decay: share of the average that is kept at each step; 1 / (1 - decay) steps are remembered.
    """

    def __init__(self, network: nn.Module, decay: float):
        self._network = network
        self._average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self._trained: dict[str, torch.Tensor] | None = None

    def update(self) -> None:
        """Take the weights of the present step in; the first call copies them."""
        self._average.update_parameters(self._network)

    def swap_in(self) -> None:
        """Put the average into the network, until `swap_out`."""
        self._trained = {name: value.clone() for name, value in self._network.state_dict().items()}
        self._network.load_state_dict(self._average.module.state_dict())

    def swap_out(self) -> None:
        """Put the trained weights back."""
        if self._trained is not None:
            self._network.load_state_dict(self._trained)
            self._trained = None

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state)
