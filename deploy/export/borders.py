# SPDX-License-Identifier: Apache-2.0
"""Names of inputs and outputs in files: those of the network's forward and of what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def named_tflite(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """A TFLite file whose one signature names its inputs and outputs, in their order."""
    from edgepress.deploy.tflite.objects import read_objects
    from edgepress.deploy.tflite.writer import pack, schema

    model = read_objects(data)
    graph = model.subgraphs[0]
    signature = (model.signatureDefs or [schema().SignatureDefT()])[0]
    signature.signatureKey, signature.subgraphIndex = signature.signatureKey or b"serving_default", 0
    signature.inputs = _entries(inputs, graph.inputs)
    signature.outputs = _entries(outputs, graph.outputs)
    model.signatureDefs = [signature]
    return pack(model)


def _entries(names: Sequence[str], indices: Any) -> list[Any]:
    from edgepress.deploy.tflite.writer import schema

    entries = []
    for name, index in zip(names, indices, strict=True):
        entry = schema().TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), int(index)
        entries.append(entry)
    return entries


def named_onnx(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """An ONNX file with these names of its inputs and outputs, in their order."""
    import onnx

    model = onnx.load_model_from_string(data)
    graph = model.graph
    wanted = dict(zip((value.name for value in graph.input), inputs, strict=True))
    wanted.update(zip((value.name for value in graph.output), outputs, strict=True))
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {e.name for e in graph.initializer}
    moved = {name: f"{name}_inside" for name in wanted.values() if name in taken and name not in wanted}
    renamed = {**moved, **wanted}

    def rename(names: Any) -> None:
        new = [renamed.get(name, name) for name in names]
        del names[:]
        names.extend(new)

    for node in graph.node:
        rename(node.input)
        rename(node.output)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)
    return model.SerializeToString()
