# SPDX-License-Identifier: Apache-2.0
"""Residual branches that can go as a whole: what is left of one without its inner channels is a constant per channel.

A branch of convolutions that is added to a stream ends in a layer that reads its inner channels. Without them that
layer's output is its bias, which a batch normalisation behind it maps to another constant: the same at every position
and for every input. So the branch becomes a constant that is added, and its layers go.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgepress.compress.prune.coupling.channels import ChannelGraph, ChannelGroup
from edgepress.compress.prune.coupling.labels import Labelled, axes_of
from edgepress.compress.prune.coupling.propagation import Propagation
from edgepress.models.cost.graph import Graph, Node

_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")


@dataclass(frozen=True)
class Branch:
    """The modules of a branch with one group of inner channels.

    Attributes:
        nothing: those that make the inner channels from the stream.
        inner: others that hold parameters of inner channels.
        ends: (module, its batch normalisation or ""): what reads the inner channels and is added to the stream.
    """

    nothing: tuple[str, ...]
    inner: tuple[str, ...]
    ends: tuple[tuple[str, str], ...]

    def plan(self) -> dict[str, dict[str, Any]]:
        """Module path -> what takes its place, for `edgepress.models.checkpoints.branches`."""
        replaced: dict[str, dict[str, Any]] = {path: {"kind": "nothing"} for path in self.nothing}
        replaced |= {path: {"kind": "identity"} for path in self.inner}
        for path, norm in self.ends:
            replaced[path] = {"kind": "constant", "norm": norm}
            if norm:
                replaced[norm] = {"kind": "identity"}
        return replaced


def find_branches(channels: ChannelGraph) -> dict[int, Branch]:
    """Number of a group -> its branch, for every group whose channels are the inner ones of a branch."""
    graph = channels.graph
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.kind == "call" and node.name not in graph.constant:
            calls[node.module] = calls.get(node.module, 0) + 1
    found = {}
    for number, (group, own) in enumerate(zip(channels.groups, channels.roots, strict=True)):
        branch = _branch(graph, channels.state, group, own, calls)
        if branch is not None:
            found[number] = branch
    return found


def _branch(
    graph: Graph, state: Propagation, group: ChannelGroup, roots: np.ndarray, calls: dict[str, int]
) -> Branch | None:
    inside: list[Node] = []
    for node in graph.nodes:
        if node.kind != "call" or node.name in graph.constant:
            continue
        share = _share(state, node.name, roots)
        if share is None or 0 < share < 1:
            return None
        if share == 1:
            inside.append(node)
    names = {node.name for node in inside}

    def moving(node: Node) -> list[str]:
        return [name for name in node.inputs if name not in graph.constant]

    makers = [node for node in inside if not names & set(moving(node))]
    readers = [
        graph.by_name[name]
        for name in dict.fromkeys(user for node in inside for user in graph.users[node.name] if user not in names)
    ]
    alone = partial(_alone, calls)
    if not makers or not readers or not all(alone(node) for node in (*makers, *readers)):
        return None
    if any(set(moving(node)) - names for node in readers) or any(name in names for name in graph.outputs):
        return None
    ends = [_end(graph, node, calls) for node in readers]
    if any(end is None for end in ends):
        return None
    first, last = tuple(node.module for node in makers), tuple(node.module for node in readers)
    owners = dict.fromkeys(member.tensor.rpartition(".")[0] for member in group.members)
    inner = tuple(path for path in owners if path not in (*first, *last))
    if any(calls.get(path) != 1 for path in inner):
        return None
    return Branch(first, inner, tuple(end for end in ends if end is not None))


def _share(state: Propagation, name: str, roots: np.ndarray) -> float | None:
    """How much of the channel axis of a value belongs to the group; None where its labels lie elsewhere, too."""
    values = state.values[name]
    share = 0.0
    for value in values if isinstance(values, tuple) else (values,):
        if not isinstance(value, Labelled):
            continue
        for plane in value.planes:
            own = float(np.isin(state.space.find(plane), roots).mean())
            if own and (axes_of(plane) != (1,) or isinstance(values, tuple)):
                return None
            share = max(share, own)
    return share


def _alone(calls: dict[str, int], node: Node) -> bool:
    """Whether it is a convolution of a module of its own, which is called once."""
    return node.op.startswith("conv") and node.module_class in _CONVOLUTIONS and calls[node.module] == 1


def _end(graph: Graph, node: Node, calls: dict[str, int]) -> tuple[str, str] | None:
    """The module of a reader and of its normalisation, if nothing but an addition to a stream follows."""
    norm, last = "", node
    users = graph.users[node.name]
    if len(users) == 1 and graph.by_name[users[0]].op == "batch_norm":
        last = graph.by_name[users[0]]
        norm = last.module
        if calls[norm] != 1 or not last.module_class.startswith("BatchNorm") or last.arguments["running_var"] is None:
            return None
        users = graph.users[last.name]
    if len(users) != 1 or last.name in graph.outputs:
        return None
    add = graph.by_name[users[0]]
    operands = [name for name in add.inputs if name != last.name]
    if add.op != "add" or len(operands) != 1 or operands[0] in graph.constant:
        return None
    in_place = "add_" in add.overload and add.inputs[0] == last.name  # writes into what becomes a constant
    same = graph.by_name[operands[0]].shape == last.shape == add.shape
    return (node.module, norm) if same and not in_place else None
