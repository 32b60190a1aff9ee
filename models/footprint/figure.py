# SPDX-License-Identifier: Apache-2.0
"""A figure of a device as a function of sizes, so that it can be had for any widths without tracing anew.

A builder reads a graph once and says which sizes its figure depends on: integers of a network as it stands, or symbols
of a network whose widths are still open. `value` makes the exact figure of their numbers; `smooth` is a sum of sizes
that follows it closely enough to steer a search, which ends on `value`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from edgepress.models.cost.activations import ActivationPlan, activation_plan
from edgepress.models.cost.cost import network_ops
from edgepress.models.cost.folding import Folding, fold_batch_norms
from edgepress.models.cost.graph import Graph
from edgepress.models.cost.op_costs import Op
from edgepress.models.devices.device import DeviceClass

#: An integer, or a symbol that adds and multiplies like one.
Size = Any


@dataclass(frozen=True)
class Traced:
    """A network in evaluation mode, as builders read it.

    Attributes:
        graph: with integers or symbols as sizes.
        ops: operators left after folding, by node name.
        folding: which normalisations are folded into which operators.
        plan: when each activation is alive.
    """

    graph: Graph
    ops: dict[str, Op]
    folding: Folding
    plan: ActivationPlan

    @classmethod
    def of(cls, graph: Graph) -> Traced:
        folding = fold_batch_norms(graph)
        return cls(graph, network_ops(graph, folding), folding, activation_plan(graph, folding))


@dataclass(frozen=True)
class DeviceFigure:
    """One figure of one device.

    Attributes:
        metric: name of the figure with its unit, a field of `edgepress.models.limits.Limits`.
        sizes: the [N] sizes that it depends on.
        value: their [N] numbers -> the figure.
        smooth: (size, factor): the sum of these products is near the figure for all widths; empty where it `follows`.
        follows: a figure of the network alone that it grows with.
        note: what the figure is worth: its interval, where it comes from.
    """

    metric: str
    sizes: tuple[Size, ...]
    value: Callable[[np.ndarray], float]
    smooth: tuple[tuple[Size, float], ...] = ()
    follows: str = ""
    note: str = ""

    def now(self) -> float:
        """The figure of a graph of integers, or of the dense network of a graph of symbols."""
        return self.value(np.array([int(size) for size in self.sizes], np.float64))


#: (network, device class) -> the figure.
Builder = Callable[[Traced, DeviceClass], DeviceFigure]


@dataclass
class Sizes:
    """Collects the sizes of a figure; equal ones have one number."""

    all: list[Size] = field(default_factory=list)
    _numbers: dict[Any, int] = field(default_factory=dict)

    def number(self, size: Size) -> int:
        """Where the size stands among the collected ones."""
        key = size if not isinstance(size, int) else ("integer", size)
        if key not in self._numbers:
            self._numbers[key] = len(self.all)
            self.all.append(size)
        return self._numbers[key]

    def product(self, shape: tuple[Size, ...]) -> int:
        """`number` of the elements of a shape."""
        return self.number(prod(shape))
