# SPDX-License-Identifier: Apache-2.0
"""How much each unit matters: one score per unit of every group, larger is more important.

Scores are additive: a projection keeps the largest sum. They are taken over the filters that make a unit's channels,
with a following batch normalisation folded in, since its scale decides what a filter contributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.coupling.channels import ChannelGraph, ChannelGroup
from edgepress.models.cost.folding import fold_batch_norms
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Kind -> where it comes from.
KINDS = {
    "l1": "sum of absolute weights (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)",
    "l2": "squared norm of the filter group, the energy that a Euclidean projection removes "
    "(Zhang et al., ECCV 2018, equation 8)",
    "bn": "absolute scale of the batch normalisation (Liu et al., Network Slimming, ICCV 2017)",
    "taylor": "squared first-order change of the loss (Molchanov et al., CVPR 2019, equation 8)",
    "lamp": "energy relative to all at least as large in the group (Lee et al., ICLR 2021, equation 3)",
    "fpgm": "distance to all other filters of the group (He et al., CVPR 2019, equation 6)",
    "random": "the control",
}
NORMALIZERS = ("mean", "size", "none")


def importance(
    model: nn.Module,
    graph: ChannelGraph,
    kind: str = "l2",
    *,
    normalize: str | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, ...]:
    """Scores per group, [size] float64 each.

    Args:
        kind: one of `KINDS`.
        normalize: "mean" divides by the group's mean, so that layers of any fan-in compare; "size" by the number of
            weights of a unit; "none" leaves the scores as they are (what a Euclidean projection needs). Default:
            "mean", and "none" for lamp and random, which compare as they are.
        batches, loss: for "taylor": `loss(model, batch)` gives a scalar, whose gradients are averaged over `batches`.
        seed: for "random".

    Raises:
        UsageError: an unknown kind or normalizer, or "taylor" without batches and loss.
    """
    if kind not in KINDS:
        raise UsageError(f"importance = {kind!r} is no importance; known are {', '.join(KINDS)}")
    if normalize is None:
        normalize = "none" if kind in ("lamp", "random") else "mean"
    if normalize not in NORMALIZERS:
        raise UsageError(f"normalize = {normalize!r} is not known; known are {', '.join(NORMALIZERS)}")
    if kind == "random":
        generator = np.random.default_rng(seed)
        return tuple(generator.random(group.size) for group in graph.groups)
    tensors = _arrays(model)
    if kind == "taylor":
        tensors = _taylor_products(model, tensors, batches, loss)
    scales = _folded_scales(graph, tensors) if kind != "taylor" else {}
    result = []
    for group in graph.groups:
        score, weights = _score(group, kind, tensors, scales)
        if normalize == "mean":
            score = score / (score.mean() or 1.0)
        elif normalize == "size":
            score = score / max(weights, 1)
        result.append(score)
    return tuple(result)


def _arrays(model: nn.Module) -> dict[str, np.ndarray]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach().to("cpu", copy=True).double().numpy() for name, tensor in named}


def _score(
    group: ChannelGroup, kind: str, tensors: dict[str, np.ndarray], scales: dict[str, np.ndarray]
) -> tuple[np.ndarray, int]:
    """[size] scores and the number of weights that one unit has in them."""
    members = [group.members[index] for index in group.produced] or [m for m in group.members if m.trained]
    members = [member for member in members if tensors[member.tensor].ndim > 1] or members
    if kind == "bn":
        scaled = [m for m in group.members if m.trained and m.tensor in scales.get("", ())]  # type: ignore[operator]
        if scaled:
            total = sum(np.abs(tensors[m.tensor])[m.positions].sum(1) for m in scaled)
            return np.asarray(total), sum(m.positions.shape[1] for m in scaled)
    total, weights = np.zeros(group.size), 0
    for member in members:
        rows = np.moveaxis(tensors[member.tensor], member.axis, 0)
        rows = rows.reshape(len(rows), -1)
        scale = scales.get(member.tensor)
        if scale is not None and len(scale) == len(rows):
            rows = rows * scale[:, None]
        per_unit = rows[member.positions].reshape(group.size, -1)  # [units, weights of a unit]
        weights += per_unit.shape[1]
        if kind == "l1":
            total += np.abs(per_unit).sum(1)
        elif kind == "fpgm":
            squares = (per_unit**2).sum(1)
            distances = squares[:, None] + squares[None] - 2 * per_unit @ per_unit.T
            total += np.sqrt(np.maximum(distances, 0)).sum(1)
        elif kind == "taylor":
            total += per_unit.sum(1) ** 2
        else:
            total += (per_unit**2).sum(1)
    if kind == "lamp":
        order = np.argsort(-total, kind="stable")
        total[order] = total[order] / np.maximum(np.cumsum(total[order]), np.finfo(float).tiny)
    return total, weights


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


def _taylor_products(
    model: nn.Module,
    tensors: dict[str, np.ndarray],
    batches: Iterable[Any] | None,
    loss: Callable[[nn.Module, Any], torch.Tensor] | None,
) -> dict[str, np.ndarray]:
    """Weight times mean gradient, for every parameter."""
    import torch

    from edgepress.models.checkpoints.copying import copied

    if batches is None or loss is None:
        raise UsageError(
            'importance = "taylor" needs batches and loss: loss(model, batch) gives the scalar whose gradients are used'
        )
    twin = copied(model).eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    twin.zero_grad()
    count = 0
    with torch.enable_grad():
        for batch in batches:
            loss(twin, batch).backward()
            count += 1
    if not count:
        raise UsageError("batches is empty: taylor needs at least one")
    products = dict(tensors)
    for name, parameter in twin.named_parameters(remove_duplicate=False):
        gradient = parameter.grad
        products[name] = tensors[name] * (gradient.double().numpy() / count if gradient is not None else 0.0)
    return products
