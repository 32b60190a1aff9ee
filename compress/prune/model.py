# SPDX-License-Identifier: Apache-2.0
"""`prune_model`: a network and budgets go in, a smaller network with its plan and its proof comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.budget.distance import fisher_squares, squares_of
from edgepress.compress.prune.budget.importance import importance as score
from edgepress.compress.prune.budget.nearest import nearest
from edgepress.compress.prune.budget.project import Projection, projection
from edgepress.compress.prune.coupling.channels import ChannelGraph, Frozen, Selection, find_groups
from edgepress.compress.prune.coupling.figures import Figures
from edgepress.compress.prune.coupling.propagate import RULES
from edgepress.compress.prune.removal.merging import merged_branches
from edgepress.compress.prune.removal.proof import Proof, remove_with_proof
from edgepress.models.cost.aten import op_of
from edgepress.models.cost.cost import Cost, cost_of_graph
from edgepress.models.cost.file_constants import file_constant_bytes
from edgepress.models.cost.graph import Graph, as_inputs, trace_one_sample
from edgepress.models.cost.networks import plain_network
from edgepress.models.errors import InfeasibleBudget, ProofError, UsageError, VerdictError
from edgepress.models.footprint.table import figures_of, held_limits
from edgepress.models.limits import DEVICE_METRICS, METRIC_UNITS, Limits
from edgepress.models.units import format_against, parse_quantity

if TYPE_CHECKING:
    import torch
    from torch import nn


#: So many tensors are kept whole, one attempt after the other, where removing their channels breaks the proof.
_MOST_HELD = 8


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
        on_device: the figures of the device class that were limited, counted anew on `model`.
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
    on_device: Mapping[str, float] = field(default_factory=dict)


def prune_model(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    macs: float | str | None = None,
    params: float | str | None = None,
    weight_bytes: float | str | None = None,
    peak_activation_bytes: float | str | None = None,
    *,
    latency_ms: float | str | None = None,
    energy_uj: float | str | None = None,
    instructions: float | str | None = None,
    arena_bytes: float | str | None = None,
    firmware_arena_bytes: float | str | None = None,
    file_bytes: float | str | None = None,
    flash_bytes: float | str | None = None,
    firmware_flash_bytes: float | str | None = None,
    device: str | None = None,
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
        latency_ms, energy_uj, instructions: upper limits on `device`, of the int8 network: as published systems take,
            and by our firmware's kernels; a number, or text such as "100 ms", "50%".
        arena_bytes, firmware_arena_bytes: likewise, of TFLite Micro's arena and our firmware's; or "64 KiB".
        file_bytes, flash_bytes, firmware_flash_bytes: likewise, of the file that is exported, alone and with TFLite
            Micro, and of our firmware as it is linked (`edgepress.models.footprint`).
        device: name of a device class; its own limits hold beside the given ones, as far as pruning can hold them.
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
        UsageError: no budget, an unknown name or value, a figure that the device class does not have, or a network that
            cannot be traced.
        InfeasibleBudget: the budget can't be reached; the message says what can be, and which layers bind.
        ProofError: the removed network differs from its reference, and the budget cannot be reached with the groups
            that break it kept whole (where it can, `frozen` and `notes` say so); the message names the group.
    """
    model = plain_network(model)
    merged, notes = (None, ()) if not isinstance(importance, str) else merged_branches(model, example_inputs)
    model = model if merged is None else merged
    asked = {
        "macs": macs,
        "params": params,
        "weight_bytes": weight_bytes,
        "peak_activation_bytes": peak_activation_bytes,
        "latency_ms": latency_ms,
        "energy_uj": energy_uj,
        "instructions": instructions,
        "arena_bytes": arena_bytes,
        "firmware_arena_bytes": firmware_arena_bytes,
        "file_bytes": file_bytes,
        "flash_bytes": flash_bytes,
        "firmware_flash_bytes": firmware_flash_bytes,
    }
    budgets = {metric: value for metric, value in asked.items() if value is not None}
    bound = _bound(budgets, device)
    rule = rule if macs is not None or bound.macs is None else bound.rule
    protect, freeze = _names(protect), _names(freeze)
    batches = list(batches) if isinstance(batches, Iterator) else batches  # an attempt may follow
    held: dict[str, Frozen] = {}  # its outputs keep their width; where that is not enough, its shape
    shaped: list[str] = []
    failed: ProofError | None = None
    while True:
        kept = (*protect, *held), rule, scheme, (*freeze, *shaped)
        graph = find_groups(model, example_inputs, *kept, _on_device({**bound.budgets(), **budgets}, device))
        room = held_limits(device, file_constant_bytes(graph.graph)) if device is not None else bound
        limits = _limits(graph, budgets, device).tightest(room)
        if limits.macs is not None:
            check_countable(graph.graph)
        try:
            given = importance if failed is None else _scores_of(graph, importance)
            chosen = _chosen(model, graph, given, (limits, projection, divisor, min_channels, floor), batches, loss)
            said = notes + chosen.notes + _bound_by_class(graph.cost(chosen.selection), limits, budgets, device)
            pruned = take_out(model, example_inputs, graph, chosen.selection, limits, said)
            break
        except ProofError as error:
            failed = failed or error
            importance = _by_name(graph, importance)
            again = [layer for layer in error.layers if layer in held]
            held |= {layer: _held(layer, error) for layer in error.layers if layer not in held}
            if not error.layers or len(held) > _MOST_HELD or set(again) & set(shaped):
                raise failed from None
            shaped += again
        except InfeasibleBudget as error:
            if failed is None:
                raise
            raise ProofError(f"{failed}; with {', '.join(held)} frozen, {error}", failed.layers) from error
    if merged is not None:
        pruned.plan["reparameterized"] = True
    if held:
        others = tuple(entry for entry in pruned.frozen if entry.name not in held)
        said = "; ".join(f"{entry.name}: {entry.reason}" for entry in held.values())
        pruned = replace(pruned, frozen=(*held.values(), *others), notes=(*pruned.notes, f"kept whole: {said}"))
    return pruned


