# SPDX-License-Identifier: Apache-2.0
"""CP-Mobile, the network of the DCASE 2023 winner (Schmid et al. 2023); parameter names and shapes of cpjku_dcase23."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgepress.models.errors import UsageError
from edgepress.models.zoo.arguments import MAX_CHANNELS, MAX_CLASSES, number, whole_number, whole_numbers
from edgepress.models.zoo.branches import BranchedDepthwise

#: Block -> stride (frequency, time) where it is not (1, 1).
STRIDES = {"b2": (2, 2), "b4": (2, 1)}


class GRN(nn.Module):
    """Global response normalisation with one gamma and beta per block (after ConvNeXt V2, arXiv 2301.00808).

    [B, C, F, T] -> the same; y = gamma * x * n + beta + x, n = channel norm / (mean channel norm + 1e-6).
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        share = norm / (norm.mean(dim=1, keepdim=True) + 1e-6)
        return self.gamma * (x * share) + self.beta + x


class Block(nn.Module):
    """1x1 expand, 3x3 depthwise, 1x1 project, each with BN, plus shortcut where the width stays; then GRN and ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expanded: int,
        stride: tuple[int, int],
        grn: bool = True,
        branches: bool = False,
    ):
        super().__init__()
        self.after_block_norm = GRN() if grn else nn.Identity()
        self.after_block_activation = nn.ReLU()
        self.use_shortcut = in_channels == out_channels
        if self.use_shortcut:
            self.shortcut = nn.Identity() if stride == (1, 1) else nn.AvgPool2d(3, stride, padding=1)
        self.block = nn.Sequential(
            conv_bn(in_channels, expanded, 1, relu=True),
            nn.Sequential(BranchedDepthwise(expanded, stride), nn.ReLU())
            if branches
            else conv_bn(expanded, expanded, 3, stride, groups=expanded, relu=True),
            conv_bn(expanded, out_channels, 1, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        if self.use_shortcut:
            y = y + self.shortcut(x)
        return self.after_block_activation(self.after_block_norm(y))


class CPMobile(nn.Module):
    """Log-mel [B, in_channels, F, T] -> logits [B, n_classes]; built by `cp_mobile`."""

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        widths: Sequence[int],
        expansion_rate: float,
        n_blocks: Sequence[int],
        strides: Mapping[str, tuple[int, int]],
        grn: bool = True,
        branches: bool = False,
    ):
        super().__init__()
        stem = widths[0] // 4
        self.in_c = nn.Sequential(
            conv_bn(in_channels, stem, 3, (2, 2), relu=True), conv_bn(stem, widths[0], 3, (2, 2), relu=True)
        )
        self.stages = nn.Sequential()
        index, width = 0, widths[0]
        for stage_index, (stage_width, count) in enumerate(zip(widths[1:], n_blocks, strict=True), 1):
            stage = nn.Sequential()
            for _ in range(count):
                index += 1
                expanded = make_divisible(width * expansion_rate)
                stride = strides.get(f"b{index}", (1, 1))
                stage.add_module(f"b{index}", Block(width, stage_width, expanded, stride, grn, branches))
                width = stage_width
            self.stages.add_module(f"s{stage_index}", stage)
        self.feed_forward = nn.Sequential(
            nn.Conv2d(width, n_classes, 1, bias=False), nn.BatchNorm2d(n_classes), nn.AdaptiveAvgPool2d((1, 1))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(self.stages(self.in_c(x))).flatten(1)

    def forward_features(self, x: Tensor) -> Tensor:
        """The latent before the head, averaged over frequency and time: [B, channels of the last stage]."""
        return self.stages(self.in_c(x)).mean((2, 3))

    def forward_with_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, n_classes] and latent [B, channels of the last stage] of one pass."""
        body = self.stages(self.in_c(x))
        return self.feed_forward(body).flatten(1), body.mean((2, 3))


def cp_mobile(
    n_classes: int = 10,
    in_channels: int = 1,
    base_channels: int = 32,
    channels_multiplier: float = 2.3,
    expansion_rate: float = 3.0,
    n_blocks: Sequence[int] = (3, 2, 1),
    strides: Mapping[str, Sequence[int]] | None = None,
    grn: bool = True,
    branches: bool = False,
) -> CPMobile:
    """Build a CP-Mobile.

    Args:
        n_classes: number of logits.
        in_channels: channels of the input, 1 for mono audio.
        base_channels: width of the first stage; widths are rounded to multiples of 8.
        channels_multiplier: growth of the width from stage to stage.
        expansion_rate: width inside a block over the width of its input.
        n_blocks: blocks in each stage.
        strides: block name ("b1", counted through all stages) -> (frequency, time); None is b2 (2, 2), b4 (2, 1).
        grn: global response normalisation after each block; the baselines of DCASE 2024 and 2025 (32 base channels,
            multiplier 1.8, expansion 2.1) have none.
        branches: every depthwise convolution trains as several of other shapes, and is deployed as the one that they
            add up to, after Rep-Mobile of the winner of DCASE 2024 (Han et al., arXiv 2410.20775).

    Raises:
        UsageError: an argument is out of its range, or `strides` names a block that does not exist.
    """
    base = make_divisible(whole_number("base_channels", base_channels))
    growth = number("channels_multiplier", channels_multiplier, 0.125, 8)
    blocks = whole_numbers("n_blocks", n_blocks, (1, 8), 1, 32)
    widths = [base] + [make_divisible(base * growth**stage) for stage in range(len(blocks))]
    whole_number("the width of the last stage", widths[-1], 8, MAX_CHANNELS)
    return CPMobile(
        whole_number("in_channels", in_channels),
        whole_number("n_classes", n_classes, 1, MAX_CLASSES),
        widths,
        number("expansion_rate", expansion_rate, 0.125, 16),
        blocks,
        _checked_strides(STRIDES if strides is None else strides, sum(blocks), default=strides is None),
        bool(grn),
        bool(branches),
    )


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least `divisor`, and never more than 10 % below `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution (no bias) with centred padding, BatchNorm, and perhaps ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *([nn.ReLU()] if relu else []))


def _checked_strides(strides: Any, n_blocks: int, default: bool) -> dict[str, tuple[int, int]]:
    known = [f"b{i + 1}" for i in range(n_blocks)]
    if not isinstance(strides, Mapping):
        raise UsageError(f"strides = {strides!r} must map block names ({known[0]} to {known[-1]}) to two numbers")
    checked = {}
    for name, stride in strides.items():
        if name not in known and not default:
            raise UsageError(f"strides names the unknown block {name!r}: known are {', '.join(known)}")
        first, second = whole_numbers(f"strides[{name!r}]", stride, 2, 1, 4)
        checked[name] = (first, second)
    return checked
