# SPDX-License-Identifier: Apache-2.0
"""Widths as symbols: the counting code of `models` runs on polynomials in place of numbers.

The cost of a pruned network is a polynomial in the widths that pruning leaves. `Polynomial` behaves like the integer
that it has in the dense network (comparisons, truth, `int()`), and remembers how it came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import total_ordering
from typing import Any

import numpy as np

Monomial = tuple[int, ...]


@total_ordering
class Polynomial:
    """An integer that depends on widths.

    Attributes:
        terms: sorted width numbers (with repetition) -> integer coefficient.
        dense: value of every width in the dense network, shared by all polynomials of one network.
    """

    __slots__ = ("_value", "dense", "terms")

    def __init__(self, terms: Mapping[Monomial, int], dense: Sequence[int]):
        self.terms: dict[Monomial, int] = {monomial: factor for monomial, factor in terms.items() if factor}
        self.dense: Sequence[int] = dense
        self._value: int | None = None

    def __int__(self) -> int:
        if self._value is None:
            total = 0
            for monomial, factor in self.terms.items():
                for width in monomial:
                    factor *= self.dense[width]
                total += factor
            self._value = total
        return self._value

    __index__ = __int__

    def __bool__(self) -> bool:
        return int(self) != 0

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Polynomial):
            return self.terms == other.terms
        return isinstance(other, (int, float)) and int(self) == other

    def __lt__(self, other: Any) -> bool:
        return int(self) < int(other)

    def __add__(self, other: Any) -> Any:
        terms = dict(self.terms)
        for monomial, factor in terms_of(other).items():
            terms[monomial] = terms.get(monomial, 0) + factor
        return Polynomial(terms, self.dense)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        terms: dict[Monomial, int] = {}
        for right, times in terms_of(other).items():
            for left, factor in self.terms.items():
                key = tuple(sorted(left + right))
                terms[key] = terms.get(key, 0) + factor * times
        return Polynomial(terms, self.dense)

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Any:
        return self + -1 * (other if isinstance(other, Polynomial) else int(other))

    def __rsub__(self, other: Any) -> Any:
        return other + -1 * self

    def __neg__(self) -> Any:
        return -1 * self

    def __mod__(self, other: Any) -> int:
        return 0 if self._divided(other) is not None else 1

    def __floordiv__(self, other: Any) -> Any:
        quotient = self._divided(other)
        if quotient is None:
            raise ArithmeticError("this cost is no polynomial in the widths")
        return quotient

    def __rfloordiv__(self, other: Any) -> Any:
        return Polynomial({(): int(other)}, self.dense) // self

    def _divided(self, other: Any) -> Polynomial | None:
        divisor = terms_of(other)
        if len(divisor) != 1:
            return Polynomial({(): 1}, self.dense) if isinstance(other, Polynomial) and self == other else None
        ((monomial, by),) = divisor.items()
        terms: dict[Monomial, int] = {}
        for own, factor in self.terms.items():
            rest = list(own)
            for width in monomial:
                if width not in rest:
                    return None
                rest.remove(width)
            if factor % by:
                return None
            terms[tuple(rest)] = factor // by
        return Polynomial(terms, self.dense)

    def __repr__(self) -> str:
        return f"<{int(self)}>"


def terms_of(value: Any) -> Mapping[Monomial, int]:
    """The terms of a polynomial or of a plain number."""
    return value.terms if isinstance(value, Polynomial) else {(): int(value)}


@dataclass(frozen=True)
class PolynomialTable:
    """Several polynomials in W widths at once, as arrays; sums are exact below 2**53.

    Attributes:
        factor: [T] coefficient of every term.
        widths: [T, D] numbers of its widths; W (a width that is always 1) fills up.
        rows: [T] which polynomial the term belongs to.
        count: number of polynomials.
    """

    factor: np.ndarray
    widths: np.ndarray
    rows: np.ndarray
    count: int

    @classmethod
    def of(
        cls,
        polynomials: Sequence[Any],
        width_count: int,
        sums: Sequence[Sequence[tuple[Any, float]]] = (),
    ) -> PolynomialTable:
        """A table of polynomials, and behind them of sums of polynomials times real factors."""
        entries = [
            (row, monomial, factor)
            for row, polynomial in enumerate(polynomials)
            for monomial, factor in terms_of(polynomial).items()
        ]
        entries += [
            (row, monomial, factor * times)
            for row, parts in enumerate(sums, len(polynomials))
            for polynomial, times in parts
            for monomial, factor in terms_of(polynomial).items()
        ]
        degree = max((len(monomial) for _, monomial, _ in entries), default=0)
        widths = np.full((len(entries), max(degree, 1)), width_count, np.int64)
        for number, (_, monomial, _) in enumerate(entries):
            widths[number, : len(monomial)] = monomial
        return cls(
            np.array([factor for _, _, factor in entries], np.float64),
            widths,
            np.array([row for row, _, _ in entries], np.int64),
            len(polynomials) + len(sums),
        )

    def values(self, widths: np.ndarray) -> np.ndarray:
        """[count] values at the given [W] widths."""
        padded = np.append(widths.astype(np.float64), 1.0)
        return np.bincount(self.rows, self.factor * padded[self.widths].prod(1), self.count)
