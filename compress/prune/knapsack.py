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
from collections.abc import Mapping, Sequence

import numpy as np

from compress.prune.figures import METRICS, CostFormula
from compress.prune.project import Choice

#: Rounds of re-weighting between several constraints; one is enough for one budget that is a polynomial.
_ROUNDS = 6
_GROWTH = 1.15
_NEAR = 0.99
#: Attempts to come nearer, times groups.
_TRIES = 6000


def knapsack_counts(choice: Choice, scores: Sequence[np.ndarray], budgets: Mapping[str, float]) -> np.ndarray:
    """[groups] units to keep. The smallest allowed counts must be within the budgets."""
    from compress.prune.threshold import threshold_counts

    problem = _Problem(choice, budgets)
    best = problem.filled(threshold_counts(choice, scores, budgets))
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
    return problem.nearer(best)


class _Problem:
    """One projection: constraints as weighted sums of polynomials, and the current widths."""

    def __init__(self, choice: Choice, budgets: Mapping[str, float]):
        self.choice, self.formula = choice, choice.graph.formula
        self.metrics = [metric for metric in METRICS[:3] if metric in budgets]
        self.limits = np.array([max(float(budgets[metric]), 1e-9) for metric in self.metrics])
        self.peak_limit = float(budgets["peak_activation_bytes"]) if "peak_activation_bytes" in budgets else None
        self.lowest = choice.lowest()
        self.sizes = choice.graph.sizes
        self.terms = _GroupTerms(self.formula)
        if self.peak_limit is not None:
            # A step below the limit with the dense network never binds: most steps drop out.
            dense = self.formula.timeline(self.formula.tensors.values(self.formula.widths(self.sizes)))
            self.steps = np.flatnonzero(dense > self.peak_limit)
        self.rows = np.array([METRICS.index(metric) for metric in self.metrics], np.int64)

    def usage(self, counts: np.ndarray) -> np.ndarray:
        """Every constraint's figure divided by its limit: the metrics, then the steps of the peak."""
        return self.usage_of(self.formula.widths(counts))

    def usage_of(self, widths: np.ndarray) -> np.ndarray:
        totals = self.formula.totals.values(widths)[self.rows] / self.limits
        if self.peak_limit is None:
            return totals
        timeline = self.formula.timeline(self.formula.tensors.values(widths))[self.steps]
        return np.concatenate([totals, timeline / max(self.peak_limit, 1e-9)])

    def feasible(self, counts: np.ndarray) -> bool:
        return bool((self.usage(counts) <= 1.0).all())

    def better(self, counts: np.ndarray, other: np.ndarray) -> bool:
        return self.choice.retained(counts) > self.choice.retained(other)

    def first_weights(self) -> np.ndarray:
        usage = self.usage(self.sizes)
        weights = np.exp(4.0 * (usage - usage.max()))
        weights[usage <= 1.0] *= 1e-3
        return weights / weights.sum()

    def prices(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What one unit of each total and of each tensor costs under the given weights of the constraints."""
        totals = np.zeros(3)
        for number, metric in enumerate(self.metrics):
            totals[METRICS.index(metric)] = weights[number] / self.limits[number]
        tensors = np.zeros(self.formula.tensors.count)
        if self.peak_limit is not None:
            of_steps = np.zeros(self.formula.steps)
            of_steps[self.steps] = weights[len(self.metrics):]
            tensors = self.formula.alive(of_steps) / max(self.peak_limit, 1e-9)
        return totals, tensors

    def multiplied(self, weights: np.ndarray) -> np.ndarray:
        """Feasible counts at the smallest multiplier; the multiplier grows from zero and is then bisected."""
        prices = self.prices(weights)
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
        widths = self.formula.widths(counts)
        for group in range(len(counts)):
            coefficients = self.terms.along(group, widths, counts[group], prices)
            numbers = np.arange(len(self.choice.value[group]))
            cost = np.polynomial.polynomial.polyval(numbers, coefficients)
            gain = np.where(self.choice.allowed[group], self.choice.value[group] - multiplier * cost, -np.inf)
            best = int(np.argmax(gain))
            if best != counts[group]:
                widths = self.terms.moved(widths, group, best - counts[group])
                counts[group] = best
        return counts

    def filled(self, counts: np.ndarray, skip: int = -1) -> np.ndarray:
        """Give back units, best importance per cost first, until none fits; costs only grow: a lazy heap is exact."""
        counts = counts.copy()
        widths = self.formula.widths(counts)
        usage = self.usage(counts)
        stamp = np.zeros(len(counts), np.int64)
        heap: list[tuple[float, int, int]] = []
        version = 0

        def offer(group: int) -> None:
            step = self.next_up(group, counts[group])
            if step is None:
                return
            slack = np.maximum(1.0 - usage, 1e-12)
            more = self.usage_of(self.terms.moved(widths, group, step))
            cost = float(((more - usage) / slack).max())
            gain = self.choice.value[group][counts[group] + step] - self.choice.value[group][counts[group]]
            if (more <= 1.0).all():
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
            step = self.next_up(group, counts[group])
            assert step is not None
            counts[group] += step
            widths = self.terms.moved(widths, group, step)
            usage = self.usage_of(widths)
            version += 1
            offer(group)
        return counts

    def next_up(self, group: int, count: int) -> int | None:
        """How many more units the next allowed count has."""
        above = np.flatnonzero(self.choice.allowed[group][count + 1:])
        return int(above[0]) + 1 if len(above) else None

    def nearer(self, counts: np.ndarray) -> np.ndarray:
        """Where the budget is not used up, trade: one unit more somewhere against cheaper ones elsewhere, or the
        reverse; of the trades that end within 1 % of the budget the one that keeps most, else the nearest."""
        best = counts
        near = float(self.usage(counts).max())
        if near >= _NEAR:
            return counts
        cheap = np.argsort([self._loss(group, counts[group], 1) for group in range(len(counts))]).tolist()
        moves = [((group, 1),) for group in cheap]
        moves += [((group, -depth),) for depth in (1, 2, 3) for group in cheap]
        moves += [((a, -depth), (b, -other)) for depth in (1, 2) for other in (1, 2)
                  for place, a in enumerate(cheap[:12]) for b in cheap[:place]]
        for move in moves[:max(20, _TRIES // len(counts))]:
            trial = counts.copy()
            for group, steps in move:
                trial[group] = self._stepped(group, int(counts[group]), steps)
            if (trial < 0).any():
                continue
            trial = self.filled(self.filled(self.repaired(trial, move[0][0]), skip=move[0][0]))
            usage = float(self.usage(trial).max())
            if (min(usage, _NEAR), self.choice.retained(trial)) > (min(near, _NEAR), self.choice.retained(best)):
                best, near = trial, usage
        return best

    def repaired(self, counts: np.ndarray, keep: int) -> np.ndarray:
        """Take units away, least importance per saving first, until the budgets hold; group `keep` stays as it is."""
        counts = counts.copy()
        while not self.feasible(counts):
            widths = self.formula.widths(counts)
            over = int(np.argmax(self.usage_of(widths)))
            before = float(self.usage_of(widths)[over])
            ranked = []
            for group in range(len(counts)):
                lower = self._stepped(group, counts[group], -1)
                if group == keep or lower < 0:
                    continue
                after = self.usage_of(self.terms.moved(widths, group, lower - counts[group]))
                if after[over] < before:
                    # A unit that takes the figure far below the limit is the last resort.
                    far = after.max() < _NEAR
                    ranked.append((far, self._loss(group, counts[group], 1) / (before - after[over]), group, lower))
            if not ranked:
                return self.lowest.copy()
            _, _, group, lower = min(ranked)
            counts[group] = lower
        return counts

    def _stepped(self, group: int, count: int, steps: int) -> int:
        """The allowed count so many steps above (or, negative, below), or -1."""
        allowed = self.choice.allowed[group]
        found = np.flatnonzero(allowed[:count])[::-1] if steps < 0 else count + 1 + np.flatnonzero(allowed[count + 1:])
        return int(found[abs(steps) - 1]) if len(found) >= abs(steps) else -1

    def _loss(self, group: int, count: int, depth: int) -> float:
        lower = self._stepped(group, count, -depth)
        return float("inf") if lower < 0 else float(self.choice.value[group][count] - self.choice.value[group][lower])


class _GroupTerms:
    """Per group the terms of all polynomials that its count takes part in."""

    def __init__(self, formula: CostFormula):
        self.formula = formula
        groups = formula.share.shape[1]
        width_count = formula.share.shape[0]
        self.tables = (formula.totals, formula.tensors)
        # Which terms contain which width, then which group.
        self.terms: list[list[np.ndarray]] = []
        padded = np.vstack([formula.share, np.zeros((1, groups))])
        self.padded_share = padded
        for table in self.tables:
            owner: list[list[int]] = [[] for _ in range(width_count + 1)]
            for term, widths in enumerate(table.widths):
                for width in {int(w) for w in widths}:
                    owner[width].append(term)
            per_group = []
            for group in range(groups):
                found = {term for width in formula.users[group] for term in owner[int(width)]}
                per_group.append(np.array(sorted(found), np.int64))
            self.terms.append(per_group)

    def moved(self, widths: np.ndarray, group: int, by: int) -> np.ndarray:
        """The widths after `by` more units of one group."""
        widths = widths.copy()
        users = self.formula.users[group]
        widths[users] += by * self.formula.share[users, group]
        return widths

    def along(self, group: int, widths: np.ndarray, count: int, prices: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Coefficients in the count of one group of the priced sum of all its terms, lowest power first."""
        at = np.append(widths, 1.0)
        share = self.padded_share[:, group]
        base = at - share * count  # widths without the group
        total = np.zeros(1)
        for table, terms, price in zip(self.tables, self.terms, prices, strict=True):
            own = terms[group]
            if not len(own) or not price.any():
                continue
            slots = table.widths[own]
            factors = table.factor[own] * price[table.rows[own]]
            powers = factors[:, None]
            for column in range(slots.shape[1]):
                constant, linear = base[slots[:, column]][:, None], share[slots[:, column]][:, None]
                grown = np.zeros((len(own), powers.shape[1] + 1))
                grown[:, :-1] += powers * constant
                grown[:, 1:] += powers * linear
                powers = grown
            summed = powers.sum(0)
            if len(summed) > len(total):
                total = np.pad(total, (0, len(summed) - len(total)))
            total[:len(summed)] += summed
        return total
