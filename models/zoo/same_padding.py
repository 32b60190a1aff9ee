# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's SAME padding, which is asymmetric where a stride of 2 meets an even size."""

from __future__ import annotations

import math

from torch import nn

from edgepress.models.cost.activations import same_amounts


def same_padding(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int, int, int]:
    """Padding (left, right, top, bottom) for an input of `size` (height, width); the odd one goes right and below."""
    (top, bottom), (left, right) = (same_amounts(*one, dilation=1) for one in zip(size, kernel, stride, strict=True))
    return left, right, top, bottom


def output_size(size: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """Height and width after a SAME convolution: ceil(size / stride)."""
    return math.ceil(size[0] / stride[0]), math.ceil(size[1] / stride[1])


def same_conv(
    size: tuple[int, int],
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    groups: int = 1,
    bias: bool = False,
) -> list[nn.Module]:
    """The modules of a SAME convolution: symmetric padding stays in the convolution, else a ZeroPad2d precedes it."""
    left, right, top, bottom = same_padding(size, kernel, stride)
    if (left, top) == (right, bottom):
        return [nn.Conv2d(in_channels, out_channels, kernel, stride, (top, left), groups=groups, bias=bias)]
    return [
        nn.ZeroPad2d((left, right, top, bottom)),
        nn.Conv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=bias),
    ]
