# SPDX-License-Identifier: Apache-2.0
"""Which activations are alive when, and how much memory that takes: liveness apart from sizes.

The model of an int8 arena: operators run in the traced order; a tensor lives from the operator that writes it to the
last one that reads it, inputs from the start, outputs to the end; an operator's inputs and outputs are alive together.
A normalisation or ReLU that folds into the operator before it has no tensor of its own, nor has what only renames
elements (view, flatten, squeeze). A padding that TFLite can neither call SAME nor VALID is an operator of its own and
its result a tensor. What a planner adds by fragmentation, and scratch memory of kernels, are not part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from edgepress.models.cost.aten import data_input, is_transposed
from edgepress.models.cost.aten_names import ACTIVATIONS, CONVOLUTIONS, FUSED_ACTIVATIONS, POOLS, PRODUCTS, RESHAPING
from edgepress.models.cost.folding import Folding
from edgepress.models.cost.graph import Graph, Node

#: Operators which TFLite fuses a following ReLU into.
_TAKES_ACTIVATION = CONVOLUTIONS | PRODUCTS | {"add", "sub", "mul", "div", "batch_norm", *POOLS}


@dataclass(frozen=True)
class ActivationTensor:
    """One tensor of the arena.

    Attributes:
        name: the node that writes it; a padded copy has the name of its reader with ".padded" behind.
        shape: with the batch.
        node: the node whose channels it has: itself, or for a padded copy the one that is padded.
    """

    name: str
    shape: tuple[int, ...]
    node: str


@dataclass(frozen=True)
class ActivationPlan:
    """When each activation is alive, whatever its size.

    Attributes:
        tensors: the T activations, in order of their creation.
        steps: names of the S operators, in execution order.
        first: [T] step that writes each tensor; 0 for inputs.
        last: [T] step that reads it last; the last step for outputs.
    """

    tensors: tuple[ActivationTensor, ...]
    steps: tuple[str, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]

    @cached_property
    def sizes(self) -> np.ndarray:
        """[T] elements of the tensors as traced, int64."""
        return np.array([prod(tensor.shape) for tensor in self.tensors], dtype=np.int64)

    @cached_property
    def live(self) -> np.ndarray:
        """[S, T] int64, 1 where the tensor is alive during the step."""
        steps = np.arange(max(len(self.steps), 1))[:, None]
        return ((steps >= np.array(self.first, int)) & (steps <= np.array(self.last, int))).astype(np.int64)

    def timeline(self, sizes: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """[S] sum of the sizes alive during each step, in the unit of `sizes` (default: elements as traced)."""
        return self.live @ (self.sizes if sizes is None else np.asarray(sizes))

    def peak(self, sizes: Sequence[int] | np.ndarray | None = None) -> int:
        """The largest of `timeline`; at one byte per element the bytes of an int8 network."""
        return int(self.timeline(sizes).max(initial=0)) if self.tensors else 0


def activation_plan(graph: Graph, folding: Folding | None = None) -> ActivationPlan:
    """The liveness of every activation of a traced network.

    Args:
        folding: from `edgepress.models.cost.folding.fold_batch_norms`; computed where it is not given.
    """
    if folding is None:
        from edgepress.models.cost.folding import fold_batch_norms

        folding = fold_batch_norms(graph)
    stored = _stored_in(graph, folding)
    tensors: list[ActivationTensor] = []
    steps: list[str] = []
    first: dict[str, int] = {}
    last: dict[str, int] = {}

    def write(name: str, shape: tuple[int, ...], node: str, step: int) -> None:
        if name not in first:
            tensors.append(ActivationTensor(name, shape, node))
            first[name] = last[name] = step

    for node in graph.nodes:
        if node.name in graph.constant or node.kind not in ("input", "call"):
            continue
        if node.kind == "input":
            if node.shape is not None:
                write(node.name, node.shape, node.name, 0)
            continue
        if node.op == "getitem":  # written by the operator that it picks from
            continue
        reads = [stored[name] for name in node.inputs if name in stored]
        if stored.get(node.name, node.name) != node.name:  # renamed or fused: the reads count for its holder
            continue
        source = data_input(graph, node)
        if source is not None and source.name in stored and needs_padding(graph, node):
            padded = f"{node.name}.padded"
            steps.append(padded)
            write(padded, padded_shape(graph, node), source.name, len(steps) - 1)
            _read(last, reads, len(steps) - 1)
            reads = [padded, *(name for name in reads if name != stored[source.name])]
        steps.append(node.name)
        _read(last, reads, len(steps) - 1)
        if node.shape is not None:
            write(node.name, node.shape, node.name, len(steps) - 1)
        # The results of an operator with several appear where they are picked, as "getitem", and are written here.
        for reader in graph.users[node.name] if node.shape is None else ():
            picked = graph.by_name[reader]
            if picked.op == "getitem" and picked.shape is not None and (graph.users[reader] or reader in graph.outputs):
                write(reader, picked.shape, reader, len(steps) - 1)
    for name in graph.outputs:
        if name in stored:
            last[stored[name]] = max(len(steps) - 1, 0)
    return ActivationPlan(
        tuple(tensors), tuple(steps), tuple(first[t.name] for t in tensors), tuple(last[t.name] for t in tensors)
    )


def _read(last: dict[str, int], names: Sequence[str], step: int) -> None:
    for name in names:
        if name in last:
            last[name] = step


def _stored_in(graph: Graph, folding: Folding) -> dict[str, str]:
    """Node -> node whose tensor holds its elements, for every node that is an activation."""
    stored: dict[str, str] = {}
    for node in graph.nodes:
        if node.name in graph.constant or node.kind not in ("input", "call"):
            continue
        stored[node.name] = node.name
        source = data_input(graph, node)
        if source is None or source.name not in stored:
            continue
        holder = stored[source.name]
        in_place = node.overload.split(".")[1:2] and node.overload.split(".")[1].endswith("_")
        if (
            node.op == "getitem"
            or node.name in folding.producer
            or _same_elements(node, source)
            or (in_place and node.elements == source.elements and node.op in ACTIVATIONS)
            or is_same_padding(graph, node)
        ):
            stored[node.name] = holder if node.op != "getitem" else node.name
        elif (
            is_fused_activation(node)
            and graph.users[source.name] == (node.name,)
            and source.name not in graph.outputs
            and _takes_activation(graph, source)
        ):
            stored[node.name] = holder
    return stored


def is_fused_activation(node: Node) -> bool:
    """ReLU, ReLU6 and a clamp to [-1, 1] or [0, 6]: what TFLite writes into the operator before."""
    if node.op in FUSED_ACTIVATIONS:
        return True
    bounds = (node.arguments.get("min_val"), node.arguments.get("max_val"))
    return node.op == "hardtanh" and bounds in ((0, 6), (-1, 1), (0.0, 6.0), (-1.0, 1.0))


def _takes_activation(graph: Graph, source: Node) -> bool:
    return source.op in _TAKES_ACTIVATION and source.op != "scaled_dot_product_attention"


def _same_elements(node: Node, source: Node) -> bool:
    if node.op in RESHAPING:
        return node.elements == source.elements
    # A transpose which only moves dimensions of size one keeps the order of the elements.
    if node.op in ("permute", "transpose", "movedim", "t") and node.shape is not None and source.shape is not None:
        return [size for size in node.shape if size != 1] == [size for size in source.shape if size != 1] and sum(
            size != 1 for size in node.shape
        ) <= 1
    return node.op in ("slice", "narrow", "expand") and node.shape == source.shape


def needs_padding(graph: Graph, node: Node) -> bool:
    """Whether TFLite needs an operator of its own for the padding of a convolution or a pooling."""
    before = symmetric_padding(graph, node)
    source = data_input(graph, node)
    if before is None or not any(before) or source is None or source.shape is None or node.shape is None:
        return False
    count = len(before)
    kernel, stride, dilation = geometry(graph, node, count)
    for axis in range(count):
        size = source.shape[len(source.shape) - count + axis]
        if (before[axis], before[axis]) != same_amounts(size, kernel[axis], stride[axis], dilation[axis]):
            return True
    return "avg" in node.op and node.arguments.get("count_include_pad") is True


def is_same_padding(graph: Graph, node: Node) -> bool:
    """Whether an explicit padding with zeros is what TFLite's SAME does for the one convolution that reads it."""
    source, readers = data_input(graph, node), graph.users[node.name]
    zeros = node.arguments.get("value") in (None, 0, 0.0) and node.arguments.get("mode", "constant") == "constant"
    if (
        node.op not in ("pad", "constant_pad_nd")
        or not zeros
        or source is None
        or source.shape is None
        or len(readers) != 1
    ):
        return False
    reader = graph.by_name[readers[0]]
    own = symmetric_padding(graph, reader) if reader.op in CONVOLUTIONS else None
    amounts = node.arguments["pad"]
    if own is None or any(own) or reader.shape is None or len(amounts) > 2 * len(own):
        return False
    kernel, stride, dilation = geometry(graph, reader, len(own))
    amounts = (*amounts, *(0,) * (2 * len(own) - len(amounts)))
    for axis in range(len(own)):
        # The amounts start at the last dimension.
        given = (amounts[2 * (len(own) - 1 - axis)], amounts[2 * (len(own) - 1 - axis) + 1])
        if given != same_amounts(
            source.shape[len(source.shape) - len(own) + axis], kernel[axis], stride[axis], dilation[axis]
        ):
            return False
    return True


