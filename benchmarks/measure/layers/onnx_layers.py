# SPDX-License-Identifier: Apache-2.0
"""The operators of an .onnx file as layers with costs: float files, and int8 ones with QuantizeLinear in them."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod
from typing import Any

from edgepress.benchmarks.measure.layers.file_layers import FileContent, FileLayer, FileTensor, Shape
from edgepress.benchmarks.measure.layers.onnx_ops import MOVING, PASSING, op_of
from edgepress.benchmarks.measure.layers.onnx_unknown import hidden_weights, refused_by_runtimes, why_unknown
from edgepress.deploy.onnx_files.reader import OnnxFile
from edgepress.models.cost.op_costs import Op

_FUSED_ACTIVATIONS = frozenset({"Relu", "Clip"})
_PRODUCTS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "QLinearConv", "ConvInteger", "MatMulInteger"}
)
#: Inputs that hold parameters, for operators which also read constants that are none.
_PARAMETER_PLACES = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "ConvInteger": (1,),
    "QLinearConv": (3, 8),
    "BatchNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "QLinearMatMul": (0, 3),
    "MatMulInteger": (0, 1),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "Gather": (0,),
    "Clip": (),
    "Pad": (),
    "Resize": (),
    "Slice": (),
    "Pow": (),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), ()),
}
#: Integer types other than int8/uint8/int16, by ONNX's number: sizes, axes and indices unless quantized biases.
_INDEX_TYPES = frozenset({6, 7, 12, 13, 9, 8})


def onnx_content(file: OnnxFile) -> FileContent:
    """Layers of the main graph, batch normalisation folded into the convolution before it."""
    reader = _Reader(file)
    layers = reader.layers()
    graph = file.model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    remarks = [
        f"{node.op_type} ({reader.title(node)}) has a graph of its own, which is not counted"
        for node in graph.node
        if any(a.HasField("g") for a in node.attribute)
    ]
    local = {(function.domain, function.name) for function in file.model.functions}
    remarks += [
        f"{node.op_type} ({reader.title(node)}) is a function of the file, which is not counted"
        for node in graph.node
        if (node.domain, node.op_type) in local
    ]
    remarks += [f"batch normalisation {title} is not folded: {reason}" for title, reason in reader.unfolded]
    hidden_params, hidden_bytes = hidden_weights(file)
    return FileContent(
        "onnx",
        tuple(layers),
        tuple(reader.border(value) for value in graph.input if value.name not in initializers),
        tuple(reader.border(value) for value in graph.output),
        reader.activation_bytes,
        sum(reader.bytes_of(name) for name in reader.constants),
        tuple(remarks),
        f"sizes that the file leaves open are counted as one: {', '.join(file.dynamic)}" if file.dynamic else "",
        unfolded=any(node.op_type == "BatchNormalization" for node in graph.node),
        unknown=reader.unknown,
        hidden_params=hidden_params,
        hidden_weight_bytes=hidden_bytes,
        refused=refused_by_runtimes(file),
        open_sizes=" ".join(f"--shape {name}={','.join(sizes)}" for name, sizes in file.open_inputs.items()),
    )


class _Reader:
    """Turns nodes into layers; remembers what is constant, what renames what, and what has been counted."""

    def __init__(self, file: OnnxFile):
        self.file, self.shapes, self.element_bytes = file, file.shapes, file.element_bytes
        self.unknown: dict[int, str] = {}  # index of a layer -> why it cannot be counted
        graph = file.model.graph
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.constants: dict[str, int] = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.output:
                self.constants[node.output[0]] = next((a.t.data_type for a in node.attribute if a.name == "value"), 7)
        self.users: dict[str, list[int]] = {}
        self.writer: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self.users.setdefault(name, []).append(index)
            for name in node.output:
                self.writer[name] = index
        self.returned = {value.name for value in graph.output}
        self.origin = {name: name for name in self.constants}
        self.holder: dict[str, str] = {}  # activation -> the tensor that it is held in
        self.activation_bytes: dict[str, int] = {
            value.name: self.bytes_of(value.name) for value in graph.input if value.name not in self.constants
        }
        self.counted: set[tuple[str, str]] = set()
        self.unfolded: list[tuple[str, str]] = []
        self.bias_for: dict[int, int] = {}  # dense node -> bias elements that a following Add brings

    def title(self, node: Any) -> str:
        return node.name or (node.output[0] if node.output else node.op_type)

    def border(self, value: Any) -> FileTensor:
        name = self.held(value.name)
        return FileTensor(
            name,
            self.shape(value.name),
            {1: "float32", 3: "int8", 2: "uint8", 7: "int64", 10: "float16"}.get(
                value.type.tensor_type.elem_type, "other"
            ),
        )

    def shape(self, name: str) -> Shape:
        return self.shapes.get(name, ())

    def bytes_of(self, name: str) -> int:
        return ceil(prod(self.shape(name)) * self.element_bytes.get(name, 0)) if name in self.shapes else 0

    def held(self, name: str) -> str:
        while name in self.holder:
            name = self.holder[name]
        return name

    def layers(self) -> list[FileLayer]:
        folded = self._folds()
        found = []
        for index, node in enumerate(self.nodes):
            data = node.input[0] if node.input else ""
            if node.op_type in PASSING and data in self.origin:
                self.origin.update(dict.fromkeys(node.output, self.origin[data]))
                continue
            if index in folded or self._renames(index, node):
                data = next((name for name in node.input if name not in self.origin), data)
                # Of the tensors that share a place the smallest counts: int8 between QuantizeLinear and Dequantize.
                place = self.held(data)
                for name in node.output[:1]:
                    self.holder[name] = place
                    if node.op_type == "QuantizeLinear":
                        before = self.activation_bytes.get(place, 1 << 60)
                        self.activation_bytes[place] = min(before, self.bytes_of(name))
                if node.op_type in PASSING and node.op_type not in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
                    continue
                if self._is_limit(node):
                    continue
            layer = self._layer(index, node, folded)
            if index not in folded and (why := why_unknown(node, layer.op, self.file)):
                self.unknown[len(found)] = why
            found.append(layer)
        return found

    def _renames(self, index: int, node: Any) -> bool:
        data = node.input[0] if node.input else ""
        if self._is_limit(node) or (node.op_type in PASSING and node.op_type not in ("Transpose", "Cast")):
            return True
        if node.op_type in _FUSED_ACTIVATIONS and data in self.writer and self._only_reader(data, index):
            writer = self.nodes[self.writer[data]]
            return writer.op_type in _PRODUCTS or writer.op_type == "BatchNormalization"
        return False

    def _is_limit(self, node: Any) -> bool:
        """Whether a Clip is the saturation of a QuantizeLinear to 16 bits (`deploy.onnx_files.limits`)."""
        readers = [self.nodes[at] for at in self.users.get(node.output[0], ())] if node.op_type == "Clip" else []
        return [(r.op_type, self.element_bytes.get(r.output[0])) for r in readers] == [("QuantizeLinear", 2)]

    def _only_reader(self, name: str, index: int) -> bool:
        return self.users.get(name) == [index] and name not in self.returned

    def _folds(self) -> dict[int, int]:
        """Batch normalisations, and Adds of a bias, that belong to the product before them: node -> product."""
        folds: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            if not node.input:
                continue
            if node.op_type == "BatchNormalization":
                producer = self.writer.get(node.input[0])
                if producer is None or self.nodes[producer].op_type not in ("Conv", "ConvTranspose", "Gemm"):
                    self.unfolded.append((self.title(node), "no convolution or dense layer is before it"))
                elif not self._only_reader(node.input[0], index):
                    self.unfolded.append((self.title(node), "something else reads the same output too"))
                else:
                    folds[index] = producer
            elif node.op_type == "Add" and len(node.input) == 2:
                for data, bias in (node.input, reversed(node.input)):
                    producer = self.writer.get(data)
                    width = self.shape(data)[-1:]
                    if (
                        bias in self.constants
                        and producer is not None
                        and self.shape(bias) == width
                        and self.nodes[producer].op_type == "MatMul"
                        and self._only_reader(data, index)
                    ):
                        folds[index] = producer
                        self.bias_for[producer] = width[0]
        return folds

    def _layer(self, index: int, node: Any, folded: dict[int, int]) -> FileLayer:
        params = weight_bytes = 0
        names = self._parameters(index, node, folded)
        # Exporters store equal biases (zeros) of several layers once; a layer called twice shares its weight too.
        weight = max(names, key=lambda name: len(self.shape(name)), default="")
        for name in names:
            key = (name, weight if len(self.shape(name)) < 2 else "")
            if key not in self.counted:
                self.counted.add(key)
                params += prod(self.shape(name))
                weight_bytes += self.bytes_of(name)
        op = Op("move") if index in folded else op_of(node, self.shape, self.origin, self.bias_for.get(index, 0))
        norm = next(
            (
                norm
                for norm, producer in folded.items()
                if producer == index and self.nodes[norm].op_type == "BatchNormalization"
            ),
            None,
        )
        if norm is not None:
            channels = prod(self.shape(self.nodes[norm].input[1]))
            if not op.bias:  # folding makes one
                params, weight_bytes = params + channels, weight_bytes + self.bytes_of(self.nodes[norm].input[2])
            seen = (op.seen_parameters or 0) * op.seen_positions + 2 * channels
            op = replace(
                op,
                bias=channels,
                bias_positions=op.positions
                if op.kind != "transposed_conv"
                else op.output_elements // channels
                if channels
                else 0,
                seen_parameters=seen,
                seen_positions=1,
            )
        reads = tuple(dict.fromkeys(self.held(name) for name in node.input if name and name not in self.origin))
        writes = tuple(dict.fromkeys(self.held(name) for name in node.output if name))
        for name in writes:
            self.activation_bytes.setdefault(name, self.bytes_of(name))
        active = [name for name in node.input if name and name not in self.origin]
        return FileLayer(
            self.title(node),
            node.op_type,
            op,
            params,
            weight_bytes,
            self.shape(active[0]) if active else (),
            self.shape(node.output[0]) if node.output else (),
            reads,
            writes,
            sum(self.activation_bytes[name] for name in writes if name not in reads),
        )

    def _parameters(self, index: int, node: Any, folded: dict[int, int]) -> list[str]:
        if index in folded and node.op_type == "BatchNormalization":
            return []
        places = _PARAMETER_PLACES.get(node.op_type)
        found = []
        for place, name in enumerate(node.input):
            origin = self.origin.get(name)
            if origin is None or (places is not None and place not in places):
                continue
            if places is None and (
                node.op_type in MOVING or (self.constants[origin] in _INDEX_TYPES and not self._dequantized(name))
            ):
                continue
            found.append(origin)
        return found

    def _dequantized(self, name: str) -> bool:
        writer = self.writer.get(name)
        return writer is not None and self.nodes[writer].op_type == "DequantizeLinear"
