# SPDX-License-Identifier: Apache-2.0
"""Where each activation lies in TFLite Micro's arena: a better packing than its own greedy one, found before flashing.

TFLite Micro places a tensor at the offset that the metadata `OfflineMemoryAllocation` names (-1: it decides itself).
Finding the smallest arena is dynamic storage allocation (NP-hard); networks are small, so that orders of placement
are tried until the bytes alive at once, which no plan can beat, are reached.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgepress.deploy.tflite.objects import text
from edgepress.deploy.tflite.writer import PLAN_NAME, schema
from edgepress.models.errors import UsageError

#: TFLite Micro's MicroArenaBufferAlignment: offsets and sizes are multiples of it.
ALIGNMENT_BYTES = 16
_VERSION = 1


@dataclass(frozen=True)
class Block:
    """One activation.

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
    last = max((block.last for block in blocks), default=-1)
    return max((sum(b.size_bytes for b in blocks if b.first <= step <= b.last) for step in range(last + 1)), default=0)


def place(order: Sequence[Block], best_fit: bool = False) -> dict[Block, int]:
    """Give each block, in this order, the lowest gap between those that live at the same time (or the tightest gap)."""
    offsets: dict[Block, int] = {}
    for block in order:
        taken = sorted(
            (offsets[other], offsets[other] + other.size_bytes) for other in offsets if other.overlaps(block)
        )
        end, best, slack = 0, None, None
        for start, stop in taken:
            gap = start - end
            if gap >= block.size_bytes and (slack is None or gap - block.size_bytes < slack):
                best, slack = end, gap - block.size_bytes
                if not best_fit:
                    break
            end = max(end, stop)
        offsets[block] = end if best is None else best
    return offsets


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
    keys = (
        lambda b: (-b.size_bytes, b.first),
        lambda b: (-b.size_bytes * (b.last - b.first + 1), b.first),
        lambda b: (b.first, -b.size_bytes),
        lambda b: (-b.last, -b.size_bytes),
        lambda b: (b.first - b.last, -b.size_bytes),
    )
    best, best_order, best_fit = None, list(blocks), False
    for key in keys:
        for fit in (False, True):
            order = sorted(blocks, key=key)
            span = _span(place(order, fit))
            if best is None or span < best:
                best, best_order, best_fit = span, order, fit
    assert best is not None
    generator = random.Random(seed)
    order = best_order
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


def encode(offsets: dict[int, int], tensor_count: int) -> np.ndarray:
    """The metadata buffer, uint8: int32 version, subgraph, count, an offset for each tensor (-1: not planned)."""
    values = [_VERSION, 0, tensor_count, *(offsets.get(index, -1) for index in range(tensor_count))]
    return np.frombuffer(np.array(values, "<i4").tobytes(), np.uint8)


def _span(offsets: dict[Block, int]) -> int:
    return max(offset + block.size_bytes for block, offset in offsets.items())


def plan_arena(model: Any, seed: int) -> str:
    """Add a plan to a ModelT, in place, and say what it reaches.

    Files with control flow or variables are left to TFLite Micro.
    """
    if len(model.subgraphs) != 1 or any(tensor.isVariable for tensor in model.subgraphs[0].tensors):
        return "not applied: a file with several graphs or variables is left to TFLite Micro"
    if any(text(entry.name) == PLAN_NAME for entry in model.metadata or ()):
        return "not applied: the file has a plan"
    graph = model.subgraphs[0]
    blocks = activation_blocks(graph, model.buffers)
    found = search(blocks, seed=seed)
    metadata = schema().MetadataT()
    metadata.name, metadata.buffer = PLAN_NAME, len(model.buffers)
    buffer = schema().BufferT()
    buffer.data = encode(found.offsets, len(graph.tensors))
    model.buffers = [*model.buffers, buffer]
    model.metadata = [*(model.metadata or ()), metadata]
    gap = found.arena_bytes - found.lower_bound_bytes
    reached = "the bytes alive at once, which no plan can beat" if not gap else f"{gap:,} bytes above the lower bound"
    return f"activations in {found.arena_bytes:,} bytes: {reached}"


def activation_blocks(graph: Any, buffers: Sequence[Any]) -> list[Block]:
    """The activations of a SubGraphT with the operators between which TFLite Micro keeps them alive."""
    last_operator = max(0, len(graph.operators or ()) - 1)
    first = {int(t): 0 for t in graph.inputs}
    last = {int(t): 0 for t in graph.inputs} | {int(t): last_operator for t in graph.outputs}
    for step, operator in enumerate(graph.operators or ()):
        for t in operator.outputs if operator.outputs is not None else ():
            first.setdefault(int(t), step)
            last[int(t)] = max(last.get(int(t), 0), step)
        for t in operator.inputs if operator.inputs is not None else ():
            if int(t) in first:
                last[int(t)] = max(last.get(int(t), 0), step)
    blocks = []
    for t in sorted(first):
        tensor = graph.tensors[t]
        data = buffers[tensor.buffer].data
        if data is None or not len(data):
            size = int(np.prod(tensor.shape, dtype=np.int64)) if tensor.shape is not None else 1
            blocks.append(Block(t, aligned(max(size * _item_bytes(tensor.type), ALIGNMENT_BYTES)), first[t], last[t]))
    return blocks


def _item_bytes(kind: int) -> int:
    types = schema().TensorType
    sizes = {
        types.FLOAT32: 4,
        types.INT32: 4,
        types.UINT32: 4,
        types.FLOAT16: 2,
        types.INT16: 2,
        types.UINT16: 2,
        types.INT64: 8,
        types.UINT64: 8,
        types.FLOAT64: 8,
        types.COMPLEX64: 8,
        types.INT8: 1,
        types.UINT8: 1,
        types.BOOL: 1,
    }
    if kind not in sizes:
        raise UsageError(f"a tensor of the schema's type {kind} has no size here, so that no arena is planned")
    return sizes[kind]
