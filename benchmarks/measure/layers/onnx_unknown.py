# SPDX-License-Identifier: Apache-2.0
"""Which nodes of an .onnx file multiply by weights, or may do, in a way that cannot be counted, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

from edgepress.deploy.onnx_files.reader import OnnxFile
from edgepress.models.cost.op_costs import WEIGHTED_KINDS, Op, macs

#: Domains of the standard itself.
_STANDARD = frozenset({"", "ai.onnx"})
#: Domains that ONNX Runtime has kernels for without an extension.
_ONNXRUNTIME_DOMAINS = _STANDARD | {
    "ai.onnx.ml",
    "ai.onnx.training",
    "ai.onnx.preview.training",
    "com.microsoft",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
}
#: Operators with products, of the standard and of ONNX Runtime, by the names that they go by in any domain.
PRODUCTS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "ConvInteger",
        "DeformConv",
        "QLinearConv",
        "Gemm",
        "MatMul",
        "MatMulInteger",
        "QLinearMatMul",
        "Einsum",
        "LSTM",
        "GRU",
        "RNN",
        "Attention",
        "DFT",
        "STFT",
    }
)
#: Operators outside of the standard that multiply nothing by weights: integer forms of element-wise operators, tables.
_WITHOUT_PRODUCTS = frozenset(
    {
        "QLinearAdd",
        "QLinearMul",
        "QLinearConcat",
        "QLinearSigmoid",
        "QLinearLeakyRelu",
        "QLinearSoftmax",
        "QLinearAveragePool",
        "QLinearGlobalAveragePool",
        "QLinearReduceMean",
        "QLinearWhere",
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Gelu",
        "FastGelu",
        "BiasGelu",
        "QuickGelu",
        "LayerNormalization",
        "SkipLayerNormalization",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "GroupNorm",
        "BiasAdd",
        "BiasSplitGelu",
        "Pad",
        "Inverse",
        "Trilu",
        "Unique",
        "ExpandDims",
        "Crop",
        "Range",
        "ArrayFeatureExtractor",
        "Binarizer",
        "CastMap",
        "CategoryMapper",
        "DictVectorizer",
        "FeatureVectorizer",
        "Imputer",
        "LabelEncoder",
        "Normalizer",
        "OneHotEncoder",
        "Scaler",
        "ZipMap",
    }
)
#: Standard operators with products that the rules have no formula for.
_WITHOUT_FORMULA = frozenset({"DeformConv", "DFT", "STFT"})


def why_unknown(node: Any, op: Op, file: OnnxFile) -> str:
    """Why the MACs of a node cannot be counted; "" where they can, or where there are none."""
    kind = node.op_type
    local = {(function.domain, function.name): function for function in file.model.functions}
    if (node.domain, kind) in local:
        inner = local[node.domain, kind].node
        return "it is a function of the file with products of its own" if _has_products(inner) else ""
    bodies = _bodies(node)
    if bodies:
        inner = (n for body in bodies for n in body.node)
        return "it runs a graph of its own, as often as the data say" if _has_products(inner) else ""
    counted = op.kind in WEIGHTED_KINDS or op.kind == "attention"
    if node.domain not in _STANDARD and not (counted and macs(op, "core")):
        return "" if kind in _WITHOUT_PRODUCTS else f"no operator of the ONNX standard ({node.domain})"
    if kind in _WITHOUT_FORMULA:
        return "no rule has a formula for it"
    if not (counted or kind in PRODUCTS):
        return ""
    if any(name in file.open_tensors for name in (*node.input, *node.output) if name):
        if file.open_inputs:
            return "the file leaves its sizes open: give " + " ".join(
                f"--shape {name}={','.join(sizes)}" for name, sizes in file.open_inputs.items()
            )
        return "its sizes follow from the data: fold the constants of the file first (onnxsim)"
    return "" if counted and macs(op, "core") else "its sizes are not known"


def _has_products(nodes: Iterable[Any]) -> bool:
    return any(
        node.op_type in PRODUCTS
        or (node.domain not in _STANDARD and node.op_type not in _WITHOUT_PRODUCTS)
        or any(_has_products(a.g.node) for a in node.attribute if a.HasField("g"))
        for node in nodes
    )


def refused_by_runtimes(file: OnnxFile) -> dict[str, dict[str, str]]:
    """Runtime -> what of the file it does not run -> why."""
    local = {(function.domain, function.name) for function in file.model.functions}
    foreign = {
        f"{node.domain}:{node.op_type}": "ONNX Runtime runs it only where the application registers its library"
        for node in file.model.graph.node
        if node.domain not in _ONNXRUNTIME_DOMAINS and (node.domain, node.op_type) not in local
    }
    lacks = {"the format .onnx": "{} runs .tflite files: deploy export --format tflite makes one from the checkpoint"}
    named = {"tflm": "TFLite Micro", "litert": "LiteRT", "litert-reference": "LiteRT"}
    found = {runtime: {what: why.format(name) for what, why in lacks.items()} for runtime, name in named.items()}
    return {**found, "onnxruntime": foreign}


def hidden_weights(file: OnnxFile) -> tuple[int, int]:
    """(parameters, bytes) of the graphs that nodes run and of the file's functions, constants of sizes left out."""
    graph = file.model.graph
    tensors = [t for node in graph.node for body in _bodies(node) for t in _constants(body.node, body.initializer)]
    tensors += [t for function in file.model.functions for t in _constants(function.node, ())]
    sizes = [(prod(t.dims), _WEIGHT_BYTES[t.data_type]) for t in tensors if t.data_type in _WEIGHT_BYTES]
    return sum(count for count, _ in sizes), sum(count * width for count, width in sizes)


#: ONNX's number of an element type that weights have -> bytes: float, int8 and uint8, int16, float16, double, bfloat16.
_WEIGHT_BYTES = {1: 4, 2: 1, 3: 1, 5: 2, 10: 2, 11: 8, 16: 2}


def _bodies(node: Any) -> list[Any]:
    return [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else a.graphs)]


def _constants(nodes: Iterable[Any], initializers: Iterable[Any]) -> Iterator[Any]:
    yield from initializers
    for node in nodes:
        if node.op_type == "Constant":
            yield from (a.t for a in node.attribute if a.HasField("t"))
        for body in _bodies(node):
            yield from _constants(body.node, body.initializer)
