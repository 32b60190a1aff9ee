# SPDX-License-Identifier: Apache-2.0
"""The reference of the proof: the dense network, with removed channels masked and left out of every statistic.

The traced network is run operator by operator. After each one the removed positions are set to zero, so constants of
removed channels (a shift of a batch normalisation, the ReLU of a bias) vanish as they do by removal. Operators that
take a statistic over an axis with removed channels (LayerNorm, GroupNorm, GRN's mean, softmax, a maximum over channels)
see the kept ones only. Index maps of convolutions, views, concatenations are the dense network's own, which is what
makes the comparison with the removed network a proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx.node import map_arg

from edgepress.compress.prune.coupling.labels import Labelled
from edgepress.compress.prune.coupling.statistic_rules import STATISTICS
from edgepress.compress.prune.removal.edits import Removal

#: Operators that look at all channels of an axis at once.
_STATISTICS = frozenset(
    (
        *STATISTICS,
        "max",
        "min",
        "softmax",
        "log_softmax",
        "_softmax",
        "_log_softmax",
        "layer_norm",
        "native_layer_norm",
        "rms_norm",
        "group_norm",
    )
)


def run_reference(
    program: Any, removal: Removal, tensors: Mapping[str, torch.Tensor], inputs: tuple[torch.Tensor, ...]
) -> list[torch.Tensor]:
    """Outputs of the masked dense network.

    Args:
        program: the `torch.export` program that `removal` describes.
        tensors: parameters and buffers of the dense network by name.
        inputs: as traced.
    """
    signature = program.graph_signature
    sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {
        **program.constants,
        **{name: program.constants[source] for name, source in signature.inputs_to_lifted_tensor_constants.items()},
        **{name: program.constants[source] for name, source in signature.inputs_to_lifted_custom_objs.items()},
    }
    by_name = removal.graph.by_name
    alias = {node.source: node.name for node in removal.graph.nodes if node.kind in ("parameter", "buffer")}
    values: dict[Any, Any] = {}
    # weight_norm divides by the norm over all inputs, removed ones too: it needs its tensor unmasked.
    raw: dict[Any, torch.Tensor] = {}
    remaining = list(inputs)
    outputs: list[torch.Tensor] = []

    def lookup(value: Any) -> Any:
        return map_arg(value, lambda node: values[node])

    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                if node.name in sources:
                    raw[node] = tensors[sources[node.name]].detach()
                    known = by_name.get(node.name) or by_name.get(alias.get(sources[node.name], ""))
                    values[node] = masked(removal, known.name, raw[node].clone()) if known else raw[node].clone()
                elif node.name in constants:
                    values[node] = constants[node.name]
                else:
                    values[node] = remaining.pop(0)
            elif node.op == "get_attr":
                values[node] = getattr(program.graph_module, node.target)
            elif node.op == "output":
                outputs = [value for value in _flat(lookup(node.args)) if isinstance(value, torch.Tensor)]
            else:
                values[node] = _call(removal, by_name, node, values, raw, lookup)
    return outputs


def _call(
    removal: Removal,
    by_name: Mapping[str, Any],
    node: Any,
    values: Mapping[Any, Any],
    raw: Mapping[Any, Any],
    lookup: Any,
) -> Any:
    known = by_name.get(node.name)
    if known is None:
        return node.target(*lookup(node.args), **lookup(node.kwargs))
    if known.op in ("_weight_norm", "_weight_norm_interface"):
        args = map_arg(node.args, lambda read: raw.get(read, values[read]))
        return masked(removal, known.name, node.target(*args, **lookup(node.kwargs)))
    source = removal.state.values[known.inputs[0]] if known.inputs else None
    if _takes_statistic(known) and isinstance(source, Labelled) and removal.kept(source):
        return _statistic(removal, known, node, values, lookup)
    return masked(removal, known.name, node.target(*lookup(node.args), **lookup(node.kwargs)))


def _takes_statistic(known: Any) -> bool:
    """A batch norm of a training takes its own: of a batch, or of a weight that it standardizes."""
    return known.op in _STATISTICS or (known.op == "batch_norm" and bool(known.arguments.get("training")))


def masked(removal: Removal, name: str, value: Any) -> Any:
    """The value with removed positions set to zero, in place: an in-place operator's result is its input, too."""
    labels = removal.state.values[name]
    if isinstance(labels, tuple):
        return value  # parts are masked where they are picked
    if not isinstance(value, torch.Tensor):
        return value
    for axis, kept in removal.kept(labels).items():
        gone = torch.ones(value.shape[axis], dtype=torch.bool)
        gone[torch.from_numpy(kept)] = False
        shape = [-1 if a == axis else 1 for a in range(value.ndim)]
        if value.is_floating_point() and not _overlapping(value):
            value.masked_fill_(gone.reshape(shape), 0)
        else:
            value = value.masked_fill(gone.reshape(shape), 0)
    return value


def _overlapping(value: torch.Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(value.stride(), value.shape, strict=True))


def _statistic(removal: Removal, known: Any, node: Any, values: Mapping[Any, Any], lookup: Any) -> Any:
    """Gather the kept channels, take the statistic, put the result back among zeros."""

    def gathered(read: Any) -> Any:
        value, labels = values[read], removal.state.values.get(read.name)
        if isinstance(value, torch.Tensor) and isinstance(labels, Labelled):
            for axis, kept in removal.kept(labels).items():
                value = value.index_select(axis, torch.from_numpy(kept))
        return value

    args = dict(
        zip([argument.name for argument in node.target._schema.arguments], map_arg(node.args, gathered), strict=False)
    )
    args |= map_arg(node.kwargs, gathered)
    args |= removal.edits(known)
    result = node.target(**{name if name != "self" else "self": value for name, value in args.items()})
    labels = removal.state.values[known.name]
    if isinstance(labels, tuple):
        return tuple(
            _scattered(removal, part, value) if part is not None else value
            for part, value in zip(labels, result, strict=True)
        )
    return _scattered(removal, labels, result)


def _scattered(removal: Removal, labels: Labelled, value: torch.Tensor) -> torch.Tensor:
    for axis, kept in removal.kept(labels).items():
        shape = list(value.shape)
        shape[axis] = labels.shape[axis]
        value = value.new_zeros(shape).index_copy_(axis, torch.from_numpy(kept), value)
    return value


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _flat(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _flat(item)]
    return [value]
