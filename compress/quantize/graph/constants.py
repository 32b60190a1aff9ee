# SPDX-License-Identifier: Apache-2.0
"""What is the same for every input: tensors of the module, what is computed from them alone, or from numbers alone."""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten
#: Operators which make a tensor from numbers alone.
_MAKING = {aten.zeros, aten.ones, aten.full, aten.arange, aten.eye, aten.linspace, aten.scalar_tensor}
_MAKING_LIKE = {aten.new_zeros, aten.new_ones, aten.new_full}


def fetch(module: nn.Module, target: str) -> torch.Tensor:
    """A tensor by its dotted path."""
    path, _, name = target.rpartition(".")
    return getattr(module.get_submodule(path), name)


def store(module: nn.Module, target: str, value: torch.Tensor, parameter: bool = True) -> None:
    """Put a tensor at a dotted path, making the modules on the way."""
    *path, name = target.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    if name in module._buffers:
        del module._buffers[name]
    if parameter and value.is_floating_point():
        module.register_parameter(name, nn.Parameter(value.detach().clone()))
    else:
        module.register_buffer(name, value.detach().clone())


def fold_constants(module: fx.GraphModule) -> None:
    """Evaluate what depends on parameters alone, such as a weight that a parametrization computes, or a mask."""
    constants: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            value = fetch(module, str(node.target))
            if isinstance(value, torch.Tensor):
                constants[node] = value
        elif (
            node.op == "call_function"
            and all(n in constants for n in node.all_input_nodes)
            and (node.all_input_nodes or getattr(node.target, "overloadpacket", None) in _MAKING)
        ) or _is_made_like_another(node):
            with torch.no_grad():
                value = _evaluated(
                    node, {n: constants[n] if n in constants else _like(n) for n in node.all_input_nodes}
                )
            if isinstance(value, (tuple, list)):
                constants[node] = value  # each is a constant where it is taken out
            if not isinstance(value, torch.Tensor):
                continue
            name = f"folded_{node.name}"
            store(module, name, value)
            with module.graph.inserting_before(node):
                constant = module.graph.get_attr(name)
            constant.meta["val"] = constants[constant] = value
            node.replace_all_uses_with(constant)
            module.graph.erase_node(node)
    for node in reversed([node for node in constants if node.op == "call_function" and not node.users]):
        module.graph.erase_node(node)


def fold_what_follows_the_batch(module: fx.GraphModule) -> None:
    """Evaluate what depends on the number of samples alone, and is equal for each: positions counted in a mask that is
    made as zeros((len(x), 8, 8)). A constant of one sample takes its place, repeated for as many as there are.
    """
    size = next(
        (n for n in module.graph.nodes if n.target is aten.sym_size.int and type(n.meta.get("val")) is int), None
    )
    if size is None:
        return
    # With two numbers of samples: what has as many rows as there are samples in both follows them.
    numbers = (size.meta["val"], size.meta["val"] + 1)
    values: dict[fx.Node, tuple[Any, Any]] = {size: numbers}
    following = {size}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            values[node] = (fetch(module, str(node.target)),) * 2
        elif node.op == "call_function" and node.all_input_nodes and all(n in values for n in node.all_input_nodes):
            with torch.no_grad():
                values[node] = tuple(_evaluated(node, {n: values[n][i] for n in node.all_input_nodes}) for i in (0, 1))
            if following.intersection(node.all_input_nodes):
                following.add(node)
    for node in [node for node in values if node in following and node is not size]:
        row = _row_of(*values[node], numbers)
        readers = [user for user in node.users if user not in values]
        if row is None or not readers or node.target is aten.expand.default:
            continue
        name = f"folded_{node.name}"
        store(module, name, row, parameter=False)
        with module.graph.inserting_after(node):
            constant = module.graph.get_attr(name)
        with module.graph.inserting_after(constant):
            every = module.graph.call_function(aten.expand.default, (constant, [size, *row.shape[1:]]))
        constant.meta["val"], every.meta["val"] = row, values[node][0]
        for user in readers:
            user.replace_input_with(node, every)


def _evaluated(node: fx.Node, given: dict[fx.Node, Any]) -> Any:
    return node.target(*fx.map_arg(node.args, given.get), **fx.map_arg(node.kwargs, given.get))


def _row_of(few: Any, more: Any, numbers: tuple[int, int]) -> torch.Tensor | None:
    """[1, ...] of values that have one row for each sample, and all the same; None of others."""
    if not isinstance(few, torch.Tensor) or few.dim() == 0:
        return None
    row = few[:1]
    follow = all(value.shape == (number, *row.shape[1:]) for value, number in zip((few, more), numbers, strict=True))
    return row if follow and torch.equal(more, row.expand_as(more)) else None


def _is_made_like_another(node: fx.Node) -> bool:
    """x.new_zeros((4, 4)): made of x's type, not of its values."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet in _MAKING_LIKE and node.all_input_nodes == [node.args[0]]


def _like(node: fx.Node) -> torch.Tensor:
    value = node.meta["val"]
    return torch.empty(0, dtype=value.dtype, device=value.device)
