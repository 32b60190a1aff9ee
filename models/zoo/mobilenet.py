# SPDX-License-Identifier: Apache-2.0
"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861) at width 0.25, the MLPerf Tiny visual wake words network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgepress.models.zoo.arguments import MAX_CLASSES, number, whole_number, whole_numbers
from edgepress.models.zoo.same_padding import output_size, same_conv

#: Output channels at width 1 and stride of the thirteen depthwise separable blocks.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)


class MobileNet(nn.Module):
    """Image [B, in_channels, H, W] -> logits [B, n_classes]; built by `mobilenet`."""

    def __init__(self, in_channels: int, n_classes: int, width: float, size: tuple[int, int]):
        super().__init__()
        channels = max(1, int(32 * width))
        self.stem = nn.Sequential(
            *same_conv(size, in_channels, channels, (3, 3), (2, 2)), nn.BatchNorm2d(channels), nn.ReLU()
        )
        size = output_size(size, (2, 2))
        self.blocks = nn.Sequential()
        for full_width, stride in _BLOCKS:
            out_channels = max(1, int(full_width * width))
            self.blocks.append(
                nn.Sequential(
                    *same_conv(size, channels, channels, (3, 3), (stride, stride), groups=channels),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, out_channels, 1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(),
                )
            )
            size, channels = output_size(size, (stride, stride)), out_channels
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.head = nn.Linear(channels, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The latent before the head: [B, 1024 * width]."""
        return self.pool(self.blocks(self.stem(x))).flatten(1)

    def forward_with_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, n_classes] and latent [B, 1024 * width] of one pass."""
        latent = self.forward_features(x)
        return self.head(latent), latent


def mobilenet(
    n_classes: int = 2, in_channels: int = 3, width: float = 0.25, input_size: Sequence[int] = (96, 96)
) -> MobileNet:
    """Build a MobileNetV1.

    Args:
        n_classes: number of logits.
        in_channels: channels of the input.
        width: multiplier of every layer's channels.
        input_size: height and width of the input, on which SAME padding depends.

    Raises:
        UsageError: an argument is out of its range.
    """
    height, wide = whole_numbers("input_size", input_size, 2, 1, 65_536)
    return MobileNet(
        whole_number("in_channels", in_channels),
        whole_number("n_classes", n_classes, 1, MAX_CLASSES),
        number("width", width, 0.03125, 4),
        (height, wide),
    )
