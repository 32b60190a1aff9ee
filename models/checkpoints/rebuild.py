"""Networks rebuilt from their trace, where the forward itself has sizes written into it.

The result is a `torch.fx.GraphModule` with the parameter names of the original, its own train() and eval() for dropout
and batch normalisation, and a batch of any size wherever two traces show which constants follow the batch.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgepress.models.cost.graph import _evaluation_copy, _whole_operators
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Operators that cut a tensor into parts; with edited sizes all of them become one.
_SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")


def export_program(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    """`torch.export` of the network in evaluation mode, operators whole, as `cost.graph.trace` sees them.

    Raises:
        UsageError: `torch.export` cannot trace it.
    """
    import torch

    with _evaluation_copy(model) as copied, _whole_operators(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(copied, inputs, strict=False)
        except Exception as error:  # torch.export raises whatever the forward and its own passes raise
            raise UsageError(f"torch.export cannot trace {type(model).__name__}: {error}") from error


def rebuild(dense: nn.Module, smaller: nn.Module, edits: Mapping[str, Any]) -> nn.Module:
    """The traced network of `dense`, with the tensors of `smaller` and edited arguments.

    Args:
        dense: the network to trace.
        smaller: a copy of it whose tensors are cut already.
        edits: "inputs" [[shape, dtype], ...] and "calls" {position among the calls: {"op": overload, argument: value}}.

    Raises:
        UsageError: the trace is not the one that the edits were made for.
    """
    import torch

    inputs = _random_inputs(edits)
    program = export_program(dense, inputs)
    graph_module = program.module(check_guards=False)
    calls = _calls(graph_module)
    scaled = _batch_arguments(dense, inputs, calls)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _edit(calls, edits.get("calls", {}))
        if scaled:
            _follow_batch(graph_module, calls, scaled)
        root = _skeleton(smaller)
        for node in graph_module.graph.nodes:
            # Tensors which the forward makes out of nothing belong to the trace, not to the model.
            if node.op == "get_attr" and not hasattr(root, node.target.split(".")[0]):
                root.register_buffer(node.target, getattr(graph_module, node.target), persistent=False)
        result = torch.fx.GraphModule(root, graph_module.graph, type(dense).__name__)
        _own_modes(result)
        result.graph.lint()
        result.recompile()
    # An evaluation-mode trace made this; the flag is the caller's.
    result.train(dense.training)
    return result


def _random_inputs(edits: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    import torch

    try:
        return tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in edits["inputs"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UsageError(f"the plan is damaged: graph.inputs must list shapes and dtypes ({error})") from error


def _calls(graph_module: Any) -> list[Any]:
    return [
        node
        for node in graph_module.graph.nodes
        if node.op == "call_function" and (node.meta.get("val") is not None or node.target is operator.getitem)
    ]


def _batch_arguments(
    dense: nn.Module, inputs: tuple[torch.Tensor, ...], calls: list[Any]
) -> dict[tuple[int, Any], int]:
    """(call, path of the argument) -> factor, for every integer which is that multiple of the batch."""
    import torch

    leading = {value.shape[0] if value.ndim else 0 for value in inputs}
    if len(leading) != 1 or 0 in leading:
        return {}
    traces = []
    for batch in (2, 3):
        grown = tuple(torch.zeros((batch, *value.shape[1:]), dtype=value.dtype) for value in inputs)
        try:
            traces.append(_calls(export_program(dense, grown).module(check_guards=False)))
        except (UsageError, RuntimeError):
            return {}
    names = [[str(call.target) for call in trace] for trace in (calls, *traces)]
    if names[1] != names[0] or names[2] != names[0]:
        return {}
    found: dict[tuple[int, Any], int] = {}
    for position, (two, three) in enumerate(zip(*traces, strict=True)):
        left, right = dict(_integers((two.args, two.kwargs))), dict(_integers((three.args, three.kwargs)))
        for path, value in left.items():
            other = right.get(path, value)
            if other != value:
                if value % 2 or other != value // 2 * 3:
                    return {}
                found[position, path] = value // 2
    return found


def _integers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        return [(path, value)]
    items = enumerate(value) if isinstance(value, (list, tuple)) else value.items() if isinstance(value, dict) else ()
    return [found for key, item in items for found in _integers(item, (*path, key))]


def _edit(calls: list[Any], edits: Mapping[str, Any]) -> None:
    import torch

    for position, changes in edits.items():
        if (
            not str(position).isdigit()
            or int(position) >= len(calls)
            or not isinstance(changes, Mapping)
            or str(calls[int(position)].target) != changes.get("op")
        ):
            raise UsageError(
                f"the plan changes call {position} of the traced network, which is another one here; "
                "it was made for another network or version of torch"
            )
        call = calls[int(position)]
        schema = call.target._schema
        names = [argument.name for argument in schema.arguments]
        for name, value in changes.items():
            if name == "op":
                continue
            if name == "split_sizes" and schema.name.split("::")[-1] in _SPLITS:
                source = call.args[0]
                dim = call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)
                call.target = torch.ops.aten.split_with_sizes.default
                call.args, call.kwargs = (source, list(value), dim), {}
                break
            if name not in names:
                raise UsageError(f"the plan is damaged: {schema.name} has no argument {name!r}")
            index = names.index(name)
            if index < len(call.args):
                call.update_arg(index, value)
            else:
                call.update_kwarg(name, value)


def _follow_batch(graph_module: Any, calls: list[Any], scaled: Mapping[tuple[int, Any], int]) -> None:
    """Replace constants that are multiples of the batch by that multiple of the first input's first dimension."""
    import torch

    graph = graph_module.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    first = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(last):
        batch = graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
    multiples = {1: batch}
    for factor in sorted({*scaled.values()} - {1}):
        with graph.inserting_after(batch):
            multiples[factor] = graph.call_function(operator.mul, (batch, factor))

    def replaced(value: Any, path: tuple[Any, ...], position: int) -> Any:
        if (position, path) in scaled:
            return multiples[scaled[position, path]]
        if isinstance(value, (list, tuple)):
            return type(value)(replaced(item, (*path, key), position) for key, item in enumerate(value))
        if isinstance(value, dict):
            return {key: replaced(item, (*path, key), position) for key, item in value.items()}
        return value

    for position in sorted({position for position, _ in scaled}):
        call = calls[position]
        call.args = tuple(replaced(list(call.args), (0,), position))
        call.kwargs = replaced(dict(call.kwargs), (1,), position)


