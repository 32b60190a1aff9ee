# SPDX-License-Identifier: Apache-2.0
"""Edits of a file's objects that take out what no output depends on; `deploy.verify.shrink` proves that none does."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.deploy.tflite.objects import text
from edgepress.deploy.tflite.writer import KEPT_METADATA


def strip_names(model: Any) -> str:
    """Take the names of graphs and tensors out of a ModelT, in place; says how many."""
    count = 0
    for graph in model.subgraphs:
        graph.name = None
        for tensor in graph.tensors or ():
            count += bool(tensor.name)
            # Empty, not absent: tools that read the name of every tensor, as the counter of DCASE does, fail on none.
            tensor.name = b""
    return f"{count} names; signatures keep theirs" if model.signatureDefs else f"{count} names"


def strip_metadata(model: Any) -> str:
    """Take out what describes the file and does not change how it runs, in place; says what."""
    names = [text(entry.name) for entry in model.metadata or ()]
    kept = [entry for entry in model.metadata or () if text(entry.name) in KEPT_METADATA]
    model.metadata, model.metadataBuffer, model.description = kept or None, None, None
    for graph in model.subgraphs:
        graph.debugMetadataIndex = -1
        for operator in graph.operators or ():
            operator.debugMetadataIndex = -1
    _compact_buffers(model)
    return ", ".join(name for name in names if name not in KEPT_METADATA) or "no metadata, only the description"


def strip_ranges(model: Any) -> str:
    """Take out the minimum and maximum that stand beside scales, in place; says how many."""
    count = 0
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            quantization = tensor.quantization
            if quantization is None:
                continue
            count += quantization.min is not None
            quantization.min = quantization.max = None
            if quantization.scale is None and quantization.details is None:
                tensor.quantization = None  # an empty table says nothing
    return f"{count} ranges: the scales say the same"


def strip_unused(model: Any) -> str:
    """Take buffers, tensors and operator codes that nothing uses out of a ModelT, in place; says how many."""
    fixed = [entry for entry in model.metadata or () if text(entry.name) in KEPT_METADATA]
    removed = 0 if fixed else sum(_compact_tensors(model, index) for index in range(len(model.subgraphs)))
    used = sorted({op.opcodeIndex for graph in model.subgraphs for op in graph.operators or ()})
    codes = len(model.operatorCodes) - len(used)
    new = {old: i for i, old in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[old] for old in used]
    for graph in model.subgraphs:
        for operator in graph.operators or ():
            operator.opcodeIndex = new[operator.opcodeIndex]
    buffers = _compact_buffers(model)
    return f"{buffers} buffers, {removed} tensors, {codes} operator codes"


def _compact_tensors(model: Any, index: int) -> int:
    """Number the tensors of a graph anew without those that nothing uses; how many went."""
    graph = model.subgraphs[index]
    used = {int(t) for values in (graph.inputs, graph.outputs) if values is not None for t in values}
    for operator in graph.operators or ():
        used.update(
            int(t)
            for values in (operator.inputs, operator.outputs, operator.intermediates)
            if values is not None
            for t in values
            if t >= 0
        )
    signatures = [
        entry
        for s in model.signatureDefs or ()
        if s.subgraphIndex == index
        for entry in (*(s.inputs or ()), *(s.outputs or ()))
    ]
    used.update(entry.tensorIndex for entry in signatures)
    order = sorted(used)
    new = {old: i for i, old in enumerate(order)}
    removed = len(graph.tensors) - len(order)
    if not removed:
        return 0

    def renumber(values: Any) -> Any:
        return None if values is None else np.array([new.get(int(t), -1) for t in values], np.int32)

    graph.tensors = [graph.tensors[old] for old in order]
    graph.inputs, graph.outputs = renumber(graph.inputs), renumber(graph.outputs)
    for operator in graph.operators or ():
        operator.inputs, operator.outputs = renumber(operator.inputs), renumber(operator.outputs)
        operator.intermediates = renumber(operator.intermediates)
    for entry in signatures:
        entry.tensorIndex = new[entry.tensorIndex]
    return removed


def _compact_buffers(model: Any) -> int:
    """Number the buffers anew: 0 is the empty one, all empty ones become it, unused ones go, equal ones are shared."""
    new: dict[int, int] = {0: 0}
    buffers, by_content = [model.buffers[0]], {}
    owners = [(tensor, tensor.buffer, tensor.isVariable) for graph in model.subgraphs for tensor in graph.tensors or ()]
    owners += [(entry, entry.buffer, True) for entry in model.metadata or ()]
    for _, old, alone in owners:
        if old in new:
            continue
        data = model.buffers[old].data
        if data is None or not len(data):
            new[old] = 0
            continue
        content = bytes(data)
        if alone or content not in by_content:
            new[old] = len(buffers)
            buffers.append(model.buffers[old])
            if not alone:
                by_content[content] = new[old]
        else:
            new[old] = by_content[content]
    for owner, old, _ in owners:
        owner.buffer = new[old]
    removed = len(model.buffers) - len(buffers)
    model.buffers = buffers
    return removed
