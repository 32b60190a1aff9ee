# SPDX-License-Identifier: Apache-2.0
"""Which operators of an int8 file compute in float, counted alike for every converter's files.

Operators that only move values, and those between integers and floats, compute nothing and are not counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

_NOTHING = (
    *("QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "GATHER", "GATHER_ND"),
    *("CONCATENATION", "PACK", "UNPACK", "SPLIT", "SPLIT_V", "SQUEEZE", "EXPAND_DIMS", "BROADCAST_TO", "TILE", "PAD"),
    *("PADV2", "REVERSE_V2", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SELECT_V2"),
)
_NOTHING_IN_ONNX = (
    *("Cast", "Reshape", "Transpose", "Slice", "Gather", "GatherND", "Concat", "Split", "Squeeze", "Unsqueeze"),
    *("Flatten", "Expand", "Tile", "Pad", "Identity", "SpaceToDepth", "DepthToSpace", "Where"),
)
#: ONNX Runtime's integer kernels whose result is float all the same.
_FROM_INTEGERS = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")


def float_operators_of_tflite(path: Path) -> dict[str, int]:
    """Operators that read or write float activations, by kind.

    Raises:
        UsageError: a damaged file.
    """
    from edgepress.deploy.tflite.reader import read_tflite

    model = read_tflite(path)
    found: Counter[str] = Counter()
    for graph in model.subgraphs:
        floats = {t.index for t in graph.tensors if t.dtype in ("float32", "float16") and not t.constant}
        found.update(
            operator.code
            for operator in graph.operators
            if operator.code not in _NOTHING and floats.intersection((*operator.inputs, *operator.outputs))
        )
    return dict(found)


def float_operators_of_onnx(path: Path) -> dict[str, int]:
    """Operators with float results that are left when ONNX Runtime has melted the integers together, by kind.

    The file says pairs of QuantizeLinear and DequantizeLinear; only the runtime knows which of them become integer
    kernels, so that its own optimised graph is counted.

    Raises:
        Exception: whatever ONNX Runtime says of a file that it cannot load.
    """
    from tempfile import TemporaryDirectory

    import onnx
    import onnxruntime

    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath).graph
    return dict(Counter(_float_nodes(graph)))


def _float_nodes(graph: Any) -> list[str]:
    """Kinds of the nodes that give floats; a type follows from the node, or from what it reads."""
    from onnx import TensorProto

    floating = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    constant = {value.name for value in graph.initializer}
    floats = {value.name for value in graph.initializer if value.data_type in floating}
    floats |= {v.name for v in graph.input if v.type.tensor_type.elem_type in floating}
    found = []
    for node in graph.node:
        kind = node.op_type
        if kind == "DequantizeLinear" or kind in _FROM_INTEGERS:
            floats.add(node.output[0])
        elif kind.startswith("QLinear") or kind in ("QuantizeLinear", "QGemm", "QAttention", "Shape", "ArgMax"):
            continue
        elif kind == "Constant":
            constant.add(node.output[0])
        elif kind == "Cast":
            (to,) = (attribute.i for attribute in node.attribute if attribute.name == "to")
            floats |= set(node.output) if to in floating else set()
        else:
            read = [name for name in node.input if name in floats]
            if read and set(read) <= constant and not set(node.input) <= constant:
                read = read if kind in ("Gather", "Where") else []
            if read:
                floats |= set(node.output)
                found += [kind] if kind not in _NOTHING_IN_ONNX else []
    return found
