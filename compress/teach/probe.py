# SPDX-License-Identifier: Apache-2.0
"""How much a frozen latent tells about something, such as the recording device: a linear probe.

Multinomial logistic regression on standardized latents, every class weighing the same, cross-validated so that all
clips of one identifier (one place, recorded by several devices at once) are in one fold: a probe that recognised the
place would know the device that was used there. Balanced accuracy is compared with chance, 1 / classes.
Akash et al. (AAAI 2021, arXiv 2102.08343) measure invariance with such an adversary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError

#: Below this a feature counts as constant: dividing by it would blow up rounding errors.
_SMALLEST_DEVIATION = 1e-8


@dataclass(frozen=True)
class Probe:
    """What a linear classifier finds in the latents.

    Attributes:
        balanced_accuracy: mean over the classes of the share of their clips that is recognised, out of fold.
        interval: 95 % bootstrap interval of it, resampling identifiers.
        chance: 1 / number of classes.
        information: 0 at chance, 1 where every clip is recognised; negative below chance.
        recall: that share by class.
        samples: number of clips.
        identifiers: number of identifiers.
        folds: number of folds.
    """

    balanced_accuracy: float
    interval: tuple[float, float]
    chance: float
    information: float
    recall: dict[str, float]
    samples: int
    identifiers: int
    folds: int

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict of all attributes."""
        return {**asdict(self), "interval": list(self.interval)}


def probe_latents(
    latents: np.ndarray,
    targets: Sequence[str] | np.ndarray,
    identifiers: Sequence[str] | np.ndarray,
    *,
    folds: int = 5,
    ridge: float = 1e-3,
    seed: int = 0,
    resamples: int = 1000,
) -> Probe:
    """Measure how well `targets` can be read from `latents` by a linear classifier.

    Args:
        latents: [N, D] floating numbers, from a frozen network.
        targets: [N] what is to be read, such as the recording device.
        identifiers: [N] clips of the same one are never both trained and tested on.
        folds: parts of the cross-validation.
        ridge: half the penalty on squared coefficients, beside the mean loss.
        seed: of folds and bootstrap.
        resamples: bootstrap samples of identifiers.

    Raises:
        UsageError: lengths that differ, numbers that are not finite, fewer than two targets, or a target or folds with
            too few identifiers.
    """
    x, names, y, groups = _checked(latents, targets, identifiers, folds)
    right = _recognised(x, names, y, groups, folds, ridge, seed)
    hits, totals = _by_group(y, right, groups, len(names))
    recall = hits.sum(0) / totals.sum(0)
    accuracy, chance = float(recall.mean()), 1 / len(names)
    return Probe(
        accuracy,
        _interval(hits, totals, resamples, np.random.default_rng(seed + 1)),
        chance,
        (accuracy - chance) / (1 - chance),
        dict(zip(names, recall.tolist(), strict=True)),
        len(y),
        len(hits),
        folds,
    )


def recognised(
    latents: np.ndarray,
    targets: Sequence[str] | np.ndarray,
    identifiers: Sequence[str] | np.ndarray,
    *,
    folds: int = 5,
    ridge: float = 1e-3,
    seed: int = 0,
) -> np.ndarray:
    """Bool [N]: whether the probe of the other folds recognises each clip's target; for paired comparisons of networks.

    Arguments and errors are those of `probe_latents`.
    """
    x, names, y, groups = _checked(latents, targets, identifiers, folds)
    return _recognised(x, names, y, groups, folds, ridge, seed)


