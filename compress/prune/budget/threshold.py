# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 of the report: one threshold on all group norms, found by bisection over their ranks.

`threshold_counts` evaluates a mask by the exact cost formula alone. `algorithm_1` evaluates it as the report does, on
the network itself: NaN goes in, and what is paid for is what NaN reaches and a NaN gradient comes back to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgepress.compress.prune.budget.active import ActivePaths
from edgepress.compress.prune.budget.choice import Choice
from edgepress.compress.prune.coupling.figures import Figures

if TYPE_CHECKING:
    from torch import nn


def threshold_rank(norms: np.ndarray, feasible: Callable[[float], bool]) -> int:
    """The smallest rank whose norm, used as threshold, gives a feasible mask; len(norms) if none does.

    Args:
        norms: [N] sorted ascending. Filters with a norm below norms[rank] are masked, so ties fall together.
        feasible: whether masking everything below the given threshold is within the budget; monotone.
    """
    low, high = 0, len(norms) - 1
    while low <= high:
        index = (low + high) // 2
        if feasible(float(norms[index])):
            high = index - 1
        else:
            low = index + 1
    return low


def threshold_counts(choice: Choice, scores: Sequence[np.ndarray], budgets: Mapping[str, float]) -> np.ndarray:
    """[groups] units kept by the lowest feasible threshold; every group keeps its smallest allowed count at least.

    Algorithm 1 stops below the budget (<); a budget is an upper limit here (<=).
    """
    return _lowest_threshold(choice, scores, budgets, choice.graph.formula.figures)


def algorithm_1(
    choice: Choice, scores: Sequence[np.ndarray], budgets: Mapping[str, float], model: nn.Module
) -> np.ndarray:
    """`threshold_counts`, every mask evaluated by its active paths on the network: Algorithm 1 as printed.

    Where it differs from the print, it says what the print leaves open: what it returns is the lowest feasible
    threshold; a budget is an upper limit (<=); a group keeps its smallest allowed count, since a network without any
    channel in a layer is none.

    Args:
        model: the network of `choice.graph`.

    Raises:
        UsageError: NaN does not pass through the network.
    """
    paths = ActivePaths(model, choice.graph)

    def figures(counts: np.ndarray) -> Figures:
        return choice.graph.cost(paths.units(choice.selection(counts)))

    return _lowest_threshold(choice, scores, budgets, figures)


def _lowest_threshold(
    choice: Choice,
    scores: Sequence[np.ndarray],
    budgets: Mapping[str, float],
    figures: Callable[[np.ndarray], Figures],
) -> np.ndarray:
    norms = np.sort(np.concatenate([np.asarray(score, np.float64) for score in scores]))
    rising = [np.asarray(score, np.float64)[order][::-1] for score, order in zip(scores, choice.order, strict=True)]

    def counts(threshold: float) -> np.ndarray:
        kept = []
        for values, allowed in zip(rising, choice.allowed, strict=True):
            wanted = len(values) - int(np.searchsorted(values, threshold, "left"))
            kept.append(_nearest_allowed(allowed, wanted))
        return np.array(kept, np.int64)

    def feasible(threshold: float) -> bool:
        found = figures(counts(threshold))
        return all(found.get(metric) <= limit for metric, limit in budgets.items())

    rank = threshold_rank(norms, feasible)
    return counts(float(norms[rank])) if rank < len(norms) else choice.lowest()


def _nearest_allowed(allowed: np.ndarray, wanted: int) -> int:
    """The largest allowed count up to `wanted`, or the smallest of all."""
    below = np.flatnonzero(allowed[: wanted + 1])
    return int(below[-1]) if len(below) else int(np.argmax(allowed))
