# SPDX-License-Identifier: Apache-2.0
"""Intervals of figures: Wilson's for proportions, the bootstrap over whole recordings for anything. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError

_Z95 = 1.959963984540054
#: Draws of the bootstrap of figures that have no sum to draw from.
DRAWS = 400


def wilson(correct: int, total: int, z: float = _Z95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927, JASA 22:209-212); 95 % by default.

    It takes clips as independent, which clips of one location are not: see `cluster_bootstrap`.

    Raises:
        UsageError: `correct` is not between 0 and `total`, or `total` is 0.
    """
    if not 0 <= correct <= total or total == 0:
        raise UsageError(f"correct = {correct} must lie between 0 and total = {total}, and total be positive")
    share, scale = correct / total, 1 + z * z / total
    middle = share + z * z / (2 * total)
    width = z * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At 0 and 1 the bound is exact; the subtraction of rounded numbers would leave 1e-17.
    low = 0.0 if correct == 0 else float((middle - width) / scale)
    high = 1.0 if correct == total else float((middle + width) / scale)
    return low, high


def cluster_bootstrap(
    values: np.ndarray,
    identifiers: Sequence[str] | np.ndarray,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean when whole recording locations are drawn with replacement.

    Clips of one location resemble each other, so that intervals over clips are too narrow (Field and Welsh 2007,
    "Bootstrapping clustered data", JRSS B 69:369-390).

    Args:
        values: [N] numbers, such as 1 for a right prediction and 0 for a wrong one.
        identifiers: the cluster of every value.
        level: of the interval.
        draws: bootstrap samples.
        seed: of the draws.

    Raises:
        UsageError: lengths differ, or there is nothing.
    """
    means = _cluster_draws(np.asarray(values, np.float64), identifiers, draws, seed)
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def paired_cluster_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    identifiers: Sequence[str] | np.ndarray | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The difference of two predictions on the same clips, with the interval of a paired cluster bootstrap.

    Args:
        a, b: [N] numbers per clip (right or wrong, or losses) of the two, in the same order.
        identifiers: the cluster of every clip; None takes every clip for itself.
        level: of the interval.
        draws: bootstrap samples.
        seed: of the draws.

    Returns:
        difference (mean of a - b), interval, clusters (how many), differs (whether the interval leaves out 0).

    Raises:
        UsageError: lengths differ, or there is nothing.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise UsageError(f"paired values must be two vectors of one length, not {first.shape} and {second.shape}")
    groups = tuple(map(str, range(len(first)))) if identifiers is None else identifiers
    interval = cluster_bootstrap(first - second, groups, level=level, draws=draws, seed=seed)
    return {
        "difference": float(np.mean(first - second)),
        "interval": list(interval),
        "clusters": len(set(map(str, groups))),
        "differs": not interval[0] <= 0.0 <= interval[1],
    }


def _cluster_draws(values: np.ndarray, identifiers: Sequence[str] | np.ndarray, draws: int, seed: int) -> np.ndarray:
    """[draws] means over resampled clusters."""
    if values.ndim != 1 or not len(values):
        raise UsageError(f"values must be a vector with at least one entry, not of shape {values.shape}")
    _, cluster = np.unique(strings(identifiers, len(values), "identifiers"), return_inverse=True)
    sizes = np.bincount(cluster).astype(np.float64)
    sums = np.bincount(cluster, weights=values)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, 2_000_000 // len(sizes))  # bounds the table of draws to 16 MB
    for start in range(0, draws, step):
        picked = rng.integers(0, len(sizes), (min(step, draws - start), len(sizes)))
        means[start : start + len(picked)] = sums[picked].sum(1) / sizes[picked].sum(1)
    return means


def bootstrap_figures(
    rows: np.ndarray,
    figures: Callable[[np.ndarray], dict[str, float]],
    identifiers: Sequence[str] | np.ndarray | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Percentile intervals of any figures when whole recordings are drawn with replacement.

    A draw in which a figure is not defined (one class of two is missing) is left out of its interval; a figure that is
    undefined in more than a tenth of the draws has none.

    Args:
        rows: [N, ...] what is known of each sample.
        figures: rows -> figures by name; NaN where one is not defined.
        identifiers: the cluster of every row; None takes every row for itself.
        level: of the intervals.
        draws: bootstrap samples.
        seed: of the draws.

    Returns:
        Name -> [low, high], or None.
    """
    names = range(len(rows)) if identifiers is None else identifiers
    _, cluster = np.unique(strings([*map(str, names)], len(rows), "identifiers"), return_inverse=True)
    order = np.argsort(cluster, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(cluster))[:-1])
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        picked = rng.integers(0, len(members), len(members))
        for name, value in figures(rows[np.concatenate([members[one] for one in picked])]).items():
            found.setdefault(name, []).append(value)
    tail = 50 * (1 - level)
    made: dict[str, list[float] | None] = {}
    for name, values in found.items():
        kept = np.array(values)[np.isfinite(values)]
        enough = len(kept) >= 0.9 * draws
        made[name] = [float(v) for v in np.percentile(kept, [tail, 100 - tail])] if enough else None
    return made


def strings(values: Sequence[str] | np.ndarray, total: int, name: str) -> np.ndarray:
    result = np.asarray([str(value) for value in values])
    if len(result) != total:
        raise UsageError(f"there are {total} clips but {len(result)} {name}")
    return result
