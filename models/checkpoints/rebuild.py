# SPDX-License-Identifier: Apache-2.0
"""Networks rebuilt from their trace, where the forward itself has sizes written into it.

The result holds the tensors of the original under their names and runs what torch.export recorded: one graph for
evaluation, one for training (dropout, batch statistics, stochastic depth, heads that only training uses), and a batch
of any size wherever the forward takes one.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgepress.models.cost.program import export_program
from edgepress.models.errors import UsageError

#: Operators that cut a tensor into parts; with edited sizes all of them become one.
_SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")


class Traces:
    """Programs of one dense network by mode, each exported once.

    The batch of a trace is a prime that divides no size of the network, so that its multiples show themselves.

    Args:
        dense: the network.
        inputs: what it is traced with; the first dimension is the batch where all of them have the same one.
    """

    def __init__(self, dense: nn.Module, inputs: tuple[torch.Tensor, ...]):
        self.dense: nn.Module = dense
        self.inputs: tuple[torch.Tensor, ...] = inputs
        self.programs: dict[tuple[str, int | None], ExportedProgram | UsageError] = {}
        leading = {value.shape[0] if value.ndim else 0 for value in inputs}
        batched = len(leading) == 1 and 0 not in leading
        sizes = {size for value in (*inputs, *dense.parameters(), *dense.buffers()) for size in value.shape}
        #: The batch that traces have; None where the inputs have none.
        self.batch: int | None = next((p for p in _PRIMES if all(s % p for s in sizes)), None) if batched else None

    def program(self, mode: str, batch: int | None) -> ExportedProgram:
        """The network in a mode of `models.cost.program.MODES`, with this batch; None: with the inputs as they are.

        Raises:
            UsageError: `torch.export` cannot trace it so.
        """
        key = (mode, batch)
        if key not in self.programs:
            inputs = self.inputs
            if batch is not None:
                # Shapes alone are looked at: no memory is touched.
                inputs = tuple(torch.empty((batch, *value.shape[1:]), dtype=value.dtype) for value in inputs)
            try:
                self.programs[key] = export_program(self.dense, inputs, mode)
            except UsageError as error:
                self.programs[key] = error
        found = self.programs[key]
        if isinstance(found, UsageError):
            raise found
        return found

    def batch_of(self, mode: str) -> int | None:
        """The batch that a mode is traced with: the prime, or None where the forward takes no other than the inputs'.

        Raises:
            UsageError: `torch.export` cannot trace it either way.
        """
        try:
            self.program(mode, self.batch)
        except UsageError:
            self.program(mode, None)
            return None
        return self.batch


#: Batches of traces, to choose from.
_PRIMES = (1009, 1013, 1019, 1021)


@dataclass(frozen=True)
class Phase:
    """One traced graph as a function of tensors.

    Attributes:
        run: takes the tensors, then the inputs; gives the outputs as a flat sequence.
        tensors: names of the parameters, buffers and constants that it reads, in order.
        outputs: how the outputs are nested.
    """

    run: fx.GraphModule
    tensors: tuple[str, ...]
    outputs: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> Phase:
        return Phase(copy.deepcopy(self.run, memo), self.tensors, self.outputs)


class Rebuilt(nn.Module):
    """The traced network with smaller tensors; `train()` and `eval()` choose the graph.

    Args:
        smaller: whose tensors it takes over, under the same names.
        evaluation, training: the graphs.
        constants: tensors which the forward makes out of nothing, by name.
        title: class name of the original.
    """

    def __init__(
        self,
        smaller: nn.Module,
        evaluation: Phase,
        training: Phase,
        constants: Mapping[str, torch.Tensor],
        title: str,
    ):
        super().__init__()
        _take_tensors(self, smaller)
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self._phases = {False: evaluation, True: training}
        self._title = title

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Run the graph of the present mode; takes and returns what the original does."""
        phase = self._phases[self.training]
        return pytree.tree_unflatten(phase.run(*map(self.tensor, phase.tensors), *inputs), phase.outputs)

    @property
    def evaluation(self) -> Phase:
        """The graph of evaluation."""
        return self._phases[False]

    def tensor(self, name: str) -> torch.Tensor:
        """A parameter, buffer or constant by its dotted path."""
        path, _, own = name.rpartition(".")
        tensor: torch.Tensor = getattr(self.get_submodule(path), own)
        return tensor

    def _get_name(self) -> str:
        return f"{self._title} (rebuilt from its trace)"

    def _apply(self, fn: Any, recurse: bool = True) -> Rebuilt:
        """Tensors that the forward makes are made on the device that the parameters are moved to."""
        super()._apply(fn, recurse)
        device = next((tensor.device for tensor in (*self.parameters(), *self.buffers())), None)
        for phase in self._phases.values() if device is not None else ():
            made = [node for node in phase.run.graph.nodes if "device" in node.kwargs]
            if any(node.kwargs["device"] != device for node in made):
                for node in made:
                    node.update_kwarg("device", device)
                phase.run.recompile()
        return self


