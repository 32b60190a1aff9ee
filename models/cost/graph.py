# SPDX-License-Identifier: Apache-2.0
"""The operators of a network, recorded once with `torch.export`: shapes, parameter names, the modules they come from.

`trace` is the only place that knows how torch describes a program; cost, pruning and folding read a `Graph`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgepress.models.cost.networks import plain_network
from edgepress.models.cost.program import export_program
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram, ExportGraphSignature

#: What a node is. Only "call" computes something.
NODE_KINDS = ("input", "parameter", "buffer", "constant", "call")


@dataclass(frozen=True)
class Ref:
    """An argument that is the result of another node."""

    name: str


@dataclass(frozen=True)
class Node:
    """One value, or one operator and its result.

    Attributes:
        name: unique in the graph.
        kind: one of `NODE_KINDS`.
        op: ATen operator without overload, e.g. "conv2d"; "getitem" picks one result; "" if not a call.
        overload: full name, e.g. "aten.conv2d.padding".
        arguments: by the operator's own argument names, defaults filled in; other nodes appear as `Ref`.
        shape: of the result; None where it is no tensor or several.
        shapes: of each result of an operator with several; None for those which are no tensors.
        dtype: of the result, e.g. "float32"; "" where it is no tensor.
        source: the parameter's, buffer's or constant's name in the model.
        module: path of the innermost module, "" for the model itself.
        module_class: class name of that module.
        module_call: tells two calls of one module apart.
    """

    name: str
    kind: str
    op: str = ""
    overload: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    shapes: tuple[tuple[int, ...] | None, ...] = ()
    dtype: str = ""
    source: str = ""
    module: str = ""
    module_class: str = ""
    module_call: str = ""

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the nodes that it reads, in order of the arguments, with repetitions."""
        return tuple(_references(list(self.arguments.values())))

    @property
    def elements(self) -> int:
        """Elements of the result; 0 where it is no tensor."""
        return prod(self.shape) if self.shape is not None else 0


