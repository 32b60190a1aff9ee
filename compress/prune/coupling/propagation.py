# SPDX-License-Identifier: Apache-2.0
"""What is known while channel labels are propagated, and the tables in which operators find their rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgepress.compress.prune.coupling.labels import Cause, Labelled, LabelSpace
from edgepress.models.cost.graph import Graph, Node, Ref

Result = Labelled | tuple[Labelled | None, ...]


@dataclass
class Propagation:
    """What is known while the network is walked through.

    Attributes:
        values: node name -> its labels (a tuple for operators with several results).
        mode: names of convolutions and group normalisations which lose whole groups ("group"); the others lose equal
            counts in every group ("index").
        grids: (plane, cause) of every plane which depends on two axes and must be made rectangular.
        sources: parameter or buffer name -> its labels as they were given.
        heads: the same for the network with the branches that only training takes; None where there are none.
    """

    graph: Graph
    space: LabelSpace = field(default_factory=LabelSpace)
    values: dict[str, Result] = field(default_factory=dict)
    mode: dict[str, str] = field(default_factory=dict)
    grids: list[tuple[Labelled, Cause]] = field(default_factory=list)
    sources: dict[str, Labelled] = field(default_factory=dict)
    heads: Propagation | None = None

    def value(self, name: str) -> Labelled:
        """The labels of a node with one result."""
        value = self.values[name]
        assert isinstance(value, Labelled), f"{name} has several results"
        return value

    def cause(self, node: Node, reason: str) -> Cause:
        return Cause(node.op, node.module, reason)

    def free(self, shape: Sequence[int]) -> Labelled:
        """A value which is the same at every position: any position may be left out."""
        return self.space.parameter(shape)

    def unknown(self, node: Node, reason: str = "its coupling is not known") -> Result:
        """Fix everything that the operator reads; its results carry no labels."""
        for name in node.inputs:
            values = self.values[name]
            for value in values if isinstance(values, tuple) else (values,):
                if value is not None:
                    self.space.fix_value(value, self.cause(node, reason))
        if node.shapes:
            return tuple(None if shape is None else Labelled(shape) for shape in node.shapes)
        return Labelled(node.shape or ())

    def grid(self, node: Node, value: Labelled, axes: tuple[int, int]) -> None:
        """Remember that the labels over these two axes must stay rectangular."""
        for plane in value.planes:
            if all(plane.shape[axis] > 1 for axis in axes):
                self.grids.append((Labelled(value.shape, (plane,)), self.cause(node, "unequal counts per group")))


Rule = Callable[[Propagation, Node], Result]


class RuleTable(dict[str, Rule]):
    """ATen operator -> what it does to labels. Every file of rules fills its own; `propagate` reads them all."""

    def rule(self, *names: str) -> Callable[[Rule], Rule]:
        """Decorator: the function is the rule of these operators."""

        def register(function: Rule) -> Rule:
            self.update(dict.fromkeys(names, function))
            return function

        return register


def optional(state: Propagation, node: Node, name: str) -> Labelled | None:
    """The labels of an argument, None where it was not given."""
    ref = node.arguments.get(name)
    return state.value(ref.name) if isinstance(ref, Ref) else None


def required(state: Propagation, node: Node, name: str) -> Labelled:
    """The labels of an argument that the operator cannot do without."""
    value = optional(state, node, name)
    assert value is not None, f"{node.op} without {name}"
    return value
