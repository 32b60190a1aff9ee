# SPDX-License-Identifier: Apache-2.0
"""Limits before 16-bit pairs: the saturation of QuantizeLinear, written out for runtimes that leave the pair out.

OpenVINO computes what has 16 bits in float32 and drops the pairs (`FQStrippingTransformation` of its low precision
transformations), and with them their limits, for which 1 / sqrt has them in the first place: of a channel that is
nearly 0 it is thousands of times what the integers can say. ONNX Runtime melts a Clip that allows what the pair behind
it allows with that pair, so that it costs nothing there.

The other way round, a Clip whose limits 8-bit integers have anyway is left out: ONNX Runtime takes it into a layer in
float, and the layer's integers are lost. And a layer that is meant to stay in float gets one that changes nothing: ONNX
Runtime takes float weights between two pairs for int8 weights that somebody forgot to round, and rounds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

#: Operators that only move values or choose among them: they have the integers of their inputs, which are within.
_MOVING = {
    *("MaxPool", "AveragePool", "Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Pad", "Slice"),
    *("Split", "Gather", "Resize", "Expand", "DepthToSpace", "SpaceToDepth", "Max", "Min", "ReduceMax", "ReduceMin"),
    "Where",
}
#: Steps by which the ends of integers may lie beyond a limit: 255 steps from -1 to 1 have their zero half a step aside.
_NEAR = 0.51
#: Layers whose float weights ONNX Runtime rounds between pairs (its transformer WeightBiasQuantization).
_ROUNDED = ("Conv", "ConvTranspose", "Gemm")
_WIDE = (np.dtype(np.int16), np.dtype(np.uint16))


def limits_of(scale: np.ndarray, zero_point: np.ndarray) -> tuple[np.float32, np.float32]:
    """The least and the greatest real value of integers with one scale."""
    ends = np.iinfo(zero_point.dtype)
    low, high = (np.float32(end - int(zero_point)) * np.float32(scale) for end in (ends.min, ends.max))
    return low, high


def _parameters(node: Any, constants: dict[str, onnx.TensorProto]) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, zero point) of a quantizing operator, where they are constants and one for the whole tensor."""
    from onnx import numpy_helper

    if len(node.input) < 3 or not all(name in constants for name in node.input[1:3]):
        return None
    scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
    return (scale, zero_point) if scale.size == 1 else None


def unlimited(graph: onnx.GraphProto) -> list[Any]:
    """QuantizeLinear nodes to 16 bits whose saturation is theirs alone: no Clip and no integers before them.

    The network's inputs are left out: who feeds the file knows their integers, and `runtimes` rounds to them before.
    """
    constants = {entry.name: entry for entry in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}

    found = []
    for node in graph.node:
        own = _parameters(node, constants) if node.op_type == "QuantizeLinear" else None
        before = made_by.get(node.input[0]) if own is not None else None
        if own is None or before is None or own[1].dtype not in _WIDE or before.op_type in (*_MOVING, "Clip"):
            continue
        given = _parameters(before, constants) if before.op_type == "DequantizeLinear" else None
        if given is not None:
            (low, high), (least, greatest) = limits_of(*own), limits_of(*given)
            slack = np.float32(own[0]) / 2  # what rounds to the last integer is within
            if least >= low - slack and greatest <= high + slack:
                continue
        found.append(node)
    return found


def write_limits(model: onnx.ModelProto) -> None:
    """Put a Clip before each 16-bit pair that may saturate, in place."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    wanted = {node.output[0]: limits_of(*(constants[name] for name in node.input[1:3])) for node in unlimited(graph)}
    _put_clips(graph, wanted)


def keep_in_float(model: onnx.ModelProto) -> None:
    """Put a Clip that changes nothing between integers and each layer with float weights, in place."""
    graph = model.graph
    constants = {entry.name: entry for entry in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    wanted = {}
    for node in graph.node:
        pair = made_by.get(node.input[0]) if node.op_type in _ROUNDED and node.input[1] in constants else None
        own = _parameters(pair, constants) if pair is not None and pair.op_type == "DequantizeLinear" else None
        if own is not None:
            wanted[node.output[0]] = limits_of(*own)
    _put_clips(graph, wanted)


def _put_clips(graph: onnx.GraphProto, wanted: dict[str, tuple[np.float32, np.float32]]) -> None:
    """Before the first input of the nodes with these outputs."""
    from onnx import helper, numpy_helper

    stored = {entry.name for entry in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.output and node.output[0] in wanted:
            names = []
            for limit in wanted[node.output[0]]:
                names.append(f"limit/{limit:.9g}")
                if names[-1] not in stored:
                    stored.add(names[-1])
                    graph.initializer.append(numpy_helper.from_array(np.asarray(limit), names[-1]))
            within = f"{node.output[0]}_within"
            nodes.append(helper.make_node("Clip", [node.input[0], *names], [within]))
            node.input[0] = within
        nodes.append(node)
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def drop_what_saturates(model: onnx.ModelProto) -> None:
    """Leave out each Clip between a layer and 8-bit integers that saturate at its limits or before them, in place."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {entry.name: entry for entry in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        clip = made_by.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if clip is None or clip.op_type != "Clip" or _readers(graph, clip.output[0]) != 1:
            continue
        before = made_by.get(clip.input[0])
        if before is None or before.op_type == "DequantizeLinear":
            continue
        own = _parameters(node, constants)
        if own is None or own[1].dtype in _WIDE or not all(name in constants for name in clip.input[1:3] if name):
            continue
        scale, zero_point = own
        ends = np.iinfo(zero_point.dtype)
        low, high = (
            float(numpy_helper.to_array(constants[clip.input[i]])) if len(clip.input) > i and clip.input[i] else end
            for i, end in ((1, -np.inf), (2, np.inf))
        )
        least, greatest = (limit / float(scale) + int(zero_point) for limit in (low, high))
        if least <= ends.min + _NEAR and greatest >= ends.max - _NEAR:
            node.input[0] = clip.input[0]
            graph.node.remove(clip)


def _readers(graph: onnx.GraphProto, name: str) -> int:
    return sum(name in node.input for node in graph.node) + sum(value.name == name for value in graph.output)
