# SPDX-License-Identifier: Apache-2.0
"""Budgets whose figures are no polynomials: arenas, files, instructions.

The searches of this folder run on polynomials. Each such figure has one that is near it, or one that it grows with. A
search is held to that, at a limit which is corrected by what the exact figure says of the outcome. What is returned was
judged by the exact figures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from edgepress.compress.prune.budget.choice import Choice
from edgepress.compress.prune.budget.knapsack import Problem
from edgepress.compress.prune.coupling.figures import Figures

_ROUNDS = 8
_NEAR = 0.995
#: Exact figures that the last filling may ask for, times groups.
_TRIES = 3000
#: Share of the tightest limit from which on nothing nearer is looked for; steps of one group, and of each of two.
_ENOUGH, _LONG, _SHORT = 0.99, 8, 3


def within_exact(
    choice: Choice,
    counts: np.ndarray,
    budgets: Mapping[str, float],
    solve: Callable[[np.ndarray, Mapping[str, float], bool], np.ndarray],
) -> np.ndarray:
    """[groups] units to keep: within all budgets by their exact figures, and near the tightest.

    Args:
        choice: what may be chosen.
        counts: a start that is within the budgets.
        budgets: metric -> limit.
        solve: (counts, limits of polynomials, whether units are traded to come nearer) -> counts within these limits.
            While a limit is still being corrected, nearer to it is not nearer to the exact one.
    """
    formula = choice.graph.formula
    apart = {f.figure.metric: f.figure.follows for f in formula.on_device if f.figure.metric in budgets}
    if not apart:
        return solve(counts, budgets, True)
    plain = {metric: limit for metric, limit in budgets.items() if metric not in apart}
    best, usage = counts, _usage(formula.figures(counts), budgets)
    at = counts
    slack = dict.fromkeys(apart, 1.0)
    for _ in range(_ROUNDS):
        figures, near = formula.figures(at), formula.totals.values(formula.widths(at))
        steered = dict(plain)
        for metric, follows in apart.items():
            now = figures.get(follows) if follows else near[formula.metrics.index(metric)]
            limit = now * budgets[metric] / figures.get(metric) * slack[metric]
            name = follows or metric
            steered[name] = min(steered.get(name, np.inf), limit)
        at = solve(best, steered, False)
        figures = formula.figures(at)
        if all(figures.get(metric) <= limit for metric, limit in budgets.items()):
            if choice.retained(at) >= choice.retained(best) or _usage(figures, budgets) > usage:
                best, usage = at, _usage(figures, budgets)
            if usage >= _NEAR:
                break
        else:
            for metric in apart:
                over = figures.get(metric) / budgets[metric]
                if over > 1.0:
                    slack[metric] *= 1.0 - 0.5 * min(0.02, over - 1.0)
    return _nearer(choice, _filled(choice, best, budgets), budgets)


@dataclass(frozen=True)
class NextStep:
    """The cheapest way for one group to its next allowed width.

    Attributes:
        group: its name.
        metric: the budget that it would leave by most.
        over: how far that figure would be above its limit, in its unit; 0 or less where the step is within.
        share: the same as a share of the limit.
    """

    group: str
    metric: str
    over: float
    share: float


def next_step(choice: Choice, counts: np.ndarray, budgets: Mapping[str, float]) -> NextStep | None:
    """Of all groups the step to the next allowed width that leaves the budgets least; None where all are at their top.

    A network whose least step is above the limit is maximal: no group can be wider, the others as they are.
    """
    formula = choice.graph.formula
    steps = []
    for group, trial in _wider(choice, counts, 1):
        figures = formula.figures(trial)
        shares = {metric: figures.get(metric) / max(limit, 1e-9) - 1 for metric, limit in budgets.items()}
        worst = max(shares, key=lambda metric: shares[metric])
        over = figures.get(worst) - budgets[worst]
        steps.append(NextStep(choice.graph.groups[group].name, worst, over, shares[worst]))
    return min(steps, key=lambda step: step.share, default=None)


def _wider(choice: Choice, counts: np.ndarray, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """(group, counts) with one group at each of its next `most` allowed numbers."""
    for group, count in enumerate(counts):
        allowed = np.flatnonzero(choice.allowed[group])
        for above in allowed[allowed > count][:most]:
            trial = counts.copy()
            trial[group] = above
            yield group, trial


def _nearer(choice: Choice, counts: np.ndarray, budgets: Mapping[str, float]) -> np.ndarray:
    """Go on where no single step is within the budgets and the tightest is not near its limit.

    Figures with alignment, or that share what is equal, do not grow with every width: two steps may be within where
    one is not. So a few steps of one group are tried, then steps of two groups. Only units come back, none goes.
    """
    formula = choice.graph.formula
    usage = _usage(formula.figures(counts), budgets)
    tries = max(50, _TRIES // len(counts))
    while usage < _ENOUGH and tries > 0:
        best, most = None, usage
        pairs = (pair for _, first in _wider(choice, counts, _SHORT) for _, pair in _wider(choice, first, _SHORT))
        for trial in chain((one for _, one in _wider(choice, counts, _LONG)), pairs):
            tries -= 1
            now = _usage(formula.figures(trial), budgets)
            if most < now <= 1.0:
                best, most = trial, now
            if tries <= 0 or most >= _ENOUGH:
                break
        if best is None:
            break
        counts = _filled(choice, best, budgets)
        usage = _usage(formula.figures(counts), budgets)
    return counts


def _usage(figures: Figures, budgets: Mapping[str, float]) -> float:
    """The tightest figure divided by its limit."""
    return max(figures.get(metric) / max(limit, 1e-9) for metric, limit in budgets.items())


def _filled(choice: Choice, counts: np.ndarray, budgets: Mapping[str, float]) -> np.ndarray:
    """Give back single units, the most important first, as long as the exact figures allow it."""
    formula, counts = choice.graph.formula, counts.copy()
    neighbours = Problem(choice, {}).neighbours
    tries = max(50, _TRIES // len(counts))
    grown = True
    while grown and tries > 0:
        grown = False
        offers = []
        for group, count in enumerate(counts):
            above = neighbours[group][0][int(count)]
            if above >= 0:
                gain = choice.value[group][above] - choice.value[group][int(count)]
                offers.append((-float(gain), group, above))
        for _, group, above in sorted(offers):
            trial = counts.copy()
            trial[group] = above
            tries -= 1
            figures = formula.figures(trial)
            if all(figures.get(metric) <= limit for metric, limit in budgets.items()):
                counts, grown = trial, True
            if tries <= 0:
                break
    return counts
