# SPDX-License-Identifier: Apache-2.0
"""What a projection may choose: how many units of each group, the best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection
from edgepress.compress.prune.removal.branches import find_branches


@dataclass(frozen=True)
class Choice:
    """What a projection may choose: per group the allowed numbers of kept units, best units first.

    Attributes:
        order: [size] per group: units by falling score.
        value: [size + 1] per group: summed score of the best n.
        allowed: [size + 1] bool per group.
    """

    graph: ChannelGraph
    order: tuple[np.ndarray, ...]
    value: tuple[np.ndarray, ...]
    allowed: tuple[np.ndarray, ...]

    def lowest(self) -> np.ndarray:
        return np.array([int(np.argmax(allowed)) for allowed in self.allowed], np.int64)

    def retained(self, counts: np.ndarray) -> float:
        return float(sum(value[count] for value, count in zip(self.value, counts, strict=True)))

    def selection(self, counts: Sequence[int] | np.ndarray) -> Selection:
        kept = []
        for order, count in zip(self.order, counts, strict=True):
            mask = np.zeros(len(order), bool)
            mask[order[: int(count)]] = True
            kept.append(mask)
        return tuple(kept)


def choices(
    graph: ChannelGraph,
    scores: Sequence[np.ndarray],
    divisor: int,
    min_channels: int,
    floor: float,
    within: Selection | None = None,
) -> Choice:
    """The allowed counts of every group under a floor, a divisor and a smallest number of channels.

    Args:
        min_channels: with 0 the inner channels of a residual branch may all go, and the branch with them; whatever
            stays holds the floor.
        within: only units that are kept here may be kept; all of these is always an allowed number.
    """
    branches = find_branches(graph) if min_channels == 0 else {}
    order, value, allowed = [], [], []
    for number, (group, score, open_units) in enumerate(zip(graph.groups, scores, within or graph.full(), strict=True)):
        worth = np.where(open_units, np.asarray(score, np.float64), 0.0)
        ranking = np.lexsort((-worth, ~np.asarray(open_units, bool)))
        order.append(ranking)
        value.append(np.concatenate([[0.0], np.cumsum(worth[ranking])]))
        counts, most = np.arange(group.size + 1), int(np.count_nonzero(open_units))
        least = max(1, int(np.ceil(floor * group.size - 1e-9)), -(-min_channels // group.channels))
        fits = (counts * group.channels % divisor == 0) & (counts >= least) & (counts <= most)
        fits[most] = True
        if number in branches:
            fits[0] = True
        allowed.append(fits)
    return Choice(graph, tuple(order), tuple(value), tuple(allowed))
