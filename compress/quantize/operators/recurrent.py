# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers and cells step by step, in fully connected layers, sums, products and activations.

All steps share their weights and biases, in the file as in training.
"""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportReturnType=false
# pyright: reportOptionalIterable=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from edgepress.compress.quantize.graph.layers import argument, aten
from edgepress.compress.quantize.operators.build import Builder, shape_of

#: A state that is 0, so that what is multiplied with it falls away.
_ZERO = None
State = tuple["fx.Node | None", ...]
#: (what the input gives to the gates, what the hidden state gives, gate by gate, state) -> next state.
Step = Callable[[Builder, list[fx.Node], "list[fx.Node | None]", State], tuple[fx.Node, ...]]


def _sum(build: Builder, a: fx.Node, b: fx.Node | None) -> fx.Node:
    return a if b is None else build(aten.add.Tensor, a, b)


def _gru(build: Builder, given: list[fx.Node], recurrent: list[fx.Node | None], state: State) -> tuple[fx.Node, ...]:
    """Cho et al. 2014, arXiv 1406.1078, in PyTorch's form: h' = (h - n) * z + n."""
    (hidden,) = state
    reset, update = (build(aten.sigmoid.default, _sum(build, given[i], recurrent[i])) for i in (0, 1))
    gated = None if recurrent[2] is None else build(aten.mul.Tensor, reset, recurrent[2])
    new = build(aten.tanh.default, _sum(build, given[2], gated))
    difference = build(aten.mul.Tensor, new, -1.0) if hidden is _ZERO else build(aten.sub.Tensor, hidden, new)
    return (build(aten.add.Tensor, build(aten.mul.Tensor, difference, update), new),)


def _lstm(build: Builder, given: list[fx.Node], recurrent: list[fx.Node | None], state: State) -> tuple[fx.Node, ...]:
    """Hochreiter and Schmidhuber 1997, in PyTorch's form; the cell state has 16 bits, as its errors add up."""
    _, cell = state
    gates = [_sum(build, a, b) for a, b in zip(given, recurrent, strict=True)]
    enter, forget, output = (build(aten.sigmoid.default, gates[i]) for i in (0, 1, 3))
    new = build(aten.mul.Tensor, enter, build(aten.tanh.default, gates[2]), wide=True)
    if cell is not _ZERO:
        new = build(aten.add.Tensor, build(aten.mul.Tensor, forget, cell, wide=True), new, wide=True)
    return build(aten.mul.Tensor, output, build(aten.tanh.default, new, wide=True)), new


def _plain(activation: Any) -> Step:
    def step(build: Builder, given: list[fx.Node], recurrent: list[fx.Node | None], state: State) -> Any:
        return (build(activation, _sum(build, given[0], recurrent[0])),)

    return step


