# SPDX-License-Identifier: Apache-2.0
"""How every update of a schedule chooses the units that stay."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from edgepress.compress.prune.budget.gates import Gates
    from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection
    from edgepress.models.limits import Limits

#: Share of the earlier updates in the scores of data, which a few batches and drawn labels make noisy.
_MEMORY = 0.5


class Chooser:
    """From a network's weights to the units that stay within a budget.

    Args:
        graph: the groups.
        projection, importance: see `edgepress.compress.prune.budget`. The importances "distance" and "fisher-distance"
            make the projection the nearest point; the others put their scores in the place of distances.
        divisor, min_channels, floor: see `edgepress.compress.prune.budget.project.projection`.
        scoring: further arguments of `importance`, such as batches. Scores of data are averaged over the calls.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        projection: str,
        importance: str,
        divisor: int = 1,
        min_channels: int = 1,
        floor: float | None = None,
        scoring: Mapping[str, Any] | None = None,
    ):
        self._graph, self._projection, self._importance = graph, projection, importance
        self._fit = (divisor, min_channels, floor)
        self._scoring = dict(scoring or {})
        self._average: tuple[np.ndarray, ...] = ()
        self._calls = 0
        self._gates: Gates | None = None
        self.description: tuple[str, str, tuple[int, int, float | None]] = (projection, importance, self._fit)

    def __call__(self, model: nn.Module, limits: Limits, within: Selection | None = None) -> Selection:
        """The units that stay.

        Args:
            model: left as it is.
            limits: the budget.
            within: only these may stay.
        """
        from edgepress.compress.prune.budget.distance import fisher_squares, squares_of
        from edgepress.compress.prune.budget.nearest import nearest
        from edgepress.compress.prune.budget.project import project

        model = copy.deepcopy(model).eval().cpu()
        self._calls += 1
        rest = (limits, self._projection, *self._fit, within)
        apart = self._projection == "algorithm-1"  # its threshold is on scores, whatever they are
        if self._importance == "distance" and not apart:
            return nearest(self._graph, squares_of(model), *rest).selection
        if self._importance == "fisher-distance" and not apart:
            squares = fisher_squares(model, self._graph, self._scoring.get("batches") or (), self._calls)
            return nearest(self._graph, squares, *rest).selection
        return project(self._graph, self._scores(model), *rest, model)

    def state_dict(self) -> dict[str, Any]:
        return {"average": _numbered(self._average), "calls": self._calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._average = tuple(score.cpu().numpy().copy() for score in state["average"].values())
        self._calls = int(state["calls"])

    def _scores(self, model: nn.Module) -> tuple[np.ndarray, ...]:
        from edgepress.compress.prune.budget.importance import OF_DATA, importance

        if self._importance not in OF_DATA:
            return importance(model, self._graph, self._importance, **self._scoring)
        from edgepress.compress.prune.budget.gates import Gates

        self._gates = self._gates or Gates(self._graph)
        options = {"seed": self._calls, **self._scoring, "gates": self._gates}
        scores = importance(model, self._graph, self._importance, **options)
        if self._average:
            scores = tuple(
                _MEMORY * before + (1 - _MEMORY) * now for before, now in zip(self._average, scores, strict=True)
            )
        self._average = scores
        return scores


def as_tensors(selection: Selection | None) -> dict[str, torch.Tensor]:
    """A selection as a training state holds it."""
    return _numbered([np.asarray(kept, bool) for kept in selection or ()])


def as_selection(tensors: Mapping[str, torch.Tensor]) -> Selection | None:
    """The selection of `as_tensors`; None where there was none."""
    return tuple(kept.cpu().numpy().copy() for kept in tensors.values()) or None


def _numbered(arrays: Iterable[np.ndarray]) -> dict[str, torch.Tensor]:
    return {str(number): torch.from_numpy(array.copy()) for number, array in enumerate(arrays)}
