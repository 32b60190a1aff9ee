# SPDX-License-Identifier: Apache-2.0
"""Channel labels through attention and recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepress.compress.prune.coupling.labels import Labelled, at_axis
from edgepress.compress.prune.coupling.product_rules import contract
from edgepress.compress.prune.coupling.propagation import Propagation, Result, RuleTable, optional, required
from edgepress.models.cost.aten_names import RECURRENT, RECURRENT_CELLS
from edgepress.models.cost.graph import Node

RULES = RuleTable()
#: Parts of the weights; the plain ones have one.
_GATES = {"lstm": 4, "lstm_cell": 4, "gru": 3, "gru_cell": 3}


@RULES.rule("scaled_dot_product_attention")
def _attention(state: Propagation, node: Node) -> Result:
    query, key, value = (required(state, node, name) for name in ("query", "key", "value"))
    rank = len(query.shape)
    batch = list(range(rank - 2))
    target, source, width = rank - 2, rank - 1, rank
    # Every head keeps its place and loses the same indices.
    heads, cause = range(rank - 1), state.cause(node, "every head must keep equally many")
    query, key, value = (state.space.collapse(v, heads, cause) for v in (query, key, value))
    scores = contract(state, node, [query, key], [[*batch, target, width], [*batch, source, width]], rank + 1, [width])
    mask = optional(state, node, "attn_mask")
    if mask is not None:
        scores = state.space.merge([scores, mask], cause)
    return contract(
        state, node, [scores, value], [[*batch, target, source], [*batch, source, width]], rank + 1, [source]
    )


@RULES.rule(*RECURRENT)
def _recurrent(state: Propagation, node: Node) -> Result:
    params = [state.value(ref.name) for ref in node.arguments["params"]]
    gates = _GATES.get(node.op, 1)
    biases = bool(node.arguments.get("has_biases", True))
    directions = 2 if node.arguments.get("bidirectional") else 1
    layers, per_cell = node.arguments["num_layers"], 4 if biases else 2
    if len(params) != layers * directions * per_cell:
        return state.unknown(node, "projected recurrent layers are not analysed")
    x = required(state, node, "input")
    cause = state.cause(node, "every gate must keep the same units")
    states = _states(state, node)
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            start = (layer * directions + direction) * per_cell
            cell = params[start : start + per_cell]
            hidden = _coupled_units(state, cell, gates, x, states, cause)
            outputs.append(hidden)
        width = sum(value.shape[-1] for value in outputs)
        joined = np.concatenate([p for value in outputs for p in (value.planes or (np.zeros(value.shape, int),))], -1)
        x = Labelled((*x.shape[:-1], width), state.space.compacted([joined]))
    finals = []
    for shape in node.shapes[1:]:
        assert shape is not None
        hidden = at_axis(_column(params[1]), len(shape), len(shape) - 1)
        for other in range(1, layers * directions):  # one tensor holds the states of all: they share their width
            vector = at_axis(_column(params[other * per_cell + 1]), len(shape), len(shape) - 1)
            if len(node.shapes) > 1 and state.graph.users[node.name] and _reads_states(state, node):
                hidden = state.space.merge([hidden, vector], cause)
        finals.append(Labelled(shape, hidden.planes))
    output = next(shape for shape in node.shapes if shape is not None)
    return (Labelled(output, x.planes), *finals)


@RULES.rule(*RECURRENT_CELLS)
def _recurrent_cell(state: Propagation, node: Node) -> Result:
    weights = [required(state, node, name) for name in ("w_ih", "w_hh")]
    biases = [value for name in ("b_ih", "b_hh") if (value := optional(state, node, name)) is not None]
    states = _states(state, node)
    gates = _GATES.get(node.op, 1)
    cause = state.cause(node, "every gate must keep the same units")
    hidden = _coupled_units(state, [*weights, *biases], gates, required(state, node, "input"), states, cause)
    if node.shape is not None:
        return Labelled(node.shape, hidden.planes)
    return tuple(Labelled(shape, hidden.planes) for shape in node.shapes if shape is not None)


def _states(state: Propagation, node: Node) -> list[Labelled]:
    """What a recurrent operator begins with."""
    hx = node.arguments["hx"]
    return [state.value(ref.name) for ref in (hx if isinstance(hx, tuple) else (hx,))]


def _coupled_units(
    state: Propagation, cell: Sequence[Labelled], gates: int, x: Labelled, states: Sequence[Labelled], cause: Any
) -> Labelled:
    """Couple what belongs to a unit of a recurrent cell: its row in each gate, its column, its entry in the states.

    Args:
        cell: weight of the input, weight of the hidden state, biases.
        x: what the cell reads, channels last.
        states: that it begins with.

    Returns:
        Its units, at the last axis of values of the rank of `x`.
    """
    rank, hidden_size = len(x.shape), cell[1].shape[1]
    hidden = at_axis(_column(cell[1]), rank, rank - 1)
    once = Labelled((*hidden.shape[:-1], 1, hidden_size), tuple(np.expand_dims(p, -2) for p in hidden.planes))
    for value in cell:
        rows = at_axis(_column(value, 0), rank, rank - 1)
        planes = tuple(p.reshape(*p.shape[:-1], gates, hidden_size) for p in rows.planes)
        state.space.merge([Labelled((*rows.shape[:-1], gates, hidden_size), planes), once], cause)
    inputs = at_axis(_column(cell[0]), rank, rank - 1)
    state.space.merge([x, Labelled(inputs.shape, inputs.planes)], cause)
    for initial in states:
        at_end = at_axis(_column(cell[1]), len(initial.shape), len(initial.shape) - 1)
        state.space.merge([initial, at_end], cause)
    return hidden


def _column(value: Labelled, axis: int = -1) -> Labelled:
    """The labels along one axis of a parameter, as a vector."""
    axis %= len(value.shape)
    planes = tuple(p.ravel() for p in value.planes if p.shape[axis] > 1)
    return Labelled((value.shape[axis],), planes)


def _reads_states(state: Propagation, node: Node) -> bool:
    """Whether anything reads the final hidden or cell states."""
    return any(
        reader.arguments.get("1", 0) > 0 and (state.graph.users[reader.name] or reader.name in state.graph.outputs)
        for name in state.graph.users[node.name]
        if (reader := state.graph.by_name[name]).op == "getitem"
    )
