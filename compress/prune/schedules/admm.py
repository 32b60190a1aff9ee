# SPDX-License-Identifier: Apache-2.0
"""ADMM: train towards a network that fits the budget, min L(W) + I_C(Z) subject to W = Z.

Scaled form (Boyd et al. 2011, section 3.1.1; for filters Zhang et al. 2018, arXiv 1804.03294):

    W-step  steps on L(W) + rho/2 ||W - Z + U||^2
    Z-step  Z = projection of W + U onto C, the networks within the budget: the nearest of them, in Euclid's distance
            over all weights ("distance") or weighted by the diagonal Fisher information ("fisher-distance"). With any
            other importance its scores stand in for the distances: a heuristic that may choose better channels.
    U-step  U = U + W - Z

with Z = Proj(W) and U = 0 at the start. rho grows from step to step; U is scaled, so that it shrinks by that factor.
W, Z and U are the parameters of which pruning takes slices; the class keeps no other state.

The W-step comes in two forms. "gradient" adds the penalty to the loss, as published. Adam divides every gradient by its
size, so that a scale of batch normalisation, which is about 1, needs 1,000 steps at a rate of 1e-3 to reach 0: too slow
for a short training. "proximal" takes the optimizer's step on the loss alone and then the exact minimum of the penalty
around it, W = (W + rho (Z - U)) / (1 + rho) (Parikh and Boyd 2014, section 4.2), which the optimizer cannot slow down.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgepress.compress.prune.schedules.choosing import Chooser, as_selection, as_tensors
from edgepress.models.errors import UsageError
from edgepress.models.limits import Limits

if TYPE_CHECKING:
    from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection


class Admm:
    """The penalty, the projection and the dual ascent, for our loop or anyone's.

        admm = Admm(graph, limits)
        admm.start(model, steps)                      # steps: how many optimizer steps will follow
        for batch in ...:
            loss(batch).backward(); optimizer.step(); optimizer.zero_grad()    # loss + admm.penalty() for "gradient"
            admm.after_step()
        smaller = remove(model, graph, admm.selection())

    Args:
        graph: `edgepress.compress.prune.coupling.channels.find_groups` of the model.
        limits: the budget C.
        projection: how the budget is shared out, see `edgepress.compress.prune.budget.project.projection`.
        importance: how channels of W + U are scored, see the Z-step above.
        rho_start, rho_end: the penalty's weight before the first and from the last update on; it grows geometrically.
        w_step: "proximal" or "gradient", see above.
        updates: Z- and U-steps in all, spread evenly.
        tolerance: the stopping rule: both relative residuals at or below it, once rho has grown to its end.
        divisor, min_channels, floor: see `edgepress.compress.prune.budget.project.project`.
        scoring: further arguments of `prune.budget.importance.importance`, such as batches for "fisher".
    """

    def __init__(
        self,
        graph: ChannelGraph,
        limits: Limits,
        *,
        projection: str = "knapsack",
        importance: str = "distance",
        w_step: str = "proximal",
        rho_start: float = 0.03,
        rho_end: float = 0.3,
        updates: int = 8,
        tolerance: float = 0.01,
        divisor: int = 1,
        min_channels: int = 1,
        floor: float | None = None,
        scoring: Mapping[str, Any] | None = None,
    ):
        if not 0 < rho_start <= rho_end:
            raise UsageError(f"rho_start = {rho_start} and rho_end = {rho_end} must satisfy 0 < rho_start <= rho_end")
        if w_step not in ("proximal", "gradient"):
            raise UsageError(f"w_step = {w_step!r} is unknown: allowed are proximal, gradient")
        if updates < 1:
            raise UsageError(f"updates = {updates} must be at least 1")
        self.graph: ChannelGraph = graph
        self._limits = limits
        self._proximal = w_step == "proximal"
        self._choose = Chooser(graph, projection, importance, divisor, min_channels, floor, scoring)
        self._kept: Selection | None = None
        self._rho, self._rho_end, self._updates, self._tolerance = rho_start, rho_end, updates, tolerance
        self._growth = (rho_end / rho_start) ** (1 / max(1, updates - 1))
        self._interval, self._steps, self._done = 1, 0, 0
        self._model: nn.Module | None = None
        self._w: dict[str, nn.Parameter] = {}
        self._z: dict[str, Tensor] = {}
        self._u: dict[str, Tensor] = {}
        self._residuals = (float("inf"), float("inf"))
        #: What distinguishes this shaping from another, for the key of a training.
        self.description: str = repr((limits, self._choose.description, w_step, rho_start, rho_end, updates, tolerance))

    def start(self, model: nn.Module, steps: int) -> None:
        """Take hold of the parameters; Z = Proj(W), U = 0. `steps` optimizer steps will follow."""
        self._model, self._interval = model, max(1, steps // self._updates)
        named = dict(model.named_parameters())
        sliced = {member.tensor for group in self.graph.groups for member in group.members if member.trained}
        names = [name for name in named if name in sliced]
        if not names:
            raise UsageError("ADMM finds no channel that can be pruned in this network; see the frozen operators")
        self._w = {name: named[name] for name in names}
        self._u = {name: torch.zeros_like(value) for name, value in self._w.items()}
        self._z = self._project()

    def penalty(self) -> Tensor | None:
        """rho/2 ||W - Z + U||^2, a scalar with a gradient to the parameters; None where the W-step is proximal."""
        if self._proximal:
            return None
        total = sum(((w - (self._z[name] - self._u[name])) ** 2).sum() for name, w in self._w.items())
        return self._rho / 2 * total  # type: ignore[return-value]

    @torch.no_grad()
    def after_step(self) -> None:
        """The proximal step; every few optimizer steps the Z-step, the U-step, and a larger rho."""
        self._steps += 1
        if self._proximal:
            for name, w in self._w.items():
                w.lerp_(self._z[name] - self._u[name], self._rho / (1 + self._rho))
        if self._steps % self._interval or self._done >= self._updates:
            return
        self._done += 1
        before, self._z = self._z, self._project()
        for name, w in self._w.items():
            self._u[name] = self._u[name] + w.detach() - self._z[name]
        size = max(_norm(self._w), _norm(self._z), 1e-12)
        self._residuals = (
            _norm({name: w.detach() - self._z[name] for name, w in self._w.items()}) / size,
            _norm({name: z - before[name] for name, z in self._z.items()}) / size,
        )
        larger = min(self._rho_end, self._rho * self._growth)
        for name in self._u:
            self._u[name] = self._u[name] * (self._rho / larger)
        self._rho = larger

    def figures(self) -> dict[str, float]:
        """rho, the primal residual ||W - Z|| and the dual ||Z - Z_before||, both over max(||W||, ||Z||)."""
        primal, dual = self._residuals
        found = {"rho": self._rho}
        return found | ({"primal_residual": primal, "dual_residual": dual} if self._done else {})

    def finished(self) -> bool:
        """Both residuals within the tolerance, and rho at its end."""
        return max(self._residuals) <= self._tolerance and self._rho >= self._rho_end

    def selection(self) -> Selection | None:
        """The units that Z keeps: the network within the budget that the weights were drawn to. None before `start`."""
        return self._kept

    def state_dict(self) -> dict[str, Any]:
        return {
            "kept": as_tensors(self._kept),
            "scores": self._choose.state_dict(),
            "z": dict(self._z),
            "u": dict(self._u),
            "rho": self._rho,
            "steps": self._steps,
            "done": self._done,
            "residuals": list(self._residuals),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept = as_selection(state["kept"])
        self._choose.load_state_dict(state["scores"])
        self._z, self._u, self._rho = dict(state["z"]), dict(state["u"]), float(state["rho"])
        self._steps, self._done = int(state["steps"]), int(state["done"])
        self._residuals = (float(state["residuals"][0]), float(state["residuals"][1]))

    @torch.no_grad()
    def _project(self) -> dict[str, Tensor]:
        """The projection of W + U: channels outside of the best selection within the budget become zero."""
        assert self._model is not None
        moved = copy.deepcopy(self._model)
        parameters = dict(moved.named_parameters())
        for name, u in self._u.items():
            parameters[name].add_(u)
        self._kept = self._choose(moved, self._limits)
        masks = self.graph.parameter_masks(self._kept)
        moved_to = {name: w.detach() + self._u[name] for name, w in self._w.items()}
        return {name: value * masks[name].to(value) if name in masks else value for name, value in moved_to.items()}


def _norm(tensors: Any) -> float:
    """The Euclidean norm of all tensors together."""
    return float(sum(float((value.detach().double() ** 2).sum()) for value in tensors.values())) ** 0.5
