# SPDX-License-Identifier: Apache-2.0
"""CP-ResNet, the receptive-field regularised network of DCASE 2022's winner (Koutini et al. 2019; Schmid et al. 2022).

Parameter names and shapes are those of CPJKU/cpjku_dcase22. One thing differs, on purpose: the initialisation.
`init="published"` starts the second convolution of each block and the head at exactly zero, so that in a fresh network
every importance, every logit and every proof of removal says nothing. What its zeros do for training is to keep these
weights small, which BatchNorm turns into large steps (its output ignores their scale, their gradient grows as they
shrink). The default `init="small"` draws them by He and divides them by 100: short trainings end about where those from
the published start do, and ahead of He as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgepress.models.errors import UsageError
from edgepress.models.zoo.arguments import MAX_CLASSES, choice, number, whole_number, whole_numbers

INITS = ("small", "published")
#: Of the second convolutions and the head under `init="small"`.
_SMALL = 0.01


class Block(nn.Module):
    """conv(k1)-BN-ReLU-conv(k2)-BN plus shortcut, then ReLU; input [B, in, F, T], output [B, out, F, T]."""

    def __init__(self, in_channels: int, out_channels: int, k1: int, k2: int, groups: int):
        super().__init__()
        # k // 3 pads kernels of 1 and 3 to the same size.
        self.conv1 = nn.Conv2d(in_channels, out_channels, k1, padding=k1 // 3, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, k2, padding=k2 // 3, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            self.shortcut.add_module("conv", nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(out_channels))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class CPResNet(nn.Module):
    """Log-mel [B, in_channels, F, T] -> logits [B, n_classes]; built by `cp_resnet`."""

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        widths: Sequence[int],
        n_blocks: Sequence[int],
        kernels: Sequence[Sequence[tuple[int, int]]],
        groups: Sequence[int],
    ):
        super().__init__()
        self.in_c = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 5, stride=2, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        before = (widths[0], widths[0], widths[1])
        self.stage1, self.stage2, self.stage3 = (
            _stage(before[i], widths[i], n_blocks[i], kernels[i], groups[i], pooled=i == 0) for i in range(3)
        )
        last = widths[2] if n_blocks[2] else widths[1]
        self.feed_forward = nn.Sequential(
            nn.Conv2d(last, n_classes, 1, bias=False), nn.BatchNorm2d(n_classes), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(self._body(x)).flatten(1)

    def forward_features(self, x: Tensor) -> Tensor:
        """The latent before the head, averaged over frequency and time: [B, channels of stage 3]."""
        return self._body(x).mean((2, 3))

    def forward_with_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, n_classes] and latent [B, channels of stage 3] of one pass."""
        body = self._body(x)
        return self.feed_forward(body).flatten(1), body.mean((2, 3))

    def _body(self, x: Tensor) -> Tensor:
        return self.stage3(self.stage2(self.stage1(self.in_c(x))))


def cp_resnet(
    rho: int = 8,
    in_channels: int = 1,
    n_classes: int = 10,
    base_channels: int = 32,
    cut_channels_s2: int = 0,
    cut_channels_s3: int = 0,
    channels_multiplier: float = 2,
    n_blocks: Sequence[int] = (2, 2, 2),
    s1_group: int = 1,
    s2_group: int = 1,
    s3_group: int = 1,
    init: str = "small",
) -> CPResNet:
    """Build a CP-ResNet.

    Args:
        rho: receptive field; larger sees more, 4 is 91 x 39 input bins, 8 is 219 x 71 with two blocks everywhere.
        in_channels: channels of the input, 1 for mono audio.
        n_classes: number of logits.
        base_channels: width of the stem and of stage 1.
        cut_channels_s2: channels taken off stage 2's base_channels * channels_multiplier.
        cut_channels_s3: channels taken off stage 3's base_channels * channels_multiplier^2.
        channels_multiplier: growth of the width from stage to stage.
        n_blocks: blocks in each of the three stages, 1 or 2; the last may be 0, which drops stage 3.
        s1_group, s2_group, s3_group: groups of every convolution of the stage; must divide its channels.
        init: "small" (He, with small last layers), or "published" (Fixup-like with zeros); see the module's docstring.

    Raises:
        UsageError: an argument is out of its range, or groups do not divide the channels.
    """
    whole_number("rho", rho, 0, 64)
    widths = _widths(base_channels, channels_multiplier, cut_channels_s2, cut_channels_s3)
    blocks = whole_numbers("n_blocks", n_blocks, 3, 0, 2)
    for stage in (0, 1):
        whole_number(f"n_blocks[{stage}]", blocks[stage], 1, 2)
    groups = [whole_number(f"s{i}_group", g) for i, g in enumerate((s1_group, s2_group, s3_group), 1)]
    for i, group in enumerate(groups):
        if widths[i] % group or widths[max(i - 1, 0)] % group:
            raise UsageError(
                f"s{i + 1}_group = {group} must divide the channels of stages {max(i, 1)} and {i + 1} "
                f"({widths[max(i - 1, 0)]} and {widths[i]})"
            )
    model = CPResNet(
        whole_number("in_channels", in_channels),
        whole_number("n_classes", n_classes, 1, MAX_CLASSES),
        widths,
        blocks,
        _kernels(rho),
        groups,
    )
    _initialise(model, choice("init", init, INITS))
    return model


