# SPDX-License-Identifier: Apache-2.0
"""A network as a graph of ATen operators which takes batches of any size, as long as its own forward does.

The network is traced with a batch that none of its numbers is a multiple of. A number of the trace that is k times the
batch follows the batch: `len(x)`, `x.shape[0]` and `*inputs` in a forward are nothing special, and no example's size
stands in the graph. What comes of it is held against the network with another batch. Where it differs, two traces with
two sizes of batch tell what follows the batch, and what cannot.
"""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from edgepress.compress.quantize.graph.decompose import decomposed
from edgepress.compress.quantize.graph.outputs import named_leaves, plain_structure, tensors
from edgepress.models.cost.networks import refusal
from edgepress.models.errors import UsageError

aten = torch.ops.aten
#: Batches which the network is traced with. Never 1: there, what is done to a batch cannot be told from what isn't.
_SIZES = (2, 3)
#: The first of these primes that divides no number of a network is its batch. None divides 2^63 - 1, an open slice.
_PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)
#: Operators on memory layouts, and the same on values. A view of a permuted tensor has no meaning of its own: PyTorch
#: demands a copy before it, which is no operation on values and falls away.
_BY_VALUE = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}


@dataclass(frozen=True)
class Traced:
    """A graph and the batch that it takes.

    Attributes:
        module: GraphModule with one placeholder per input and outputs as the network gives them.
        fixed_batch: the only size of batch that it takes; None means any.
        reason: why it takes no other, naming the operator and the module where they are known.
    """

    module: fx.GraphModule
    fixed_batch: int | None = None
    reason: str = ""


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings that torch's own tracer gives about torch's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trace(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Traced:
    """Trace a network in evaluation mode.

    Args:
        model: a copy of the user's, in evaluation mode.
        inputs: example tensors; the first dimension is the batch where all inputs have the same one.

    Raises:
        UsageError: torch.export cannot trace it; the message carries its reason.
    """
    leading = {x.shape[0] if x.ndim else 0 for x in inputs}
    if len(leading) > 1 or 0 in leading:
        return Traced(_export(model, inputs), 0, "its inputs have no first dimension of the same size, the batch")
    once = _traced_once(model, inputs)
    if once is not None:
        return Traced(once)
    given = leading.pop()
    traces = []
    for size in _SIZES:
        example = _samples(inputs, size)
        try:
            traces.append(_export(model, example))
        except UsageError as error:
            module = _export(model, inputs)
            return Traced(module, given, _culprit(module, example) or str(error))
    different = _follow_batch(_SIZES, *traces)
    if different is not None:
        return Traced(_export(model, inputs), given, different)
    return Traced(traces[0])


def _samples(inputs: tuple[torch.Tensor, ...], size: int) -> tuple[torch.Tensor, ...]:
    """So many samples, the given ones over and over."""
    return tuple(torch.cat([x] * -(-size // len(x)))[:size] for x in inputs)


def _traced_once(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule | None:
    """The network by one trace, in half the time; None where that does not give the same network for other batches."""
    numbers = set(_numbers(model, inputs))
    size = next((prime for prime in _PRIMES if not any(number % prime == 0 for number in numbers)), None)
    if size is None:
        return None
    other = _samples(inputs, _SIZES[0])
    try:
        with quiet(), torch.no_grad():
            module = _plain(decomposed(torch.export.export(model, _samples(inputs, size)), {}).module())
            if _follow_batch((size, _SIZES[0]), module) is not None:
                return None
            return module if _agree(module, model, other) else None
    except Exception:  # whatever a forward, torch.export or a number that follows the batch wrongly ends in
        return None


def _numbers(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Iterator[int]:
    """Numbers above 0 that a network is written with, as far as they can be seen from outside."""
    for tensor in (*model.parameters(), *model.buffers()):
        yield from tensor.shape
    for x in inputs:
        yield from x.shape[1:]
    for module in model.modules():
        for value in vars(module).values():
            for number in value if isinstance(value, (tuple, list)) else (value,):
                if type(number) is int and number > 0:
                    yield number


def _agree(module: nn.Module, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> bool:
    """Whether two networks give the same, but for roundings."""
    given, wanted = (tensors(one(*(x.clone() for x in inputs))) for one in (module, model))
    return len(given) == len(wanted) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6, equal_nan=True)
        for a, b in zip(given, wanted, strict=True)
    )


def pieces(batch: tuple[torch.Tensor, ...], fixed_batch: int | None) -> list[tuple[torch.Tensor, ...]]:
    """Cut a batch into those that a network takes.

    Raises:
        UsageError: the network takes one size only, and the batch is no multiple of it.
    """
    if not fixed_batch or len(batch[0]) == fixed_batch:
        return [batch]
    if len(batch[0]) % fixed_batch:
        raise UsageError(
            f"a batch holds {len(batch[0])} samples, and the network takes exactly {fixed_batch} at once: give "
            f"batches of a multiple of {fixed_batch}, or write x.shape[0] instead of {fixed_batch} in its forward"
        )
    return [tuple(x[i : i + fixed_batch] for x in batch) for i in range(0, len(batch[0]), fixed_batch)]


def run_in_pieces(module: nn.Module, batch: tuple[torch.Tensor, ...], fixed_batch: int | None) -> list[torch.Tensor]:
    """The tensors that a network returns for a batch of any size, in the order of `named_leaves`.

    Raises:
        UsageError: see `pieces`.
    """
    with torch.no_grad():
        made = [[y.detach() for y in tensors(module(*piece))] for piece in pieces(batch, fixed_batch)]
    return [torch.cat(parts) if len(made) > 1 else parts[0] for parts in zip(*made, strict=True)]


def place_of(node: fx.Node) -> str:
    """An operator and the module that it came from, for sentences; of one result of several, who gives it."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    kind = str(getattr(node.target, "__name__", node.target)).split(".")[0]
    path = module_path(node)
    if node.op == "output":
        return "what the network returns"
    return f"{kind} in module {path!r}" if path else f"{kind} in the network's own forward"


def module_path(node: fx.Node) -> str:
    """Dotted path of the module that a node came from; "" for the network itself."""
    stack: Sequence[Any] = tuple((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack and isinstance(stack[-1], (tuple, list)) else ""


def _export(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """The operators that inference knows. Everything follows from them: what the shorter way to them gives is held
    against torch's program itself, and torch's own decomposition is taken where they differ.
    """
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(model, inputs)
            module = decomposed(program, {}).module()
            if not _agree(module, program.module(), inputs):
                module = program.run_decompositions({}).module()
        except Exception as error:  # torch.export raises whatever the forward and its own passes raise
            raise refusal(model, inputs, error) from error
    return _plain(module)


def _plain(module: fx.GraphModule) -> fx.GraphModule:
    """Without guards, tensors by value, and returning what the network returns."""
    module = fx.GraphModule(module, module.graph)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and "_guards" in str(node.target):
            graph.erase_node(node)
        elif node.target in _BY_VALUE:
            node.target = _BY_VALUE[node.target]
    _plain_output(graph)
    return module


def _plain_output(graph: fx.Graph) -> None:
    """Return what the network does as itself (dictionaries, tuples), not by way of torch's tree description."""
    spec = getattr(getattr(graph._codegen, "pytree_info", None), "out_spec", None)
    if spec is None:
        return
    output = graph.output_node()
    made = plain_structure(torch.utils._pytree.tree_unflatten(list(output.args[0]), spec))
    if not any(isinstance(leaf, fx.Node) for _, leaf in named_leaves(made)):
        raise UsageError("the network returns no tensor: it must return tensors, or dictionaries or tuples of them")
    output.args = (made,)
    graph.set_codegen(fx.graph.CodeGen())


def _follow_batch(sizes: tuple[int, int], first: fx.GraphModule, second: fx.GraphModule | None = None) -> str | None:
    """Let the numbers of the first trace which are multiples of its batch follow it.

    Args:
        sizes: batches of the two traces.
        first: is edited.
        second: None: every multiple of the first batch is taken for one of the second.

    Returns:
        None, or why the two traces are not the same network.
    """
    ours = list(first.graph.nodes)
    theirs = ours if second is None else list(second.graph.nodes)
    match = dict(zip(theirs, ours, strict=False))
    for node, other in zip(ours, theirs, strict=False):
        if node.op != other.op or (node.op == "call_function" and node.target is not other.target):
            return f"{place_of(node)} is another operator for another batch"
        if second is not None and node.op == "get_attr" and not _same_constant(first, node, second, other):
            return f"the constant {node.target} depends on the batch"
    if len(ours) != len(theirs):
        return "the network has other operators for another batch"

    def of_second(value: Any) -> Any:
        follows = second is None and type(value) is int and value and value % sizes[0] == 0
        return value // sizes[0] * sizes[1] if follows else value

    follower = _Follower(first, sizes)
    for node, other in zip(ours, theirs, strict=True):
        if node.op not in ("call_function", "output"):
            continue
        if node.target is aten.squeeze.default:  # of a batch of one it would take the batch as well
            shape = node.args[0].meta["val"].shape
            node.target, node.args = aten.squeeze.dims, (node.args[0], [i for i, n in enumerate(shape) if n == 1])
            continue
        try:
            if node.target is aten.reshape.default:
                shape = node.meta["val"].shape
                arguments: Any = (node.args[0], _sizes(shape, [of_second(n) for n in other.meta["val"].shape]))
            else:
                mapped = fx.map_arg((other.args, dict(other.kwargs)), match.__getitem__)
                mapped = fx.node.map_aggregate(mapped, of_second)
                arguments, node.kwargs = follower.follow(node, (node.args, dict(node.kwargs)), mapped)
            node.args = tuple(arguments)
        except _Different as error:
            return f"{place_of(node)} has {error} for batches of {sizes[0]} and {sizes[1]}"
    first.recompile()
    return None


class _Different(Exception):
    """An argument which does not follow the batch."""


class _Follower:
    """Makes arguments that depend on the batch, from its size at run time."""

    def __init__(self, module: fx.GraphModule, sizes: tuple[int, int]):
        self.graph, self.sizes = module.graph, sizes
        self.batch: fx.Node | None = None
        self.times: dict[int, fx.Node] = {}

    def follow(self, node: fx.Node, ours: Any, theirs: Any) -> Any:
        if isinstance(ours, (tuple, list)) and isinstance(theirs, (tuple, list)) and len(ours) == len(theirs):
            return type(ours)(self.follow(node, a, b) for a, b in zip(ours, theirs, strict=True))
        if isinstance(ours, dict) and isinstance(theirs, dict) and list(ours) == list(theirs):
            return {key: self.follow(node, ours[key], theirs[key]) for key in ours}
        if ours is theirs or (type(ours) is type(theirs) and (ours == theirs or ours != ours)):
            return ours
        first, second = self.sizes
        if type(ours) is int and type(theirs) is int and ours % first == 0 and ours * second == theirs * first:
            return self._multiple(ours // first)
        raise _Different(f"{ours} and {theirs}")

    def _multiple(self, factor: int) -> fx.Node:
        if self.batch is None:
            placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
            with self.graph.inserting_after(placeholders[-1]):
                self.batch = self.graph.call_function(aten.sym_size.int, (placeholders[0], 0))
            self.batch.meta["val"] = self.sizes[0]
            self.times[1] = self.batch
        if factor not in self.times:
            with self.graph.inserting_after(self.batch):
                self.times[factor] = self.graph.call_function(operator.mul, (self.batch, factor))
            self.times[factor].meta["val"] = self.sizes[0] * factor
        return self.times[factor]


def _sizes(ours: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """Sizes of a reshape, -1 for the one that follows the batch."""
    sizes = [a if a == b else -1 for a, b in zip(ours, theirs, strict=False)]
    if sizes.count(-1) > 1 or len(ours) != len(theirs):
        raise _Different(f"the sizes {list(ours)} and {list(theirs)}")
    return sizes


def _same_constant(first: fx.GraphModule, node: fx.Node, second: fx.GraphModule, other: fx.Node) -> bool:
    a, b = _attribute(first, str(node.target)), _attribute(second, str(other.target))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and (a is b or torch.equal(a, b))
    return type(a) is type(b)


def _attribute(module: nn.Module, target: str) -> Any:
    path, _, name = target.rpartition(".")
    return getattr(module.get_submodule(path), name)


def _culprit(module: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> str:
    """The first operator of a traced network that does not take these inputs; "" where it takes them."""
    found: list[fx.Node] = []

    class Trying(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            try:
                return super().run_node(n)
            except Exception:
                found.append(n)
                raise

    try:
        with quiet(), torch.no_grad():
            Trying(module).run(*inputs)
    except Exception:
        node = found[0]
        sizes = node.args[1] if node.target is aten.reshape.default else None
        return place_of(node) + (f" writes the sizes {list(sizes)} down" if sizes is not None else " fixes it")
    return ""
