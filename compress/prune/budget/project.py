# SPDX-License-Identifier: Apache-2.0
"""Projections onto a budget: which units to keep so that macs, params, bytes and peak activation all hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgepress.compress.prune.budget.choice import Choice, choices
from edgepress.compress.prune.budget.knapsack import fitted_counts, knapsack_counts
from edgepress.compress.prune.budget.steering import next_step, within_exact
from edgepress.compress.prune.budget.threshold import algorithm_1, threshold_counts
from edgepress.compress.prune.coupling.channels import ChannelGraph, Frozen, Selection
from edgepress.compress.prune.coupling.figures import Figures
from edgepress.models.errors import InfeasibleBudget, UsageError
from edgepress.models.limits import DEVICE_METRICS, METRIC_UNITS, Limits
from edgepress.models.units import format_against

if TYPE_CHECKING:
    from torch import nn

#: Figures that are whole numbers.
_WHOLE = frozenset(name for name, unit in METRIC_UNITS.items() if unit not in ("ms", "uJ"))
METHODS = ("threshold", "knapsack", "algorithm-1")
#: Smallest share of a group that a projection keeps unasked: a threshold can leave a residual stream one channel, and
#: the multipliers of "knapsack" empty costly groups.
FLOORS = {"threshold": 0.2, "knapsack": 0.25, "algorithm-1": 0.0}


@dataclass(frozen=True)
class Projection:
    """A selection that holds the budget.

    Attributes:
        selection: one bool array per group, True = kept.
        figures: its exact cost.
        retained: kept share of all importance.
        floor: the floor that was used.
        notes: what a user should know: a lowered floor, granularity that forbids coming nearer.
    """

    selection: Selection
    figures: Figures
    retained: float
    floor: float
    notes: tuple[str, ...] = ()


def project(
    graph: ChannelGraph,
    scores: Sequence[np.ndarray],
    limits: Limits,
    method: str = "threshold",
    divisor: int = 1,
    min_channels: int = 1,
    floor: float | None = None,
    within: Selection | None = None,
    model: nn.Module | None = None,
) -> Selection:
    """Keep as much importance as the budget allows; see `projection` for the arguments and errors."""
    return projection(graph, scores, limits, method, divisor, min_channels, floor, within, model).selection


def projection(
    graph: ChannelGraph,
    scores: Sequence[np.ndarray],
    limits: Limits,
    method: str = "threshold",
    divisor: int = 1,
    min_channels: int = 1,
    floor: float | None = None,
    within: Selection | None = None,
    model: nn.Module | None = None,
) -> Projection:
    """`project`, with its figures and notes.

    Args:
        scores: per group [size], additive, larger is more important (`edgepress.compress.prune.budget.importance`).
        limits: the budgets; only those that pruning can hold are looked at (`Limits.budgets`). Their rule and
            scheme must be those of `graph`, and what depends on a device class must be among its figures.
        method: "algorithm-1" (the report's: one threshold on all scores, every mask evaluated by its active paths),
            "threshold" (the same threshold by formula, what it leaves over given back, with a floor) or "knapsack"
            (Lagrange multipliers: the most importance for the budget).
        divisor: kept channels of a group are a multiple of this (or all of them).
        min_channels: smallest number of channels of a group; 0 also lets whole residual branches go.
        floor: smallest kept share of each group, lowered where the budget needs it; None is `FLOORS` of the method.
        within: only units that are kept here may be kept, as where others are gone already.
        model: the network of `graph`, which "algorithm-1" runs.

    Raises:
        InfeasibleBudget: even the smallest network is above the budget.
        UsageError: unknown method, scores that do not fit, another counting rule than the graph's, or "algorithm-1"
            without the model or for one that NaN does not pass through.
    """
    if method not in METHODS:
        raise UsageError(f"projection = {method!r} is no projection; known are {', '.join(METHODS)}")
    _check_scores(graph, scores)
    for name, value, least in (("divisor", divisor, 1), ("min_channels", min_channels, 0)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise UsageError(f"{name} = {value!r} must be an integer of at least {least}")
    floor = FLOORS[method] if floor is None else floor
    if not 0 <= floor <= 1:
        raise UsageError(f"floor = {floor!r} must be between 0 and 1")
    budgets = _budgets(graph, limits)
    open_units = graph.full() if within is None else within
    widest = graph.cost(open_units)
    if not graph.groups or all(widest.get(metric) <= limit for metric, limit in budgets.items()):
        if any(widest.get(metric) > limit for metric, limit in budgets.items()):
            _infeasible(graph, budgets, graph.sizes)
        note = () if not budgets else ("the network is within the budget already; nothing is removed",)
        return Projection(open_units, widest, 1.0, floor, note)
    scores = [np.where(units, score, 0.0) for units, score in zip(open_units, scores, strict=True)]
    choice, floor, notes = _within_reach(graph, scores, budgets, divisor, min_channels, floor, open_units)
    if method == "algorithm-1":
        if model is None:
            raise UsageError("projection = 'algorithm-1' evaluates active paths on the network itself: give model")
        counts = algorithm_1(choice, scores, budgets, model)
    else:

        def solve(start: np.ndarray, held: Mapping[str, float], trades: bool = True) -> np.ndarray:
            fitted = fitted_counts(choice, start, held, trades)
            return knapsack_counts(choice, fitted, held) if method == "knapsack" else fitted

        counts = within_exact(choice, threshold_counts(choice, scores, budgets), budgets, solve)
        notes += _granularity(choice, counts, budgets)
    figures = graph.formula.figures(counts)
    total = sum(float(value[-1]) for value in choice.value)
    return Projection(
        choice.selection(counts), figures, choice.retained(counts) / total if total else 1.0, floor, notes
    )


def _check_scores(graph: ChannelGraph, scores: Sequence[np.ndarray]) -> None:
    if len(scores) != len(graph.groups) or any(
        np.shape(score) != (group.size,) for score, group in zip(scores, graph.groups, strict=False)
    ):
        raise UsageError(f"scores need one array per group, of sizes {graph.sizes.tolist()}")
    for score, group in zip(scores, graph.groups, strict=True):
        if not np.isfinite(score).all() or (np.asarray(score) < 0).any():
            raise UsageError(f"scores of group {group.name} must be finite and not negative; are the weights finite?")


def _budgets(graph: ChannelGraph, limits: Limits) -> dict[str, float]:
    budgets = limits.budgets()
    known = graph.formula.metrics
    unknown = [metric for metric in budgets if metric in DEVICE_METRICS and metric not in known]
    if unknown:
        raise UsageError(f"the graph has no {', '.join(unknown)}: find the groups with on_device of the limits")
    for name, metrics in (("rule", ("macs",)), ("scheme", ("weight_bytes", "peak_activation_bytes"))):
        if any(metric in budgets for metric in metrics) and getattr(limits, name) != getattr(graph, name):
            from edgepress.models.cost.op_costs import ALIASES

            if ALIASES.get(getattr(limits, name), getattr(limits, name)) != ALIASES.get(
                getattr(graph, name), getattr(graph, name)
            ):
                raise UsageError(
                    f"the limits count by {name} {getattr(limits, name)!r} and the graph by "
                    f"{getattr(graph, name)!r}; find the groups under the {name} of the limits"
                )
    return budgets


def _within_reach(
    graph: ChannelGraph,
    scores: Sequence[np.ndarray],
    budgets: dict[str, float],
    divisor: int,
    min_channels: int,
    floor: float,
    within: Selection,
) -> tuple[Choice, float, tuple[str, ...]]:
    """The highest floor, halving from the given one, at which the smallest network is within the budget."""
    wanted, notes = floor, ()
    while True:
        choice = choices(graph, scores, divisor, min_channels, floor, within)
        figures = graph.formula.figures(choice.lowest())
        if all(figures.get(metric) <= limit for metric, limit in budgets.items()):
            break
        if floor == 0:
            _infeasible(graph, budgets, choice.lowest())
        floor = floor / 2 if floor > 0.01 else 0.0
    if floor < wanted:
        notes = (
            f"a floor of {100 * wanted:g} % of every group's width is above the budget; lowered to {100 * floor:.3g} %",
        )
    return choice, floor, notes


def _infeasible(graph: ChannelGraph, budgets: dict[str, float], lowest: np.ndarray) -> None:
    figures = graph.formula.figures(lowest)
    problems = []
    for metric, limit in budgets.items():
        smallest = figures.get(metric)
        if smallest <= limit:
            continue
        unit = METRIC_UNITS[metric]
        binding = ", ".join(binding_layers(graph, metric, lowest))
        reached, wanted = format_against(smallest, limit, unit)
        problems.append(
            f"{metric} = {wanted} can't be reached: the smallest network has {reached} ({smallest:,})"
            + (f"; what binds: {binding}" if binding else "")
        )
    hint = (
        ""
        if graph.groups
        else "; nothing in this network can be pruned" + (f" ({_why_frozen(graph.frozen[0])})" if graph.frozen else "")
    )
    raise InfeasibleBudget("; ".join(problems) + hint + "; raise the budget, or lower divisor, min_channels or protect")


def _why_frozen(frozen: Frozen) -> str:
    place = f" of {frozen.operator}" if frozen.operator else ""
    place += f" in module {frozen.module!r}" if frozen.operator and frozen.module else ""
    return f"{frozen.name}, because{place}: {frozen.reason}" if place else f"{frozen.name}: {frozen.reason}"


def binding_layers(graph: ChannelGraph, metric: str, counts: np.ndarray, most: int = 3) -> tuple[str, ...]:
    """Names of the layers that hold most of a figure at the given counts."""
    from edgepress.compress.prune.coupling.figures import layer_figures

    named = layer_figures(graph.formula, metric, counts)
    return tuple(name for name, value in sorted(named, key=lambda pair: -pair[1])[:most] if value > 0)


def _granularity(choice: Choice, counts: np.ndarray, budgets: dict[str, float]) -> tuple[str, ...]:
    formula = choice.graph.formula
    figures = formula.figures(counts)
    nearest, metric = max((figures.get(name) / limit, name) for name, limit in budgets.items() if limit)
    if nearest >= 0.99:
        return ()
    at = f"{metric} is at {100 * nearest:.2f} % of its limit"
    step = next_step(choice, counts, budgets)
    if step is None:
        return (f"{at}, and every group is as wide as it may be",)
    if step.over <= 0:
        return (f"{at}: the search ended before every step was tried, a nearer network may exist",)
    return (
        f"{at} and maximal: no group can have its next width; the least step, {step.group}'s, takes {step.metric} "
        f"{_excess(step.over, METRIC_UNITS[step.metric])} above its limit",
    )


def _excess(over: float, unit: str) -> str:
    """A small difference, to the byte; counts have no unit beside their name."""
    return f"{over:.3g} {unit}" if unit in ("ms", "uJ") else f"{over:,.0f} bytes" if unit == "bytes" else f"{over:,.0f}"


def relaxed(limits: Limits, share: float) -> Limits:
    """The same limits, every budget times `share`; for schedules."""
    budgets = {metric: value * share for metric, value in limits.budgets().items()}
    return replace(limits, **{name: int(value) if name in _WHOLE else value for name, value in budgets.items()})
