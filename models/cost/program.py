# SPDX-License-Identifier: Apache-2.0
"""A network as `torch.export` sees it: operators whole, in plain precision, with nothing hidden in a region.

Autocast is switched off while a network is traced, so that what it computes has one precision; what `no_grad`,
checkpointing and the like wrap is put back in line, so that every operator is counted and pruned.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from edgepress.models.cost.networks import refusal

if TYPE_CHECKING:
    import torch
    from torch import fx, nn
    from torch.export import ExportedProgram

#: Higher-order operators that run their one subgraph once, as it stands.
_REGIONS = frozenset(
    {
        "wrap_with_autocast",
        "wrap_with_set_grad_enabled",
        "wrap",
        "wrap_activation_checkpoint",
        "tag_activation_checkpoint",
        "invoke_subgraph",
    }
)


def _evaluation(model: nn.Module) -> None:
    model.eval()


def _training(model: nn.Module) -> None:
    model.train()


def _heads(model: nn.Module) -> None:
    for module in model.modules():
        module.training = any(module.children()) and not type(module).__module__.startswith("torch.nn.")


#: Which modules are in training mode. "heads": those with children, so that the branches which only training takes are
#: traced while torch's own modules (normalisation, dropout, attention) do what they do in evaluation.
MODES: dict[str, Callable[[nn.Module], None]] = {"evaluation": _evaluation, "training": _training, "heads": _heads}


def export_program(model: nn.Module, inputs: tuple[torch.Tensor, ...], mode: str = "evaluation") -> ExportedProgram:
    """`torch.export` of the network; the model is not touched: a copy that shares its tensors is traced.

    Args:
        inputs: one tensor per input.
        mode: a key of `MODES`.

    Raises:
        UsageError: `torch.export` cannot trace it; the message gives its reason.
    """
    import torch

    with (
        moded_copy(model, mode) as copied,
        _whole_operators(),
        _recurrent_shapes(),
        plain_precision(),
        warnings.catch_warnings(),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(copied, inputs, strict=False)
        except Exception as error:  # torch.export raises whatever the forward and its own passes raise
            raise refusal(copied, inputs, error) from error
    inline_regions(program.graph_module)
    return program


@contextmanager
def moded_copy(model: nn.Module, mode: str) -> Iterator[nn.Module]:
    """A copy in a mode of `MODES` that shares parameters and buffers; the model itself, restored after, if uncopyable.

    Args:
        mode: a key of `MODES`.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        copied = copy.deepcopy(model, shared)
    except Exception:  # a module may hold what cannot be copied: a lock, a generator, a non-leaf tensor
        modes = [(module, module.training) for module in model.modules()]
        try:
            MODES[mode](model)
            yield model
        finally:
            for module, training in modes:
                module.training = training
        return
    MODES[mode](copied)
    yield copied


@contextmanager
def plain_precision() -> Iterator[None]:
    """Regions of `torch.autocast` compute in the precision of their inputs: two networks differ by what they are."""
    import torch

    with (
        mock.patch.object(torch.autocast, "__enter__", return_value=None),
        mock.patch.object(torch.autocast, "__exit__", return_value=None),
    ):
        yield


@contextmanager
def _whole_operators() -> Iterator[None]:
    """Keep torch's fused transformer path out of the trace: it hides the operators that are to be counted."""
    import torch

    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _recurrent_shapes() -> Iterator[None]:
    """Give the tracer the shapes of recurrent layers outright: torch works them out step by step, in seconds.

    `py_kernels` is torch's own table of the Python kernels of an operator, and not public: without it nothing changes.
    """
    import torch

    def shapes(x: Any, hx: Any, *rest: Any, **named: Any) -> tuple[torch.Tensor, ...]:
        states = tuple(hx) if isinstance(hx, (list, tuple)) else (hx,)
        bidirectional = named["bidirectional"] if "bidirectional" in named else rest[5]
        width = states[0].shape[-1] * (2 if bidirectional else 1)
        return x.new_empty((*x.shape[:-1], width)), *(state.new_empty(state.shape) for state in states)

    operators = [getattr(torch.ops.aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")]
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    with ExitStack() as stack:
        for found in operators:
            if key in getattr(found, "py_kernels", {}) and hasattr(found, "_dispatch_cache"):
                stack.callback(found._dispatch_cache.clear)
                stack.enter_context(mock.patch.dict(found.py_kernels, {key: shapes}))
                found._dispatch_cache.clear()
        yield


def inline_regions(module: fx.GraphModule) -> None:
    """Put the operators of every region of `_REGIONS` where the region was called, in place, nested ones first."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "__name__", "") not in _REGIONS:
            continue
        body = next((argument for argument in node.args if getattr(argument, "op", "") == "get_attr"), None)
        if body is None:
            continue
        region = getattr(module, body.target)
        inline_regions(region)
        operands = iter([argument for argument in node.args[node.args.index(body) + 1 :] if hasattr(argument, "op")])
        inside: dict[Any, Any] = {}
        results: Any = ()
        with graph.inserting_before(node):
            for own in region.graph.nodes:
                if own.op == "placeholder":
                    inside[own] = next(operands)
                elif own.op == "output":
                    results = own.args[0]
                else:
                    inside[own] = graph.node_copy(own, inside.__getitem__)
                    if own.op == "get_attr":
                        inside[own].target = f"{body.target}_{own.target}"
                        setattr(module, inside[own].target, getattr(region, own.target))
        _replace(graph, node, results, inside)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op != "get_attr")


def _replace(graph: fx.Graph, node: fx.Node, results: Any, inside: dict[Any, Any]) -> None:
    """Let the readers of a region read what it computed, and drop it."""
    for reader in list(node.users):
        if reader.target is operator.getitem:
            reader.replace_all_uses_with(inside[results[reader.args[1]]])
            graph.erase_node(reader)
    if node.users:  # a region with one result that is no tuple
        node.replace_all_uses_with(inside[results])
    graph.erase_node(node)
