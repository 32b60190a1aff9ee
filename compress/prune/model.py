"""`prune_model`: a network and budgets go in, a smaller network with its plan and its proof comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepress.compress.prune.budget.importance import importance as score
from edgepress.compress.prune.budget.project import projection
from edgepress.compress.prune.coupling.channels import ChannelGraph, Frozen, Selection, find_groups
from edgepress.compress.prune.removal.proof import Proof, remove_with_proof
from edgepress.models.cost.cost import Cost, cost_of, cost_of_graph
from edgepress.models.errors import UsageError, VerdictError
from edgepress.models.limits import Limits
from edgepress.models.units import parse_quantity

if TYPE_CHECKING:
    import numpy as np
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
        projection: "threshold" or "knapsack".
        protect: names of modules whose outputs keep their width. The network's own outputs always do.
        freeze: names of modules and parameters that keep their shapes.
        divisor, min_channels: of the kept channels of every group.
        rule: counting rule of `macs`.
        floor: smallest kept share of every group, lowered where the budget needs it, which a note then says; None is
            0.25 for "knapsack" and none for "threshold".
        batches, loss: for importance "taylor".

    Raises:
        UsageError: no budget, an unknown name or value, or a network that cannot be traced.
        InfeasibleBudget: the budget can't be reached; the message says what can be, and which layers bind.
        ProofError: the removed network differs from its reference; the message names the group.
    """
    graph = find_groups(model, example_inputs, protect, rule, scheme, freeze)
    before = cost_of_graph(graph.graph, rule, scheme)
    limits = _limits(
        before,
        rule,
        scheme,
        {"macs": macs, "params": params, "weight_bytes": weight_bytes, "peak_activation_bytes": peak_activation_bytes},
    )
    scores = score(model, graph, importance, batches=batches, loss=loss) if isinstance(importance, str) else importance
    chosen = _projection(graph, scores, limits, projection, divisor, min_channels, floor)
    smaller, plan, proof = remove_with_proof(model, graph, chosen.selection, example_inputs)
    after = cost_of(smaller, example_inputs, rule, scheme)
    _check_count(after, chosen.figures, limits)
    notes = chosen.notes
    if proof.kind == "graph":
        notes += _rebuilt(plan)
    return Pruned(smaller, plan, before, after, proof, graph.frozen, notes, chosen.selection, graph)


_projection = projection


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
