# SPDX-License-Identifier: Apache-2.0
"""Exact cost of every selection: the counting code of `models`, run once on symbolic widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import gcd, prod
from typing import Any

import numpy as np

from edgepress.compress.prune.coupling.labels import Labelled, axes_of
from edgepress.compress.prune.coupling.propagation import Propagation
from edgepress.compress.prune.coupling.widths import Polynomial, PolynomialTable
from edgepress.models.cost.activations import activation_plan
from edgepress.models.cost.cost import cost_of_graph
from edgepress.models.cost.graph import Graph, Node
from edgepress.models.cost.op_costs import check_scheme
from edgepress.models.footprint.figure import DeviceFigure
from edgepress.models.footprint.table import figures_of


@dataclass(frozen=True)
class Figures:
    """What a selection costs, in the rule and scheme of its `ChannelGraph`; None of it needs a forward pass.

    Attributes:
        on_device: the figures of a device class that were asked for, by metric.
    """

    macs: int
    params: int
    weight_bytes: int
    peak_activation_bytes: int
    on_device: Mapping[str, float] = field(default_factory=dict)

    def get(self, metric: str) -> float:
        return self.on_device[metric] if metric in self.on_device else int(getattr(self, metric))


@dataclass(frozen=True)
class DeviceFormula:
    """A figure of a device class for any widths.

    Attributes:
        figure: with polynomials as its sizes.
        sizes: these polynomials as a table.
    """

    figure: DeviceFigure
    sizes: PolynomialTable

    def at(self, widths: np.ndarray) -> float:
        return self.figure.value(np.rint(self.sizes.values(widths)))


METRICS = ("macs", "params", "weight_bytes", "peak_activation_bytes")


@dataclass(frozen=True)
class CostFormula:
    """Polynomials of the widths, and the widths as linear functions of the kept counts.

    Attributes:
        offset: [W] constant part of each width.
        share: [W, G] channels of each width per kept unit of each group.
        totals: the polynomials macs, params, weight bytes, then for each of `on_device` the one that is near it.
        tensors: the polynomials of the activations' bytes, one per tensor of the liveness plan.
        first, last: [T] steps between which each tensor is alive, both included.
        steps: number of steps.
        uncounted: what the counting rule does not count.
        layers: the polynomials macs, params, weight bytes of each layer in turn.
        layer_names, tensor_names: of the layers, and of the modules that write the tensors.
        sizes: [G] units of each group in the dense network.
        on_device: the figures of a device class that were asked for.
    """

    offset: np.ndarray
    share: np.ndarray
    totals: PolynomialTable
    tensors: PolynomialTable
    first: np.ndarray
    last: np.ndarray
    steps: int
    uncounted: tuple[str, ...]
    layers: PolynomialTable
    layer_names: tuple[str, ...]
    tensor_names: tuple[str, ...]
    sizes: np.ndarray
    on_device: tuple[DeviceFormula, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the rows of `totals`."""
        return (*METRICS[:3], *(formula.figure.metric for formula in self.on_device))

    def widths(self, counts: np.ndarray) -> np.ndarray:
        return self.offset + self.share @ counts

    def figures(self, counts: np.ndarray) -> Figures:
        """Exact figures for [G] kept counts."""
        widths = self.widths(counts)
        macs, params, weight_bytes = self.totals.values(widths)[:3]
        on_device = {formula.figure.metric: formula.at(widths) for formula in self.on_device}
        return Figures(round(macs), round(params), round(weight_bytes), round(self.peak(widths)), on_device)

    def peak(self, widths: np.ndarray) -> float:
        return float(self.timeline(self.tensors.values(widths)).max(initial=0))

    def timeline(self, sizes: np.ndarray) -> np.ndarray:
        """[S] sum of the given [T] sizes alive at each step."""
        change = np.bincount(self.first, sizes, self.steps + 1) - np.bincount(self.last + 1, sizes, self.steps + 1)
        return np.cumsum(change)[: self.steps]

    @cached_property
    def users(self) -> tuple[np.ndarray, ...]:
        """Per group the widths that it is part of."""
        return tuple(np.flatnonzero(self.share[:, group]) for group in range(self.share.shape[1]))