def _bound_by_class(figures: Figures, limits: Limits, asked: Mapping[str, Any], device: str | None) -> tuple[str, ...]:
    """A limit of the device class that keeps the network below what was asked for: why it is not larger."""
    shares = {metric: figures.get(metric) / limit for metric, limit in limits.budgets().items() if limit}
    nearest = max((share for metric, share in shares.items() if metric in asked), default=1.0)
    tightest = max(shares, key=shares.__getitem__, default=None)
    if tightest is None or tightest in asked or nearest >= 0.99:
        return ()
    reached, wanted = format_against(figures.get(tightest), limits.budgets()[tightest], METRIC_UNITS[tightest])
    return (f"{tightest} of {device} binds, {reached} of {wanted}: of what was asked {100 * nearest:.2f} % is reached",)


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _held(layer: str, error: ProofError) -> Frozen:
    return Frozen(layer, "", layer.rpartition(".")[0], f"without some of its channels the proof fails ({error.reason})")


def _by_name(graph: ChannelGraph, importance: Any) -> Any:
    """Scores by the names of their groups, where they were given one array for each."""
    if isinstance(importance, (str, dict)):
        return importance
    return {group.name: scores for group, scores in zip(graph.groups, importance, strict=True)}


def _scores_of(graph: ChannelGraph, importance: Any) -> Any:
    return importance if isinstance(importance, str) else tuple(importance[group.name] for group in graph.groups)


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
    traced = _traced_anew(smaller, graph.graph, proof.kind, example_inputs)
    after = cost_of_graph(traced, graph.rule, graph.scheme)
    on_device = {}
    if limits.on_device is not None:
        on_device = {figure.metric: figure.now() for figure in figures_of(traced, *limits.on_device)}
    _check_count(after, on_device, graph.cost(selection), limits)
    notes += single_channels(graph, selection)
    if proof.kind == "graph":
        notes += _rebuilt(plan)
    return Pruned(smaller, plan, before, after, proof, graph.frozen, notes, selection, graph, on_device)


def _traced_anew(smaller: nn.Module, dense: Graph, kind: str, example_inputs: Any) -> Graph:
    """The operators of a pruned network; a rebuilt one has recorded them."""
    if kind == "graph":
        from edgepress.models.checkpoints.rebuild import Rebuilt
        from edgepress.models.checkpoints.recorded import recorded_graph

        shapes = [node.shape or () for node in dense.nodes if node.kind == "input"]
        inputs = tuple(
            value if value.shape == shape else value[:1]
            for value, shape in zip(as_inputs(example_inputs), shapes, strict=True)
        )
        found = recorded_graph(smaller, dense, inputs) if isinstance(smaller, Rebuilt) else None
        if found is not None:
            return found
    return trace_one_sample(smaller, example_inputs)


_projection = projection


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


def _bound(budgets: Mapping[str, float | str], device: str | None) -> Limits:
    """The limits of the class alone.

    Raises:
        UsageError: no budget at all, one that needs a class without one, or a class that limits nothing of this kind.
    """
    needs = [metric for metric in budgets if metric in DEVICE_METRICS]
    if needs and device is None:
        raise UsageError(f"{', '.join(needs)}: give device as well, the name of the device class that is meant")
    bound = held_limits(device) if device is not None else Limits()
    if not budgets and not bound.budgets():
        named = "" if device is None else f"; the device class {device!r} limits nothing that pruning can hold"
        raise UsageError(
            "prune_model needs a budget: macs, params, weight_bytes or peak_activation_bytes, or device with "
            f"latency_ms, energy_uj, instructions, arena_bytes, file_bytes or flash_bytes{named}"
        )
    return bound


def _on_device(budgets: Mapping[str, Any], device: str | None) -> tuple[str, tuple[str, ...]] | None:
    metrics = tuple(metric for metric in budgets if metric in DEVICE_METRICS)
    return (device, metrics) if device is not None and metrics else None


def _limits(graph: ChannelGraph, budgets: Mapping[str, float | str], device: str | None) -> Limits:
    """The given budgets as numbers; shares are of the dense network."""
    before, parsed = graph.cost(graph.full()), {}
    for name, value in budgets.items():
        unit = METRIC_UNITS[name]
        if isinstance(value, str):
            parsed[name] = parse_quantity(value, unit, name=name, relative_to=before.get(name))
        elif isinstance(value, bool) or not 0 <= float(value) < float("inf"):
            raise UsageError(f"{name} = {value!r} must be a finite number that is not negative")
        else:
            parsed[name] = float(value) if unit in ("ms", "uJ") else int(float(value) + 1e-6)
    return Limits(**parsed, rule=graph.rule, scheme=graph.scheme, device=device)  # type: ignore[arg-type]


def _check_count(after: Cost, on_device: Mapping[str, float], expected: Any, limits: Limits) -> None:
    """The smaller network is traced and counted anew: nothing of the prediction goes into `after`."""
    for metric, limit in limits.budgets().items():
        counted = on_device[metric] if metric in on_device else getattr(after, metric)
        if counted > limit * (1 + 1e-9):
            raise VerdictError(
                f"the pruned network has {metric} = {counted:,}, above the limit {limit:,} "
                f"(predicted {expected.get(metric):,}); this is a defect of edgepress"
            )
