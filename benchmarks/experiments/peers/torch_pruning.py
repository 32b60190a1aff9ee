# SPDX-License-Identifier: Apache-2.0
"""Torch-Pruning (Fang et al., DepGraph, CVPR 2023), driven to a MAC target by its own progressive loop.

Its pruner takes channel ratios. The loop is the one of its `reproduce/main.py`: global pruning towards a ratio of 1 in
many small steps, importance scored anew at each, until the target is reached.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import RuntimeFailure

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Our name -> its class. All reduce over the whole coupled group.
IMPORTANCES = {"l2": "GroupMagnitudeImportance", "taylor": "GroupTaylorImportance", "lamp": "LAMPImportance"}
STEPS = 200


def available() -> bool:
    """Whether the package is installed."""
    from importlib.util import find_spec

    return find_spec("torch_pruning") is not None


def prune_progressively(
    model: nn.Module,
    example_inputs: torch.Tensor,
    share: float,
    *,
    importance: str = "l2",
    steps: int = STEPS,
    count: Callable[[nn.Module], int] | None = None,
    target_macs: float | None = None,
    batches: Sequence[Any] = (),
    loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
) -> tuple[nn.Module, float, float]:
    """Prune a copy until its MACs are at or below the target.

    Args:
        model: the dense network; left untouched.
        example_inputs: one input with batch 1.
        share: target as a share of the dense network's MACs, by the tool's own count.
        importance: one of `IMPORTANCES`.
        steps: of the loop; each raises the ratio of removed channels by 1 / steps.
        count: another count, which decides together with `target_macs`; asked once the own count is near.
        batches, loss: for "taylor": `loss(model, batch)` gives the scalar whose gradients are taken, one batch a step.

    Returns:
        (the pruned network, its MACs, the dense network's MACs), both by the tool's own count.

    Raises:
        RuntimeFailure: the package is missing, or the steps end above the target.
    """
    dense = None
    for pruned, macs in progress(model, example_inputs, importance, steps, batches, loss):
        dense = dense or macs
        near = (
            macs <= share * dense
            if count is None
            else (macs <= 1.2 * share * dense and count(pruned) <= (target_macs or share * dense))
        )
        if near:
            pruned.zero_grad()
            return pruned, macs, dense
    raise RuntimeFailure(f"Torch-Pruning did not reach {share:.3f} of the MACs in {steps} steps")


def passing_shares(model: nn.Module, example_inputs: torch.Tensor, shares: Sequence[float]) -> list[float]:
    """The share of its MACs with which the loop first passes each of the falling shares, by its own count.

    Raises:
        RuntimeFailure: the package is missing, or the steps end above a share.
    """
    found: list[float] = []
    dense = None
    for _, macs in progress(model, example_inputs):
        dense = dense or macs
        while len(found) < len(shares) and macs <= shares[len(found)] * dense:
            found.append(macs / dense)
        if len(found) == len(shares):
            return found
    raise RuntimeFailure(f"Torch-Pruning did not reach {shares[len(found)]:.3f} of the MACs in {STEPS} steps")


def progress(
    model: nn.Module,
    example_inputs: torch.Tensor,
    importance: str = "l2",
    steps: int = STEPS,
    batches: Sequence[Any] = (),
    loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
) -> Iterator[tuple[nn.Module, float]]:
    """The copy that is being pruned and its MACs by the tool's own count: at the start, and after every step."""
    if not available():
        raise RuntimeFailure("torch-pruning is not installed: pip install torch-pruning==1.6.1")
    import torch_pruning as tp
    from torch import nn

    pruned = copy.deepcopy(model).eval()
    for parameter in pruned.parameters():
        parameter.requires_grad_(True)
    # The output layer keeps its width; the loop would prune it like any other.
    layers: list[nn.Module] = [layer for layer in pruned.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            pruned,
            example_inputs,
            importance=getattr(tp.importance, IMPORTANCES[importance])(),
            global_pruning=True,
            pruning_ratio=1.0,
            iterative_steps=steps,
            ignored_layers=layers[-1:],
        )
        while True:
            yield pruned, float(tp.utils.count_ops_and_params(pruned, example_inputs)[0])
            if pruner.current_step == steps:
                return
            if importance == "taylor":
                assert loss is not None
                pruned.zero_grad()
                loss(pruned, batches[pruner.current_step % len(batches)]).backward()
            pruner.step()
