# SPDX-License-Identifier: Apache-2.0
"""Where blocks of memory that live for a while lie in one arena: dynamic storage allocation, which is NP-hard.

Networks are small, so that orders of placement are tried until the bytes alive at once, which no plan can beat, are
reached. TFLite Micro can be given such a plan (`edgepress.deploy.tflite.memory_plan`), and our firmware has one.
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

#: TFLite Micro's MicroArenaBufferAlignment: offsets and sizes are multiples of it, in our firmware as well.
ALIGNMENT_BYTES = 16


@dataclass(frozen=True)
class Block:
    """One activation, or the scratch of one operator.

    Attributes:
        tensor: index in the file.
        size_bytes: rounded up to the alignment.
        first, last: operators (inclusive) between which it lives.
    """

    tensor: int
    size_bytes: int
    first: int
    last: int

    def overlaps(self, other: Block) -> bool:
        """Whether both are alive at one time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Offsets in bytes by tensor, the bytes that they span, and the bytes alive at once, which none can be below."""

    offsets: dict[int, int]
    arena_bytes: int
    lower_bound_bytes: int


def aligned(size: int) -> int:
    """Rounded up to the alignment."""
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def lower_bound_bytes(blocks: Sequence[Block]) -> int:
    """The largest sum of sizes alive at one operator."""
    changes = [0] * (max((block.last for block in blocks), default=-1) + 2)
    for block in blocks:
        changes[block.first] += block.size_bytes
        changes[block.last + 1] -= block.size_bytes
    return max(accumulate(changes))


def place(order: Sequence[Block], best_fit: bool = False) -> dict[Block, int]:
    """Give each block, in this order, the lowest gap between those that live at the same time (or the tightest gap)."""
    offsets: dict[Block, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # start, end, first, last, by rising start
    for block in order:
        size, begins, ends = block.size_bytes, block.first, block.last
        end, best, slack = 0, None, None
        for start, stop, first, last in placed:
            if first > ends or last < begins:
                continue
            gap = start - end
            if gap >= size and (slack is None or gap - size < slack):
                best, slack = end, gap - size
                if not best_fit:
                    break
            end = max(end, stop)
        offset = end if best is None else best
        offsets[block] = offset
        insort(placed, (offset, offset + size, begins, ends))
    return offsets


_KEYS = (
    lambda b: (-b.size_bytes, b.first),
    lambda b: (-b.size_bytes * (b.last - b.first + 1), b.first),
    lambda b: (b.first, -b.size_bytes),
    lambda b: (-b.last, -b.size_bytes),
    lambda b: (b.first - b.last, -b.size_bytes),
)


def in_greedy_order(blocks: Sequence[Block]) -> tuple[int, list[Block], bool]:
    """(span in bytes, order, whether gaps are the tightest) of the best of a few greedy orders.

    It ends where the lower bound is reached: what `search` goes on from, and never less than what it finds.
    """
    bound = lower_bound_bytes(blocks)
    best: tuple[int, list[Block], bool] | None = None
    for key in _KEYS:
        for fit in (False, True):
            order = sorted(blocks, key=key)
            span = _span(place(order, fit))
            if best is None or span < best[0]:
                best = span, order, fit
            if best[0] == bound:
                return best
    assert best is not None
    return best


def search(blocks: Sequence[Block], *, tries: int = 2000, seed: int = 0) -> Plan:
    """The best plan of a few greedy orders, then of a local search that swaps their members.

    Args:
        blocks: activations with their lifetimes.
        tries: placements that the local search may make; it ends sooner at the lower bound.
        seed: of the search.
    """
    bound = lower_bound_bytes(blocks)
    if not blocks:
        return Plan({}, 0, 0)
    best, order, best_fit = in_greedy_order(blocks)
    generator = random.Random(seed)
    for _ in range(tries):
        if best == bound or len(order) < 2:
            break
        candidate = list(order)
        if generator.random() < 0.5:  # move a block of the top forward: it decides the height
            placed = place(order, best_fit)
            top = [b for b in order if placed[b] + b.size_bytes == best] or order
            moved = generator.choice(top)
            candidate.remove(moved)
            candidate.insert(generator.randrange(len(order)), moved)
        else:
            i, j = generator.sample(range(len(order)), 2)
            candidate[i], candidate[j] = candidate[j], candidate[i]
        span = _span(place(candidate, best_fit))
        if span <= best:
            best, order = span, candidate
    return Plan({block.tensor: offset for block, offset in place(order, best_fit).items()}, best, bound)


def _span(offsets: dict[Block, int]) -> int:
    return max(offset + block.size_bytes for block, offset in offsets.items())