@dataclass(frozen=True)
class Graph:
    """A traced network.

    Attributes:
        nodes: in execution order: parameters, buffers, constants, inputs, then calls.
        outputs: names of the nodes that are returned.
        parameter_shapes: every parameter of the model by its first name, whether read or not.
        leaf_modules: module path -> names and numbers of elements of its own parameters, for modules without children.
        program: what torch.export gave; its nodes have the names of `nodes`.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    parameter_shapes: Mapping[str, tuple[int, ...]]
    leaf_modules: Mapping[str, tuple[tuple[str, int], ...]]
    program: ExportedProgram | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        # A program of torch.export does not come out of a pickle; another process traces again where it needs one.
        return {**self.__dict__, "program": None}

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def users(self) -> dict[str, tuple[str, ...]]:
        """Node name -> names of the nodes which read it, each once, in execution order."""
        users: dict[str, dict[str, None]] = {node.name: {} for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                users[name][node.name] = None
        return {name: tuple(readers) for name, readers in users.items()}

    @cached_property
    def constant(self) -> frozenset[str]:
        """Nodes whose value does not depend on an input: parameters, and what is computed from them alone."""
        constant: set[str] = set()
        for node in self.nodes:
            if node.kind != "input" and (node.kind != "call" or all(name in constant for name in node.inputs)):
                constant.add(node.name)
        return frozenset(constant)

    @cached_property
    def read(self) -> frozenset[str]:
        """Names of the parameters and buffers that an operator reads."""
        return frozenset(
            self.by_name[name].source for node in self.nodes for name in node.inputs if self.by_name[name].source
        )

    def of_tensors(self, model: nn.Module) -> Graph:
        """The same operators with the parameters and leaf modules of a network."""
        leaves = {
            name: tuple((own, p.numel()) for own, p in module.named_parameters(recurse=False))
            for name, module in model.named_modules(remove_duplicate=False)
            if not any(module.children())
        }
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        return replace(self, parameter_shapes=shapes, leaf_modules=leaves)

    def origins(self, name: str) -> tuple[str, ...]:
        """Names of the parameters and buffers that a node is computed from, each once."""
        seen: dict[str, None] = {}
        sources: dict[str, None] = {}
        pending = [name]
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen[current] = None
            node = self.by_name[current]
            if node.kind in ("parameter", "buffer", "constant"):
                sources[node.source] = None
            pending.extend(node.inputs)
        return tuple(sources)


def trace(model: nn.Module, example_inputs: tuple[torch.Tensor, ...] | torch.Tensor, mode: str = "evaluation") -> Graph:
    """Record the operators of `model`.

    The model is not touched: a copy that shares its parameters is traced. Operators are ATen as `torch.export` gives
    them, before decomposition: conv2d, linear, batch_norm, lstm, scaled_dot_product_attention, einsum stay whole.

    Args:
        example_inputs: one tensor per input; a bare tensor is accepted for one input.
        mode: a key of `models.cost.program.MODES`.

    Raises:
        UsageError: `torch.export` cannot trace it; the message gives its reason.
    """
    return read_program(export_program(model, as_inputs(example_inputs), mode), model)


def as_inputs(example_inputs: object) -> tuple[torch.Tensor, ...]:
    """A tuple of tensors, from a tuple, a list or a bare tensor.

    Raises:
        UsageError: none, or something that is no tensor.
    """
    import torch

    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else example_inputs
    if not isinstance(inputs, (tuple, list)) or not inputs or not all(isinstance(v, torch.Tensor) for v in inputs):
        raise UsageError(
            f"example_inputs must be a tensor or a tuple of tensors, one per input of the network, "
            f"not {type(example_inputs).__name__}"
        )
    return tuple(inputs)


def trace_one_sample(model: nn.Module, example_inputs: tuple[torch.Tensor, ...] | torch.Tensor) -> Graph:
    """`trace` with a batch of one, so that every figure is that of one inference.

    The first dimension is the batch where all inputs have the same one, and where cutting it to one changes neither
    the steps of a recurrent layer nor the lengths in an attention; else it is time, and the inputs are traced as given.
    """
    model, inputs = plain_network(model), as_inputs(example_inputs)
    leading = {value.shape[0] if value.dim() else 0 for value in inputs}
    if len(leading) != 1 or leading <= {0, 1}:
        return trace(model, inputs)
    try:
        graph = trace(model, tuple(value[:1] for value in inputs))
    except UsageError:  # the batch is written into the forward, or there is none and this was another dimension
        return trace(model, inputs)
    if not _lengths(graph):
        return graph
    given = trace(model, inputs)
    return graph if _lengths(graph) == _lengths(given) else given


def _lengths(graph: Graph) -> list[tuple[int, ...]]:
    """What must not depend on the batch: steps of recurrent layers, sizes of matrices in products of activations."""
    lengths = []
    for node in graph.nodes:
        shapes = [graph.by_name[name].shape or () for name in node.inputs if name not in graph.constant]
        if node.op in ("lstm", "gru", "rnn_tanh", "rnn_relu") and shapes:
            batched = len(shapes[0]) == 3
            lengths.append((shapes[0][1 if batched and node.arguments.get("batch_first") else 0],))
        elif node.op in ("scaled_dot_product_attention", "bmm", "baddbmm", "matmul") and len(shapes) > 1:
            lengths += [shape[-2:] for shape in shapes]
    return lengths


def read_program(program: ExportedProgram, model: nn.Module) -> Graph:
    """The operators of a program that `export_program` made of `model`."""
    placeholders = _placeholders(program.graph_signature)
    # Tied parameters have several names; the first one stands for all.
    first_name: dict[int, str] = {}
    canonical: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        canonical[name] = first_name.setdefault(id(parameter), name)
    nodes: list[Node] = []
    renamed: dict[str, str] = {}  # duplicate placeholders of a tied parameter -> the first one
    parameter_nodes: dict[str, str] = {}
    outputs: tuple[str, ...] = ()
    for fx_node in program.graph.nodes:
        if fx_node.op == "output":
            outputs = tuple(renamed.get(name, name) for name in references(fx_node.args))
            continue
        try:
            shape, shapes, dtype = sizes_of(fx_node.meta.get("val"))
        except RuntimeError as error:  # a size that torch only knows when it runs
            _, (path, _) = _module(fx_node.meta.get("nn_module_stack"))
            raise UsageError(
                f"{getattr(fx_node.target, '__name__', fx_node.name)} in "
                + (f"module {path!r}" if path else "the network's own forward")
                + " gives as many values as its data says, so that nothing behind it can be counted or pruned: write "
                "torch.where or a mask of fixed size, or leave that part to the program that runs the network"
            ) from error
        if fx_node.op == "placeholder":
            kind, source = placeholders.get(fx_node.name, ("constant", fx_node.name))
            if kind == "parameter":
                source = canonical.get(source, source)
                first = parameter_nodes.setdefault(source, fx_node.name)
                if first != fx_node.name:
                    renamed[fx_node.name] = first
                    continue
            nodes.append(Node(fx_node.name, kind, shape=shape, shapes=shapes, dtype=dtype, source=source))
            continue
        nodes.append(node_of(fx_node, fx_node.meta.get("val"), renamed))
    return Graph(tuple(nodes), outputs, {}, {}, program).of_tensors(model)


def node_of(
    fx_node: Any, value: Any, renamed: Mapping[str, str], numbers: Mapping[str, int] = MappingProxyType({})
) -> Node:
    """An operator of a torch.fx graph.

    Args:
        fx_node: no placeholder and no output.
        value: its result, with or without numbers in it.
        renamed: names of nodes which others stand for.
        numbers: names of nodes that are whole numbers, and no nodes of the graph.
    """
    shape, shapes, dtype = sizes_of(value)
    op, overload = _operator(fx_node.target)
    module_call, (module, module_class) = _module(fx_node.meta.get("nn_module_stack"))
    return Node(
        fx_node.name,
        "call" if fx_node.op == "call_function" else "constant",
        op=op,
        overload=overload,
        arguments=_arguments(fx_node, renamed, numbers),
        shape=shape,
        shapes=shapes,
        dtype=dtype,
        source=str(fx_node.target) if fx_node.op == "get_attr" else "",
        module=module,
        module_class=module_class,
        module_call=module_call,
    )


def _placeholders(signature: ExportGraphSignature) -> dict[str, tuple[str, str]]:
    """Name -> kind of node and name in the model, for what is no input of the user's."""
    return {
        name: (kind, source)
        for kind, sources in (
            ("parameter", signature.inputs_to_parameters),
            ("buffer", signature.inputs_to_buffers),
            ("constant", signature.inputs_to_lifted_tensor_constants),
        )
        for name, source in sources.items()
    } | {name: ("input", "") for name in signature.user_inputs if isinstance(name, str)}


