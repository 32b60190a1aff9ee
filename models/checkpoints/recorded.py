# SPDX-License-Identifier: Apache-2.0
"""The operators of a network that was rebuilt from its trace, with the sizes that they have now.

Such a network runs a recorded graph: it need not be traced again to be counted. The graph is run once on tensors
without values, each of the size that the network's own tensors have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from edgepress.models.checkpoints.rebuild import Rebuilt
from edgepress.models.cost.graph import Graph, Node, node_of, references, sizes_of


def recorded_graph(rebuilt: Rebuilt, dense: Graph, inputs: tuple[torch.Tensor, ...]) -> Graph | None:
    """What `trace` would give for one sample, without a trace.

    Args:
        rebuilt: in any mode; untouched.
        dense: the trace of the network that it was rebuilt from, which knows the modules of the operators.
        inputs: one sample.

    Returns:
        The graph, its evaluation; None where its operators are not those of `dense`, so that it must be traced.
    """
    phase = rebuilt.evaluation
    values = _sizes(rebuilt, inputs)
    parameters = dict(rebuilt.named_parameters(remove_duplicate=False))
    buffers = dict(rebuilt.named_buffers(remove_duplicate=False))
    stored = iter(phase.tensors)
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    first: dict[int, tuple[str, str]] = {}  # tied parameters: the first name and node stand for all
    numbers: dict[str, Any] = {}
    outputs: tuple[str, ...] = ()
    for fx_node in phase.run.graph.nodes:
        if fx_node.op == "output":
            outputs = tuple(renamed.get(name, name) for name in references(fx_node.args))
            continue
        value = values[fx_node.name]
        if isinstance(value, (int, torch.SymInt)):  # a size that follows the batch
            numbers[fx_node.name] = int(value)
            continue
        sizes: dict[str, Any] = dict(zip(("shape", "shapes", "dtype"), sizes_of(value), strict=True))
        source = next(stored, None) if fx_node.op == "placeholder" else None
        if fx_node.op == "placeholder" and source is not None:
            kind = "parameter" if source in parameters else "buffer" if source in buffers else "constant"
            if kind == "parameter":
                source, known = first.setdefault(id(parameters[source]), (source, fx_node.name))
                if known != fx_node.name:
                    renamed[fx_node.name] = known
                    continue
            nodes.append(Node(fx_node.name, kind, **sizes, source=source))
        elif fx_node.op == "placeholder":
            nodes.append(Node(fx_node.name, "input", **sizes))
        else:
            made = node_of(fx_node, value, renamed, numbers)
            before = dense.by_name.get(fx_node.name)
            if before is None:
                return None
            nodes.append(
                replace(made, module=before.module, module_class=before.module_class, module_call=before.module_call)
            )
    return Graph(tuple(nodes), outputs, {}, {}).of_tensors(rebuilt)


def _sizes(rebuilt: Rebuilt, inputs: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """Name of a node -> its value, without numbers in it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    phase, values = rebuilt.evaluation, {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n.name] = super().run_node(n)
            return values[n.name]

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        tensors = [mode.from_tensor(rebuilt.tensor(name).detach()) for name in phase.tensors]
        Recorder(phase.run).run(*tensors, *(mode.from_tensor(value) for value in inputs))
    return values
