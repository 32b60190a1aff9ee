# SPDX-License-Identifier: Apache-2.0
"""Coupled channel groups of a network, and what any selection of them costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.coupling.figures import CostFormula, Figures, cost_formula
from edgepress.compress.prune.coupling.fixed import fixed_names
from edgepress.compress.prune.coupling.labels import axes_of
from edgepress.compress.prune.coupling.propagate import propagate
from edgepress.compress.prune.coupling.propagation import Propagation
from edgepress.models.cost.aten_names import RECURRENT, RECURRENT_CELLS
from edgepress.models.cost.graph import Graph, trace, trace_one_sample
from edgepress.models.cost.op_costs import check_rule, check_scheme
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

Selection = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Member:
    """The slices of one parameter or buffer that belong to a group.

    Attributes:
        tensor: its name in the model.
        axis: the axis that is cut.
        positions: [units, m] which indices of that axis each unit owns.
        trained: whether it is a parameter.
    """

    tensor: str
    axis: int
    positions: np.ndarray
    trained: bool


@dataclass(frozen=True)
class ChannelGroup:
    """Units which can each be removed alone, and which are alike in all that they couple.

    Attributes:
        name: the tensor that makes these channels, without ".weight".
        size: number of units.
        members: what goes with them.
        channels: activation channels per unit (more than one in grouped convolutions).
        produced: indices into `members` of those that make the channels (outputs of a layer, not inputs).
    """

    name: str
    size: int
    members: tuple[Member, ...]
    channels: int = 1
    produced: tuple[int, ...] = ()


@dataclass(frozen=True)
class Frozen:
    """Channels that are never removed, and why."""

    name: str
    operator: str
    module: str
    reason: str


@dataclass(frozen=True)
class ChannelGraph:
    """What can be removed from a network, and the exact cost of every choice.

    Attributes:
        groups: coupled groups; a selection has one bool array [size] per group, True = kept.
        frozen: what can't be removed, with the operator and module that cause it.
        graph, state, formula, roots: the trace, its labels, the cost formula, the labels of every unit.
        shapes: of every tensor that the network reads.
        rule, scheme: how costs are counted.
        aliases: first name of a tied parameter -> all its names.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...]
    graph: Graph
    state: Propagation
    formula: CostFormula
    roots: tuple[np.ndarray, ...]
    shapes: Mapping[str, tuple[int, ...]]
    rule: str = "dcase"
    scheme: str = "w8a8"
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def phases(self) -> tuple[Propagation, ...]:
        """Evaluation, and where there are heads that only training uses, the network with them."""
        return (self.state,) if self.state.heads is None else (self.state, self.state.heads)

    @cached_property
    def sizes(self) -> np.ndarray:
        """[groups] number of units."""
        return np.array([group.size for group in self.groups], np.int64)

    def full(self) -> Selection:
        """The selection that keeps everything."""
        return tuple(np.ones(group.size, bool) for group in self.groups)

    def cost(self, selection: Selection) -> Figures:
        """Exact figures of a selection, without building it."""
        return self.formula.figures(self.counts(selection))

    def counts(self, selection: Selection) -> np.ndarray:
        """[groups] units kept.

        Raises:
            UsageError: not one bool array of the group's size per group.
        """
        if len(selection) != len(self.groups) or any(
            len(kept) != group.size for kept, group in zip(selection, self.groups, strict=False)
        ):
            raise UsageError(f"a selection needs one array per group, of sizes {self.sizes.tolist()}")
        return np.array([int(np.count_nonzero(kept)) for kept in selection], np.int64)

    def removed_labels(self, selection: Selection) -> np.ndarray:
        """[labels] bool: whether the label, given by its root, is removed."""
        removed = np.zeros(self.state.space.size, bool)
        for kept, roots in zip(selection, self.roots, strict=True):
            removed[roots[~np.asarray(kept, bool)]] = True
        return removed

    def kept_tensors(self, selection: Selection) -> dict[str, dict[int, np.ndarray]]:
        """Tensor name -> axis -> kept indices, for every parameter and buffer that loses some."""
        removed = self.removed_labels(selection)
        result: dict[str, dict[int, np.ndarray]] = {}
        for phase in self.phases:
            for node in phase.graph.nodes:
                if node.kind in ("parameter", "buffer") and node.source not in result:
                    kept = phase.space.kept(phase.value(node.name), removed)
                    if kept:
                        result[node.source] = kept
        return result

    def parameter_masks(self, selection: Selection) -> dict[str, torch.Tensor]:
        """Parameter name -> float tensor that broadcasts to it, 1 kept, 0 removed; untouched ones are left out.

        The size of a filter under weight norm is its g alone: a direction of zeros would be divided by its length.
        """
        import torch

        masks: dict[str, torch.Tensor] = {}
        trained = {node.source for phase in self.phases for node in phase.graph.nodes if node.kind == "parameter"}
        directions = {
            phase.graph.by_name[node.arguments["v"].name].source: int(node.arguments.get("dim", 0))
            for phase in self.phases
            for node in phase.graph.nodes
            if node.op in ("_weight_norm", "_weight_norm_interface")
        }
        for name, kept_of in self.kept_tensors(selection).items():
            axes = {axis: kept for axis, kept in kept_of.items() if axis != directions.get(name)}
            if name not in trained or not axes:
                continue
            mask = torch.ones(())
            shape = self.shapes[name]
            for axis, kept in axes.items():
                line = torch.zeros(shape[axis])
                line[torch.from_numpy(kept)] = 1
                mask = mask * line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            for alias in self.aliases.get(name, (name,)):
                masks[alias] = mask
        return masks


