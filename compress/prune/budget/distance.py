# SPDX-License-Identifier: Apache-2.0
"""Distances: how far taking units out moves a network in the space of its weights.

The squared distance to the network without certain units is the sum of the squares of every weight that goes: the
filters that make a unit, its biases and scales, and the slices of whatever reads it. A weight between two units that
both go counts once, so that what a unit adds depends on which others are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def squares_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Name -> squares of every parameter."""
    return {
        name: parameter.detach().cpu().double().numpy() ** 2
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def fisher_squares(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[Any], seed: int = 0
) -> dict[str, np.ndarray]:
    """Name -> squares of every parameter times its diagonal Fisher information, F w^2.

    Labels are drawn from the network itself, so that the gradients of samples have mean 0 and are independent: the
    square of a batch's summed gradient estimates the sum of their squares, at one backward pass a batch (Grosse and
    Martens, ICML 2016, section 2.2, on sampled targets).

    Args:
        model: on the CPU; left as it is.
        batches: inputs, as for the importance "fisher".
    """
    import torch

    from edgepress.compress.prune.budget.likelihood import drawn_likelihood
    from edgepress.models.checkpoints.copying import copied

    twin = copied(model).eval()
    named = dict(twin.named_parameters(remove_duplicate=False))
    for parameter in named.values():
        parameter.requires_grad_(parameter.is_floating_point())
    loss, samples = drawn_likelihood(graph, seed), 0
    information = {name: np.zeros(tuple(parameter.shape)) for name, parameter in named.items()}
    for batch in batches:
        twin.zero_grad()
        with torch.enable_grad():
            loss(twin, batch).backward()
        count = len(batch if isinstance(batch, torch.Tensor) else batch[0])
        for name, parameter in named.items():
            if parameter.grad is not None:
                information[name] += (count * parameter.grad.double().numpy()) ** 2
        samples += count
    if not samples:
        raise UsageError("batches is empty: importances of data need at least one")
    return {name: information[name] / samples * square for name, square in squares_of(model).items()}


def unit_distances(
    graph: ChannelGraph, squares: Mapping[str, np.ndarray], selection: Selection | None = None
) -> tuple[np.ndarray, ...]:
    """Per group [size]: the squares that go with each unit, of those weights whose other units are kept.

    Args:
        squares: of every parameter.
        selection: the others that are kept; None: all.
    """
    kept = graph.kept_tensors(selection) if selection is not None else {}
    result = []
    for group in graph.groups:
        total = np.zeros(group.size)
        for member in group.members:
            if member.trained:
                lost = {axis: indices for axis, indices in kept.get(member.tensor, {}).items() if axis != member.axis}
                rows = np.moveaxis(_cut(squares[member.tensor], lost), member.axis, 0)
                total += rows.reshape(len(rows), -1).sum(1)[member.positions].sum(1)
        result.append(total)
    return tuple(result)


def removed_distance(graph: ChannelGraph, squares: Mapping[str, np.ndarray], selection: Selection) -> float:
    """The squared distance to the network that a selection leaves."""
    kept = graph.kept_tensors(selection)
    return float(
        sum(squares[name].sum() - _cut(squares[name], axes).sum() for name, axes in kept.items() if name in squares)
    )


def _cut(values: np.ndarray, kept: Mapping[int, np.ndarray]) -> np.ndarray:
    for axis, indices in kept.items():
        values = values.take(indices, axis)
    return values
