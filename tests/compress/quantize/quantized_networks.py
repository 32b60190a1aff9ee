"""Small networks for the tests of integers and of exports: one with everything, and random ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn


class Residual(nn.Module):
    """Batch norm first, stride, max pool, depthwise, residual sum, concatenation, mean, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(self.norm(x)))
        y = torch.relu(self.bn(self.depthwise(x)) + x)
        return self.head(nn.functional.dropout(torch.cat([y, x], dim=1).mean((2, 3)), 0.5, self.training))


def trained_like(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with statistics and affine parameters as after training; evaluation mode."""
    torch.manual_seed(seed)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


class _Random(nn.Module):
    """Layers by name, from a recipe."""

    def __init__(self, recipe: list[tuple[Any, ...]]):
        super().__init__()
        self.recipe = recipe[1:-1]
        channels = recipe[0][1]
        self.stem = nn.Sequential(
            nn.Conv2d(recipe[0][0], channels, 3, recipe[0][2], 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.layers = nn.ModuleList()
        for kind, *numbers in self.recipe:
            if kind == "conv":
                out, kernel, bias = numbers
                self.layers.append(
                    nn.Sequential(
                        nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=bias),
                        *([] if bias else [nn.BatchNorm2d(out)]),
                        nn.ReLU6(),
                    )
                )
                channels = out
            elif kind == "depthwise":
                depthwise = nn.Conv2d(channels, channels, 3, numbers[0], 1, groups=channels, bias=False)
                self.layers.append(nn.Sequential(depthwise, nn.BatchNorm2d(channels), nn.ReLU()))
            elif kind == "grouped":
                self.layers.append(nn.Conv2d(channels, 2 * channels, 1, groups=channels))
                channels = 2 * channels
            elif kind == "residual":
                self.layers.append(
                    nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
                )
            elif kind == "concat":
                self.layers.append(nn.Conv2d(channels, numbers[0], 1))
                channels += numbers[0]
            elif kind == "maximum":
                self.layers.append(nn.MaxPool2d(2, 2, padding=numbers[0]))
            else:
                self.layers.append(nn.AvgPool2d(2))
        self.last = recipe[-1]
        self.head = nn.Conv2d(channels, 5, 1) if self.last[0] == "conv" else nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for (kind, *_), layer in zip(self.recipe, self.layers, strict=True):
            if kind == "residual":
                x = torch.relu(layer(x) + x)
            elif kind == "concat":
                x = torch.cat([x, layer(x)], 1)
            else:
                x = layer(x)
        if self.last[0] == "conv":
            return nn.functional.adaptive_avg_pool2d(self.head(x), 1).flatten(1)
        y = self.head(x.mean((2, 3)))
        return torch.softmax(y, 1) if self.last[1] else y


def random_networks() -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Recipes of 1 to 5 layers between a stem and a head; channel counts odd and even."""
    channels = st.sampled_from([3, 4, 5, 8])
    layer = st.one_of(
        st.tuples(st.just("conv"), channels, st.sampled_from([1, 3]), st.booleans()),
        st.tuples(st.just("depthwise"), st.sampled_from([1, 2])),
        st.tuples(st.just("residual")),
        st.tuples(st.just("grouped")),
        st.tuples(st.just("concat"), channels),
        st.tuples(st.just("maximum"), st.sampled_from([0, 1])),
        st.tuples(st.just("average")),
    )
    stem = st.tuples(st.sampled_from([1, 2]), channels, st.sampled_from([1, 2]))
    head = st.tuples(st.sampled_from(["conv", "linear"]), st.booleans())
    return st.tuples(stem, st.lists(layer, min_size=1, max_size=5), head).map(lambda t: [t[0], *t[1], t[2]])


def random_network(recipe: list[tuple[Any, ...]]) -> tuple[nn.Module, torch.Tensor]:
    """The network of a recipe, and 24 inputs; too much pooling for the input's size is left out."""
    kept, shrunk = [], 1
    for entry in recipe:
        halves = entry[0] in ("maximum", "average") or (entry[0] == "depthwise" and entry[1] == 2)
        if halves and shrunk >= 4:
            continue
        shrunk *= 2 if halves else 1
        kept.append(entry)
    net = trained_like(lambda: _Random(kept), seed=len(str(recipe)))
    return net, torch.randn(24, recipe[0][0], 32, 20, generator=torch.Generator().manual_seed(3))
