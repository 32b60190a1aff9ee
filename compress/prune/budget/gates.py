# SPDX-License-Identifier: Apache-2.0
"""Gates: what each sample's loss says about each unit, from one forward and backward pass a batch.

A gate of 1 stands in front of whatever reads a unit; all readers of a unit share it, so that the derivative of a
sample's loss by the gate is the first-order change of that loss when the whole unit goes. It is the sum over readers
and positions of activation times gradient, taken before anything is squared (Molchanov et al., CVPR 2019, section 3;
for coupled groups Liu et al., Group Fisher Pruning, ICML 2021).

The traced network is run, operator by operator: an operator reads a unit where it sums over it, or where the unit's
label goes in and does not come out (a convolution's input channels, a dense layer's features, a mean over channels). So
the gates stand right in every network whose groups can be found. Inside a recurrent layer there is no gate: what reads
its output has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.fx.node import map_arg

from edgepress.compress.prune.coupling.channels import ChannelGraph
from edgepress.compress.prune.coupling.labels import Labelled, axes_of
from edgepress.models.cost.graph import Node
from edgepress.models.cost.program import export_program
from edgepress.models.errors import UsageError

#: Operator -> what it reads: the name of a value, and for each of its elements (broadcast) the column of its gate.
Reads = dict[str, list[tuple[str, np.ndarray]]]


class Gates:
    """The gated network of one `ChannelGraph`; keeps its traces, one for each size of batch."""

    def __init__(self, graph: ChannelGraph):
        self._graph, self._reads = graph.graph, _reads(graph)
        self._sizes = [group.size for group in graph.groups]
        self._shapes = [node.shape or () for node in graph.graph.nodes if node.kind == "input"]
        #: Whether the first dimension of the inputs counts samples; else one call is one sample.
        self._batched = all(shape[:1] == (1,) for shape in self._shapes)
        self._programs: dict[int, Any] = {}

    def squares(
        self, model: nn.Module, batch: Any, loss: Callable[[nn.Module, Any], Tensor]
    ) -> tuple[tuple[np.ndarray, ...], int]:
        """Sums over samples of the squared derivatives of their losses by the gates.

        Args:
            model: with the weights to look at, on the CPU; left as it is.
            batch: what `loss` takes.
            loss: (network, batch) -> a scalar, the mean over the batch's samples. It calls the network once, with
                inputs of the traced shapes behind the dimension that counts samples.

        Returns:
            Per group [size] sums, and the number of samples.

        Raises:
            UsageError: the loss does not call the network, or with inputs of other shapes.
        """
        gated = _Gated(self, model)
        with torch.enable_grad():
            loss(gated, batch).backward()
        if gated.opened is None:
            raise UsageError("loss(model, batch) must call the model that it is given")
        gradient = gated.opened.grad
        samples = len(gated.opened)
        if gradient is None:
            return tuple(np.zeros(size) for size in self._sizes), samples
        # The loss is a mean: a sample's own derivative is so many times larger.
        squares = ((gradient[:, :-1].double() * samples) ** 2).sum(0).numpy()
        return tuple(np.split(squares, np.cumsum(self._sizes)[:-1])), samples

    def opened(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """[samples, units + 1] gates of 1 for these inputs; the last column is for what is in no group.

        Raises:
            UsageError: inputs of other shapes than the traced ones.
        """
        skipped = 1 if self._batched else 0
        wanted = [shape[skipped:] for shape in self._shapes]
        if [tuple(value.shape)[skipped:] for value in inputs] != wanted:
            behind = " behind the dimension of samples" if self._batched else ""
            raise UsageError(
                f"batches must hold inputs of the shapes {wanted}{behind}, not {[tuple(v.shape) for v in inputs]}"
            )
        return torch.ones(len(inputs[0]) if self._batched else 1, sum(self._sizes) + 1, requires_grad=True)

    def run(self, model: nn.Module, inputs: tuple[Tensor, ...], gates: Tensor) -> Any:
        """Outputs of the network with these gates, as the network itself returns them."""
        if len(gates) not in self._programs:
            self._programs[len(gates)] = self._traced(model, inputs, len(gates))
        program = self._programs[len(gates)]
        if program is not None:
            return _run(program, self._reads, model, inputs, gates)
        if len(gates) == 1:
            raise UsageError("the network cannot be traced again as its groups were: give other batches")
        rows = [
            self.run(model, tuple(value[row : row + 1] for value in inputs), gates[row : row + 1])
            for row in range(len(gates))
        ]
        return pytree.tree_map(lambda *parts: torch.cat(parts), *rows)

    def _traced(self, model: nn.Module, inputs: tuple[Tensor, ...], samples: int) -> Any:
        """The program for so many samples; None where it is another one, or where they do not lie along one axis."""
        try:
            program = export_program(model, inputs)
        except UsageError:
            return None
        values = {node.name: node for node in program.graph.nodes}
        for node in self._graph.nodes:
            found = values.get(node.name)
            if node.kind == "call" and (found is None or str(found.target) != node.overload):
                return None
        for read, index in (pair for pairs in self._reads.values() for pair in pairs):
            shape = self._graph.by_name[read].shape or ()
            wanted = tuple(samples * size if axis == 0 else size for axis, size in enumerate(shape))
            if samples > 1 and (len(index) != 1 or tuple(values[read].meta["val"].shape) != wanted):
                return None
        return program


class _Gated(nn.Module):
    """Called like the network; remembers the gates that it opened."""

    def __init__(self, gates: Gates, model: nn.Module):
        super().__init__()
        self._gates, self._network = gates, (model,)  # in a tuple: its parameters are not this module's
        self.opened: Tensor | None = None

    def forward(self, *inputs: Tensor) -> Any:
        self.opened = self._gates.opened(inputs)
        return self._gates.run(self._network[0], inputs, self.opened)


def _reads(graph: ChannelGraph) -> Reads:
    """Which operators read units: those that sum over them, and those into which a label goes and does not come out."""
    space = graph.state.space
    column = np.full(space.size, sum(group.size for group in graph.groups), np.int64)
    start = 0
    for roots in graph.roots:
        column[roots] = np.arange(start, start + len(roots))
        start += len(roots)
    found: Reads = {}
    for node in graph.graph.nodes:
        if node.kind != "call" or node.name in graph.graph.constant:
            continue
        results = graph.state.values[node.name]
        known = {
            int(label)
            for value in (results if isinstance(results, tuple) else (results,))
            for plane in (value.planes if value is not None else ())
            for label in np.unique(space.find(plane))
        }
        for name in dict.fromkeys(node.inputs):
            value = graph.state.values[name]
            if name in graph.graph.constant or not isinstance(value, Labelled):
                continue
            for plane in value.planes:
                labels = space.find(plane)
                ends = ~np.isin(labels, np.fromiter(known, np.int64))
                if axes_of(plane) == (_summed_axis(graph, node, name, value),):
                    ends = np.ones_like(ends)  # the label that comes out is that of the output, coupled with it
                index = np.where(ends, column[labels], start)
                if (index < start).any():
                    found.setdefault(node.name, []).append((name, index))
                    # In a product of two activations one gate is enough.
                    known |= {int(label) for label in np.unique(labels[ends])}
    return found


def _summed_axis(graph: ChannelGraph, node: Node, name: str, value: Labelled) -> int | None:
    """The axis of its first operand that a product of matrices, or a convolution across channels, sums over."""
    first = node.arguments["mat1"].name if node.op == "addmm" else node.inputs[0]
    if name != first:
        return None
    if node.op.startswith("conv"):
        weight = graph.state.value(node.arguments["weight"].name)
        apart = node.arguments.get("groups", 1) != 1 and graph.state.mode.get(node.name) == "group"
        return None if apart else len(value.shape) - len(weight.shape) + 1
    return len(value.shape) - 1 if node.op in ("linear", "mm", "bmm", "matmul", "addmm") else None


def _run(program: Any, reads: Reads, model: nn.Module, inputs: tuple[Tensor, ...], gates: Tensor) -> Any:
    signature = program.graph_signature
    sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    values: dict[Any, Any] = {}
    remaining = list(inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in sources:
                # In-place operators of the forward (counters, say) must not reach the model.
                own = tensors[sources[node.name]].detach()
                values[node] = own if node.name in signature.inputs_to_parameters else own.clone()
            elif node.name in lifted:
                values[node] = program.constants[lifted[node.name]]
            else:
                values[node] = remaining.pop(0)
        elif node.op == "get_attr":
            values[node] = getattr(program.graph_module, node.target)
        elif node.op == "output":
            returned = map_arg(node.args[0], lambda read: values[read])
            return pytree.tree_unflatten(list(returned)[-len(signature.user_outputs) :], program.call_spec.out_spec)
        else:
            gated = dict.fromkeys(read for read, _ in reads.get(node.name, ()))
            own_values = {
                read: _times_gates(values[read], reads[node.name], read.name, gates)
                for read in node.all_input_nodes
                if read.name in gated
            }
            args, kwargs = map_arg((node.args, node.kwargs), lambda read: own_values.get(read, values[read]))  # noqa: B023
            values[node] = node.target(*args, **kwargs)
    raise AssertionError("a program ends with its output")


def _times_gates(value: Tensor, reads: list[tuple[str, np.ndarray]], name: str, gates: Tensor) -> Tensor:
    for read, index in reads:
        if read == name:
            chosen = gates[:, torch.from_numpy(index.ravel())]
            shape = index.shape if len(gates) == 1 else (len(gates), *index.shape[1:])
            value = value * chosen.reshape(shape)
    return value
