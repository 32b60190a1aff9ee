# SPDX-License-Identifier: Apache-2.0
"""The operators of a .tflite file as layers with costs."""

from __future__ import annotations

from math import prod

import numpy as np

from edgepress.benchmarks.measure.layers.file_layers import NAMELESS, FileContent, FileLayer, FileTensor
from edgepress.deploy.tflite.reader import Operator, Subgraph, Tensor, TFLiteModel
from edgepress.deploy.verify.operators import NPU_OPERATOR, RUNTIMES, support
from edgepress.models.cost.op_costs import WEIGHTED_KINDS, Op, macs

#: Operators that move or name data; constants that they read are sizes and axes, never parameters.
_MOVING = frozenset(
    {
        "RESHAPE",
        "TRANSPOSE",
        "PAD",
        "PADV2",
        "MIRROR_PAD",
        "CONCATENATION",
        "SPLIT",
        "SPLIT_V",
        "SLICE",
        "STRIDED_SLICE",
        "SQUEEZE",
        "EXPAND_DIMS",
        "PACK",
        "UNPACK",
        "GATHER",
        "GATHER_ND",
        "TILE",
        "BROADCAST_TO",
        "SHAPE",
        "RANK",
        "FILL",
        "CAST",
        "SPACE_TO_DEPTH",
        "DEPTH_TO_SPACE",
        "SPACE_TO_BATCH_ND",
        "BATCH_TO_SPACE_ND",
        "REVERSE_V2",
        "RESIZE_NEAREST_NEIGHBOR",
        "ARG_MAX",
        "ARG_MIN",
        "ZEROS_LIKE",
        "SELECT",
        "SELECT_V2",
        "WHERE",
        "EMBEDDING_LOOKUP",
        "RANGE",
        "DYNAMIC_UPDATE_SLICE",
        "BROADCAST_ARGS",
        "READ_VARIABLE",
        "ASSIGN_VARIABLE",
        "VAR_HANDLE",
        "CALL_ONCE",
        "SCATTER_ND",
        "ONE_HOT",
        "UNIQUE",
        "REVERSE_SEQUENCE",
        "MATRIX_DIAG",
        "MATRIX_SET_DIAG",
        "BITCAST",
    }
)
_RECURRENT = frozenset(
    {
        "LSTM",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "RNN",
        "SVDF",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
        "BIDIRECTIONAL_SEQUENCE_RNN",
    }
)
_ACTIVATIONS = frozenset(
    {
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "RELU_0_TO_1",
        "LEAKY_RELU",
        "PRELU",
        "ELU",
        "GELU",
        "HARD_SWISH",
        "LOGISTIC",
        "TANH",
    }
)
#: Custom operators of TFLite Micro and LiteRT that move or compare and multiply nothing by weights.
_CUSTOM_WITHOUT_PRODUCTS = frozenset(
    {
        "CIRCULAR_BUFFER",
        "SignalDelay",
        "SignalFramer",
        "SignalStacker",
        "TFLite_Detection_PostProcess",
    }
)
#: Built-in operators with weights, or with products of activations, that no rule counts.
_OTHER_PRODUCTS = frozenset({"STABLEHLO_CONVOLUTION", "STABLEHLO_DOT_GENERAL", "RFFT2D", "CONCAT_EMBEDDINGS"})
_CONTROL_FLOW = frozenset({"IF", "WHILE", "CALL_ONCE", "STABLEHLO_COMPOSITE", "CALL"})
#: Operator -> (input that holds the weights, input that holds the bias).
_WEIGHT_INPUTS = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2),
    "CONV_3D": (1, 2),
    "TRANSPOSE_CONV": (1, 3),
    "CONV_3D_TRANSPOSE": (1, 3),
}
#: Operators which pass a constant on to the operator that uses it, e.g. float16 weights through DEQUANTIZE.
_PASSING = frozenset({"DEQUANTIZE", "QUANTIZE", "RESHAPE", "TRANSPOSE", "CAST", "DENSIFY"})
#: Element types of sizes, axes and indices; such a constant is a parameter only as a bias.
_INDEX_TYPES = frozenset({"int32", "int64", "uint32", "uint64", "bool", "string", "resource", "variant"})


