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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    from edgepress.compress.recipes.sections import Contrastive
    from edgepress.models.tasks import Split

MODES = ("plain", "balanced")
DISTANCES = ("normalized", "rms", "euclidean")
#: Added to squared lengths: a latent of all zeros has a direction of zero and a finite gradient.
_SQUARED_LENGTH_FLOOR = 1e-8
#: Of alpha: distances only lessen the exponent, so that exp(alpha - beta d) and its gradient stay finite in float32.
LARGEST_ALPHA = 30.0


@dataclass(frozen=True)
class InverseContrastive:
    """How the loss is computed.

    Attributes:
        alpha: barrier, at most 30; at equilibrium larger values keep clips of a device further apart. The report
            chose 0.2.
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
        for name, least, most in (("alpha", -1e3, LARGEST_ALPHA), ("weight", 0.0, 1e3), ("beta", 1e-6, 1e3)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                raise UsageError(f"{name} = {value!r} must be a number from {least:g} to {most:g}")


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
        return _loss(d, same, weights, config)


def inverse_contrastive_continuous(
    latents: Tensor, attributes: Tensor, threshold: float, config: InverseContrastive | None = None
) -> ContrastiveLoss:
    """The loss for a numeric attribute, such as a gain or a distance to the microphone, in place of a device.

    Akash et al.'s form for continuous attributes: clips whose attributes lie no further apart than the threshold are
    neighbours, and are pushed apart; all others are pulled together. Every ordered pair of the batch weighs the same.

    Args:
        latents: [B, D].
        attributes: [B] numbers; clips with one that is not finite are left out.
        threshold: largest distance of neighbours, in the attribute's unit, 0 or more.
        config: alpha, beta and distance; its mode must be "plain", since there are no classes to balance.

    Raises:
        UsageError: shapes that do not belong together, a threshold below 0, or mode "balanced".
    """
    config = config or InverseContrastive()
    if latents.ndim != 2 or attributes.shape != latents.shape[:1]:
        raise UsageError(
            f"latents {tuple(latents.shape)} and attributes {tuple(attributes.shape)} must be [B, D] and [B]"
        )
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold < float("inf"):
        raise UsageError(f"threshold = {threshold!r} must be a number of 0 or more")
    if config.mode != "plain":
        raise UsageError(f"mode = {config.mode!r} balances devices; of a numeric attribute only 'plain' is defined")
    with torch.autocast(device_type=latents.device.type, enabled=False):
        known = (
            attributes.isfinite() if attributes.is_floating_point() else torch.ones_like(attributes, dtype=torch.bool)
        )
        z, c = latents[known], attributes[known].double()
        z = z if z.dtype == torch.float64 else z.float()
        d = pairwise_distances(z, config.distance)
        near = (c[:, None] - c[None, :]).abs() <= threshold
        weights = torch.full_like(d, 1 / max(len(z) ** 2, 1))
        return _loss(d, near, weights, config)


def _loss(d: Tensor, same: Tensor, weights: Tensor, config: InverseContrastive) -> ContrastiveLoss:
    push = (weights * same * torch.exp(config.alpha - config.beta * d)).sum()
    pull = (weights * ~same * d.square()).sum()
    return ContrastiveLoss(push + pull, {"push": push.detach(), "pull": pull.detach(), **_mean_distances(d, same)})


def regularized(task_loss: Tensor, contrastive: ContrastiveLoss, config: InverseContrastive) -> Tensor:
    """Equation 2: the task's loss plus `config.weight` times the inverse contrastive loss."""
    return task_loss + config.weight * contrastive.loss


class ContrastiveTerm(nn.Module):
    """The term of a training's `[train.contrastive]`: what the loop adds to the loss of a batch (equation 2).

    Its projection head is trained with the network and is no part of it: what is kept has none.

    Args:
        section: the settings.
        network: the one that is trained.
        values: [N] of every training clip: integers of its recording device, or a number where the section has a
            threshold; None where the task does not say them.
        sample: [1, *input] for the network; its latent says how wide the projection head is.
        seed: of the head's first weights.

    Raises:
        UsageError: the clips have no such values, or the network gives no latent.
    """

    def __init__(self, section: Contrastive, network: nn.Module, values: Tensor | None, sample: Tensor, seed: int):
        super().__init__()
        numeric = section.threshold is not None
        if values is None:
            raise UsageError(
                "train.contrastive.threshold needs a number for every clip, the array attribute (of an .npz) or the "
                "column attribute (of a table), which this task lacks; leave threshold out for recording devices"
                if numeric
                else "train.contrastive needs the recording device of every clip, which this task does not say; "
                "leave the section out"
            )
        if not callable(getattr(network, "forward_with_latent", None)):
            raise UsageError(
                f"train.contrastive needs the latent before the head: {type(network).__name__} has no method "
                "forward_with_latent(x) -> (logits, latent); leave the section out"
            )
        self._values, self._threshold, self._rise = values, section.threshold, section.rise
        self.config = InverseContrastive(section.alpha, section.weight, section.beta, section.mode, section.distance)
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self.projection: nn.Module = nn.Identity()
        if section.projection:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)
                width = network.eval().forward_with_latent(sample)[1].shape[1]  # type: ignore[operator]
                network.train()
                hidden = nn.Linear(width, section.projection)
                self.projection = nn.Sequential(hidden, nn.ReLU(), nn.Linear(section.projection, section.projection))

    def add(self, loss: Tensor, latents: Tensor, indices: Tensor, progress: float) -> Tensor:
        """The loss of a batch with the term; `progress`, 0 to 1 of all steps, is where the weight's rise stands."""
        self._values = self._values.to(latents.device)
        latents, values = self.projection(latents), self._values[indices]
        if self._threshold is None:
            found = inverse_contrastive(latents, values, self.config)
        else:
            found = inverse_contrastive_continuous(latents, values, self._threshold, self.config)
        for name, value in found.terms.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        share = min(1.0, progress / self._rise) if self._rise else 1.0
        return regularized(loss, found, replace(self.config, weight=share * self.config.weight))

    def start_epoch(self) -> None:
        """Forget the figures of the last epoch."""
        self._sums.clear()

    def figures(self) -> dict[str, float]:
        """Means over the epoch's batches of the parts of the loss and of the distances."""
        return {name: float(total) / count for name, (total, count) in self._sums.items()}


def values_of(section: Contrastive, split: Split) -> tuple[Tensor | None, np.ndarray | None]:
    """What the term goes by, [N] of a split, and the strata of its batches; both None where the task does not say it.

    Strata of a number are stretches as wide as the threshold, and one of clips without a number.
    """
    if section.threshold is None:
        if split.devices is None:
            return None, None
        devices = np.asarray(split.devices)
        return torch.from_numpy(np.unique(devices, return_inverse=True)[1]), devices
    if split.attributes is None:
        return None, None
    numbers = np.where(np.isfinite(split.attributes), split.attributes, np.nan)
    strata = np.floor(numbers / section.threshold) if section.threshold else numbers
    return torch.from_numpy(numbers), np.nan_to_num(strata, nan=np.inf)


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