def logistic_regression(
    x: np.ndarray, y: np.ndarray, classes: int, *, ridge: float = 1e-3, max_steps: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression by LBFGS, every class weighing the same; convex, so the start does not matter.

    Minimises the class-balanced mean cross-entropy + ridge / 2 * |weights|^2; the bias is not penalized.

    Args:
        x: [N, D] features.
        y: [N] classes from 0; each must occur.
        classes: how many there are.
        ridge: above 0 where classes can be separated, else there is no minimum.

    Returns:
        Weights [classes, D] and bias [classes], float64.
    """
    import torch
    from torch.nn import functional

    features, labels = torch.from_numpy(np.ascontiguousarray(x, np.float64)), torch.from_numpy(np.asarray(y, np.int64))
    balance = len(y) / (classes * torch.bincount(labels, minlength=classes).double())
    weights = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=max_steps, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(features @ weights.T + bias, labels, weight=balance)
        loss = loss + ridge / 2 * weights.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach().numpy(), bias.detach().numpy()


def _recognised(
    x: np.ndarray, names: Sequence[str], y: np.ndarray, groups: np.ndarray, folds: int, ridge: float, seed: int
) -> np.ndarray:
    fold_of = _folds(groups, folds, np.random.default_rng(seed))
    _check_every_fold_trains(y, fold_of, names, folds)
    predicted = np.empty_like(y)
    for fold in range(folds):
        train, test = fold_of != fold, fold_of == fold
        mean, deviation = x[train].mean(0), x[train].std(0)
        scale = 1 / np.where(deviation > _SMALLEST_DEVIATION, deviation, np.inf)
        weights, bias = logistic_regression((x[train] - mean) * scale, y[train], len(names), ridge=ridge)
        predicted[test] = ((x[test] - mean) * scale @ weights.T + bias).argmax(1)
    return predicted == y


def _checked(
    latents: np.ndarray, targets: Sequence[str] | np.ndarray, identifiers: Sequence[str] | np.ndarray, folds: int
) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Latents as float64 [N, D], names of the targets, targets [N] and identifiers [N] as numbers from 0."""
    x = np.asarray(latents, np.float64)
    if x.ndim != 2 or not len(x) == len(targets) == len(identifiers):
        raise UsageError(
            f"latents {x.shape}, {len(targets)} targets and {len(identifiers)} identifiers must belong to "
            "the same clips: [N, D], N, N"
        )
    if not np.isfinite(x).all():
        raise UsageError("latents hold numbers that are not finite; the network they are from has diverged")
    names, y = np.unique(np.asarray(targets), return_inverse=True)
    if len(names) < 2:
        raise UsageError(f"a probe needs at least two different targets, not {len(names)}")
    _, groups = np.unique(np.asarray(identifiers), return_inverse=True)
    found = int(groups.max(initial=-1)) + 1
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= found:
        raise UsageError(f"folds = {folds!r} must be from 2 to the number of identifiers ({found})")
    return x, [str(name) for name in names], y, groups


def _folds(groups: np.ndarray, folds: int, random: np.random.Generator) -> np.ndarray:
    """[N] the fold of each clip: identifiers in random order, the largest first, each to the emptiest fold."""
    sizes = np.bincount(groups)
    order = random.permutation(len(sizes))
    load, fold_of_group = np.zeros(folds), np.empty(len(sizes), np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of_group[group] = load.argmin()
        load[fold_of_group[group]] += sizes[group]
    return fold_of_group[groups]


def _check_every_fold_trains(y: np.ndarray, fold_of: np.ndarray, names: Sequence[str], folds: int) -> None:
    for fold in range(folds):
        absent = np.flatnonzero(np.bincount(y[fold_of != fold], minlength=len(names)) == 0)
        if len(absent):
            raise UsageError(
                f"{names[absent[0]]!r} occurs only within one fold, so that no probe can learn it: it "
                "needs clips of more identifiers, or leave it out"
            )


def _by_group(y: np.ndarray, correct: np.ndarray, groups: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Recognised clips and all clips, each [identifiers, classes]."""
    cells = groups * classes + y
    size = (groups.max() + 1) * classes
    counts = [np.bincount(cells, weights=w, minlength=size).reshape(-1, classes) for w in (correct.astype(float), None)]
    return counts[0], counts[1]


def _interval(hits: np.ndarray, totals: np.ndarray, resamples: int, random: np.random.Generator) -> tuple[float, float]:
    """2.5 and 97.5 % points of balanced accuracy over resampled identifiers; a class that is not drawn is left out."""
    draws = random.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), size=resamples).astype(float)
    drawn_hits, drawn_totals = draws @ hits, draws @ totals
    recall = np.divide(drawn_hits, drawn_totals, out=np.full_like(drawn_hits, np.nan), where=drawn_totals > 0)
    low, high = np.quantile(np.nanmean(recall, 1), [0.025, 0.975])
    return float(low), float(high)