def _operator(target: Any) -> tuple[str, str]:
    """ATen's name without and with its overload; an in-place operator has the name of the plain one."""
    full = str(target)
    if hasattr(target, "_schema"):
        name = target._schema.name.split("::")[-1]
        return (name[:-1] if name.endswith("_") and not name.endswith("__") else name), full
    return getattr(target, "__name__", full), full


def _arguments(fx_node: Any, renamed: Mapping[str, str], numbers: Mapping[str, int]) -> dict[str, Any]:
    schema = getattr(fx_node.target, "_schema", None)
    if schema is None:
        named = {str(index): value for index, value in enumerate(fx_node.args)} | dict(fx_node.kwargs)
    else:
        named = {}
        for index, argument in enumerate(schema.arguments):
            if index < len(fx_node.args):
                named[argument.name] = fx_node.args[index]
            elif argument.name in fx_node.kwargs:
                named[argument.name] = fx_node.kwargs[argument.name]
            elif argument.has_default_value():
                named[argument.name] = argument.default_value
    return {name: _plain(value, renamed, numbers) for name, value in named.items()}


def _plain(value: Any, renamed: Mapping[str, str] | None = None, numbers: Mapping[str, int] | None = None) -> Any:
    """torch.fx's arguments as plain Python, nodes as `Ref`."""
    import torch

    if isinstance(value, torch.fx.Node):
        if numbers and value.name in numbers:
            return numbers[value.name]
        return Ref((renamed or {}).get(value.name, value.name))
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item, renamed, numbers) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item, renamed, numbers) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _references(value: Any) -> list[str]:
    if isinstance(value, Ref):
        return [value.name]
    if isinstance(value, (list, tuple)):
        return [name for item in value for name in _references(item)]
    if isinstance(value, dict):
        return _references(list(value.values()))
    return []


def references(arguments: Any) -> list[str]:
    """Names of the nodes in arguments of torch.fx, in order."""
    return _references(_plain(arguments))


def sizes_of(value: Any) -> tuple[tuple[int, ...] | None, tuple[tuple[int, ...] | None, ...], str]:
    """Shape of a tensor, shapes of several, type of elements."""
    if isinstance(value, (list, tuple)):
        return None, tuple(sizes_of(item)[0] for item in value), ""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return tuple(int(size) for size in value.shape), (), str(value.dtype).removeprefix("torch.")
    return None, (), ""


def _module(stack: Mapping[str, Any] | None) -> tuple[str, tuple[str, str]]:
    if not stack:
        return "", ("", "")
    call, (path, module_class) = list(stack.items())[-1]
    name = module_class if isinstance(module_class, str) else module_class.__name__
    return call, (path, name.rsplit(".", 1)[-1])