def tflite_content(model: TFLiteModel) -> FileContent:
    """Layers of the first subgraph, which is the one that an interpreter invokes."""
    graph = model.subgraphs[0]
    reader = _Reader(graph)
    layers = tuple(reader.layer(operator) for operator in graph.operators)
    unknown = {
        index: why
        for index, (operator, layer) in enumerate(zip(graph.operators, layers, strict=True))
        if (why := _why_unknown(graph, operator, layer))
    }
    # Weights of other graphs are in the file too; a buffer that several graphs read counts once.
    hidden = [layer for other in model.subgraphs[1:] for layer in _layers_of(other, reader.counted)]
    used = {tensor.buffer: tensor for subgraph in model.subgraphs for tensor in subgraph.tensors if tensor.constant}
    remarks = [f"{len(model.subgraphs) - 1} further subgraph(s) are not counted"] if len(model.subgraphs) > 1 else []
    remarks += [
        f"{operator.code} ({_title(graph, operator)}) runs another subgraph, which is not counted"
        for operator in graph.operators
        if operator.code in _CONTROL_FLOW
    ]
    remarks += [
        f"CUSTOM operator {operator.custom_code!r} is not counted"
        for operator in graph.operators
        if operator.code == "CUSTOM"
    ]
    variables = [tensor for tensor in graph.tensors if tensor.variable]
    if variables:
        remarks.append(
            f"{len(variables)} variable tensor(s), {sum(t.size_bytes for t in variables)} bytes, are kept "
            "between inferences and are not part of the live tensors"
        )
    dynamic = [tensor for tensor in graph.tensors if -1 in tensor.shape_signature]
    return FileContent(
        "tflite",
        layers,
        tuple(_tensor(tensor) for tensor in model.inputs),
        tuple(_tensor(tensor) for tensor in model.outputs),
        {_key(tensor): tensor.size_bytes for tensor in graph.tensors if not tensor.constant and not tensor.variable},
        sum(len(tensor.data or b"") for tensor in used.values()),
        tuple(remarks),
        f"{len(dynamic)} tensors have a size that the file leaves open (mostly the batch): counted with the stored "
        f"one, e.g. {list(dynamic[0].shape)} for {list(dynamic[0].shape_signature)}"
        if dynamic
        else "",
        facts={
            "metadata_bytes": sum(len(model.buffers[index]) for index in set(model.metadata.values())),
            "name_bytes": sum(len(t.name.encode()) for s in model.subgraphs for t in s.tensors),
            "signatures": [signature.key for signature in model.signatures],
        },
        open_sizes=_open_sizes(graph),
        unknown=unknown,
        nessi_memory_bytes=_nessi_memory_bytes(graph),
        hidden_params=sum(layer.params for layer in hidden),
        hidden_weight_bytes=sum(layer.weight_bytes for layer in hidden),
        refused=_refused(model),
    )


def _layers_of(graph: Subgraph, counted: set[tuple[int, int | None]]) -> list[FileLayer]:
    reader = _Reader(graph)
    reader.counted = counted
    return [reader.layer(operator) for operator in graph.operators]


def _why_unknown(graph: Subgraph, operator: Operator, layer: FileLayer) -> str:
    """Why the MACs of an operator cannot be counted; "" where they can, or where there are none."""
    if operator.code == "CUSTOM":
        if f"CUSTOM {operator.custom_code}" == NPU_OPERATOR:
            return "Vela compiled the network into one command stream: profile the file that Vela was given"
        return "" if operator.custom_code in _CUSTOM_WITHOUT_PRODUCTS else "no rule has a formula for a custom operator"
    if operator.code in _CONTROL_FLOW - {"CALL_ONCE"}:
        return "it runs another graph of the file, as often as the data say"
    if operator.code in _OTHER_PRODUCTS:
        return "its products are not counted here"
    if layer.op.kind not in WEIGHTED_KINDS and layer.op.kind != "attention":
        return ""
    tensors = [graph.tensors[index] for index in (*operator.inputs[:1], *operator.outputs) if index >= 0]
    if any(-1 in tensor.shape_signature[1:] for tensor in (*tensors, *_open_inputs(graph))):
        return f"the file leaves its sizes open: give {_open_sizes(graph) or 'another file, no input says them'}"
    return "" if macs(layer.op, "core") else "its sizes are not known"


def _open_inputs(graph: Subgraph) -> list[Tensor]:
    """Inputs of which more than the batch is left open."""
    return [graph.tensors[i] for i in graph.inputs if -1 in graph.tensors[i].shape_signature[1:]]