def _widths(base_channels: int, channels_multiplier: float, cut_s2: int, cut_s3: int) -> tuple[int, int, int]:
    base = whole_number("base_channels", base_channels)
    growth = number("channels_multiplier", channels_multiplier, 0.125, 8)
    widths = (
        base,
        int(base * growth) - whole_number("cut_channels_s2", cut_s2, 0),
        int(base * growth * growth) - whole_number("cut_channels_s3", cut_s3, 0),
    )
    for stage, width in enumerate(widths[1:], 2):
        if width < 1:
            raise UsageError(
                f"stage {stage} would have {width} channels: lower cut_channels_s{stage} or raise base_channels"
            )
    return widths


def _kernels(rho: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Kernel sizes (k1, k2) of both blocks of each stage: every step of rho above 4 turns one more 1 x 1 into 3 x 3."""

    def wide(condition: bool) -> int:
        return 3 if condition else 1

    extra = rho - 4
    return (
        ((3, 1), (wide(extra >= -2), wide(extra >= -1))),
        ((wide(extra >= 0), wide(extra > 0)), (wide(extra > 1), wide(extra > 2))),
        ((wide(extra > 3), wide(extra > 4)), (wide(extra > 5), wide(extra > 6))),
    )


def _stage(
    in_channels: int, out_channels: int, n_blocks: int, kernels: Sequence[tuple[int, int]], groups: int, pooled: bool
) -> nn.Sequential:
    stage = nn.Sequential()
    if pooled:
        stage.add_module("maxpool0", nn.MaxPool2d(2, 2))
    for index in range(n_blocks):
        stage.add_module(f"block{index + 1}", Block(in_channels, out_channels, *kernels[index], groups))
        in_channels = out_channels
        if pooled:
            # Only frequency: after the stem and the first pooling, time has no resolution to give away.
            stage.add_module(f"maxpool{index + 1}", nn.MaxPool2d((2, 1), (2, 1)))
    return stage


def _initialise(model: CPResNet, init: str) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    head, head_norm = model.feed_forward[0], model.feed_forward[1]
    with torch.no_grad():
        for conv, norm in [(head, head_norm), *((block.conv2, block.bn2) for block in blocks)]:
            conv.weight.mul_(_SMALL if init == "small" else 0)  # type: ignore[operator, union-attr]
            if init == "small":
                # Evaluation of a fresh network then gives outputs that do not vanish, as training does from the start.
                norm.running_var.fill_(_SMALL**2)  # type: ignore[operator, union-attr]
        if init == "small":
            return
        for block in blocks:
            conv1, shortcut = block.conv1, block.shortcut
            # The published code counts blocks in a global that grows with every network; here it is this network's.
            nn.init.normal_(
                conv1.weight, 0, math.sqrt(2 / (conv1.kernel_size[0] ** 2 * conv1.out_channels)) * len(blocks) ** -0.5
            )
            if len(shortcut):
                nn.init.normal_(shortcut.conv.weight, 0, math.sqrt(2 / shortcut.conv.out_channels))  # type: ignore[union-attr]
