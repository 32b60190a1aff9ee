# SPDX-License-Identifier: Apache-2.0
"""A depthwise convolution that trains as several and is deployed as one, as in RepVGG, MobileOne and Rep-Mobile."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Height and width of the kernels beside the 3x3 one; each is zero around its middle when it is merged.
_KERNELS = ((3, 3), (1, 3), (3, 1), (1, 1))


class BranchedDepthwise(nn.Module):
    """[B, C, F, T] -> [B, C, F', T']: 3x3, 1x3, 3x1 and 1x1 depthwise convolutions, each with BatchNorm, and BatchNorm
    alone where the stride is 1; their sum. `reparameterize` makes one 3x3 convolution with bias of them.
    """

    def __init__(self, channels: int, stride: tuple[int, int] = (1, 1)):
        super().__init__()
        self.merged: nn.Conv2d | None = None
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    channels, channels, kernel, stride, (kernel[0] // 2, kernel[1] // 2), groups=channels, bias=False
                ),
                nn.BatchNorm2d(channels),
            )
            for kernel in _KERNELS
        )
        if stride == (1, 1):
            self.branches.append(nn.Sequential(nn.Identity(), nn.BatchNorm2d(channels)))
        self._channels, self._stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        if self.merged is not None:
            return self.merged(x)
        first, *others = [branch(x) for branch in self.branches]
        for other in others:
            first = first + other
        return first

    def reparameterize(self) -> None:
        """Merge the branches, with their running statistics; done already, nothing happens."""
        if self.merged is not None:
            return
        like = next(self.parameters())
        weight, bias = like.new_zeros(self._channels, 1, 3, 3), like.new_zeros(self._channels)
        for convolution, norm in self.branches:  # type: ignore[misc]
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            kernel = torch.ones_like(weight[..., :1, :1])
            if not isinstance(convolution, nn.Identity):
                kernel = convolution.weight
            rows, columns = kernel.shape[2:]
            top, left = (3 - rows) // 2, (3 - columns) // 2
            weight[..., top : top + rows, left : left + columns] += kernel * scale[:, None, None, None]
            bias += norm.bias - norm.running_mean * scale
        merged = nn.Conv2d(self._channels, self._channels, 3, self._stride, 1, groups=self._channels)
        merged.weight.data, merged.bias.data = weight, bias  # type: ignore[union-attr]
        self.merged = merged
        del self.branches