def find_groups(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    protect: Iterable[str] = (),
    rule: str = "dcase",
    scheme: str = "w8a8",
    freeze: Iterable[str] = (),
    on_device: tuple[str, tuple[str, ...]] | None = None,
) -> ChannelGraph:
    """Find which channels must go together.

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        example_inputs: one tensor per input; a bare tensor for one input.
        protect: names of modules whose outputs keep their width.
        rule, scheme: how `ChannelGraph.cost` counts.
        freeze: names of modules or parameters that keep their shapes.
        on_device: a device class and the figures of it that `ChannelGraph.cost` also gives (`Limits.on_device`).

    Raises:
        UsageError: unknown names in `protect` or `freeze`, an unknown rule or scheme, or a network that cannot be
            traced.
    """
    check_rule(rule)
    check_scheme(scheme)
    fixed = fixed_names(model, protect, freeze)
    graph = trace_one_sample(model, example_inputs)
    state = propagate(graph, fixed, _training_heads(model, graph))
    return assemble(model, graph, state, rule, scheme, on_device)


def _training_heads(model: nn.Module, graph: Graph) -> Graph | None:
    """The network with the branches that only training takes, where evaluation leaves parameters unread."""
    import torch

    if all(name in graph.read for name in graph.parameter_shapes):
        return None
    inputs = tuple(
        torch.zeros(node.shape or (), dtype=getattr(torch, node.dtype)) for node in graph.nodes if node.kind == "input"
    )
    try:
        heads = trace(model, inputs, "heads")
    except UsageError:  # a forward that wants targets in training: its heads stay as they are
        return None
    return heads if any(name not in graph.read for name in heads.read) else None


def assemble(
    model: nn.Module,
    graph: Graph,
    state: Propagation,
    rule: str,
    scheme: str,
    on_device: tuple[str, tuple[str, ...]] | None = None,
) -> ChannelGraph:
    """Groups, their members and the cost formula from labels."""
    space = state.space
    fixed = np.zeros(space.size, bool)
    cause_of: dict[int, Any] = {}
    for anchor, cause in state.space.causes:
        root = int(space.find(np.array([anchor]))[0])
        fixed[root] = True
        cause_of.setdefault(root, cause)
    fixed[0] = True
    vectors = _label_vectors(graph, state)
    # Units that occur alike in every tensor cost the same and form a group: a sum of random numbers tells them apart.
    generator = np.random.default_rng(0)
    signature = np.zeros(space.size, np.uint64)
    in_parameter, in_value = np.zeros(space.size, bool), np.zeros(space.size, bool)
    for vector, users in vectors.values():
        np.add.at(signature, vector, generator.integers(1, 2**63, dtype=np.uint64))
        if any(node.kind == "parameter" for node, _ in users):
            in_parameter[vector] = True
        if any(node.kind == "call" and node.name not in graph.constant for node, _ in users):
            in_value[vector] = True
    removable = in_parameter & in_value & ~fixed
    # Labels that no parameter has (padding, constants) go with nothing and stay.
    order: dict[int, list[int]] = {}
    seen = np.zeros(space.size, bool)
    for vector, _ in vectors.values():
        for root in vector[removable[vector] & ~seen[vector]]:
            if not seen[root]:
                seen[root] = True
                order.setdefault(int(signature[root]), []).append(int(root))
    roots = tuple(np.sort(np.array(units, np.int64)) for units in order.values())
    group_of = np.full(space.size, -1, np.int64)
    unit_of = np.zeros(space.size, np.int64)
    for number, units in enumerate(roots):
        group_of[units], unit_of[units] = number, np.arange(len(units))
    groups = _groups(vectors, roots, group_of, unit_of, graph)
    sizes = np.array([len(units) for units in roots], np.int64)
    formula = cost_formula(graph, state, group_of, sizes, rule, scheme, on_device)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    traced = graph.nodes if state.heads is None else (*graph.nodes, *state.heads.graph.nodes)
    shapes = {node.source: node.shape or () for node in traced if node.kind in ("parameter", "buffer")}
    return ChannelGraph(
        groups,
        _frozen(graph, state, fixed, cause_of),
        graph,
        state,
        formula,
        roots,
        shapes,
        rule,
        scheme,
        {alias[0]: tuple(alias) for alias in names.values()},
    )