def rebuild(dense: nn.Module, smaller: nn.Module, edits: Mapping[str, Any], traces: Traces | None = None) -> Rebuilt:
    """The traced network of `dense`, with the tensors of `smaller` and edited arguments.

    Args:
        dense: the network to trace.
        smaller: a copy of it whose tensors are cut already.
        edits: "inputs" [[shape, dtype], ...]; "calls" {position among the calls: {"op": overload, argument: value}} of
            the evaluation; "training" the same for the training, null where its forward cannot be traced.
        traces: programs of `dense` that were made before.

    Raises:
        UsageError: the trace is not the one that the edits were made for.
    """
    traces = traces or Traces(dense, _zero_inputs(edits))
    constants: dict[str, torch.Tensor] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluation = _phase(traces, "evaluation", edits.get("calls", {}), constants)
        if edits.get("training") is None:
            training = _phase(traces, "evaluation", edits.get("calls", {}), constants)
            _switch_on(training.run)
        else:
            training = _phase(traces, "training", edits["training"], constants)
    result = Rebuilt(smaller, evaluation, training, constants, type(dense).__name__)
    result.train(dense.training)
    return result


def _zero_inputs(edits: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    try:
        return tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in edits["inputs"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UsageError(f"the plan is damaged: graph.inputs must list shapes and dtypes ({error})") from error


def _phase(traces: Traces, mode: str, edits: Mapping[str, Any], constants: dict[str, torch.Tensor]) -> Phase:
    batch = traces.batch_of(mode)
    program = traces.program(mode, batch)
    graph = copy.deepcopy(program.graph)
    calls = calls_of(graph)
    scaled = [] if batch is None else _multiples(calls, batch)
    _edit(calls, edits)
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tensors = []
    for node in [node for node in graph.nodes if node.op == "placeholder"]:
        if node.name in named:
            tensors.append(named[node.name])
        elif node.name in signature.inputs_to_lifted_tensor_constants:
            source = signature.inputs_to_lifted_tensor_constants[node.name]
            # A constant of a submodule has a path for a name.
            name = f"_{mode}_{source.replace('.', '_')}"
            constant: Any = program.constants[source]
            constants[name] = constant.clone()
            tensors.append(name)
    if scaled:
        assert batch is not None
        _follow_batch(graph, calls, scaled, batch, len(tensors))
    for node in graph.nodes:
        node.meta = {}
    graph.lint()
    return Phase(fx.GraphModule(program.graph_module, graph), tuple(tensors), program.call_spec.out_spec)


def calls_of(graph: fx.Graph) -> list[fx.Node]:
    """The operators of a graph in order; plans count them."""
    return [node for node in graph.nodes if node.op == "call_function"]


def _multiples(calls: list[fx.Node], batch: int) -> list[tuple[int, Any]]:
    """(call, path of the argument) of every integer which is a multiple of the batch."""
    return [
        (position, path)
        for position, call in enumerate(calls)
        for path, value in _integers((call.args, call.kwargs))
        if value and value % batch == 0
    ]


def _integers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        return [(path, value)]
    items = enumerate(value) if isinstance(value, (list, tuple)) else value.items() if isinstance(value, dict) else ()
    return [found for key, item in items for found in _integers(item, (*path, key))]


def _edit(calls: list[fx.Node], edits: Mapping[str, Any]) -> None:
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
        schema = call.target._schema  # type: ignore[union-attr]
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


def _follow_batch(
    graph: fx.Graph, calls: list[fx.Node], scaled: Collection[tuple[int, Any]], batch: int, tensors: int
) -> None:
    """Replace constants that are multiples of the batch by that multiple of the first input's first dimension.

    What pruning made of the constant is the multiple: channels folded into the batch are fewer now.
    """
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(placeholders[-1]):
        size = graph.call_function(torch.ops.aten.sym_size.int, (placeholders[tensors], 0))
    multiples = {1: size}

    def multiple(value: Any) -> Any:
        if not isinstance(value, int) or value % batch:
            return value
        factor = value // batch
        if factor not in multiples:
            with graph.inserting_after(size):
                multiples[factor] = graph.call_function(operator.mul, (size, factor))
        return multiples[factor]

    def replaced(value: Any, path: tuple[Any, ...], position: int) -> Any:
        if (position, path) in scaled:
            return multiple(value)
        if isinstance(value, (list, tuple)):
            return type(value)(replaced(item, (*path, key), position) for key, item in enumerate(value))
        if isinstance(value, dict):
            return {key: replaced(item, (*path, key), position) for key, item in value.items()}
        return value

    for position in sorted({position for position, _ in scaled}):
        call = calls[position]
        call.args = tuple(replaced(list(call.args), (0,), position))
        call.kwargs = replaced(dict(call.kwargs), (1,), position)


def _switch_on(module: fx.GraphModule) -> None:
    """Training behaviour as far as single operators have it: dropout, batch normalisation, recurrent layers."""
    for node in calls_of(module.graph):
        schema = getattr(node.target, "_schema", None)
        for index, argument in enumerate(schema.arguments if schema else ()):
            if argument.name in ("train", "training"):
                if index < len(node.args):
                    node.update_arg(index, True)
                else:
                    node.update_kwarg(argument.name, True)
    module.recompile()


def _take_tensors(root: nn.Module, smaller: nn.Module) -> None:
    """Plain modules that hold the tensors of `smaller` under the same names."""
    made: dict[int, nn.Module] = {}
    for path, module in smaller.named_modules(remove_duplicate=False):
        plain = made.setdefault(id(module), root if not path else nn.Module())
        if path:
            parent, _, name = path.rpartition(".")
            root.get_submodule(parent).add_module(name, plain)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            plain.register_parameter(name, parameter)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            plain.register_buffer(name, buffer, persistent=name not in module._non_persistent_buffers_set)
