"""Channels that operators shuffle, sample, cut to a triangle or compare: they go, and the operators follow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgepress.compress.prune.model import prune_model

X = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def sampled(y: torch.Tensor) -> torch.Tensor:
    turned = F.affine_grid(0.9 * torch.eye(2, 3)[None].expand(len(y), 2, 3), list(y.shape), align_corners=False)
    return F.grid_sample(y, turned, align_corners=False)


CASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "two groups": lambda y: F.channel_shuffle(y, 2),
    "more groups than channels in one": lambda y: F.channel_shuffle(y, 4),
    "groups of one": lambda y: F.channel_shuffle(y, 8),
    "module": nn.ChannelShuffle(4),
    "native": lambda y: torch.native_channel_shuffle(y, 2),
    "grid_sample": sampled,
    "triangle": torch.tril,
    "cosine": lambda y: y * F.cosine_similarity(y, y.flip(3), 1).unsqueeze(1),
}


class Between(nn.Module):
    """An operator between two convolutions."""

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.run = run
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.second(self.run(self.first(x))))
        return self.head(torch.relu(self.third(y)).mean((2, 3)))


@pytest.mark.parametrize("name", CASES)
def test_channels_go_and_operators_follow(name: str) -> None:
    torch.manual_seed(0)
    pruned = prune_model(Between(CASES[name]).eval(), X, macs="20%")
    assert pruned.frozen == ()
    assert 0.18 < pruned.after.macs / pruned.before.macs <= 0.2
    assert pruned.proof.max_abs_diff <= 1e-5
    assert pruned.model.first.weight.shape[0] < 8  # type: ignore[union-attr]


def test_what_a_shuffle_keeps_apart_by_hand() -> None:
    """Four groups of two: a group goes whole, and `groups` of the module with it."""
    torch.manual_seed(0)
    model = Between(nn.ChannelShuffle(4)).eval()
    pruned = prune_model(model, X, macs="50%")
    left = pruned.model.first.weight.shape[0]  # type: ignore[union-attr]
    assert pruned.model.run.groups == left // 2  # type: ignore[union-attr]
    rows = {tuple(row.flatten().tolist()) for row in pruned.model.first.weight}  # type: ignore[union-attr]
    dense = [tuple(row.flatten().tolist()) for row in model.first.weight]
    for pair in range(4):
        assert (dense[2 * pair] in rows) == (dense[2 * pair + 1] in rows)


class Attends(nn.Module):
    """Heads of 6 channels, 4 of them: more of either, as there are one or two samples. The LSTM asks for a rebuilt
    network, which is traced with two.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.first, self.lstm = nn.Linear(5, width), nn.LSTM(width, width, batch_first=True)
        self.attention, self.head = nn.MultiheadAttention(width, heads, batch_first=True), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(self.first(x))
        z, _ = self.attention(y, y, y)
        return self.head((y + z).mean(1))


@pytest.mark.parametrize(("width", "heads"), [(24, 4), (12, 4), (32, 8)])
def test_heads_are_told_from_samples(width: int, heads: int) -> None:
    torch.manual_seed(0)
    pruned = prune_model(Attends(width, heads).eval(), torch.randn(1, 7, 5), macs="50%")
    assert 0.48 < pruned.after.macs / pruned.before.macs <= 0.5
    assert pruned.proof.max_abs_diff <= 1e-5
    assert pruned.frozen == ()
