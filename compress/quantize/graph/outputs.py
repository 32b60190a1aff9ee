# SPDX-License-Identifier: Apache-2.0
"""What a network returns: one tensor, or dictionaries and tuples of tensors, nested as its author likes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def plain_structure(value: Any) -> Any:
    """Mappings as dictionaries, lists, named tuples and tuples as tuples; what is inside stays."""
    if isinstance(value, Mapping):
        return {key: plain_structure(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(plain_structure(entry) for entry in value)
    return value


def named_leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, leaf) of everything inside; None is nothing.

    Names are keys and positions joined by dots: {"a": (x, y)} gives "a.0" and "a.1", (x, y) "output_0" and "output_1",
    x itself "output".
    """
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from named_leaves(entry, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        for position, entry in enumerate(value):
            yield from named_leaves(entry, f"{name}.{position}" if name else f"output_{position}")
    elif value is not None:
        yield name or "output", value


def tensors(value: Any) -> list[Any]:
    """The tensors inside, in the order in which a file holds them."""
    import torch

    return [leaf for _, leaf in named_leaves(value) if isinstance(leaf, (torch.Tensor, torch.fx.Node))]


def named_nodes(graph: Any) -> list[tuple[str, Any]]:
    """(name, node) of what a graph returns: no constants, which are in no file."""
    from torch import fx

    return [(name, leaf) for name, leaf in named_leaves(graph.output_node().args[0]) if isinstance(leaf, fx.Node)]


def flat(module: Any) -> tuple[Any, list[str]]:
    """A graph which returns its tensors one after the other, as files do, and their names.

    Args:
        module: GraphModule, see `graph.trace.trace`; untouched.
    """
    from torch import fx

    graph = fx.Graph()
    copied: dict[Any, Any] = {}
    graph.graph_copy(module.graph, copied)
    leaves = named_nodes(module.graph)
    nodes = [copied[leaf] for _, leaf in leaves]
    graph.output(tuple(nodes) if len(nodes) > 1 else nodes[0])
    made = fx.GraphModule(module, graph, class_name=type(module).__name__)
    return made.eval(), [name for name, _ in leaves]
