# SPDX-License-Identifier: Apache-2.0
"""Inverse contrastive loss: a latent that does not tell which device recorded the clip.

Equation 1 of the report and Definition 1 of Akash et al. (AAAI 2021, arXiv 2102.08343), over pairs of a batch:

    mean of  [same device] exp(alpha - beta d)  +  [different devices] d^2,   d the distance of the two latents.

Clips of the same device are pushed apart (which keeps the latent from collapsing), clips of different devices are
pulled together. The report's prose says the reverse of its formula; the formula is what its reference defines, and what
is implemented. Equation 2 adds it to the task's loss: `regularized`.

The scale of d decides everything: for raw 768-dimensional latents d is near 39, the push exp(0.2 - 39) is dead and the
pull d^2 near 1500 drowns the task. So distances are taken between normalized latents (0 to 2), or as root mean square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgepress.compress.recipes.recipe import TrainSettings
from edgepress.models.errors import UsageError

MODES = ("plain", "balanced")
DISTANCES = ("normalized", "rms", "euclidean")
#: Added to squared lengths: a latent of all zeros has a direction of zero and a finite gradient.
_SQUARED_LENGTH_FLOOR = 1e-8
#: exp stays finite in float32 whatever alpha is.
_MAX_EXPONENT = 30.0


@dataclass(frozen=True)
class InverseContrastive:
    """How the loss is computed.

    Attributes:
        alpha: barrier; at equilibrium larger values keep clips of a device further apart. The report chose 0.2.
        weight: lambda of equation 2. The report chose 0.5.
        beta: decay of the push; the report has 1.
        mode: "plain", every pair of the batch weighs the same (equation 1); or "balanced", every device does, as the
            theory of Akash et al. wants it (their Lemma 1): in TAU 73 % of the clips are of one device.
        distance: "normalized", between latents of length 1; "rms", Euclidean over sqrt(D); "euclidean", raw.

    Raises:
        UsageError: a value outside its range.
    """

    alpha: float = 0.2
    weight: float = 0.5
    beta: float = 1.0
    mode: Literal["plain", "balanced"] = "plain"
    distance: Literal["normalized", "rms", "euclidean"] = "normalized"

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("distance", DISTANCES)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} = {getattr(self, name)!r} is unknown: allowed are {', '.join(allowed)}")
        for name, minimum in (("alpha", -1e3), ("weight", 0.0), ("beta", 1e-6)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value <= 1e3:
                raise UsageError(f"{name} = {value!r} must be a number from {minimum:g} to 1000")


@dataclass(frozen=True)
class ContrastiveLoss:
    """The loss of one batch.

    Attributes:
        loss: equation 1, a scalar in float32 (float64 for float64 latents), without the weight.
        terms: scalars to log, detached: `push` and `pull`, the two parts that add up to the loss, and
            `distance_same`, `distance_different`, mean distances of two clips. A mean over no pair is left out.
    """

    loss: Tensor
    terms: dict[str, Tensor]


def inverse_contrastive(latents: Tensor, devices: Tensor, config: InverseContrastive | None = None) -> ContrastiveLoss:
    """Equation 1 over all ordered pairs of the batch, each clip with itself included (a constant without gradient).

    Computed in float32 at least, also under autocast. Gradients are finite everywhere, on equal latents too.

    Args:
        latents: [B, D], the features before the head (`forward_with_latent` of the zoo).
        devices: [B] integers, the recording device of each clip; clips with a negative one are left out.
        config: alpha, mode and distance; None for the report's values.

    Raises:
        UsageError: shapes that do not belong together.
    """
    config = config or InverseContrastive()
    if latents.ndim != 2 or devices.shape != latents.shape[:1]:
        raise UsageError(f"latents {tuple(latents.shape)} and devices {tuple(devices.shape)} must be [B, D] and [B]")
    with torch.autocast(device_type=latents.device.type, enabled=False):
        known = devices >= 0
        z, c = latents[known], devices[known]
        z = z if z.dtype == torch.float64 else z.float()
        d = pairwise_distances(z, config.distance)
        same = c[:, None] == c[None, :]
        weights = _pair_weights(c, same, config.mode, d.dtype)
        push = (weights * same * torch.exp((config.alpha - config.beta * d).clamp(max=_MAX_EXPONENT))).sum()
        pull = (weights * ~same * d.square()).sum()
    return ContrastiveLoss(push + pull, {"push": push.detach(), "pull": pull.detach(), **_mean_distances(d, same)})


def regularized(task_loss: Tensor, contrastive: ContrastiveLoss, config: InverseContrastive) -> Tensor:
    """Equation 2: the task's loss plus `config.weight` times the inverse contrastive loss."""
    return task_loss + config.weight * contrastive.loss