def _open_sizes(graph: Subgraph) -> str:
    return " ".join(
        f"--shape {tensor.name}={','.join('?' if size < 0 else str(size) for size in tensor.shape_signature)}"
        for tensor in _open_inputs(graph)
    )


def _nessi_memory_bytes(graph: Subgraph) -> int:
    """NeSsi's figure: what no operator writes and nobody gives, once for each operator that reads it."""
    written = {index for operator in graph.operators for index in operator.outputs} | set(graph.inputs)
    return sum(
        graph.tensors[index].size_bytes
        for operator in graph.operators
        for index in operator.inputs
        if index >= 0 and index not in written
    )


def _refused(model: TFLiteModel) -> dict[str, dict[str, str]]:
    found = {
        runtime: {row.operator: row.reason for row in support(model, runtime) if not row.supported}
        for runtime in RUNTIMES
    }
    return {**found, "onnxruntime": {"the format .tflite": "ONNX Runtime runs .onnx files: export the network to one"}}


def _key(tensor: Tensor) -> str:
    # Names may repeat or be empty; the index makes them one's own.
    return f"{tensor.index}:{tensor.name}"


def _tensor(tensor: Tensor) -> FileTensor:
    quantization = tensor.quantization
    single = quantization is not None and quantization.scale.size == 1
    return FileTensor(
        _key(tensor),
        tensor.shape,
        tensor.dtype,
        float(quantization.scale[0])
        if quantization is not None and single and np.isfinite(quantization.scale[0])
        else None,
        int(quantization.zero_point[0]) if quantization is not None and single else None,
    )


def _title(graph: Subgraph, operator: Operator) -> str:
    """The name of the first output; "tensor 7" where the file has none (shrunk files lack them)."""
    if not operator.outputs:
        return f"operator {operator.index}"
    return graph.tensors[operator.outputs[0]].name or f"{NAMELESS}{operator.outputs[0]}"


