# SPDX-License-Identifier: Apache-2.0
"""What is changed in a float ONNX model before integers go in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def tidy(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes about its own run: source lines and traces, paths of this machine among them."""
    del model.metadata_props[:]
    model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for entries in (model.graph.input, model.graph.output, model.graph.value_info, model.graph.initializer):
        for entry in entries:
            entry.doc_string = ""
            del entry.metadata_props[:]
    model.producer_name = "edgepress"


def give_constants(model: onnx.ModelProto) -> None:
    """Let an output that is a constant, such as the anchors of a detector, leave by an operator, as ONNX asks."""
    from onnx import helper

    made = {name for node in model.graph.node for name in node.output}
    for output in model.graph.output:
        for entry in model.graph.initializer:
            if entry.name == output.name and entry.name not in made:
                entry.name = f"{output.name}_constant"
                for node in model.graph.node:
                    node.input[:] = [entry.name if name == output.name else name for name in node.input]
                model.graph.node.append(helper.make_node("Identity", [entry.name], [output.name], entry.name))


def pool_globally(model: onnx.ModelProto) -> None:
    """ReduceMean over height and width as GlobalAveragePool, for which ONNX Runtime has an integer kernel."""
    from onnx import helper, numpy_helper, shape_inference

    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    inferred = shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    nodes = []
    for node in model.graph.node:
        axes = constants.get(node.input[1]) if node.op_type == "ReduceMean" and len(node.input) > 1 else None
        if axes is not None and ranks.get(node.input[0]) == 4 and sorted(a % 4 for a in axes.tolist()) == [2, 3]:
            keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
            pooled = node.output[0] if keep else f"{node.output[0]}_pooled"
            nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], node.name))
            if not keep:
                nodes.append(helper.make_node("Squeeze", [pooled, node.input[1]], [node.output[0]]))
        else:
            nodes.append(node)
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
