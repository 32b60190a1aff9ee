# SPDX-License-Identifier: Apache-2.0
"""Successive halving (Jamieson and Talwalkar, AISTATS 2016): methods that are far behind on validation are not trained
with all seeds.

The rungs are one training with the middle learning rate, then all rates, then all rates on the second of the seeds that
are searched. Of each kind, ours and theirs alike, the best third goes on, rounded up, together with what equals its
last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.peers.methods import KINDS

#: One of so many goes on.
SHARE = 3


@dataclass
class Rungs:
    """How far the rungs of a cell are.

    Attributes:
        asked: (method, seed, rate) of all trainings of the rungs so far.
        standing: methods that are still in, in their order.
        chosen: those that stand by their own accuracy, not because they are kept.
        dropped: method -> the number of the rung after which it was dropped, from 1.
        finished: whether all rungs are.
    """

    asked: list[tuple[str, int, float]] = field(default_factory=list)
    standing: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    finished: bool = False


def climb(
    methods: Sequence[str],
    rates: Sequence[float],
    searched: Sequence[int],
    find: Callable[[str, int, float], Mapping[str, Any] | None],
    keep: Sequence[str] = (),
) -> Rungs:
    """The rungs of a cell, as far as their trainings are known.

    Args:
        methods: names.
        rates: of the search.
        searched: seeds of the search.
        find: the finished training of a method, seed and rate, or None.
        keep: methods that go on whatever their accuracy; they take nobody's place.
    """
    state = Rungs(standing=tuple(methods), chosen=tuple(methods))
    steps = [(searched[:1], (sorted(rates)[len(rates) // 2],)), (searched[:1], tuple(rates)), (searched, tuple(rates))]
    for number, (seeds, tried) in enumerate(steps, 1):
        wanted = [(method, seed, rate) for method in state.standing for seed in seeds for rate in tried]
        state.asked += [one for one in wanted if one not in state.asked]
        if any(find(*one) is None for one in wanted):
            return state
        if number == len(steps):
            state.finished = True
            return state
        scores = {method: validated(method, seeds, tried, find) for method in state.chosen}
        best = {name for names in KINDS.values() for name in _best([m for m in state.chosen if m in names], scores)}
        state.chosen = tuple(method for method in state.chosen if method in best)
        left = [method for method in state.standing if method not in best and method not in keep]
        state.dropped |= dict.fromkeys(left, number)
        state.standing = tuple(method for method in state.standing if method not in state.dropped)
    return state


def validated(
    method: str,
    seeds: Sequence[int],
    rates: Sequence[float],
    find: Callable[[str, int, float], Mapping[str, Any] | None],
) -> float:
    """Mean accuracy on validation over the seeds, at the best of the rates."""
    return max(
        float(np.mean([found["validation_accuracy"] for seed in seeds if (found := find(method, seed, rate))]))
        for rate in rates
    )


def _best(names: Sequence[str], scores: Mapping[str, float]) -> list[str]:
    """The best third, rounded up, and what equals its last."""
    if not names:
        return []
    last = sorted((scores[name] for name in names), reverse=True)[-(-len(names) // SHARE) - 1]
    return [name for name in names if scores[name] >= last]
