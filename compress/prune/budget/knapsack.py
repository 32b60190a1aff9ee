# SPDX-License-Identifier: Apache-2.0
"""The projection that keeps the most importance under several budgets at once.

maximise sum of kept scores  subject to  figure_c(counts) <= limit_c  for every budget c

Figures are polynomials of the kept counts (bilinear in neighbouring layers), the peak activation is the largest of one
polynomial per step of the network, so each step is a constraint of its own. With Lagrange multipliers the problem
falls apart into one per group as long as the neighbours stand still: the best count of a group is found exactly, group
after group, until nothing changes (Yang, Zhu, Liu, ICLR 2019, solve the linear case). The multipliers grow from zero,
which follows the solution from the dense network down, and are then bisected. What the multipliers leave over is given
back unit by unit, the best importance per cost first.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from edgepress.compress.prune.budget.choice import Choice
from edgepress.compress.prune.budget.group_costs import GroupCosts

#: Rounds of re-weighting between several constraints; one is enough for one budget that is a polynomial.
_ROUNDS = 6
_GROWTH = 1.15
_NEAR = 0.99
#: Attempts to come nearer, times groups.
_TRIES = 6000


def fitted_counts(choice: Choice, counts: np.ndarray, budgets: Mapping[str, float], trades: bool = True) -> np.ndarray:
    """[groups] units to keep: counts within the budgets, with what they leave over given back.

    Single units first; where the budget is still not used up, the cheapest trade that comes nearer, unless `trades` is
    False.
    """
    problem = Problem(choice, budgets)
    filled = problem.filled(counts)
    return problem.nearer(filled, 0.0) if trades else filled


def knapsack_counts(choice: Choice, simple: np.ndarray, budgets: Mapping[str, float]) -> np.ndarray:
    """[groups] units to keep, of at least the importance of `simple`, counts within the budgets.

    The smallest allowed counts must be within the budgets.
    """
    problem = Problem(choice, budgets)
    best = simple
    weights = problem.first_weights()
    for round_number in range(_ROUNDS if len(weights) > 1 else 1):
        counts = problem.multiplied(weights)
        usage = problem.usage(counts)
        filled = problem.filled(counts)
        if problem.better(filled, best):
            best = filled
        # Constraints with slack weigh less in the next round, those which bind weigh more.
        weights = weights * np.exp(8.0 / (1 + round_number) * (usage - usage.max()))
        weights /= weights.sum()
    return problem.nearer(best, choice.retained(simple))


class Problem:
    """One projection: the constraints, and what one more unit of a group does to them."""

    def __init__(self, choice: Choice, budgets: Mapping[str, float]):
        self.choice: Choice = choice
        self.formula = choice.graph.formula
        self.costs = GroupCosts(self.formula, budgets)
        self.lowest = choice.lowest()
        self.sizes = choice.graph.sizes

    def usage(self, counts: np.ndarray) -> np.ndarray:
        """Every constraint's figure divided by its limit: the metrics, then the steps of the peak."""
        return self.costs.at(counts).shares()

    def feasible(self, counts: np.ndarray) -> bool:
        return bool((self.usage(counts) <= 1.0).all())

    def better(self, counts: np.ndarray, other: np.ndarray) -> bool:
        return self.choice.retained(counts) > self.choice.retained(other)

    def first_weights(self) -> np.ndarray:
        usage = self.usage(self.sizes)
        weights = np.exp(4.0 * (usage - usage.max()))
        weights[usage <= 1.0] *= 1e-3
        return weights / weights.sum()

    def multiplied(self, weights: np.ndarray) -> np.ndarray:
        """Feasible counts at the smallest multiplier; the multiplier grows from zero and is then bisected."""
        prices = self.costs.prices(weights)
        scale = sum(float(value[-1]) for value in self.choice.value) or 1.0
        low, high = 0.0, 1e-2 * scale
        counts = before = self.sizes.copy()
        while True:
            counts = self.swept(counts, prices, high)
            if self.feasible(counts):
                counts = self.swept(counts, prices, high)
                if self.feasible(counts):
                    break
            if high > 1e12 * scale:
                # The weights ignore a constraint that binds: the smallest network is the way out.
                return self.lowest.copy()
            low, before, high = high, counts.copy(), high * _GROWTH
        found = counts
        for _ in range(14):
            middle = 0.5 * (low + high)
            counts = self.swept(self.swept(before, prices, middle), prices, middle)
            if self.feasible(counts):
                high, found = middle, counts
                if self.usage(found).max() > 0.998:
                    break
            else:
                low, before = middle, counts
        return found

    def swept(self, counts: np.ndarray, prices: tuple[np.ndarray, np.ndarray], multiplier: float) -> np.ndarray:
        """The best count of every group in turn, the others standing still."""
        counts = counts.copy()
        usage = self.costs.at(counts)
        numbers = np.arange(self.sizes.max(initial=0) + 1, dtype=np.float64)
        for group, (value, barred) in enumerate(zip(self.choice.value, self.barred, strict=True)):
            gain = value - multiplier * usage.along(group, numbers[: len(value)], int(counts[group]), prices) + barred
            best = int(gain.argmax())
            if best != counts[group]:
                usage.move_widths(group, best - int(counts[group]))
                counts[group] = best
        return counts

    @cached_property
    def barred(self) -> list[np.ndarray]:
        """Per group 0 for every allowed count, minus infinity for the others."""
        return [np.where(allowed, 0.0, -np.inf) for allowed in self.choice.allowed]

    def filled(self, counts: np.ndarray, skip: int = -1) -> np.ndarray:
        """Give back units, best importance per cost first, until none fits; costs only grow: a lazy heap is exact."""
        counts = counts.copy()
        usage = self.costs.at(counts)
        stamp = np.zeros(len(counts), np.int64)
        heap: list[tuple[float, int, int]] = []
        version = 0

        def offer(group: int) -> None:
            count = int(counts[group])
            above = self.neighbours[group][0][count]
            if above < 0:
                return
            present, more = usage.shares(), usage.after(group, above - count)
            if (more <= 1.0).all():
                cost = ((more - present) / np.maximum(1.0 - present, 1e-12)).max()
                gain = self.choice.value[group][above] - self.choice.value[group][count]
                heapq.heappush(heap, (float(-gain / max(cost, 1e-15)), group, version))

        for group in range(len(counts)):
            if group != skip:
                offer(group)
        while heap:
            _, group, seen = heapq.heappop(heap)
            if seen < version and stamp[group] < version:
                stamp[group] = version
                offer(group)
                continue
            above = self.neighbours[group][0][counts[group]]
            usage.move(group, above - int(counts[group]))
            counts[group] = above
            version += 1
            offer(group)
        return counts

    @cached_property
    def neighbours(self) -> list[tuple[list[int], list[int]]]:
        """Per group and count the next allowed count above and below it, -1 where there is none."""
        result = []
        for allowed in self.choice.allowed:
            above, below = [-1] * len(allowed), [-1] * len(allowed)
            for count in range(1, len(allowed)):
                below[count] = count - 1 if allowed[count - 1] else below[count - 1]
            for count in range(len(allowed) - 2, -1, -1):
                above[count] = count + 1 if allowed[count + 1] else above[count + 1]
            result.append((above, below))
        return result

    def nearer(self, counts: np.ndarray, least: float) -> np.ndarray:
        """Where the budget is not used up, trade: one unit more somewhere against cheaper ones elsewhere, or the
        reverse; of the trades that end within 1 % of the budget the one that keeps most, else the nearest. None that
        keeps less importance than `least`."""
        best = counts
        near = float(self.usage(counts).max())
        if near >= _NEAR:
            return counts
        cheap = np.argsort([self._loss(group, int(counts[group])) for group in range(len(counts))]).tolist()
        moves = [((group, 1),) for group in cheap]
        moves += [((group, -depth),) for depth in (1, 2, 3) for group in cheap]
        moves += [
            ((a, -depth), (b, -other))
            for depth in (1, 2)
            for other in (1, 2)
            for place, a in enumerate(cheap[:12])
            for b in cheap[:place]
        ]
        for move in moves[: max(20, _TRIES // len(counts))]:
            trial = counts.copy()
            for group, steps in move:
                trial[group] = self.stepped(group, int(counts[group]), steps)
            if (trial < 0).any():
                continue
            trial = self.filled(self.filled(self.repaired(trial, move[0][0]), skip=move[0][0]))
            usage = float(self.usage(trial).max())
            if self.choice.retained(trial) >= least and (min(usage, _NEAR), self.choice.retained(trial)) > (
                min(near, _NEAR),
                self.choice.retained(best),
            ):
                best, near = trial, usage
        return best

    def repaired(self, counts: np.ndarray, keep: int) -> np.ndarray:
        """Take units away, least importance per saving first, until the budgets hold; group `keep` stays as it is."""
        counts = counts.copy()
        usage = self.costs.at(counts)
        while not ((present := usage.shares()) <= 1.0).all():
            over = int(present.argmax())
            ranked = []
            for group in range(len(counts)):
                count = int(counts[group])
                lower = self.neighbours[group][1][count]
                if group == keep or lower < 0:
                    continue
                after = usage.after(group, lower - count)
                if after[over] < present[over]:
                    # A unit that takes the figure far below the limit is the last resort.
                    far = bool(after.max() < _NEAR)
                    ranked.append((far, self._loss(group, count) / (present[over] - after[over]), group, lower))
            if not ranked:
                return self.lowest.copy()
            _, _, group, lower = min(ranked)
            usage.move(group, lower - int(counts[group]))
            counts[group] = lower
        return counts

    def stepped(self, group: int, count: int, steps: int) -> int:
        """The allowed count so many steps above (or, negative, below), or -1."""
        for _ in range(abs(steps)):
            count = self.neighbours[group][0 if steps > 0 else 1][count] if count >= 0 else -1
        return count

    def _loss(self, group: int, count: int) -> float:
        """The importance of the last unit."""
        lower = self.neighbours[group][1][count]
        return float("inf") if lower < 0 else float(self.choice.value[group][count] - self.choice.value[group][lower])