def contrastive_of(settings: TrainSettings, network: nn.Module, devices: Tensor | None) -> InverseContrastive | None:
    """The loss of a training's `[train.contrastive]`, or None where it has none.

    Raises:
        UsageError: the clips have no recording devices, or the network gives no latent.
    """
    wanted = settings.contrastive
    if wanted is None:
        return None
    if devices is None:
        raise UsageError(
            "train.contrastive needs the recording device of every clip, which this task does not say; "
            "leave the section out"
        )
    if not callable(getattr(network, "forward_with_latent", None)):
        raise UsageError(
            f"train.contrastive needs the latent before the head: {type(network).__name__} has no method "
            "forward_with_latent(x) -> (logits, latent); leave the section out"
        )
    return InverseContrastive(wanted.alpha, wanted.weight, wanted.beta, wanted.mode, wanted.distance)


def pairwise_distances(latents: Tensor, distance: str) -> Tensor:
    """Distances [B, B] of latents [B, D]; "normalized", "rms" or "euclidean" as in `InverseContrastive`."""
    if distance == "normalized":
        latents = latents * (latents.square().sum(1, keepdim=True) + _SQUARED_LENGTH_FLOOR).rsqrt()
    elif distance == "rms":
        latents = latents * latents.shape[1] ** -0.5
    # The faster way over the matrix product loses three digits on close points, and they are what the push is about.
    return torch.cdist(latents, latents, compute_mode="donot_use_mm_for_euclid_dist")


def _pair_weights(devices: Tensor, same: Tensor, mode: str, dtype: torch.dtype) -> Tensor:
    """Weights [B, B] of the pairs, of sum 1 (0 for an empty batch, or a balanced one of a single device).

    Balanced: with n_c clips of each of C devices, a pair weighs 1 / (n_c n_c'), times C - 1 within a device. That is
    the reference implementation of Akash et al., divided by 2 C (C - 1) so that a weight means the same in both modes.
    """
    n = len(devices)
    if mode == "plain":
        return torch.full((n, n), 1 / max(n * n, 1), dtype=dtype, device=devices.device)
    per_clip = same.sum(1).to(dtype).reciprocal()
    n_devices = per_clip.sum().round()
    both = per_clip[:, None] * per_clip[None, :]
    # One device has no other to be pulled to: C - 1 is zero, and so is the loss.
    scale = torch.where(n_devices > 1, 1 / (2 * n_devices * (n_devices - 1)).clamp(min=1), 0.0)
    return both * torch.where(same, n_devices - 1, torch.ones_like(n_devices)) * scale


def _mean_distances(d: Tensor, same: Tensor) -> dict[str, Tensor]:
    d = d.detach()
    with_another = same & ~torch.eye(len(d), dtype=torch.bool, device=d.device)
    means = {}
    for name, pairs in (("distance_same", with_another), ("distance_different", ~same)):
        if bool(pairs.any()):
            means[name] = d[pairs].mean()
    return means


def stratified_order(
    devices: Sequence[str] | np.ndarray, *, balance: float = 0.0, seed: int = 0, epoch: int = 0
) -> np.ndarray:
    """An order of the clips in which every stretch holds each device in its share, give or take one clip or two.

    A random batch of 64 from TAU misses a rare device (5 %) now and then, and has too few of its pairs; cut into
    batches of any size, this order does not.

    Args:
        devices: [N] the recording device of each clip.
        balance: 0 keeps the shares, and every clip comes once; 1 gives all devices the same share, repeating clips of
            rare ones and leaving out some of frequent ones; between them shares go with (clips)^(1 - balance).
        seed, epoch: the same pair gives the same order.

    Returns:
        int64 [N] indices.

    Raises:
        UsageError: no clips, or balance outside [0, 1].
    """
    _, codes, counts = np.unique(np.asarray(devices), return_inverse=True, return_counts=True)
    if not len(codes):
        raise UsageError("devices is empty: there is nothing to order")
    if not 0 <= balance <= 1:
        raise UsageError(f"balance = {balance!r} must be from 0 to 1")
    random = np.random.default_rng((seed, epoch))
    indices, places = [], []
    for code, wanted in enumerate(_shares(counts, balance)):
        members = np.flatnonzero(codes == code)
        # Whole permutations, so that no clip comes twice before another came once.
        rounds = [random.permutation(members) for _ in range(-(-wanted // len(members)))]
        indices.append(np.concatenate([*rounds, members[:0]])[:wanted])
        # Evenly spaced over the epoch, from a random start: sorting by place interleaves the devices.
        places.append((np.arange(wanted) + random.random()) / max(wanted, 1))
    return np.concatenate(indices)[np.argsort(np.concatenate(places), kind="stable")]


def _shares(counts: np.ndarray, balance: float) -> np.ndarray:
    """How many clips of each device an epoch holds; they add up to the number of clips."""
    exact = counts ** (1 - balance)
    exact = exact * counts.sum() / exact.sum()
    whole = np.floor(exact + 1e-9).astype(np.int64)
    largest = np.argsort(whole - exact, kind="stable")[: counts.sum() - whole.sum()]
    whole[largest] += 1
    return whole
