# SPDX-License-Identifier: Apache-2.0
"""ResNet-8 for small images, in the shape of the MLPerf Tiny reference.

No bias where a BatchNorm follows (it would cancel); the shortcut convolution has a bias and no BatchNorm, as there.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgepress.models.zoo.arguments import MAX_CLASSES, whole_number, whole_numbers
from edgepress.models.zoo.same_padding import output_size, same_conv


class Block(nn.Module):
    """Two 3x3 convolutions with BN around a shortcut; [B, in, H, W] -> [B, out, ceil(H / stride), ceil(W / stride)]."""

    def __init__(self, size: tuple[int, int], in_channels: int, out_channels: int, stride: int):
        super().__init__()
        strides = (stride, stride)
        self.body = nn.Sequential(
            *same_conv(size, in_channels, out_channels, (3, 3), strides),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            *same_conv(output_size(size, strides), out_channels, out_channels, (3, 3), (1, 1)),
            nn.BatchNorm2d(out_channels),
        )
        plain = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if plain else nn.Conv2d(in_channels, out_channels, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


class ResNet8(nn.Module):
    """Image [B, in_channels, H, W] -> logits [B, n_classes]; built by `resnet8`."""

    def __init__(self, in_channels: int, n_classes: int, base_channels: int, size: tuple[int, int]):
        super().__init__()
        c = base_channels
        self.stem = nn.Sequential(*same_conv(size, in_channels, c, (3, 3), (1, 1)), nn.BatchNorm2d(c), nn.ReLU())
        half = output_size(size, (2, 2))
        self.blocks = nn.Sequential(Block(size, c, c, 1), Block(size, c, 2 * c, 2), Block(half, 2 * c, 4 * c, 2))
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.head = nn.Linear(4 * c, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The latent before the head: [B, 4 * base_channels]."""
        return self.pool(self.blocks(self.stem(x))).flatten(1)

    def forward_with_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, n_classes] and latent [B, 4 * base_channels] of one pass."""
        latent = self.forward_features(x)
        return self.head(latent), latent


def resnet8(
    n_classes: int = 10, in_channels: int = 3, base_channels: int = 16, input_size: Sequence[int] = (32, 32)
) -> ResNet8:
    """Build a ResNet-8.

    Args:
        n_classes: number of logits.
        in_channels: channels of the input.
        base_channels: width of the stem and the first block; the others have twice and four times as much.
        input_size: height and width of the input, on which SAME padding depends.

    Raises:
        UsageError: an argument is out of its range.
    """
    height, width = whole_numbers("input_size", input_size, 2, 1, 65_536)
    return ResNet8(
        whole_number("in_channels", in_channels),
        whole_number("n_classes", n_classes, 1, MAX_CLASSES),
        whole_number("base_channels", base_channels, 1, 2048),
        (height, width),
    )
