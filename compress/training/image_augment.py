# SPDX-License-Identifier: Apache-2.0
"""Augmentation of images in torch, on whole batches: mirrored, moved, recoloured, mixed by boxes.

As in `augment.py`, everything random is drawn from a `torch.Generator`, and inputs are never changed in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Generator = torch.Generator | None


def flip(x: Tensor, probability: float, *, generator: Generator = None) -> Tensor:
    """Mirror left and right, each image with this probability; [B, C, H, W]."""
    chosen = torch.rand(len(x), generator=generator, device=x.device) < probability
    return torch.where(chosen[:, None, None, None], x.flip(-1), x)


def moved_crop(x: Tensor, pixels: int, *, fill: float = 0.0, generator: Generator = None) -> Tensor:
    """Add a border of so many pixels and cut the old size out of it, elsewhere for every image; [B, C, H, W].

    The usual augmentation of CIFAR (He et al., "Deep residual learning for image recognition", CVPR 2016, 4.2).
    """
    batch, channels, height, width = x.shape
    padded = F.pad(x, (pixels,) * 4, value=fill)
    down, right = torch.randint(0, 2 * pixels + 1, (2, batch), generator=generator, device=x.device)
    rows = down[:, None] + torch.arange(height, device=x.device)
    columns = right[:, None] + torch.arange(width, device=x.device)
    which = torch.arange(batch, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]


def recolour(x: Tensor, strength: float, mean: Tensor, std: Tensor, *, generator: Generator = None) -> Tensor:
    """Change brightness, contrast and saturation, in this order, each by a factor from [1 - strength, 1 + strength].

    Brightness scales the pixels, contrast their distance from the image's mean grey, saturation their distance from
    the pixel's own grey (ITU-R 601 luma), as in torchvision's ColorJitter; results are kept within full scale.

    Args:
        x: [B, C, H, W], (pixel - mean) / std, C is 1 or 3.
        strength: 0 to 1.
        mean, std: [C] or [1], of pixels from 0 to 1.
        generator: of the draws.
    """
    factors = 1 + strength * (2 * torch.rand((3, len(x), 1, 1, 1), generator=generator, device=x.device) - 1)
    mean, std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
    pixels = (x * std + mean) * factors[0]
    pixels = pixels.clamp(0, 1)
    middle = _grey(pixels).mean((2, 3), keepdim=True)
    pixels = (middle + factors[1] * (pixels - middle)).clamp(0, 1)
    grey = _grey(pixels)
    return ((grey + factors[2] * (pixels - grey)).clamp(0, 1) - mean) / std


def _grey(pixels: Tensor) -> Tensor:
    """[B, 1, H, W]."""
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    weights = pixels.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (weights * pixels).sum(1, keepdim=True)


def cutmix(x: Tensor, alpha: float, *, generator: Generator = None) -> tuple[Tensor, Tensor, Tensor]:
    """Put a box of another image of the batch into every image; the box is the same in the whole batch.

    Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features", ICCV 2019.

    Args:
        x: [B, C, H, W].
        alpha: the share of an image that is kept is drawn from Beta(alpha, alpha).
        generator: of the draws.

    Returns:
        The mixed batch, partner int64 [B], share float32 [B]: the part of each image that is its own, as exact as its
        pixels.
    """
    height, width = x.shape[-2:]
    kept = float(beta(alpha, 1, x.device, generator)[0])
    box = [round(size * (1 - kept) ** 0.5) for size in (height, width)]
    begin = torch.rand(2, generator=generator, device=x.device).tolist()
    top, left = (
        int(place * (size - inside + 1)) for place, size, inside in zip(begin, (height, width), box, strict=True)
    )
    partner = torch.randperm(len(x), generator=generator, device=x.device)
    mixed = x.clone()
    inside = (..., slice(top, top + box[0]), slice(left, left + box[1]))
    mixed[inside] = x[partner][inside]
    share = torch.full((len(x),), 1 - box[0] * box[1] / (height * width), device=x.device)
    return mixed, partner, share


def beta(alpha: float, count: int, device: torch.device, generator: Generator = None) -> Tensor:
    """`count` draws of Beta(alpha, alpha), float32.

    `torch.distributions.Beta` takes no generator; this is the function that it calls.
    """
    both = torch.full((count, 2), float(alpha), device=device)
    return torch._sample_dirichlet(both, generator)[:, 0]  # pyright: ignore[reportPrivateImportUsage]
