"""Convolutions with standardized weights (Qiao et al. 2019; Brock et al. 2021), as libraries write them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgepress.compress.prune.model import prune_model
from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.fold import fold
from edgepress.models.errors import UsageError


class ByBatchNorm(nn.Conv2d):
    """The statistics of every filter by a batch norm of a training, as timm has it."""

    def __init__(self, *arguments: int, **options: int):
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def standardized(self) -> torch.Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        made = F.batch_norm(rows, None, None, (0.7 * self.gain).view(-1), training=True, momentum=0.0, eps=1e-6)
        return made.reshape_as(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.standardized(), self.bias, self.stride, self.padding)


class ByVariance(ByBatchNorm):
    def standardized(self) -> torch.Tensor:
        var, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, correction=0)
        return (self.weight - mean) * torch.rsqrt(var + 1e-6) * 0.7 * self.gain


def network(kind: type[ByBatchNorm]) -> nn.Module:
    torch.manual_seed(0)
    layers = (kind(3, 16, 3, padding=1), nn.ReLU(), kind(16, 32, 3, padding=1, stride=2), nn.ReLU(), kind(32, 16, 1))
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [ByBatchNorm, ByVariance])
def test_the_statistics_are_of_what_is_left(kind: type[ByBatchNorm]) -> None:
    pruned = prune_model(network(kind), X[:1], macs="15%")
    assert pruned.frozen == ()
    assert 0.14 < pruned.after.macs / pruned.before.macs <= 0.15
    assert pruned.proof.max_abs_diff <= 1e-5
    assert pruned.model[2].weight.shape[1] == pruned.model[0].weight.shape[0] < 16  # type: ignore[index]
    assert pruned.model[2].gain.shape[0] == pruned.model[4].weight.shape[1] < 32  # type: ignore[index]


@pytest.mark.parametrize("kind", [ByBatchNorm, ByVariance])
def test_they_are_constants_in_inference(kind: type[ByBatchNorm]) -> None:
    net = network(kind)
    folded = fold(net, X[:1])
    assert torch.allclose(folded.module(X), net(X), atol=1e-5)
    kinds = {str(node.target) for node in folded.module.graph.nodes if node.op == "call_function"}
    assert not any("norm" in name or "getitem" in name for name in kinds), kinds
    assert torch.nn.functional.cosine_similarity(quantize_model(net, X[:1], [X]).model(X), net(X)).min() > 0.99


def test_statistics_of_the_batch_are_refused_by_their_module() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU()).eval()
    with pytest.raises(UsageError, match=r"in module '1' takes its mean and variance from the batch"):
        quantize_model(net, X[:1], [X])