def same_amounts(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """What TFLite's SAME adds before and behind an axis of `size` elements."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def padded_shape(graph: Graph, node: Node) -> tuple[int, ...]:
    """Shape of the input of a convolution or pooling after its own padding."""
    source, before = data_input(graph, node), symmetric_padding(graph, node)
    assert source is not None
    assert source.shape is not None
    assert before is not None
    spatial = source.shape[len(source.shape) - len(before) :]
    return (
        *source.shape[: len(source.shape) - len(before)],
        *(size + 2 * pad for size, pad in zip(spatial, before, strict=True)),
    )


def symmetric_padding(graph: Graph, node: Node) -> tuple[int, ...] | None:
    """What a convolution or pooling adds on both sides of each axis; None where it is no such, or says "same"."""
    if (node.op not in CONVOLUTIONS and node.op not in POOLS) or is_transposed(node):
        return None
    padding = node.arguments.get("padding", 0)
    if isinstance(padding, str):  # "same" and "valid" need nothing: torch's "same" has stride 1, as TFLite's SAME
        return None
    count = POOLS[node.op] if node.op in POOLS else weight_dimensions(graph, node)
    return _spread(padding, count)


def weight_dimensions(graph: Graph, node: Node) -> int:
    """Spatial dimensions of a convolution."""
    return len(graph.by_name[node.arguments["weight"].name].shape or ()) - 2


def geometry(graph: Graph, node: Node, count: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride and dilation of a convolution or pooling along its `count` spatial axes."""
    if node.op in POOLS:
        kernel = _spread(node.arguments.get("kernel_size", 1), count)
    else:
        kernel = tuple((graph.by_name[node.arguments["weight"].name].shape or ())[2:])
    # An empty stride of a pooling means the kernel.
    stride = node.arguments.get("stride", 1)
    stride = kernel if stride in ((), None) else _spread(stride, count)
    return kernel, stride, _spread(node.arguments.get("dilation", 1), count)


def _spread(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values if len(values) == count else (values[0] if values else 0,) * count
