# SPDX-License-Identifier: Apache-2.0
"""`prune_model`: a network and budgets go in, a smaller network with its plan and its proof comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.budget.distance import fisher_squares, squares_of
from edgepress.compress.prune.budget.importance import importance as score
from edgepress.compress.prune.budget.nearest import nearest
from edgepress.compress.prune.budget.project import Projection, projection
from edgepress.compress.prune.coupling.channels import ChannelGraph, Frozen, Selection, find_groups
from edgepress.compress.prune.coupling.propagate import RULES
from edgepress.compress.prune.removal.proof import Proof, output_gap, remove_with_proof
from edgepress.models.checkpoints.reparameterize import offers_reparameterization, reparameterized
from edgepress.models.cost.aten import op_of
from edgepress.models.cost.cost import Cost, cost_of, cost_of_graph
from edgepress.models.cost.graph import Graph, as_inputs
from edgepress.models.errors import UsageError, VerdictError
from edgepress.models.limits import Limits
from edgepress.models.units import parse_quantity

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Pruned:
    """A pruned network.

    Attributes:
        model: new, physically smaller, trainable; the given one is untouched.
        plan: JSON-able; `edgepress.models.checkpoints.plan.apply_plan` makes the same network from a dense one.
        before, after: cost under the rule and scheme asked for; `after` is counted anew on `model`.
        proof: the removed network against its reference.
        frozen: what could not be pruned, with operator, module and reason.
        notes: what a user should know, in sentences.
        selection: the kept units per group of `graph`.
        graph: the coupled groups.
    """

    model: nn.Module
    plan: dict[str, Any]
    before: Cost
    after: Cost
    proof: Proof
    frozen: tuple[Frozen, ...]
    notes: tuple[str, ...]
    selection: Selection
    graph: ChannelGraph


def prune_model(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    macs: float | str | None = None,
    params: float | str | None = None,
    weight_bytes: float | str | None = None,
    peak_activation_bytes: float | str | None = None,
    *,
    scheme: str = "w8a8",
    importance: str | tuple[np.ndarray, ...] = "l2",
    projection: str = "threshold",
    protect: Iterable[str] = (),
    freeze: Iterable[str] = (),
    divisor: int = 1,
    min_channels: int = 1,
    rule: str = "dcase",
    floor: float | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
) -> Pruned:
    """Prune a network to hard budgets: the result is never above any of them.

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        example_inputs: one tensor per input; a bare tensor for one input.
        macs, params, weight_bytes, peak_activation_bytes: upper limits for one inference; a number, or text such as
            "20M", "64 kB", "50%" (of the given network).
        scheme: what bytes mean; "w8a8" is int8 weights and activations with int32 biases.
        importance: a kind of `edgepress.compress.prune.budget.importance.KINDS`, or scores, one array per group.
        projection: "threshold", "knapsack" or "algorithm-1".
        protect: names of modules whose outputs keep their width. The network's own outputs always do.
        freeze: names of modules and parameters that keep their shapes.
        divisor, min_channels: of the kept channels of every group; min_channels = 0 also takes whole residual branches
            out, where the projection leaves their inner layer nothing.
        rule: counting rule of `macs`.
        floor: smallest kept share of every group, lowered where the budget needs it, which a note then says; None is
            0.25 for "knapsack", 0.2 for "threshold" and none for "algorithm-1".
        batches: for the importances "fisher", "taylor" and "fisher-distance": inputs, a tensor or a tuple of them.
        loss: for importance "taylor": `loss(model, batch)` calls the model and gives the mean over a batch's samples.

    Raises:
        UsageError: no budget, an unknown name or value, or a network that cannot be traced.
        InfeasibleBudget: the budget can't be reached; the message says what can be, and which layers bind.
        ProofError: the removed network differs from its reference; the message names the group.
    """
    merged, notes = (None, ()) if not isinstance(importance, str) else _merged(model, example_inputs)
    model = model if merged is None else merged
    graph = find_groups(model, example_inputs, protect, rule, scheme, freeze)
    before = cost_of_graph(graph.graph, rule, scheme)
    limits = _limits(
        before,
        rule,
        scheme,
        {"macs": macs, "params": params, "weight_bytes": weight_bytes, "peak_activation_bytes": peak_activation_bytes},
    )
    if limits.macs is not None:
        check_countable(graph.graph)
    fit = (limits, projection, divisor, min_channels, floor)
    chosen = _chosen(model, graph, importance, fit, batches, loss)
    pruned = take_out(model, example_inputs, graph, chosen.selection, limits, notes + chosen.notes)
    if merged is not None:
        pruned.plan["reparameterized"] = True
    return pruned


def take_out(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    graph: ChannelGraph,
    selection: Selection,
    limits: Limits,
    notes: tuple[str, ...] = (),
) -> Pruned:
    """`prune_model` with a selection at hand: remove, prove, count anew, compare with the limits.

    Args:
        graph: of `find_groups` of a network of this structure, under the rule and scheme of `limits`.
        selection: the units that stay.
        notes: what is known already.

    Raises:
        ProofError: the removed network differs from its reference; the message names the group.
        VerdictError: the network that is left is above a limit.
    """
    smaller, plan, proof = remove_with_proof(model, graph, selection, example_inputs)
    before = cost_of_graph(graph.graph, graph.rule, graph.scheme)
    after = cost_of(smaller, example_inputs, graph.rule, graph.scheme)
    _check_count(after, graph.cost(selection), limits)
    notes += single_channels(graph, selection)
    if proof.kind == "graph":
        notes += _rebuilt(plan)
    return Pruned(smaller, plan, before, after, proof, graph.frozen, notes, selection, graph)


_projection = projection


def _merged(
    model: nn.Module, example_inputs: tuple[torch.Tensor, ...] | torch.Tensor
) -> tuple[nn.Module | None, tuple[str, ...]]:
    """The network without the parallel branches that only training needs, where its modules offer that; and a note."""
    if not offers_reparameterization(model):
        return None, ()
    try:
        merged = reparameterized(model)
        gap = output_gap(model, merged, as_inputs(example_inputs))
    except (UsageError, RuntimeError) as error:
        return None, (f"the network is pruned with its parallel branches: {error}",)
    if len(list(merged.parameters())) >= len(list(model.parameters())):
        return None, ()
    if gap > 1e-3:
        return None, (f"the network is pruned with its parallel branches: merging them changes outputs by {gap:.2g}",)
    return merged, ("the parallel branches of training were merged first: what is deployed is counted and pruned",)


def single_channels(graph: ChannelGraph, selection: Selection) -> tuple[str, ...]:
    """A note on groups of several channels that are left with one."""
    names = [
        group.name
        for group, kept in zip(graph.groups, selection, strict=True)
        if group.size >= 8 and np.count_nonzero(kept) * group.channels == 1
    ]
    if not names:
        return ()
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (f"one channel is left of {listed}: a floor (floor=0.1, --floor 0.1) or min_channels keeps more",)


def check_countable(graph: Graph) -> None:
    """That no operator whose products cannot be counted reads weights: a MAC budget would not be hard.

    Raises:
        UsageError: one does; the message names operator, module and a way out.
    """
    for node in graph.nodes:
        if node.kind != "call" or node.op in RULES or op_of(graph, node).kind != "other":
            continue
        read = [graph.by_name[name] for name in node.inputs]
        weights = [other.source for other in read if other.kind == "parameter" and len(other.shape or ()) > 1]
        if weights:
            raise UsageError(
                f"macs: the operator {node.overload or node.op} of module {node.module!r} holds "
                f"{', '.join(weights[:3])}, and what it computes cannot be counted, so a budget of MACs could not be "
                "held; write that part with torch.nn.functional, or give a budget of params or weight_bytes"
            )


def _rebuilt(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """What to know of a network that was rebuilt from its trace."""
    note = "the forward has sizes written into it, so the network was rebuilt from its traces, with a graph of its own "
    if plan["graph"].get("training") is not None:
        return (f"{note}for training",)
    return (
        f"{note}for evaluation alone: in training, dropout, batch normalisation and recurrent layers behave as before, "
        "and what else the dense network does in training (stochastic depth, dropout inside attention, heads) is gone, "
        f"since {plan['graph'].get('reason', 'its training forward was not traced')}",
    )


def _chosen(
    model: nn.Module,
    graph: ChannelGraph,
    importance: str | tuple[np.ndarray, ...],
    fit: tuple[Limits, str, int, int, float | None],
    batches: Iterable[Any] | None,
    loss: Callable[[nn.Module, Any], torch.Tensor] | None,
) -> Projection:
    """The projection by scores, or by distances."""
    if isinstance(importance, str) and importance in ("distance", "fisher-distance") and fit[1] != "algorithm-1":
        if importance == "fisher-distance" and batches is None:
            raise UsageError('importance = "fisher-distance" needs batches')
        squares = squares_of(model) if importance == "distance" else fisher_squares(model, graph, batches or ())
        return nearest(graph, squares, *fit)
    scores = score(model, graph, importance, batches=batches, loss=loss) if isinstance(importance, str) else importance
    return _projection(graph, scores, *fit, model=model)


def _limits(before: Cost, rule: str, scheme: str, budgets: dict[str, float | str | None]) -> Limits:
    if all(value is None for value in budgets.values()):
        raise UsageError("prune_model needs a budget: macs, params, weight_bytes or peak_activation_bytes")
    parsed: dict[str, Any] = {}
    for name, value in budgets.items():
        if value is None:
            continue
        unit = "macs" if name == "macs" else "params" if name == "params" else "bytes"
        if isinstance(value, str):
            parsed[name] = parse_quantity(value, unit, name=name, relative_to=getattr(before, name))
        elif isinstance(value, bool) or not 0 <= float(value) < float("inf"):
            raise UsageError(f"{name} = {value!r} must be a finite number that is not negative")
        else:
            parsed[name] = int(float(value) + 1e-6)
    return Limits(**parsed, rule=rule, scheme=scheme)


def _check_count(after: Cost, expected: Any, limits: Limits) -> None:
    """The smaller network is traced and counted anew: nothing of the prediction goes into `after`."""
    for metric in ("macs", "params", "weight_bytes", "peak_activation_bytes"):
        limit = limits.budgets().get(metric)
        if limit is not None and getattr(after, metric) > limit:
            raise VerdictError(
                f"the pruned network has {metric} = {getattr(after, metric):,}, above the limit "
                f"{limit:,} (predicted {expected.get(metric):,}); this is a defect of edgepress"
            )