class _Widths:
    """Numbers the distinct widths: an offset plus so many channels per kept unit of each group."""

    def __init__(self, group_of: np.ndarray, sizes: np.ndarray):
        self.group_of, self.sizes = group_of, sizes
        self.numbers: dict[tuple[Any, ...], int] = {}
        self.dense: list[int] = []
        self.cache: dict[bytes, Any] = {}

    def symbol(self, vector: np.ndarray) -> Any:
        """The width of an axis with these label roots: an integer if nothing of it can be removed."""
        key = vector.tobytes()
        if key not in self.cache:
            owners = self.group_of[vector]
            offset = int((owners < 0).sum())
            groups, counts = np.unique(owners[owners >= 0], return_counts=True)
            if not len(groups):
                return len(vector)
            shares = [int(count) // int(self.sizes[group]) for group, count in zip(groups, counts, strict=True)]
            factor = gcd(offset, *shares)
            normal = (offset // factor, tuple((int(g), s // factor) for g, s in zip(groups, shares, strict=True)))
            number = self.numbers.setdefault(normal, len(self.numbers))
            if number == len(self.dense):
                self.dense.append(len(vector) // factor)
            self.cache[key] = Polynomial({(number,): factor}, self.dense)
        return self.cache[key]


def cost_formula(
    graph: Graph,
    state: Propagation,
    group_of: np.ndarray,
    sizes: np.ndarray,
    rule: str,
    scheme: str,
    on_device: tuple[str, tuple[str, ...]] | None = None,
) -> CostFormula:
    """Run `cost.cost`, `cost.activations` and `footprint` on a copy of the graph whose widths are symbols."""
    widths = _Widths(group_of, sizes)
    shapes: dict[str, tuple[Any, ...]] = {}

    def symbolic(value: Labelled | None) -> tuple[Any, ...] | None:
        if value is None:
            return None
        shape: list[Any] = list(value.shape)
        for plane in value.planes:
            axes = axes_of(plane)
            if len(axes) == 1:
                shape[axes[0]] = widths.symbol(state.space.find(plane.ravel()))
        return tuple(shape)

    nodes: list[Node] = []
    for node in graph.nodes:
        values = state.values[node.name]
        if isinstance(values, tuple):
            nodes.append(replace(node, shapes=tuple(symbolic(value) for value in values)))
        else:
            shape = symbolic(values) if node.shape is not None else None
            if node.kind in ("parameter", "buffer") and shape is not None:
                shapes[node.source] = shape
            nodes.append(replace(node, shape=shape, arguments=_symbolic_groups(state, node, symbolic)))
    parameters = {name: shapes.get(name, shape) for name, shape in graph.parameter_shapes.items()}
    leaves = {
        module: tuple(
            (own, prod(parameters.get(f"{module}.{own}" if module else own, (count,)))) for own, count in entries
        )
        for module, entries in graph.leaf_modules.items()
    }
    symbols = replace(graph, nodes=tuple(nodes), parameter_shapes=parameters, leaf_modules=leaves)
    cost = cost_of_graph(symbols, rule, scheme)
    plan = activation_plan(symbols)
    figures = figures_of(symbols, *on_device) if on_device is not None else ()
    byte = check_scheme(scheme)[2]
    count = len(widths.dense)
    offset, share = np.zeros(count), np.zeros((count, len(sizes)))
    for (constant, parts), number in widths.numbers.items():
        offset[number] = constant
        for group, channels in parts:
            share[number, group] = channels
    return CostFormula(
        offset,
        share,
        PolynomialTable.of([cost.macs, cost.params, cost.weight_bytes], count, [figure.smooth for figure in figures]),
        PolynomialTable.of([byte * prod(tensor.shape) for tensor in plan.tensors], count),
        np.array(plan.first, np.int64),
        np.array(plan.last, np.int64),
        max(len(plan.steps), 1),
        cost.uncounted,
        PolynomialTable.of(
            [figure for layer in cost.layers for figure in (layer.macs, layer.params, layer.weight_bytes)], count
        ),
        tuple(layer.name for layer in cost.layers),
        tuple(graph.by_name[tensor.node].module or tensor.node for tensor in plan.tensors),
        sizes,
        tuple(DeviceFormula(figure, PolynomialTable.of(figure.sizes, count)) for figure in figures),
    )


def _symbolic_groups(state: Propagation, node: Node, symbolic: Any) -> Any:
    """The arguments, with the number of groups as a symbol where whole groups are removed."""
    groups = node.arguments.get("groups")
    if state.mode.get(node.name) != "group" or groups is None or "weight" not in node.arguments:
        return node.arguments
    source, weight = (state.value(node.arguments[name].name) for name in ("input", "weight"))
    axis = len(source.shape) - len(weight.shape) + 1
    return {**node.arguments, "groups": symbolic(source)[axis] // (source.shape[axis] // groups)}


def layer_figures(formula: CostFormula, metric: str, counts: np.ndarray) -> list[tuple[str, float]]:
    """(layer, its part of a figure); for the peak: the tensors alive at the worst step."""
    widths = formula.widths(counts)
    if metric == "peak_activation_bytes":
        sizes = formula.tensors.values(widths)
        worst = int(np.argmax(formula.timeline(sizes)))
        alive = (formula.first <= worst) & (worst <= formula.last)
        return list(zip(formula.tensor_names, sizes * alive, strict=True))
    if metric not in METRICS:
        # What holds most of a figure of a device: where the weights are, or the activations.
        metric = {
            "arena_bytes": "peak_activation_bytes",
            "firmware_arena_bytes": "peak_activation_bytes",
            "latency_ms": "macs",
            "energy_uj": "macs",
            "instructions": "macs",
        }.get(metric, "weight_bytes")
        return layer_figures(formula, metric, counts)
    values = formula.layers.values(widths).reshape(-1, 3)[:, METRICS.index(metric)]
    return list(zip(formula.layer_names, values, strict=True))
