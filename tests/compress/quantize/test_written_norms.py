"""Norms that a forward writes out: found whatever their form, 16 bits inside, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.fold import fold

aten = torch.ops.aten
X = torch.randn(16, 3, 6, 10, generator=torch.Generator().manual_seed(1))
Function = Callable[[torch.Tensor], torch.Tensor]


class Between(nn.Module):
    """A function between two convolutions, with a factor and an offset for each channel behind it."""

    def __init__(self, function: Function):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.scale, self.offset = nn.Parameter(torch.rand(8, 1, 1) + 0.5), nn.Parameter(torch.randn(8, 1, 1))
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.scale * self.function(self.first(x)) + self.offset)


def channels_first(y: torch.Tensor) -> torch.Tensor:
    mean = y.mean(1, keepdim=True)
    variance = (y - mean).pow(2).mean(1, keepdim=True)
    return (y - mean) / torch.sqrt(variance + 1e-6)


def written_three_times(y: torch.Tensor) -> torch.Tensor:
    power = ((y - y.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True)
    return (y - y.mean(1, keepdim=True)) / (power + 1e-6) ** 0.5


def root_mean_square(y: torch.Tensor) -> torch.Tensor:
    return y * torch.rsqrt((y * y).mean(1, keepdim=True) + 1e-6)


def of_variance(y: torch.Tensor) -> torch.Tensor:
    return (y - y.mean(1, keepdim=True)) / torch.sqrt(y.var(1, keepdim=True, unbiased=False).clamp(min=1e-5))


def over_all(y: torch.Tensor) -> torch.Tensor:
    """Global layer norm of speech separation (Luo and Mesgarani 2019, arXiv 1809.07454, equation 8)."""
    mean, variance = y.mean((1, 2, 3), keepdim=True), y.var((1, 2, 3), keepdim=True, unbiased=False)
    return (y - mean) / (variance + 1e-5) ** 0.5


@pytest.mark.parametrize("norm", [channels_first, written_three_times, root_mean_square, of_variance, over_all])
@torch.no_grad()
def test_a_written_norm_is_as_near_to_float_as_a_layer_norm(norm: Function) -> None:
    net = Between(norm).eval()
    graph = fold(net, X[:1]).module.graph
    kinds = [node.target for node in graph.nodes]
    assert kinds.count(aten.rsqrt.default) == 1
    assert not {aten.div.Tensor, aten.sqrt.default, aten.reciprocal.default, aten.pow.Tensor_Scalar} & set(kinds)
    assert kinds.count(aten.sub.Tensor) <= (2 if norm in (of_variance, over_all) else 1), "a variance has its own"
    quantized = quantize_model(net, X[:1], [X])
    wanted = net(X)
    error = (quantized.model(X) - wanted).square().mean() / wanted.square().mean()
    assert float(10 * torch.log10(error)) < -35, "with 8 bits inside: -33"
    assert {point.scheme for point in quantized.points.points} == {"w8a8", "a16w8"}


def by_its_mean(y: torch.Tensor) -> torch.Tensor:
    return y / torch.sqrt(y.abs().mean(1, keepdim=True) + 0.1)


def of_another_value(y: torch.Tensor) -> torch.Tensor:
    return y / torch.sqrt((y.flip(3) ** 2).mean(1, keepdim=True) + 0.1)


def by_a_guard(y: torch.Tensor) -> torch.Tensor:
    return (y - y.mean(1, keepdim=True)) / (y.std(1, keepdim=True) + 0.1)


@pytest.mark.parametrize("other", [by_its_mean, of_another_value, by_a_guard])
@torch.no_grad()
def test_other_quotients_stay_as_they_are(other: Function) -> None:
    from edgepress.compress.quantize.operators.written_norms import rewrite_written_norms

    module = fold(Between(other).eval(), X[:1], for_integers=False).module
    before = [node.target for node in module.graph.nodes]
    assert rewrite_written_norms(module) == 0
    assert [node.target for node in module.graph.nodes] == before