def _skeleton(smaller: nn.Module) -> nn.Module:
    """Plain modules that hold the tensors of `smaller` under the same names."""
    from torch import nn

    root = nn.Module()
    made: dict[int, nn.Module] = {}
    for path, module in smaller.named_modules(remove_duplicate=False):
        plain = made.setdefault(id(module), root if not path else nn.Module())
        if path:
            parent, _, name = path.rpartition(".")
            owner = root
            for part in parent.split(".") if parent else ():
                owner = getattr(owner, part)
            owner.add_module(name, plain)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            plain.register_parameter(name, parameter)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            plain.register_buffer(name, buffer, persistent=name not in module._non_persistent_buffers_set)
    return root


def _own_modes(graph_module: Any) -> None:
    """Give dropout and batch normalisation back their training behaviour, which a trace fixes."""
    from torch import nn

    class BatchNorm(nn.Module):
        def __init__(self, momentum: float, eps: float):
            super().__init__()
            self.momentum, self.eps = momentum, eps

        def forward(self, x: torch.Tensor, weight: Any, bias: Any, mean: Any, variance: Any) -> torch.Tensor:
            return nn.functional.batch_norm(
                x, mean, variance, weight, bias, self.training or mean is None, self.momentum, self.eps
            )

    kinds = {"dropout": nn.Dropout, "feature_dropout": nn.Dropout2d, "alpha_dropout": nn.AlphaDropout}
    for node in list(graph_module.graph.nodes):
        schema = getattr(node.target, "_schema", None)
        name = schema.name.split("::")[-1].rstrip("_") if schema else ""
        if name == "batch_norm" and schema is not None:
            args = dict(zip([a.name for a in schema.arguments], node.args, strict=False)) | node.kwargs
            module: nn.Module = BatchNorm(args.get("momentum", 0.1), args.get("eps", 1e-5))
            operands = tuple(args.get(key) for key in ("input", "weight", "bias", "running_mean", "running_var"))
        elif name in kinds:
            module, operands = kinds[name](node.args[1]), (node.args[0],)
        else:
            continue
        title = f"_{node.name}_mode"
        graph_module.add_submodule(title, module)
        with graph_module.graph.inserting_before(node):
            call = graph_module.graph.call_module(title, operands)
        node.replace_all_uses_with(call)
        graph_module.graph.erase_node(node)