class _Reader:
    """Turns operators into layers; remembers which constants have been counted."""

    def __init__(self, graph: Subgraph):
        self.graph = graph
        self.counted: set[tuple[int, int | None]] = set()
        # Tensor -> the constant that it is a copy of.
        self.origin: dict[int, Tensor] = {t.index: t for t in graph.tensors if t.constant}
        self.passing: set[int] = set()
        for operator in graph.operators:
            if operator.code in _PASSING and operator.inputs and operator.inputs[0] in self.origin:
                self.origin.update(dict.fromkeys(operator.outputs, self.origin[operator.inputs[0]]))
                self.passing.add(operator.index)

    def tensor(self, operator: Operator, place: int) -> Tensor | None:
        index = operator.inputs[place] if place < len(operator.inputs) else -1
        return self.graph.tensors[index] if index >= 0 else None

    def layer(self, operator: Operator) -> FileLayer:
        inputs = [self.graph.tensors[index] for index in operator.inputs if index >= 0]
        outputs = [self.graph.tensors[index] for index in operator.outputs]
        params = weight_bytes = 0
        found = self._parameters(operator)
        # Converters store equal biases (zeros) of several layers once; a layer called twice shares its weight too.
        weight = max(found, key=lambda tensor: len(tensor.shape), default=None)
        for tensor in found:
            key = (tensor.buffer, weight.buffer if weight is not None and len(tensor.shape) < 2 else None)
            if key not in self.counted:
                self.counted.add(key)
                params += tensor.elements
                weight_bytes += len(tensor.data or b"")
        active = [tensor for tensor in inputs if not tensor.constant and not tensor.variable]
        source = next((tensor for tensor in active if tensor.index not in self.origin), None)
        return FileLayer(
            _title(self.graph, operator),
            operator.code if operator.code != "CUSTOM" else operator.custom_code,
            self._op(operator),
            params,
            weight_bytes,
            source.shape if source is not None else (),
            outputs[0].shape if outputs else (),
            tuple(dict.fromkeys(_key(tensor) for tensor in active)),
            tuple(_key(tensor) for tensor in outputs),
            sum(tensor.size_bytes for tensor in outputs),
        )

    def _parameters(self, operator: Operator) -> list[Tensor]:
        """Constants that are weights or biases; sizes and axes are none."""
        if operator.index in self.passing:
            return []  # counted where they are used
        found = []
        places = _WEIGHT_INPUTS.get(operator.code, ())
        for place, index in enumerate(operator.inputs):
            tensor = self.origin.get(index)
            if tensor is None or (operator.code in _MOVING and place > 0):
                continue
            if places and place not in places:
                continue
            if places or operator.code in _RECURRENT or tensor.dtype not in _INDEX_TYPES:
                found.append(tensor)
        return found

    def _op(self, operator: Operator) -> Op:
        code = operator.code
        outputs = [self.graph.tensors[index] for index in operator.outputs]
        written = sum(tensor.elements for tensor in outputs)
        first = self.tensor(operator, 0)
        read = first.elements if first is not None else 0
        if operator.index in self.passing or code in _MOVING:
            return Op("move", output_elements=written)
        if code in _WEIGHT_INPUTS:
            return self._weighted(operator, written)
        if code == "BATCH_MATMUL":
            return self._matrix_product(operator, written)
        if code in _RECURRENT:
            return self._recurrent(operator, written)
        if code in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"):
            window = operator.option("filter_h", 0) * operator.option("filter_w", 0)
            return Op("pool", input_elements=read, output_elements=written, window=window)
        kind = {
            "MEAN": "mean",
            "ADD": "add",
            "MUL": "mul",
            "DIV": "mul",
            "SOFTMAX": "softmax",
            "LOG_SOFTMAX": "softmax",
        }.get(code, "activation" if code in _ACTIVATIONS else "other")
        return Op(kind, input_elements=read, output_elements=written)

    def _weighted(self, operator: Operator, written: int) -> Op:
        code = operator.code
        weight_place, bias_place = _WEIGHT_INPUTS[code]
        weight, bias = self.tensor(operator, weight_place), self.tensor(operator, bias_place)
        weights, biases = weight.elements if weight is not None else 0, bias.elements if bias is not None else 0
        kind = {"DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}.get(code, "conv")
        shape = weight.shape if weight is not None else ()
        if code in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"):
            data = self.tensor(operator, 2)
            channels = data.shape[-1] if data is not None and data.shape else 0
            out = self.graph.tensors[operator.outputs[0]].shape if operator.outputs else ()
            return Op(
                "transposed_conv",
                weights=weights,
                positions=data.elements // channels if data is not None and channels else 0,
                bias=biases,
                bias_positions=written // out[-1] if out and out[-1] else 0,
                output_elements=written,
            )
        # Output channels: the first dimension of CONV_2D and FULLY_CONNECTED, the last of the others.
        channels = (shape[0] if code in ("CONV_2D", "FULLY_CONNECTED") else shape[-1]) if shape else 0
        positions = written // channels if channels else 0
        data = self.tensor(operator, 0)
        return Op(
            kind,
            weights=weights,
            positions=positions,
            bias=biases,
            bias_positions=positions,
            input_width=data.shape[-1] if kind == "dense" and data is not None and data.shape else 0,
            output_elements=written,
        )

    def _matrix_product(self, operator: Operator, written: int) -> Op:
        left, right = self.tensor(operator, 0), self.tensor(operator, 1)
        if left is None or right is None or len(left.shape) < 2:
            return Op("other", output_elements=written)
        inner = left.shape[-2] if operator.option("adj_x", False) else left.shape[-1]
        for constant, weight in ((left.index in self.origin, left), (right.index in self.origin, right)):
            if constant and weight.elements:
                return Op(
                    "dense",
                    weights=weight.elements,
                    positions=written * inner // weight.elements,
                    output_elements=written,
                )
        return Op("attention", products=written * inner, output_elements=written)

    def _recurrent(self, operator: Operator, written: int) -> Op:
        """Matrices times steps, vectors as biases; SVDF and the step-wise cells have one step per call."""
        data = self.tensor(operator, 0)
        shape = data.shape if data is not None else ()
        steps = prod(shape[:-1])
        constants = [self.origin[index] for index in operator.inputs[1:] if index in self.origin]
        weights = sum(tensor.elements for tensor in constants if len(tensor.shape) >= 2)
        biases = sum(tensor.elements for tensor in constants if len(tensor.shape) == 1)
        return Op(
            "recurrent", weights=weights, positions=steps, bias=biases, bias_positions=steps, output_elements=written
        )
