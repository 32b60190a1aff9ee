# SPDX-License-Identifier: Apache-2.0
"""The Euclidean projection onto a budget: the selection of units whose removal moves the weights least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from edgepress.compress.prune.budget.choice import Choice, choices
from edgepress.compress.prune.budget.distance import removed_distance, unit_distances
from edgepress.compress.prune.budget.knapsack import Problem
from edgepress.compress.prune.budget.project import Projection, projection
from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection
from edgepress.models.limits import DEVICE_METRICS, Limits

#: Rounds of scoring and choosing, and of trades.
_ROUNDS, _TRADES = 3, 40
#: Groups up to which trades are tried: each costs a pass over all weights.
_MANY = 40


def nearest(
    graph: ChannelGraph,
    squares: Mapping[str, np.ndarray],
    limits: Limits,
    method: str = "knapsack",
    divisor: int = 1,
    min_channels: int = 1,
    floor: float | None = None,
    within: Selection | None = None,
) -> Projection:
    """The selection within the budget of the least distance that was found.

    A unit's share of the distance depends on the other units that are kept. So units are scored and chosen in turns
    from the dense network on; then single units are traded between groups as long as the distance falls. The least of
    all is a quadratic knapsack, which is NP-hard; on small networks this comes within 2 % of it.

    Args:
        graph: the groups.
        squares: name -> square of every parameter, in whatever metric is diagonal (`budget.distance`).
        limits, method, divisor, min_channels, floor, within: as in `budget.project.projection`.

    Raises:
        InfeasibleBudget, UsageError: as `projection`.
    """

    def chosen(kept: Selection | None) -> Projection:
        scores = unit_distances(graph, squares, kept)
        return projection(graph, scores, limits, method, divisor, min_channels, floor, within)

    found = chosen(None)
    best, least = found.selection, removed_distance(graph, squares, found.selection)
    before = best
    for _ in range(_ROUNDS):
        selection = chosen(before).selection
        distance = removed_distance(graph, squares, selection)
        if distance < least:
            best, least = selection, distance
        if all(map(np.array_equal, before, selection)):
            break
        before = selection
    for _ in range(_TRADES if len(graph.groups) <= _MANY else 0):
        choice = choices(graph, unit_distances(graph, squares, best), divisor, min_channels, found.floor, within)
        trials = [choice.selection(counts) for counts in _trades(choice, graph.counts(best), limits)]
        distances = [removed_distance(graph, squares, trial) for trial in trials]
        if min(distances) >= least * (1 - 1e-9):
            break
        best, least = trials[int(np.argmin(distances))], min(distances)
    total = float(sum(squares[name].sum() for name in graph.kept_tensors(best) if name in squares))
    return replace(found, selection=best, figures=graph.cost(best), retained=1 - least / total if total else 1.0)


def _trades(choice: Choice, counts: np.ndarray, limits: Limits) -> Iterator[np.ndarray]:
    """Counts within the budgets near the given ones: a few units more or less of one group, made good by others."""
    budgets, formula = limits.budgets(), choice.graph.formula
    held = {metric: limit for metric, limit in budgets.items() if metric not in DEVICE_METRICS}
    problem = Problem(choice, held)
    yield counts
    seen = {counts.tobytes()}
    for group in range(len(counts)):
        for steps in (1, -1, 2, -2):
            trial = counts.copy()
            trial[group] = problem.stepped(group, int(counts[group]), steps)
            if trial[group] < 0:
                continue
            trial = problem.repaired(trial, group)
            trial = problem.filled(problem.filled(trial, skip=group)) if steps < 0 else problem.filled(trial)
            figures = formula.figures(trial)
            if any(figures.get(metric) > limit for metric, limit in budgets.items()):
                continue
            if trial.tobytes() not in seen:
                seen.add(trial.tobytes())
                yield trial
