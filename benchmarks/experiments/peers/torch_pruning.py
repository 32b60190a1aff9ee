# SPDX-License-Identifier: Apache-2.0
"""Torch-Pruning (Fang et al., DepGraph, CVPR 2023), driven to a MAC target by its own progressive loop.

Its pruner takes channel ratios. The loop is the one of its `reproduce/main.py`: many small steps towards a ratio of 1,
importance scored anew at each, until the target is reached. As its README has it, ranking is local (one ratio for every
layer), global with a maximal ratio that no layer exceeds, or global among layers of one shape (isomorphic, Fang et al.,
ECCV 2024).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import RuntimeFailure

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Our name -> its class. All reduce over the whole coupled group.
IMPORTANCES = {"l2": "GroupMagnitudeImportance", "taylor": "GroupTaylorImportance", "lamp": "LAMPImportance"}
STEPS = 400


@dataclass(frozen=True)
class Ranking:
    """How it chooses.

    Attributes:
        importance: one of `IMPORTANCES`.
        scope: "local", "global" or "isomorphic".
        most: share of its channels that no layer loses more of.
        filled: the loop may stop within a step, so that the budget is used up.
        steps: in which all channels would go.
    """

    importance: str = "l2"
    scope: str = "local"
    most: float = 0.9
    filled: bool = False
    steps: int = STEPS


def available() -> bool:
    """Whether the package is installed."""
    from importlib.util import find_spec

    return find_spec("torch_pruning") is not None


class Progress:
    """A copy of a network that is made smaller, step by step; what it learns in between may be loaded into `model`.

    Args:
        model: the dense network; left untouched.
        example_inputs: one input with batch 1.
        ranking: how it chooses.
        batches, loss: for "taylor": `loss(model, batch)` gives the scalar whose gradients are taken, one batch a step.
        heads: names of modules that keep their widths, beside the last layer.

    Raises:
        RuntimeFailure: the package is missing.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        ranking: Ranking = Ranking(),
        batches: Sequence[Any] = (),
        loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
        heads: Sequence[str] = (),
    ):
        self.model = copy.deepcopy(model).eval()
        self._example = example_inputs
        self._heads = heads
        self._states = self._walk(ranking, batches, loss)
        self.dense = self.macs = next(self._states)

    def until(self, macs: float, count: Callable[[nn.Module], float] | None = None, limit: float = 0.0) -> None:
        """Go on until its own count is at or below `macs`, and another count at or below `limit`.

        Args:
            count: asked once the own count is near.

        Raises:
            RuntimeFailure: the steps end above.
        """
        while not self._reached(macs, count, limit):
            try:
                self.macs = next(self._states)
            except StopIteration:
                raise RuntimeFailure(f"Torch-Pruning ends at {self.macs:,.0f} MACs, above {macs:,.0f}") from None
        self.model.zero_grad()

    def _reached(self, macs: float, count: Callable[[nn.Module], float] | None, limit: float) -> bool:
        if count is None:
            return self.macs <= macs
        return self.macs <= 1.2 * macs and count(self.model) <= limit

    def _walk(
        self, ranking: Ranking, batches: Sequence[Any], loss: Callable[[nn.Module, Any], torch.Tensor] | None
    ) -> Iterator[float]:
        if not available():
            raise RuntimeFailure("torch-pruning is not installed: pip install torch-pruning==1.6.1")
        import torch_pruning as tp
        from torch import nn

        for parameter in self.model.parameters():
            parameter.requires_grad_(True)

        def counted() -> float:
            return float(tp.utils.count_ops_and_params(self.model, self._example)[0])

        # The output layer keeps its width; the loop would prune it like any other.
        kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
        layers: list[nn.Module] = [*[m for m in self.model.modules() if isinstance(m, kinds)][-1:]]
        layers += [m for name in self._heads for m in self.model.get_submodule(name).modules() if isinstance(m, kinds)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = tp.pruner.BasePruner(
                self.model,
                self._example,
                importance=getattr(tp.importance, IMPORTANCES[ranking.importance])(),
                global_pruning=ranking.scope != "local",
                isomorphic=ranking.scope == "isomorphic",
                pruning_ratio=1.0,
                max_pruning_ratio=ranking.most,
                iterative_steps=ranking.steps,
                ignored_layers=layers,
            )
            yield counted()
            for step in range(ranking.steps):
                self.model.eval()
                if ranking.importance == "taylor":
                    assert loss is not None
                    self.model.zero_grad()
                    loss(self.model, batches[step % len(batches)]).backward()
                for group in pruner.step(interactive=True) or ():
                    group.prune()
                    if ranking.filled:
                        yield counted()
                if not ranking.filled:
                    yield counted()


def passing_shares(model: nn.Module, example_inputs: torch.Tensor, shares: Sequence[float]) -> list[float]:
    """The share of its MACs with which the loop first passes each of the falling shares, by its own count.

    Ranked globally without a maximal ratio, which takes the smallest steps.

    Raises:
        RuntimeFailure: the package is missing, or the steps end above a share.
    """
    progress = Progress(model, example_inputs, Ranking(scope="global", most=1.0))
    found = []
    for share in shares:
        progress.until(share * progress.dense)
        found.append(progress.macs / progress.dense)
    return found
