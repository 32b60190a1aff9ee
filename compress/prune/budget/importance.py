# SPDX-License-Identifier: Apache-2.0
"""How much each unit matters: one score per unit of every group, larger is more important.

Scores are additive: a projection keeps the largest sum. Those of weights are taken over the filters that make a unit's
channels, with a following batch normalisation folded in, since its scale decides what a filter contributes. Those of
data ("fisher", "taylor") are taken by gates in front of what reads a unit, see `budget.gates`; "distance" over all that
a unit owns, see `budget.distance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.coupling.channels import ChannelGraph, ChannelGroup, Member
from edgepress.models.cost.folding import fold_batch_norms
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgepress.compress.prune.budget.gates import Gates

#: Kind -> where it comes from.
KINDS = {
    "l1": "sum of absolute weights (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)",
    "l2": "squared norm of the filter group, the energy that a Euclidean projection removes "
    "(Zhang et al., ECCV 2018, equation 8)",
    "bn": "absolute scale of the batch normalisation (Liu et al., Network Slimming, ICCV 2017)",
    "fisher": "squared first-order change of a sample's own likelihood when a whole unit goes, without labels "
    "(Liu et al., Group Fisher Pruning, ICML 2021)",
    "taylor": "the same of a loss on labelled data (Molchanov et al., CVPR 2019, equation 8)",
    "distance": "squares of all weights that go with a unit, what its removal moves in Euclid's distance",
    "fisher-distance": "the same in the metric of the diagonal Fisher information",
    "lamp": "energy relative to all at least as large in the group (Lee et al., ICLR 2021, equation 3)",
    "fpgm": "distance to all other filters of the group (He et al., CVPR 2019, equation 6)",
    "random": "the control",
}
NORMALIZERS = ("mean", "size", "none")
#: Kinds that look at data: `batches` of inputs, and for "taylor" a `loss`.
OF_DATA = ("fisher", "taylor", "fisher-distance")


def importance(
    model: nn.Module,
    graph: ChannelGraph,
    kind: str = "l2",
    *,
    normalize: str | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
    seed: int = 0,
    gates: Gates | None = None,
) -> tuple[np.ndarray, ...]:
    """Scores per group, [size] float64 each.

    Args:
        model: the weights to look at, on the CPU for the kinds in `OF_DATA`.
        kind: one of `KINDS`.
        normalize: "mean" divides by the group's mean, so that layers of any fan-in compare; "size" by the number of
            weights of a unit; "none" leaves the scores as they are (what a Euclidean projection needs). Default:
            "mean", and "none" for lamp, random and the distances, which compare as they are.
        batches: for "fisher" and "fisher-distance" inputs of the network, a tensor or a tuple of them, samples along
            the first dimension (what a batch holds beyond the inputs, such as labels, is left alone); for "taylor" what
            `loss` takes.
        loss: for "taylor": `loss(model, batch)` calls the model and gives the mean over the samples of a batch.
        seed: for "random", and for the labels that "fisher" draws from the network's own outputs.
        gates: of the same graph, where scores are taken again and again: they keep their traces.

    Raises:
        UsageError: an unknown kind or normalizer, batches or loss that are missing or do not fit the network.
    """
    if kind not in KINDS:
        raise UsageError(f"importance = {kind!r} is no importance; known are {', '.join(KINDS)}")
    if normalize is None:
        normalize = "none" if kind in ("lamp", "random", "distance", "fisher-distance") else "mean"
    if normalize not in NORMALIZERS:
        raise UsageError(f"normalize = {normalize!r} is not known; known are {', '.join(NORMALIZERS)}")
    if kind in OF_DATA and batches is None:
        raise UsageError(f'importance = "{kind}" needs batches' + (" and loss" if kind == "taylor" else ""))
    if kind == "taylor" and loss is None:
        raise UsageError('importance = "taylor" needs batches and loss: loss(model, batch) gives a scalar, the mean')
    if kind == "random":
        generator = np.random.default_rng(seed)
        scores = tuple(generator.random(group.size) for group in graph.groups)
    elif kind in ("fisher", "taylor"):
        from edgepress.compress.prune.budget.likelihood import drawn_likelihood

        scores = _gate_scores(model, graph, batches or (), loss or drawn_likelihood(graph, seed), gates)
    elif kind in ("distance", "fisher-distance"):
        from edgepress.compress.prune.budget.distance import fisher_squares, squares_of, unit_distances

        squares = squares_of(model) if kind == "distance" else fisher_squares(model, graph, batches or (), seed)
        scores = unit_distances(graph, squares)
    else:
        scores = _weight_scores(model, graph, kind)
    if normalize == "mean":
        return tuple(score / (score.mean() or 1.0) for score in scores)
    if normalize == "size":
        return tuple(score / weights for score, weights in zip(scores, _sizes(model, graph), strict=True))
    return scores


def _gate_scores(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], torch.Tensor],
    gates: Gates | None,
) -> tuple[np.ndarray, ...]:
    """Mean over samples of the squared derivative of each sample's loss by the gate of each unit."""
    from edgepress.compress.prune.budget.gates import Gates

    gates = gates or Gates(graph)
    totals, samples = [np.zeros(group.size) for group in graph.groups], 0
    for batch in batches:
        found, count = gates.squares(model, batch, loss)
        totals = [total + more for total, more in zip(totals, found, strict=True)]
        samples += count
    if not samples:
        raise UsageError("batches is empty: importances of data need at least one")
    return tuple(total / samples for total in totals)


