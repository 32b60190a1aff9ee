# SPDX-License-Identifier: Apache-2.0
"""Gradual pruning: many small steps with training in between, as masks over the dense network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgepress.compress.prune.schedules.choosing import Chooser, as_selection, as_tensors
from edgepress.models.errors import UsageError
from edgepress.models.limits import Limits

if TYPE_CHECKING:
    from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection


class Gradual:
    """Tightens the budget geometrically from the dense network's cost to `limits`, one projection per update.

    Removed channels are held at zero, their normalisation included; what is removed never comes back, since nothing
    trains it. `selection` says what is left, which is what has to be taken out at the end: to score the network anew
    would choose channels that it has not learned to do without. It is used like `Admm`, in our loop or anyone's.

    Args:
        graph: `edgepress.compress.prune.coupling.channels.find_groups` of the model.
        limits: the final budget.
        projection, importance: how each step chooses.
        updates: steps in all, spread evenly over the training.
        divisor, min_channels, floor: see `edgepress.compress.prune.budget.project.project`.
        scoring: further arguments of `prune.budget.importance.importance`, such as batches for "fisher".
    """

    def __init__(
        self,
        graph: ChannelGraph,
        limits: Limits,
        *,
        projection: str = "threshold",
        importance: str = "l2",
        updates: int = 20,
        divisor: int = 1,
        min_channels: int = 1,
        floor: float | None = None,
        scoring: Mapping[str, Any] | None = None,
    ):
        if updates < 1:
            raise UsageError(f"updates = {updates} must be at least 1")
        self.graph: ChannelGraph = graph
        self._limits = limits
        self._choose = Chooser(graph, projection, importance, divisor, min_channels, floor, scoring)
        self._updates, self._interval, self._steps, self._done = updates, 1, 0, 0
        self._dense = graph.cost(graph.full())
        self._model: nn.Module | None = None
        self._kept: Selection | None = None
        self._masks: dict[str, Tensor] = {}
        #: What distinguishes this shaping from another, for the key of a training.
        self.description: str = repr((limits, self._choose.description, updates))

    def start(self, model: nn.Module, steps: int) -> None:
        """Take hold of the parameters. `steps` optimizer steps will follow; the last update leaves one interval."""
        self._model, self._interval = model, max(1, steps // (self._updates + 1))

    def penalty(self) -> None:
        """Masks need none."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Hold removed channels at zero; every few steps remove some more."""
        self._steps += 1
        assert self._model is not None
        if self._steps % self._interval == 0 and self._done < self._updates:
            self._done += 1
            self._kept = self._choose(self._model, self.limits_at(self._done / self._updates), self._kept)
            self._masks = self.graph.parameter_masks(self._kept)
        for name, parameter in self._model.named_parameters():
            if name in self._masks:
                parameter.mul_(self._masks[name].to(parameter))

    def selection(self) -> Selection | None:
        """The units that are left; None while the final budget is not reached."""
        return self._kept if self._done == self._updates else None

    def limits_at(self, progress: float) -> Limits:
        """The budget at `progress` (0: the dense network's cost, 1: the final limits), geometric in between."""
        between = {}
        for metric, limit in self._limits.budgets().items():
            dense = self._dense.get(metric)
            value = dense ** (1 - progress) * limit**progress
            between[metric] = limit if dense <= limit else int(value) if isinstance(limit, int) else value
        return replace(self._limits, **(between if progress < 1 else {}))  # type: ignore[arg-type]

    def figures(self) -> dict[str, float]:
        """The share of the way that is done."""
        return {"pruned_share": self._done / self._updates}

    def finished(self) -> bool:
        """Never before the last epoch: the steps are planned over all of them."""
        return False

    def state_dict(self) -> dict[str, Any]:
        return {
            "kept": as_tensors(self._kept),
            "scores": self._choose.state_dict(),
            "steps": self._steps,
            "done": self._done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept, self._steps, self._done = as_selection(state["kept"]), int(state["steps"]), int(state["done"])
        self._choose.load_state_dict(state["scores"])
        self._masks = self.graph.parameter_masks(self._kept) if self._kept is not None else {}
