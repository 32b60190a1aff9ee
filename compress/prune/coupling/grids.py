# SPDX-License-Identifier: Apache-2.0
"""Channels that stand in groups: a grid of groups and widths has to stay rectangular."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepress.compress.prune.coupling.labels import Labelled, reshaped
from edgepress.compress.prune.coupling.propagation import Propagation
from edgepress.models.cost.graph import Node


def in_groups(state: Propagation, value: Labelled, axis: int, groups: int, mode: str, node: Node) -> Labelled:
    """Couple channels (groups x width) along `axis`: the same index in every group, or whole groups."""
    split = (*value.shape[:axis], groups, value.shape[axis] // groups, *value.shape[axis + 1 :])
    grid = reshaped(state.space, value, split)
    away = axis if mode == "index" else axis + 1
    cause = state.cause(node, "one group cannot lose channels alone")
    kept = [plane for plane in grid.planes if plane.shape[axis] > 1 or plane.shape[axis + 1] > 1]
    rest = tuple(plane for plane in grid.planes if plane.shape[axis] == 1 and plane.shape[axis + 1] == 1)
    planes = []
    for plane in kept:
        full = np.broadcast_to(plane, [split[a] if a in (axis, axis + 1) else s for a, s in enumerate(plane.shape)])
        first = full.take([0], away)
        state.space.unify(full, first, cause)
        planes.append(first)
    return reshaped(state.space, Labelled(split, state.space.compacted(planes) + rest), value.shape)


def in_finer_groups(state: Propagation, value: Labelled, axis: int, groups: int, node: Node) -> Labelled:
    """Equal counts in every group, or whole groups: whichever leaves more to choose from."""
    state.mode[node.name] = mode = "index" if value.shape[axis] // groups >= groups else "group"
    return in_groups(state, value, axis, groups, mode, node)


def separated(state: Propagation, value: Labelled, summed: Sequence[int], node: Node) -> Labelled:
    cause = state.cause(node, "unequal counts per head or group")
    planes = []
    for plane in value.planes:
        inside = [axis for axis in summed if plane.shape[axis] > 1]
        outside = [axis for axis in range(plane.ndim) if plane.shape[axis] > 1 and axis not in summed]
        if inside and outside:
            finer_inside = state.space.different(plane, inside) > state.space.different(plane, outside)
            planes += state.space.collapse(
                Labelled(value.shape, (plane,)), outside if finer_inside else inside, cause
            ).planes
        else:
            planes.append(plane)
    return Labelled(value.shape, tuple(planes))
