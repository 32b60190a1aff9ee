# SPDX-License-Identifier: Apache-2.0
"""Propagation of channel labels through the operators of a traced network."""

from __future__ import annotations

import numpy as np

from edgepress.compress.prune.coupling import (
    elementwise_rules,
    layout_rules,
    product_rules,
    sequence_rules,
    statistic_rules,
)
from edgepress.compress.prune.coupling.fixed import Fixed
from edgepress.compress.prune.coupling.labels import Cause, Labelled, axes_of
from edgepress.compress.prune.coupling.propagation import Propagation, RuleTable
from edgepress.models.cost.graph import Graph, Node

QUIET = "the network's own input or output"
#: ATen operator -> its rule.
RULES = RuleTable()
for _table in (elementwise_rules, statistic_rules, product_rules, sequence_rules, layout_rules):
    RULES.update(_table.RULES)


def propagate(graph: Graph, fixed: Fixed, heads: Graph | None = None) -> Propagation:
    """Label every value of the network.

    Args:
        graph: the network in evaluation.
        fixed: what keeps its shape although an operator would let it go.
        heads: the network with the branches that only training takes; it shares parameters, and so labels.
    """
    state = Propagation(graph)
    _walk(state, fixed)
    if heads is not None:
        state.heads = Propagation(heads, state.space, mode=state.mode, grids=state.grids, sources=state.sources)
        _walk(state.heads, fixed)
    phases = [state] if state.heads is None else [state, state.heads]
    for phase in phases:
        _make_rectangular(phase)
    while sum(_compact_all(phase) for phase in phases):  # every phase, not up to the first
        for phase in phases:
            _make_rectangular(phase)
    return state


def _walk(state: Propagation, fixed: Fixed) -> None:
    graph, by_source = state.graph, state.sources
    for node in graph.nodes:
        if node.kind in ("parameter", "buffer"):
            movable = node.kind == "parameter" or node.dtype.startswith(("float", "bfloat"))
            if node.source not in by_source:
                labels = state.space.parameter(node.shape or ()) if movable else Labelled(node.shape or ())
                if node.source in fixed.tensors:
                    state.space.fix_value(labels, Cause(node.kind, node.source, "frozen", quiet=True))
                by_source[node.source] = labels
            state.values[node.name] = by_source[node.source]
        elif node.kind in ("input", "constant"):
            state.values[node.name] = Labelled(node.shape or ())
        else:
            rule = RULES.get(node.op)
            try:
                state.values[node.name] = rule(state, node) if rule else state.unknown(node)
            except (AssertionError, ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
                # A form of the operator that its rule does not foresee: what it reads is kept, never removed wrongly.
                state.values[node.name] = state.unknown(node, f"this form is not analysed ({error})")
    for name in graph.outputs:
        _fix(state, name, Cause("output", "", QUIET, quiet=True))
    for name in fixed.outputs(graph):
        _fix(state, name, Cause("output", graph.by_name[name].module, "protected", quiet=True))


def _fix(state: Propagation, name: str, cause: Cause) -> None:
    values = state.values[name]
    for value in values if isinstance(values, tuple) else (values,):
        if value is not None:
            state.space.fix_value(value, cause)


def _compact_all(state: Propagation) -> bool:
    """Reduce every plane to the axes that it still depends on; True if an axis with two planes had to be fixed."""
    crossing = False

    def final(value: Labelled | None, node: Node) -> Labelled | None:
        nonlocal crossing
        if value is None:
            return None
        planes = state.space.compacted(value.planes)
        axes = [axis for plane in planes for axis in axes_of(plane)]
        if len(set(axes)) < len(axes):
            crossing = True
            for plane in planes:
                state.space.fix(plane, state.cause(node, "two kinds of channels share one axis"))
        return Labelled(value.shape, planes)

    for node in state.graph.nodes:
        values = state.values[node.name]
        several = isinstance(values, tuple)
        finals = tuple(final(value, node) for value in (values if several else (values,)))
        state.values[node.name] = finals if several else finals[0] or Labelled(node.shape or ())
    return crossing


def _make_rectangular(state: Propagation) -> None:
    """Until every plane depends on one axis: a plane over several keeps the axis that leaves the most units."""
    for node in state.graph.nodes:
        values = state.values[node.name]
        for value in values if isinstance(values, tuple) else (values,):
            if value is None:
                continue
            for plane in value.planes:
                if len(axes_of(plane)) > 1:
                    state.grids.append(
                        (
                            Labelled(value.shape, (plane,)),
                            state.cause(node, "unequal counts would leave a ragged tensor"),
                        )
                    )
    changed = True
    while changed:
        changed = False
        for value, cause in state.grids:
            plane = state.space.compact(value.planes[0])
            if plane is None or len(axes_of(plane)) <= 1:
                continue
            changed = True
            left = {axis: _units_left(state, plane, axis, cause) for axis in axes_of(plane)}
            _keep_axis(state, plane, max(left, key=lambda axis: left[axis]), cause)


def _keep_axis(state: Propagation, plane: np.ndarray, axis: int, cause: Cause) -> None:
    others = [other for other in axes_of(plane) if other != axis]
    first = plane
    for other in others:
        first = first.take([0], other)
    state.space.unify(plane, first, cause)


def _units_left(state: Propagation, plane: np.ndarray, axis: int, cause: Cause) -> int:
    saved = state.space.snapshot()
    _keep_axis(state, plane, axis, cause)
    anchors = [anchor for anchor, _ in state.space.causes]
    fixed = np.unique(state.space.find(np.array(anchors, np.int64))) if anchors else np.zeros(0, np.int64)
    roots = np.unique(state.space.find(plane))
    left = int((~np.isin(roots, fixed) & (roots > 0)).sum())
    state.space.restore(saved)
    return left
