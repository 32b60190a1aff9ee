"""Single channels that are taken out by their number, each to weigh a whole value: none of them can go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgepress.compress.prune.model import prune_model

LEVELS = 3
X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WAYS: dict[str, Callable[[torch.Tensor], list[torch.Tensor]]] = {
    "slices": lambda gates: [gates[:, level : level + 1] for level in range(LEVELS)],
    "last slice without an end": lambda gates: [gates[:, :1], gates[:, 1:2], gates[:, 2:]],
    "split": lambda gates: list(gates.split(1, 1)),
    "chunk": lambda gates: list(gates.chunk(LEVELS, 1)),
    "narrow": lambda gates: [gates.narrow(1, level, 1) for level in range(LEVELS)],
    "unbind": lambda gates: [gate.unsqueeze(1) for gate in gates.unbind(1)],
}


class FocalModulation(nn.Module):
    """One convolution makes the query, the context and a gate for each level of it (Yang et al. 2022, FocalNet)."""

    def __init__(self, take: Callable[[torch.Tensor], list[torch.Tensor]], width: int = 16):
        super().__init__()
        self.take, self.width = take, width
        self.stem, self.f = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width + LEVELS, 1)
        self.levels = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1, groups=width) for _ in range(LEVELS))
        self.h, self.head = nn.Conv2d(width, width, 1), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, context, gates = self.f(self.stem(x)).split([self.width, self.width, LEVELS], 1)
        total = torch.zeros_like(context)
        for level, gate in zip(self.levels, self.take(gates), strict=True):
            context = torch.relu(level(context))
            total = total + context * gate
        return self.head((query * self.h(total)).mean((2, 3)))


@pytest.mark.parametrize("way", WAYS)
def test_gates_stay_and_everything_else_shrinks(way: str) -> None:
    torch.manual_seed(0)
    pruned = prune_model(FocalModulation(WAYS[way]).eval(), X, macs="10%")
    assert pruned.proof.max_abs_diff <= 1e-5
    assert 0.09 < pruned.after.macs / pruned.before.macs <= 0.1
    widths = {name: tuple(value.shape) for name, value in pruned.model.state_dict().items()}
    kept = widths["h.weight"][0]
    assert widths["f.weight"][0] == kept + widths["h.weight"][1] + LEVELS
    assert kept < 16
    assert [cause.reason for cause in pruned.frozen] == ["picks this one channel by its number"]
