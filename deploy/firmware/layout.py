# SPDX-License-Identifier: Apache-2.0
"""Where each activation of a lowered network lies in its static arena, and the scratch of its fast kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgepress.deploy.firmware.lowering.steps import Network
from edgepress.models.footprint.placement import Block, Plan, aligned, search

#: More placements than this gain nothing on the networks here, and cost seconds on large ones.
_TRIES = 400


@dataclass(frozen=True)
class Layout:
    """Byte offsets in the arena.

    Attributes:
        offsets: tensor (the home of its aliases) -> offset.
        scratch: number of the step -> offset of its scratch; empty for plain kernels.
        arena_bytes: all of it.
        lower_bound_bytes: alive at once at the worst moment; no layout can be smaller.
    """

    offsets: Mapping[int, int]
    scratch: Mapping[int, int]
    arena_bytes: int
    lower_bound_bytes: int


def lay_out(network: Network, kernels: str, least_bytes: int = 16) -> Layout:
    """Place everything that is not constant, and the scratch of one kind of kernels, in at least so many bytes."""
    blocks = [Block(tensor, aligned(size), first, last) for tensor, (size, first, last) in lifetimes(network).items()]
    scratch_number = -1
    owners = {}
    for number, step in enumerate(network.steps):
        if needed := step.scratch_bytes.get(kernels, 0):
            owners[scratch_number] = number
            blocks.append(Block(scratch_number, aligned(needed), number, number))
            scratch_number -= 1
    plan: Plan = search(blocks, tries=_TRIES)
    return Layout(
        {t: offset for t, offset in plan.offsets.items() if t >= 0},
        {owners[t]: offset for t, offset in plan.offsets.items() if t < 0},
        max(least_bytes, plan.arena_bytes),
        plan.lower_bound_bytes,
    )


def lifetimes(network: Network) -> dict[int, tuple[int, int, int]]:
    """Home tensor -> (bytes, first step, last step), both inclusive; inputs live from the start, outputs to the end."""
    end = max(0, len(network.steps) - 1)
    found: dict[int, tuple[int, int, int]] = {}

    def use(tensor: int, first: int, last: int) -> None:
        home = network.home(tensor)
        if network.values[home].data is not None or home in network.states:
            return
        size, start, stop = found.get(home, (network.values[home].size_bytes, first, last))
        found[home] = (size, min(start, first), max(stop, last))

    for tensor in network.inputs:
        use(tensor, 0, 0)
    for number, step in enumerate(network.steps):
        for tensor in (*step.inputs, step.output):
            use(tensor, number, number)
    for tensor in network.outputs:
        use(tensor, end, end)
    return found