def recurrent(step: Step, gates: int, states: int) -> Callable[[Builder, fx.Node], tuple[fx.Node, ...] | None]:
    """How a recurrent operator is written: all layers, directions and steps; results as PyTorch's operator gives them.

    Args:
        step: of the cell.
        gates: parts of the weights.
        states: of the cell, 2 for an LSTM.
    """

    def write(build: Builder, node: fx.Node) -> tuple[fx.Node, ...] | None:
        x = node.args[0]
        initial = list(node.args[1]) if states == 2 else [node.args[1]]
        parameters, biased = list(argument(node, "params")), bool(argument(node, "has_biases"))
        layers, directions = int(argument(node, "num_layers")), 2 if argument(node, "bidirectional") else 1
        time = 1 if argument(node, "batch_first") else 0
        per_layer = len(parameters) // (layers * directions)
        if len(shape_of(x)) != 3 or per_layer != (4 if biased else 2):
            return None  # an LSTM with a projection, or a sequence without a batch
        last: list[list[fx.Node]] = [[] for _ in range(states)]
        for layer in range(layers):
            outputs = []
            for direction in range(directions):
                number = layer * directions + direction
                own = parameters[number * per_layer : (number + 1) * per_layer]
                state = tuple(_start(build, entry, number) for entry in initial)
                rows, state = _steps(build, x, own, biased, state, time, bool(direction))
                outputs.append(build(aten.cat.default, rows, time))
                for kept, entry in zip(last, state, strict=True):
                    kept.append(build(aten.unsqueeze.default, entry, 0))
            x = outputs[0] if directions == 1 else build(aten.cat.default, outputs, 2)
        finals = [entries[0] if len(entries) == 1 else build(aten.cat.default, entries, 0) for entries in last]
        return (x, *finals)

    def _steps(
        build: Builder, x: fx.Node, own: list[fx.Node], biased: bool, state: State, time: int, backwards: bool
    ) -> tuple[list[fx.Node], Any]:
        into, weight = own[:2]
        bias = own[3] if biased else None
        projected = build(aten.linear.default, x, into, own[2] if biased else None)
        rows = []
        order = range(shape_of(x)[time])
        for index in reversed(order) if backwards else order:
            given = build(aten.select.int, projected, time, index)
            state = _advanced(build, step, gates, given, state, weight, bias)
            rows.append(build(aten.unsqueeze.default, state[0], time))
        return rows[::-1] if backwards else rows, state

    return write


def cell(step: Step, gates: int, states: int) -> Callable[[Builder, fx.Node], Any]:
    """How one step is written that a network calls by itself; arguments as for `recurrent`."""

    def write(build: Builder, node: fx.Node) -> Any:
        x, initial, into, weight = node.args[:4]
        if len(shape_of(x)) != 2:
            return None  # without a batch
        state = tuple(_ZERO if _is_zero(build, entry) else entry for entry in (initial if states == 2 else (initial,)))
        given = build(aten.linear.default, x, into, argument(node, "b_ih"))
        made = _advanced(build, step, gates, given, state, weight, argument(node, "b_hh"))
        return tuple(made) if states == 2 else made[0]

    return write


def _advanced(
    build: Builder, step: Step, gates: int, given: fx.Node, state: State, weight: fx.Node, bias: fx.Node | None
) -> tuple[fx.Node, ...]:
    """The next state, from what the input gives to all gates."""
    hidden, size = state[0], shape_of(given)[-1] // gates
    from_hidden = bias if hidden is _ZERO else build(aten.linear.default, hidden, weight, bias)
    return step(
        build,
        [_part(build, given, i, size, gates) for i in range(gates)],
        [None if from_hidden is None else _part(build, from_hidden, i, size, gates) for i in range(gates)],
        state,
    )


def _part(build: Builder, value: fx.Node, number: int, size: int, parts: int) -> fx.Node:
    return value if parts == 1 else build(aten.slice.Tensor, value, -1, number * size, (number + 1) * size)


def _start(build: Builder, initial: fx.Node, number: int) -> fx.Node | None:
    return _ZERO if _is_zero(build, initial) else build(aten.select.int, initial, 0, number)


def _is_zero(build: Builder, state: Any) -> bool:
    while state.target is aten.expand.default:
        state = state.args[0]
    return state.target in _ZEROS or (state.op == "get_attr" and not bool(build.tensor_of(state).any()))


_ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default}
REWRITES: dict[Any, Any] = {
    aten.gru.input: recurrent(_gru, gates=3, states=1),
    aten.lstm.input: recurrent(_lstm, gates=4, states=2),
    aten.rnn_tanh.input: recurrent(_plain(aten.tanh.default), gates=1, states=1),
    aten.rnn_relu.input: recurrent(_plain(aten.relu.default), gates=1, states=1),
    aten.gru_cell.default: cell(_gru, gates=3, states=1),
    aten.lstm_cell.default: cell(_lstm, gates=4, states=2),
    aten.rnn_tanh_cell.default: cell(_plain(aten.tanh.default), gates=1, states=1),
    aten.rnn_relu_cell.default: cell(_plain(aten.relu.default), gates=1, states=1),
}
