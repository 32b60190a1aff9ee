# SPDX-License-Identifier: Apache-2.0
"""DS-CNN for keyword spotting, in the shape of the MLPerf Tiny reference (Zhang et al. 2017, arXiv 1711.07128).

Differences from the reference, none of which changes what runs on a device: no bias where a BatchNorm follows (it would
cancel), and no dropout.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgepress.models.zoo.arguments import MAX_CLASSES, whole_number, whole_numbers
from edgepress.models.zoo.same_padding import output_size, same_conv


class DSCNN(nn.Module):
    """Input [B, in_channels, frames, coefficients] -> logits [B, n_classes]; built by `ds_cnn`."""

    def __init__(self, in_channels: int, n_classes: int, channels: int, n_blocks: int, size: tuple[int, int]):
        super().__init__()
        self.stem = nn.Sequential(
            *same_conv(size, in_channels, channels, (10, 4), (2, 2)), nn.BatchNorm2d(channels), nn.ReLU()
        )
        size = output_size(size, (2, 2))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    *same_conv(size, channels, channels, (3, 3), (1, 1), groups=channels),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                )
                for _ in range(n_blocks)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.head = nn.Linear(channels, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The latent before the head: [B, channels]."""
        return self.pool(self.blocks(self.stem(x))).flatten(1)

    def forward_with_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, n_classes] and latent [B, channels] of one pass."""
        latent = self.forward_features(x)
        return self.head(latent), latent


def ds_cnn(
    n_classes: int = 12,
    in_channels: int = 1,
    channels: int = 64,
    n_blocks: int = 4,
    input_size: Sequence[int] = (49, 10),
) -> DSCNN:
    """Build a DS-CNN.

    Args:
        n_classes: number of logits.
        in_channels: channels of the input.
        channels: width of every layer.
        n_blocks: depthwise separable blocks.
        input_size: frames and coefficients of the input, on which SAME padding depends.

    Raises:
        UsageError: an argument is out of its range.
    """
    height, width = whole_numbers("input_size", input_size, 2, 1, 65_536)
    return DSCNN(
        whole_number("in_channels", in_channels),
        whole_number("n_classes", n_classes, 1, MAX_CLASSES),
        whole_number("channels", channels),
        whole_number("n_blocks", n_blocks, 1, 64),
        (height, width),
    )