def _label_vectors(graph: Graph, state: Propagation) -> dict[bytes, tuple[np.ndarray, list[tuple[Any, int]]]]:
    """Every distinct vector of label roots along an axis, with the (node, axis) that have it."""
    vectors: dict[bytes, tuple[np.ndarray, list[tuple[Any, int]]]] = {}
    for node in graph.nodes:
        values = state.values[node.name]
        for value in values if isinstance(values, tuple) else (values,):
            for plane in value.planes if value is not None else ():
                axes = axes_of(plane)
                if len(axes) == 1:
                    vector = state.space.find(plane.ravel())
                    vectors.setdefault(vector.tobytes(), (vector, []))[1].append((node, axes[0]))
    # What only training reads goes along; nothing is removed for its sake.
    heads = state.heads
    for node in heads.graph.nodes if heads is not None else ():
        if node.kind in ("parameter", "buffer") and node.source not in graph.read:
            for plane in heads.value(node.name).planes if heads is not None else ():
                vector = state.space.find(plane.ravel())
                vectors.setdefault(vector.tobytes(), (vector, []))[1].append((node, axes_of(plane)[0]))
    return vectors


def _groups(
    vectors: Mapping[bytes, Any], roots: Sequence[np.ndarray], group_of: np.ndarray, unit_of: np.ndarray, graph: Graph
) -> tuple[ChannelGroup, ...]:
    members: list[list[Member]] = [[] for _ in roots]
    channels: list[int] = [0] * len(roots)
    done: set[tuple[str, int, int]] = set()
    for vector, users in vectors.values():
        owners = group_of[vector]
        for number in np.unique(owners[owners >= 0]):
            at = np.flatnonzero(owners == number)
            at = at[np.argsort(unit_of[vector[at]], kind="stable")].reshape(len(roots[number]), -1)
            for node, axis in users:
                if node.kind in ("parameter", "buffer"):
                    if (node.source, axis, int(number)) not in done:
                        done.add((node.source, axis, int(number)))
                        members[number].append(Member(node.source, axis, at, node.kind == "parameter"))
                elif node.kind == "call" and node.name not in graph.constant:
                    channels[number] = min(channels[number] or at.shape[1], at.shape[1])
    producing = _producing_axes(graph)
    result = []
    for number, own in enumerate(members):
        produced = tuple(index for index, member in enumerate(own) if (member.tensor, member.axis) in producing)
        named = own[produced[0]] if produced else own[0]
        name = named.tensor.removesuffix(".weight")
        taken = sum(group.name.split("#")[0] == name for group in result)
        result.append(
            ChannelGroup(
                name if not taken else f"{name}#{taken + 1}",
                len(roots[number]),
                tuple(own),
                max(channels[number], 1),
                produced,
            )
        )
    return tuple(result)


def _producing_axes(graph: Graph) -> set[tuple[str, int]]:
    """(parameter, axis) pairs whose positions are outputs of a layer."""
    producing: set[tuple[str, int]] = set()
    for node in graph.nodes:
        if node.kind != "call":
            continue
        weight = node.arguments.get("weight", node.arguments.get("mat2"))
        depthwise_like = node.arguments.get("groups", 1) != 1
        transposed = "transpose" in node.op or node.op in ("addmm", "mm")
        if node.op.startswith("conv") or node.op in ("linear", "addmm", "mm"):
            if weight is not None:
                made = graph.by_name[weight.name]
                # The size of a weight-normalised filter is its g alone.
                origin = made.arguments["g"].name if made.op == "_weight_norm" else weight.name
                for source in graph.origins(origin):
                    producing.add((source, 0 if depthwise_like or not transposed else 1))
        elif node.op in RECURRENT:
            for ref in node.arguments["params"]:
                producing.update((source, 0) for source in graph.origins(ref.name))
        elif node.op in RECURRENT_CELLS:
            for name in ("w_ih", "w_hh"):
                producing.update((source, 0) for source in graph.origins(node.arguments[name].name))
        elif node.op == "embedding" and weight is not None:
            producing.update((source, 1) for source in graph.origins(weight.name))
    return producing


def _frozen(graph: Graph, state: Propagation, fixed: np.ndarray, cause_of: Mapping[int, Any]) -> tuple[Frozen, ...]:
    """Layers whose outputs cannot (all) be removed. Inputs follow from them, and kernel positions are no news."""
    producing = _producing_axes(graph)
    found = []
    for name, value in state.sources.items():
        for plane in value.planes:
            axis = axes_of(plane)[0]
            if (name, axis) not in producing or plane.ndim < 2:
                continue
            roots = state.space.find(plane.ravel())
            stuck = roots[fixed[roots]]
            cause = cause_of.get(int(stuck[0])) if stuck.size else None
            if cause is not None and not cause.quiet:
                found.append(Frozen(name, cause.operator, cause.module, cause.reason))
            elif not stuck.size and (roots == roots[0]).all():
                found.append(Frozen(name, "", "", "its channels are coupled with one another: all or none"))
    return tuple(found)
