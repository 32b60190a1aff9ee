# SPDX-License-Identifier: Apache-2.0
"""Writing operators of a graph as others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.layers import argument

#: node.meta key: the scheme that a node wants whatever the network's is.
WANTED_SCHEME = "edgepress_scheme"
#: node.meta key: each `Whole` that a node is a part of, the outermost first.
PART_OF = "edgepress_part_of"


@dataclass(frozen=True)
class Whole:
    """An operator that was written as others.

    Attributes:
        name: of its node, which is gone.
        target: the operator.
        options: its arguments that are no tensors, by name.
    """

    name: str
    target: Any
    options: Mapping[str, Any]


class Builder:
    """Adds operators with the place in the network of the one that they replace, and the shapes of what they give.

    Attributes:
        graph: of `module`; new nodes stand where its insertion point is.
        moved: node of a layer that was written anew -> the node which it was, for whoever keeps records by layer.
        made: the operators added so far.
    """

    def __init__(self, module: fx.GraphModule, like: fx.Node):
        self.module: fx.GraphModule = module
        self.graph: fx.Graph = module.graph
        self.stack: Any = like.meta.get("nn_module_stack")
        self.wanted: Any = like.meta.get(WANTED_SCHEME)
        self.moved: dict[fx.Node, fx.Node] = {}
        self.made: list[fx.Node] = []
        self._prefix = like.name

    def __call__(self, target: Any, *args: Any, wide: bool = False, **kwargs: Any) -> fx.Node:
        """An operator; `wide` gives its result 16 bits."""
        node = self.graph.call_function(target, args, kwargs)
        self.made.append(node)
        if self.stack is not None:
            node.meta["nn_module_stack"] = self.stack
        values, options = fx.map_arg((args, kwargs), self._value)
        with torch.no_grad():
            node.meta["val"] = target(*values, **options)
        if wide:
            node.meta[WANTED_SCHEME] = "a16w8"
        elif self.wanted is not None:
            node.meta[WANTED_SCHEME] = self.wanted
        return node

    def constant(self, what: str, value: torch.Tensor) -> fx.Node:
        """A constant tensor; it is kept as a buffer and doesn't train."""
        name = f"folded_{self._prefix}_{what}"
        self.module.register_buffer(name, value.detach().clone())
        node = self.graph.get_attr(name)
        node.meta["val"] = _shape_alone(value)
        return node

    def tensor_of(self, node: fx.Node) -> torch.Tensor:
        """The tensor of a get_attr node."""
        return fetch(self.module, str(node.target))

    def _value(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if value is None and node.op == "get_attr":
            value = self.tensor_of(node)
        return map_aggregate(value, _shape_alone)


def _shape_alone(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty([int(size) for size in value.shape], dtype=value.dtype, device="meta")


#: How one operator is written: (builder at the place of the node, node) -> what replaces it, or None to leave it.
Rewrite = Callable[[Builder, fx.Node], "fx.Node | tuple[fx.Node, ...] | None"]


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Sizes of a node's tensor."""
    return tuple(node.meta["val"].shape)


def rewrite_operators(module: fx.GraphModule, table: dict[Any, Rewrite]) -> dict[str, str]:
    """Replace each operator of a table by what the table makes of it, in place.

    What was made is looked up again, so that an entry may use operators which another entry replaces.

    Returns:
        Name of a layer that was written anew -> the name which it had.
    """
    moved: dict[str, str] = {}
    pending = list(module.graph.nodes)
    while pending:
        node = pending.pop(0)
        write = table.get(node.target) if node.op == "call_function" else None
        if write is None:
            continue
        with module.graph.inserting_before(node):
            build = Builder(module, node)
            result = write(build, node)
        if result is None:
            continue
        if isinstance(result, tuple):
            for user in list(node.users):  # results are taken out one by one
                user.replace_all_uses_with(result[int(user.args[1])])  # type: ignore[arg-type]
                module.graph.erase_node(user)
        else:
            node.replace_all_uses_with(result)
        wholes = (*node.meta.get(PART_OF, ()), Whole(node.name, node.target, _options(node)))
        for new in build.made:
            new.meta.setdefault(PART_OF, wholes)
        moved |= {new.name: moved.get(old.name, old.name) for new, old in build.moved.items()}
        module.graph.erase_node(node)
        pending = build.made + pending
    module.graph.eliminate_dead_code()
    return moved


def for_axes(value: Any, rank: int) -> tuple[int, ...]:
    """A number for every axis, of one for all or one for each."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values


def _options(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator that are no tensors."""
    schema = getattr(node.target, "_schema", None)
    given = {entry.name: argument(node, entry.name) for entry in schema.arguments} if schema is not None else {}
    found: dict[str, Any] = {}
    for name, value in given.items():
        nodes: list[fx.Node] = []
        fx.map_arg(value, nodes.append)
        if not nodes:
            found[name] = list(value) if isinstance(value, (list, tuple)) else value
    return found
