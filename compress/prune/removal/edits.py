# SPDX-License-Identifier: Apache-2.0
"""What a selection changes at every operator of a traced network, and in the sizes that modules remember."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.coupling.fixed import Fixed
from edgepress.compress.prune.coupling.labels import Labelled, axes_of
from edgepress.compress.prune.coupling.layout_rules import slice_bounds
from edgepress.compress.prune.coupling.propagate import propagate
from edgepress.compress.prune.coupling.propagation import Propagation
from edgepress.models.cost.aten_names import RECURRENT, RECURRENT_CELLS
from edgepress.models.cost.graph import Graph, Node, Ref
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

#: Arguments that hold the shape of the result.
_RESULT_SIZE = {
    "view": "size",
    "reshape": "shape",
    "_unsafe_view": "size",
    "expand": "size",
    "zeros": "size",
    "ones": "size",
    "full": "size",
    "new_zeros": "size",
    "new_ones": "size",
    "new_full": "size",
    "empty": "size",
    "new_empty": "size",
    "broadcast_to": "size",
}
_SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
_SHUFFLES = ("channel_shuffle", "native_channel_shuffle")


class Removal:
    """What a selection changes at every operator of the traced network."""

    def __init__(self, state: Propagation, removed: np.ndarray):
        """
        Args:
            state: the labels of the traced network.
            removed: [labels] bool, by the root of the label.
        """
        self.graph: Graph = state.graph
        self.state: Propagation = state
        self.removed: np.ndarray = removed
        self._kept: dict[int, dict[int, np.ndarray]] = {}

    @classmethod
    def of_tensors(cls, graph: Graph, tensors: Mapping[str, Mapping[int, np.ndarray]]) -> Removal:
        """What keeping these indices of tensors means for another trace of the same network.

        Raises:
            UsageError: the trace couples what is kept with what is not.
        """
        state = propagate(graph, Fixed())
        removed = np.zeros(state.space.size, bool)
        kept = np.zeros(state.space.size, bool)
        for name, value in state.sources.items():
            for plane in value.planes:
                roots = state.space.find(plane.ravel())
                stays = np.ones(len(roots), bool)
                indices = tensors.get(name, {}).get(axes_of(plane)[0])
                if indices is not None:
                    stays[:] = False
                    stays[indices] = True
                kept[roots[stays]] = True
                removed[roots[~stays]] = True
        if (kept & removed).any():
            raise UsageError("it couples channels which evaluation lets go one by one")
        return cls(state, removed)

    def kept(self, value: Labelled) -> dict[int, np.ndarray]:
        """Axis -> kept positions of a value, for the axes that lose some."""
        if id(value) not in self._kept:
            self._kept[id(value)] = self.state.space.kept(value, self.removed)
        return self._kept[id(value)]

    def shape(self, value: Labelled) -> tuple[int, ...]:
        """Shape of a value after removal."""
        kept = self.kept(value)
        return tuple(len(kept[axis]) if axis in kept else size for axis, size in enumerate(value.shape))

    def value(self, node: Node, argument: str) -> Labelled | None:
        ref = node.arguments.get(argument)
        value = self.state.values[ref.name] if isinstance(ref, Ref) else None
        return value if isinstance(value, Labelled) else None

    def calls(self) -> dict[str, dict[str, Any]]:
        """Position among the calls -> the arguments to change, with the operator for a check."""
        changed = {}
        position = -1
        for node in self.graph.nodes:
            if node.kind != "call":
                continue
            position += 1
            edits = self.edits(node)
            if edits:
                changed[str(position)] = {"op": node.overload, **edits}
        return changed

    def edits(self, node: Node) -> dict[str, Any]:
        """Arguments of one operator that hold sizes or positions, after removal; only those which differ."""
        result = self.state.values[node.name]
        source = self.state.values[node.inputs[0]] if node.inputs else None
        source = source if isinstance(source, Labelled) else None
        edits: dict[str, Any] = {}
        if isinstance(result, Labelled) and node.op in _RESULT_SIZE:
            edits = self._result_size(node, result)
        elif node.op == "unflatten" and isinstance(result, Labelled) and source is not None:
            dim = node.arguments["dim"] % len(source.shape)
            count = len(node.arguments["sizes"])
            edits = {"sizes": list(self.shape(result)[dim : dim + count])}
        elif node.op in ("slice", "slice_scatter", "narrow", "select") and source is not None:
            edits = self._positions(node, source)
        elif node.op in _SPLITS and isinstance(result, tuple) and source is not None:
            dim = node.arguments.get("dim", 0) % len(source.shape)
            if dim in self.kept(source):
                edits = {"split_sizes": [self.shape(part)[dim] for part in result if part is not None]}
        elif node.op in ("pad", "constant_pad_nd") and isinstance(result, Labelled):
            edits = {"pad": self._padding(node, result)}
        elif node.op in ("repeat", "tile") and isinstance(result, Labelled) and source is not None:
            name = "repeats" if "repeats" in node.arguments else "dims"
            lifted = (1,) * (len(result.shape) - len(source.shape)) + source.shape
            edits = {
                name: [
                    new if old == 1 else times
                    for old, new, times in zip(lifted, self.shape(result), node.arguments[name], strict=True)
                ]
            }
        elif node.op in ("layer_norm", "native_layer_norm", "rms_norm") and source is not None:
            count = len(node.arguments["normalized_shape"])
            edits = {"normalized_shape": list(self.shape(source)[-count:])}
        elif node.op in ("group_norm", "convolution", *_SHUFFLES) or node.op.startswith("conv"):
            edits = self._groups(node)
        elif (
            node.op == "scaled_dot_product_attention"
            and source is not None
            and len(source.shape) - 1 in self.kept(source)
            and node.arguments.get("scale") is None
        ):
            edits = {"scale": source.shape[-1] ** -0.5}
        return {
            name: value
            for name, value in edits.items()
            if (tuple(value) if isinstance(value, list) else value) != node.arguments.get(name)
        }

    def _result_size(self, node: Node, result: Labelled) -> dict[str, Any]:
        name = _RESULT_SIZE[node.op]
        name = name if name in node.arguments else "size" if "size" in node.arguments else "shape"
        old = node.arguments.get(name)
        if old is None:
            return {}
        return {name: [-1 if before == -1 else size for before, size in zip(old, self.shape(result), strict=True)]}

    def _positions(self, node: Node, source: Labelled) -> dict[str, Any]:
        dim = node.arguments.get("dim", 0) % len(source.shape)
        kept = self.kept(source).get(dim)
        if kept is None:
            return {}
        if node.op == "select":
            index = node.arguments["index"] % source.shape[dim]
            return {"index": int((kept < index).sum())}
        start, end = (int((kept < bound).sum()) for bound in slice_bounds(node, source.shape[dim]))
        return {"start": start, "length": end - start} if node.op == "narrow" else {"start": start, "end": end}

    def _padding(self, node: Node, result: Labelled) -> list[int]:
        widths = list(node.arguments["pad"])
        for pair in range(len(widths) // 2):
            axis = len(result.shape) - 1 - pair
            kept = self.kept(result).get(axis)
            if kept is None and not (min(widths[2 * pair : 2 * pair + 2]) < 0):
                continue
            positions = np.arange(result.shape[axis]) if kept is None else kept
            before, after = widths[2 * pair], widths[2 * pair + 1]
            if before > 0:
                widths[2 * pair] = int((positions < before).sum())
            if after > 0:
                widths[2 * pair + 1] = int((positions >= result.shape[axis] - after).sum())
            source = self.state.values[node.inputs[0]]
            gone = self.kept(source).get(axis) if isinstance(source, Labelled) else None
            if isinstance(source, Labelled) and gone is not None:  # a negative padding cuts kept positions only
                if before < 0:
                    widths[2 * pair] = -int((gone < -before).sum())
                if after < 0:
                    widths[2 * pair + 1] = -int((gone >= source.shape[axis] + after).sum())
        return widths

    def _groups(self, node: Node) -> dict[str, Any]:
        name = "num_groups" if node.op == "group_norm" else "groups"
        source = self.value(node, "self" if node.op in _SHUFFLES else "input")
        if self.state.mode.get(node.name) != "group" or source is None:
            return {}
        weight = self.value(node, "weight")
        axis = 1 if node.op == "group_norm" or weight is None else len(source.shape) - len(weight.shape) + 1
        per_group = source.shape[axis] // node.arguments[name]
        return {name: self.shape(source)[axis] // per_group}

    def attributes(self, modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
        """Module path -> sizes that the module remembers, where they change.

        Only what a module has, with the dense size, is changed: a functional call belongs to whatever module made it.
        """
        changed: dict[str, dict[str, Any]] = {}
        for node in self.graph.nodes:
            module = modules.get(node.module) if node.kind == "call" and node.inputs else None
            if module is None:
                continue
            for name, (old, new) in self._sizes(node).items():
                present = getattr(module, name, None)
                present = list(present) if isinstance(present, (list, tuple)) else present
                if old != new and present == old and type(present) is type(old):
                    changed.setdefault(node.module, {})[name] = new
        return changed

    def written(self, modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
        """Module path -> public sizes of the module which its forward seems to have read, where they change.

        An attribute with the number of heads, a width, or a shape: one that equals what an operator of this module was
        called with, or a product of neighbouring sizes. It is a guess, which the proof decides on.
        """
        pairs: dict[str, dict[Any, Any]] = {}
        for node in self.graph.nodes:
            for name, new in (self.edits(node) if node.kind == "call" and node.module in modules else {}).items():
                own = pairs.setdefault(node.module, {})
                for old, changed in _numbers(node, name, new):
                    own[old] = changed if own.get(old, changed) == changed else None
        found: dict[str, dict[str, Any]] = {}
        for path, own in pairs.items():
            for name, present in vars(modules[path]).items():
                key = tuple(present) if isinstance(present, (list, tuple)) else present
                known = type(key) is int or (isinstance(key, tuple) and all(type(part) is int for part in key))
                if known and not name.startswith("_") and own.get(key) is not None:
                    found.setdefault(path, {})[name] = own[key]
        return found

    def _sizes(self, node: Node) -> dict[str, tuple[Any, Any]]:
        """Attribute -> (dense size, size after removal) for the class of modules that has this operator."""
        first = self.state.values[node.inputs[0]]
        if not isinstance(first, Labelled):
            return {}
        old, new = first.shape, self.shape(first)
        result = self.state.values[node.name]
        sizes: dict[str, tuple[Any, Any]] = {}
        if node.op.startswith("conv") and isinstance(result, Labelled):
            weight = self.value(node, "weight")
            assert weight is not None
            axis = len(old) - len(weight.shape) + 1
            groups = node.arguments.get("groups", 1)
            sizes = {
                "in_channels": (old[axis], new[axis]),
                "groups": (groups, self._groups(node).get("groups", groups)),
                "out_channels": (result.shape[axis], self.shape(result)[axis]),
            }
        elif node.op == "linear" and isinstance(result, Labelled):
            sizes = {"in_features": (old[-1], new[-1]), "out_features": (result.shape[-1], self.shape(result)[-1])}
        elif node.op in ("batch_norm", "instance_norm"):
            sizes = {"num_features": (old[1], new[1])}
        elif node.op in ("layer_norm", "rms_norm"):
            before = tuple(node.arguments["normalized_shape"])
            sizes = {"normalized_shape": (before, new[len(old) - len(before) :])}
        elif node.op == "group_norm":
            groups = node.arguments["num_groups"]
            sizes = {
                "num_channels": (old[1], new[1]),
                "num_groups": (groups, self._groups(node).get("num_groups", groups)),
            }
        elif node.op in _SHUFFLES:
            sizes = {"groups": (node.arguments["groups"], self._groups(node).get("groups", node.arguments["groups"]))}
        elif node.op == "prelu":
            slope = self.value(node, "weight")
            assert slope is not None
            sizes = {"num_parameters": (slope.shape[0], self.shape(slope)[0])} if slope.shape else {}
        elif node.op in RECURRENT | RECURRENT_CELLS:
            hidden = node.arguments["w_hh"] if node.op in RECURRENT_CELLS else node.arguments["params"][1]
            recurrent = self.state.values[hidden.name]
            assert isinstance(recurrent, Labelled)
            sizes = {"input_size": (old[-1], new[-1]), "hidden_size": (recurrent.shape[1], self.shape(recurrent)[1])}
        elif node.op == "embedding" and isinstance(result, Labelled):
            sizes = {"embedding_dim": (result.shape[-1], self.shape(result)[-1])}
        return {name: (list(a), list(b)) if isinstance(a, tuple) else (a, b) for name, (a, b) in sizes.items()}


def _numbers(node: Node, name: str, new: Any) -> list[tuple[Any, Any]]:
    """(dense number, number after removal) of an edited argument: each size, products and runs of neighbours."""
    old = node.arguments.get("split_size") if name == "split_sizes" and "split_sizes" not in node.arguments else None
    old = node.arguments.get(name, old)
    if isinstance(old, int) and isinstance(new, list):  # equal parts
        return [(old, new[0])] if len({*new}) == 1 else []
    if isinstance(old, int):
        return [(old, new)] if type(new) is int else []
    if not isinstance(old, tuple) or len(old) != len(new) or not all(type(size) is int for size in (*old, *new)):
        return []
    pairs: list[tuple[Any, Any]] = []
    for start in range(len(old)):
        for end in range(start + 1, len(old) + 1):
            before, after = old[start:end], tuple(new[start:end])
            if before != after and min(before) > 0:
                pairs += [(prod(before), prod(after)), (before, list(after))]
    return pairs
