# SPDX-License-Identifier: Apache-2.0
"""What one more unit of a group does to every budget: only the terms that the group takes part in are looked at.

This keeps the search near-linear in the size of the network: a candidate costs the terms of one group, not of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgepress.compress.prune.coupling.figures import CostFormula
from edgepress.compress.prune.coupling.widths import PolynomialTable


@dataclass(frozen=True)
class _Terms:
    """The terms of one polynomial table in which one group occurs.

    Attributes:
        slots: [T, D] numbers of their widths; the last width is always 1.
        share: [T, D] channels of those widths per kept unit of the group.
        factor: [T] coefficients.
        rows: [T] the polynomial that each belongs to.
    """

    slots: np.ndarray
    share: np.ndarray
    factor: np.ndarray
    rows: np.ndarray


class GroupCosts:
    """The constraints of a projection, group by group.

    Args:
        formula: the costs.
        budgets: metric -> limit. The peak activation is one constraint for each step of the network that can bind.
    """

    def __init__(self, formula: CostFormula, budgets: Mapping[str, float]):
        self.formula = formula
        metrics = [metric for metric in formula.metrics if metric in budgets]
        self.rows = np.array([formula.metrics.index(metric) for metric in metrics], np.int64)
        peak_limit = budgets.get("peak_activation_bytes")
        groups = formula.share.shape[1]
        self.steps = np.zeros(0, np.int64)
        if peak_limit is not None:
            # A step below the limit with the dense network never binds: most steps drop out.
            dense = formula.timeline(formula.tensors.values(formula.widths(formula.sizes)))
            self.steps = np.flatnonzero(dense > peak_limit)
        self.limits = np.array(
            [max(float(budgets[metric]), 1e-9) for metric in metrics]
            + [max(float(peak_limit or 0), 1e-9)] * len(self.steps)
        )
        # Which of the steps that can bind a tensor is alive in: from, and up to but without.
        self.alive = (np.searchsorted(self.steps, formula.first), np.searchsorted(self.steps, formula.last, "right"))
        padded = np.vstack([formula.share, np.zeros((1, groups))])
        self.totals, self.tensors = (
            _terms(table, padded, formula.users) for table in (formula.totals, formula.tensors)
        )

    def at(self, counts: np.ndarray) -> Usage:
        """The constraints at the given [G] counts."""
        return Usage(self, counts)

    def prices(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What one unit of each total and of each tensor costs under the given weights of the constraints."""
        priced = weights / self.limits
        totals = np.zeros(self.formula.totals.count)
        totals[self.rows] = priced[: len(self.rows)]
        upto = np.concatenate([[0.0], np.cumsum(priced[len(self.rows) :])])
        return totals, upto[self.alive[1]] - upto[self.alive[0]]


def _terms(table: PolynomialTable, padded_share: np.ndarray, users: tuple[np.ndarray, ...]) -> list[_Terms]:
    """Per group its terms of a table."""
    of_width: list[list[int]] = [[] for _ in range(len(padded_share))]
    for term, widths in enumerate(table.widths.tolist()):
        for width in set(widths):
            of_width[width].append(term)
    result = []
    for group, own_widths in enumerate(users):
        own = np.array(sorted({term for width in own_widths for term in of_width[width]}), np.int64)
        slots = table.widths[own]
        result.append(_Terms(slots, padded_share[:, group][slots], table.factor[own], table.rows[own]))
    return result


class Usage:
    """Figures at certain counts, which follow single moves."""

    def __init__(self, costs: GroupCosts, counts: np.ndarray):
        formula = costs.formula
        widths = formula.widths(counts)
        self._costs = costs
        self._widths = np.append(widths.astype(np.float64), 1.0)
        self._figures = formula.totals.values(widths)[costs.rows]
        if len(costs.steps):
            timeline = formula.timeline(formula.tensors.values(widths))[costs.steps]
            self._figures = np.concatenate([self._figures, timeline])

    def shares(self) -> np.ndarray:
        """Every constraint's figure divided by its limit: the metrics, then the steps of the peak."""
        return self._figures / self._costs.limits

    def after(self, group: int, step: int) -> np.ndarray:
        """`shares` with so many units more (or, negative, less) of one group."""
        return (self._figures + self._change(group, step)) / self._costs.limits

    def move(self, group: int, step: int) -> None:
        """Give or take units of one group."""
        self._figures = self._figures + self._change(group, step)
        self.move_widths(group, step)

    def move_widths(self, group: int, step: int) -> None:
        """`move` for who asks for `along` only."""
        users = self._costs.formula.users[group]
        self._widths[users] += step * self._costs.formula.share[users, group]

    def along(self, group: int, counts: np.ndarray, count: int, prices: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The priced sum of all terms of one group at other counts of it.

        Args:
            counts: [N] numbers of units to look at.
            count: the present number.
            prices: of `GroupCosts.prices`.
        """
        total = np.zeros(len(counts))
        for terms, price in zip((self._costs.totals[group], self._costs.tensors[group]), prices, strict=True):
            factor = terms.factor * price[terms.rows]
            base = self._widths[terms.slots] - terms.share * count
            coefficients = factor[None]  # [powers, T], lowest first
            for column in range(terms.slots.shape[1]):
                grown = np.zeros((len(coefficients) + 1, len(factor)))
                grown[:-1] += coefficients * base[:, column]
                grown[1:] += coefficients * terms.share[:, column]
                coefficients = grown
            power = np.ones(len(counts))
            for coefficient in coefficients.sum(1):
                total += coefficient * power
                power = power * counts
        return total

    def _change(self, group: int, step: int) -> np.ndarray:
        costs = self._costs
        change = _difference(costs.totals[group], self._widths, step, costs.formula.totals.count)[costs.rows]
        if not len(costs.steps):
            return change
        terms = costs.tensors[group]
        by_term = _by_term(terms, self._widths, step)
        count = len(costs.steps) + 1
        start, stop = costs.alive[0][terms.rows], costs.alive[1][terms.rows]
        edges = np.bincount(start, by_term, count) - np.bincount(stop, by_term, count)
        return np.concatenate([change, np.cumsum(edges)[:-1]])


def _by_term(terms: _Terms, widths: np.ndarray, step: int) -> np.ndarray:
    """[T] how much each term grows."""
    now = widths[terms.slots]
    return terms.factor * ((now + step * terms.share).prod(1) - now.prod(1))


def _difference(terms: _Terms, widths: np.ndarray, step: int, count: int) -> np.ndarray:
    return np.bincount(terms.rows, _by_term(terms, widths, step), count)
