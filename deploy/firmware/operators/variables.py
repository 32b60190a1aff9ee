# SPDX-License-Identifier: Apache-2.0
"""Lowering of variables, which outlive an inference: what streaming networks keep of the past."""

from __future__ import annotations

import numpy as np

from edgepress.deploy.firmware.lowering.context import Refused, Rows, described
from edgepress.deploy.firmware.lowering.steps import Value
from edgepress.deploy.tflite.reader import Operator, Subgraph, TFLiteModel


def initial_values(model: TFLiteModel) -> dict[tuple[str, str], np.ndarray]:
    """Name of a variable -> the constant that a subgraph assigns to it before the first inference (CALL_ONCE).

    Raises:
        Refused: a subgraph is not called once, or does anything else.
    """
    called = {operator.option("init_subgraph", 0) for operator in model.operators if operator.code == "CALL_ONCE"}
    found: dict[tuple[str, str], np.ndarray] = {}
    for number, graph in enumerate(model.subgraphs[1:], 1):
        if number not in called:
            raise Refused(f"subgraph {number} of {len(model.subgraphs)} is not called once at the beginning")
        handles: dict[int, tuple[str, str]] = {}
        for operator in graph.operators:
            if operator.code == "VAR_HANDLE":
                handles[operator.outputs[0]] = _name(operator)
                continue
            value = _assigned(graph, operator) if operator.code == "ASSIGN_VARIABLE" else None
            if value is None or operator.inputs[0] not in handles:
                raise Refused(f"{operator.code} in subgraph {number} assigns no constant to a variable")
            found[handles[operator.inputs[0]]] = value
    return found


def _assigned(graph: Subgraph, operator: Operator) -> np.ndarray | None:
    tensor = graph.tensors[operator.inputs[1]]
    return tensor.array() if tensor.constant and tensor.dtype in ("int8", "int16", "int32", "float32") else None


class Variables:
    """The variables of a file by their names; the rules of their operators are its methods."""

    def __init__(self, initial: dict[tuple[str, str], np.ndarray]):
        self._initial = initial
        self._handles: dict[int, tuple[str, str]] = {}
        self._states: dict[tuple[str, str], int] = {}

    def call_once(self, rows: Rows, operator: Operator) -> None:
        """CALL_ONCE: done when the C is generated."""

    def handle(self, rows: Rows, operator: Operator) -> None:
        """VAR_HANDLE: a name."""
        self._handles[operator.outputs[0]] = _name(operator)

    def read(self, rows: Rows, operator: Operator) -> None:
        """READ_VARIABLE: a copy, since the variable may be assigned while its value is still read."""
        y = rows.values[operator.outputs[0]]
        state = self._state(rows, operator, y)
        _copy(rows, state, y.index, y)

    def assign(self, rows: Rows, operator: Operator) -> None:
        """ASSIGN_VARIABLE."""
        x = rows.operand(operator, 1)
        _copy(rows, x.index, self._state(rows, operator, x), x)

    def _state(self, rows: Rows, operator: Operator, like: Value) -> int:
        if operator.inputs[0] not in self._handles:
            raise Refused("its variable has no name in this subgraph")
        name = self._handles[operator.inputs[0]]
        if name not in self._states:
            # As TFLite Micro: every byte is the zero point where nothing is assigned at the beginning.
            filled = np.full(like.size_bytes, like.zero_point or 0, np.int8).view(like.dtype)
            self._states[name] = rows.state(like, self._initial.get(name, filled).reshape(-1))
        state = self._states[name]
        if rows.states[state].nbytes != like.size_bytes or rows.values[state].dtype != like.dtype:
            raise Refused(f"{like.name!r} has another size or type than its variable")
        return state


def _copy(rows: Rows, source: int, target: int, like: Value) -> None:
    size, ones = (1, 1, 1, 1, like.size_bytes), (0, 0, 0, 0, 1)
    fields = {"size": size, "from": ones, "to": ones, "from_start": 0, "to_start": 0}
    rows.add("ep_copy", "ep_move", fields, [source], target, described(like.shape))


def _name(operator: Operator) -> tuple[str, str]:
    return operator.option("container", ""), operator.option("shared_name", "")
