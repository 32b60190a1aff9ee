# SPDX-License-Identifier: Apache-2.0
"""The networks of the pruning benchmarks: those of the zoo, and larger ones in the shape of published ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from edgepress.models.checkpoints.registry import build, zoo


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a projection where widths or strides differ (He et al., CVPR 2016)."""

    def __init__(self, cin: int, width: int, stride: int):
        super().__init__()
        cout = 4 * width
        self.body: nn.Module = nn.Sequential(
            nn.Conv2d(cin, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
        )
        self.shortcut: nn.Module = (
            nn.Sequential()
            if cin == cout and stride == 1
            else nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet50_like(blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    cin = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            layers.append(Bottleneck(cin, width * 2**stage, 2 if stage and not block else 1))
            cin = 4 * width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, classes))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (Sandler et al., CVPR 2018)."""

    def __init__(self, cin: int, cout: int, stride: int, expand: int):
        super().__init__()
        hidden = cin * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(cin, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
        ]
        self.conv: nn.Module = nn.Sequential(*layers)
        self.add: bool = cin == cout and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.add else self.conv(x)


def mobilenet_v2_like(classes: int = 1000) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    cin = 32
    for expand, cout, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(count):
            layers.append(InvertedResidual(cin, cout, stride if not block else 1, expand))
            cin = cout
    return nn.Sequential(
        *layers,
        nn.Conv2d(cin, 1280, 1, bias=False),
        nn.BatchNorm2d(1280),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1280, classes),
    )


def benchmark_networks() -> dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]:
    """Name -> a function that gives the network, with random weights of trained sizes, and an input with batch 1."""

    def from_zoo(name: str) -> tuple[nn.Module, torch.Tensor]:
        (shape,) = zoo()[name].input_shapes
        return randomised(build(name)), torch.randn(1, *shape)

    def image(make: Callable[[], nn.Module]) -> tuple[nn.Module, torch.Tensor]:
        return randomised(make()), torch.randn(1, 3, 224, 224)

    small = ("ds_cnn", "resnet8", "mobilenet", "cp_resnet", "cp_mobile")
    return {
        **{name: partial(from_zoo, name) for name in small},
        "resnet50-like": partial(image, resnet50_like),
        "mobilenetv2-like": partial(image, mobilenet_v2_like),
    }


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def deep_residual(layers: int, width: int = 16) -> nn.Module:
    """About `layers` convolutions; a new stream every ten blocks."""
    modules: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for block in range(layers // 2):
        if block % 10 == 9:
            modules.append(nn.Conv2d(width, width, 1))
        modules.append(_Residual(width))
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of trained sizes, so that importance differs between channels."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * (2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.copy_(1 + 0.2 * noise)
    return model.eval()