def _weight_scores(model: nn.Module, graph: ChannelGraph, kind: str) -> tuple[np.ndarray, ...]:
    tensors = _arrays(model)
    scales = _folded_scales(graph, tensors)
    return tuple(_score(group, kind, tensors, scales) for group in graph.groups)


def _sizes(model: nn.Module, graph: ChannelGraph) -> list[int]:
    """Per group how many weights make one unit."""
    shapes = {name: tensor.shape for name, tensor in model.named_parameters(remove_duplicate=False)}
    return [
        max(1, sum(m.positions.shape[1] * shapes[m.tensor].numel() // shapes[m.tensor][m.axis] for m in producers))
        for producers in (
            _producers(group, {name: len(shape) for name, shape in shapes.items()}) for group in graph.groups
        )
    ]


def _producers(group: ChannelGroup, ranks: Mapping[str, int]) -> list[Member]:
    """The weights that make a group's units; biases only where there is nothing else."""
    members = [group.members[index] for index in group.produced] or [m for m in group.members if m.trained]
    return [member for member in members if ranks.get(member.tensor, 0) > 1] or members


def _arrays(model: nn.Module) -> dict[str, np.ndarray]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach().to("cpu", copy=True).double().numpy() for name, tensor in named}


def _score(group: ChannelGroup, kind: str, tensors: dict[str, np.ndarray], scales: dict[str, np.ndarray]) -> np.ndarray:
    """[size] scores."""
    if kind == "bn":
        scaled = [m for m in group.members if m.trained and m.tensor in scales.get("", ())]  # type: ignore[operator]
        if scaled:
            total = sum(np.abs(tensors[m.tensor])[m.positions].sum(1) for m in scaled)
            return np.asarray(total)
    total = np.zeros(group.size)
    for member in _producers(group, {name: tensor.ndim for name, tensor in tensors.items()}):
        rows = np.moveaxis(tensors[member.tensor], member.axis, 0)
        rows = rows.reshape(len(rows), -1)
        scale = scales.get(member.tensor)
        if scale is not None and len(scale) == len(rows):
            rows = rows * scale[:, None]
        per_unit = rows[member.positions].reshape(group.size, -1)  # [units, weights of a unit]
        if kind == "l1":
            total += np.abs(per_unit).sum(1)
        elif kind == "fpgm":
            squares = (per_unit**2).sum(1)
            distances = squares[:, None] + squares[None] - 2 * per_unit @ per_unit.T
            total += np.sqrt(np.maximum(distances, 0)).sum(1)
        else:
            total += (per_unit**2).sum(1)
    if kind == "lamp":
        order = np.argsort(-total, kind="stable")
        total[order] = total[order] / np.maximum(np.cumsum(total[order]), np.finfo(float).tiny)
    return total


def _folded_scales(graph: ChannelGraph, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weight name -> scale of each filter by the batch normalisation that folds into it; "" -> names of the scales."""
    scales: dict[str, Any] = {"": set()}
    by_name = graph.graph.by_name
    for norm_name, producer in fold_batch_norms(graph.graph).producer.items():
        norm, layer = by_name[norm_name], by_name[producer]
        sources = {
            key: by_name[ref.name].source
            for key in ("weight", "running_var")
            if (ref := norm.arguments.get(key)) is not None
        }
        if "running_var" not in sources:
            continue
        scale = 1 / np.sqrt(tensors[sources["running_var"]] + norm.arguments.get("eps", 1e-5))
        if "weight" in sources:
            scale = scale * tensors[sources["weight"]]
            scales[""].add(sources["weight"])
        for origin in graph.graph.origins(layer.arguments["weight"].name):
            scales[origin] = scale
    for node in graph.graph.nodes:  # a normalisation that does not fold still scales its channels
        if node.op == "batch_norm" and node.arguments.get("weight") is not None:
            scales[""].add(by_name[node.arguments["weight"].name].source)
    return scales
