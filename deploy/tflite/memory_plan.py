# SPDX-License-Identifier: Apache-2.0
"""Where each activation lies in TFLite Micro's arena: a better packing than its own greedy one, found before flashing.

TFLite Micro places a tensor at the offset that the metadata `OfflineMemoryAllocation` names (-1: it decides itself).
How one is found is in `edgepress.models.footprint.placement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepress.deploy.tflite.objects import text
from edgepress.deploy.tflite.writer import PLAN_NAME, schema
from edgepress.models.errors import UsageError
from edgepress.models.footprint.placement import ALIGNMENT_BYTES, Block, aligned, search

_VERSION = 1


def encode(offsets: dict[int, int], tensor_count: int) -> np.ndarray:
    """The metadata buffer, uint8: int32 version, subgraph, count, an offset for each tensor (-1: not planned)."""
    values = [_VERSION, 0, tensor_count, *(offsets.get(index, -1) for index in range(tensor_count))]
    return np.frombuffer(np.array(values, "<i4").tobytes(), np.uint8)


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
