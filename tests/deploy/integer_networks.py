"""Random int8 networks, built operator by operator with the objects of the TFLite schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from edgepress.deploy.tflite.writer import pack, schema


class Builder:
    """A file under construction. Tensors are numbers; `shapes` and `quantization` know about them."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        kinds = schema()
        self.kinds, self.model, self.graph = kinds, kinds.ModelT(), kinds.SubGraphT()
        self.model.version, self.model.operatorCodes, self.model.buffers = 3, [], [kinds.BufferT()]
        self.graph.name, self.graph.operators, self.graph.tensors = "main", [], []
        self.shapes: list[tuple[int, ...]] = []
        self.quantization: list[tuple[float, int]] = []
        self.inputs: list[int] = []

    def tensor(
        self,
        shape: Sequence[int],
        scale: Any = None,
        zero: int = 0,
        element: str = "INT8",
        data: Any = None,
        axis: int = 0,
    ) -> int:
        """A tensor; `scale` may hold one value per channel along `axis`."""
        tensor = self.kinds.TensorT()
        tensor.shape, tensor.type = np.array(shape, np.int32), getattr(self.kinds.TensorType, element)
        tensor.name, tensor.buffer = f"t{len(self.shapes)}".encode(), 0
        if scale is not None:
            scales = np.atleast_1d(np.array(scale, np.float32))
            tensor.quantization = self.kinds.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = np.full(scales.size, zero, np.int64)
            tensor.quantization.quantizedDimension = axis
        if data is not None:
            buffer = self.kinds.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        self.shapes.append(tuple(shape))
        first = float(np.atleast_1d(scale)[0]) if scale is not None else 0.0
        self.quantization.append((first, zero))
        return len(self.shapes) - 1

    def random_tensor(self, shape: Sequence[int]) -> int:
        """int8 with a random scale and zero point."""
        return self.tensor(shape, float(np.exp(self.rng.uniform(-5, -2))), int(self.rng.integers(-128, 128)))

    def like(self, shape: Sequence[int], other: int) -> int:
        """int8 on the scale of another tensor."""
        return self.tensor(shape, *self.quantization[other])

    def input(self, shape: Sequence[int]) -> int:
        """An input of the network."""
        self.inputs.append(self.random_tensor(shape))
        return self.inputs[-1]

    def integers(self, values: Any) -> int:
        """A constant of int32."""
        array = np.array(values, np.int32)
        return self.tensor(array.shape, element="INT32", data=array)

    def operator(
        self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **fields: Any
    ) -> None:
        """Append one."""
        value = getattr(self.kinds.BuiltinOperator, name)
        codes = [code.builtinCode for code in self.model.operatorCodes]
        if value not in codes:
            code = self.kinds.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = value, min(value, 127), 1
            self.model.operatorCodes.append(code)
            codes.append(value)
        made = self.kinds.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = (
            codes.index(value),
            np.array(inputs, np.int32),
            np.array(outputs, np.int32),
        )
        if options:
            made.builtinOptions = getattr(self.kinds, f"{options}T")()
            made.builtinOptionsType = getattr(self.kinds.BuiltinOptions, options)
            for field, given in fields.items():
                assert hasattr(made.builtinOptions, field), field
                setattr(made.builtinOptions, field, given)
        self.graph.operators.append(made)

    def finished(self, outputs: Sequence[int]) -> bytes:
        """The file."""
        self.graph.inputs, self.graph.outputs = np.array(self.inputs, np.int32), np.array(outputs, np.int32)
        self.model.subgraphs = [self.graph]
        return pack(self.model)

    # -- operators with random parameters: tensor in, tensor out

    def _activation(self) -> int:
        return int(self.rng.choice([0, 0, 1, 3, 2]))

    def _weights(
        self, shape: Sequence[int], channels: int, axis: int, x: int, per_channel: bool = True
    ) -> tuple[int, int, Any]:
        data = self.rng.integers(-127, 128, shape).astype(np.int8)
        scales = np.exp(self.rng.uniform(-6, -3, channels if per_channel else 1)).astype(np.float32)
        weights = self.tensor(shape, scales, 0, data=data, axis=axis)
        bias_data = self.rng.integers(-3000, 3000, channels).astype(np.int32)
        bias = self.tensor((channels,), scales * np.float32(self.quantization[x][0]), 0, "INT32", bias_data)
        return weights, bias, scales

    def _output(self, shape: Sequence[int], x: int, scales: Any, depth: int) -> int:
        """On a scale that the sums of `depth` products mostly stay on."""
        spread = self.quantization[x][0] * float(np.median(scales)) * 70 * 70 * np.sqrt(depth) / 60
        return self.tensor(shape, float(spread * np.exp(self.rng.uniform(-1, 1))), int(self.rng.integers(-128, 128)))

    def _window(self, height: int, width: int, reach_h: int, reach_w: int) -> tuple[int, int, int, int, int]:
        """(padding, stride, stride, height, width): padding 0 is SAME."""
        fits = reach_h <= height and reach_w <= width
        padding = int(self.rng.integers(0, 2)) if fits else 0
        stride_h, stride_w = (int(v) for v in self.rng.integers(1, 4, 2))
        sizes = [
            -(-n // s) if padding == 0 else -(-(n - r + 1) // s)
            for n, r, s in ((height, reach_h, stride_h), (width, reach_w, stride_w))
        ]
        return padding, stride_h, stride_w, sizes[0], sizes[1]

    def conv(self, x: int, *, kernel: int | None = None, groups: int = 1) -> int:
        """CONV_2D."""
        n, h, w, c = self.shapes[x]
        kernel_h, kernel_w = (kernel, kernel) if kernel else (int(v) for v in self.rng.integers(1, 5, 2))
        dilation = 1 if kernel else int(self.rng.choice([1, 1, 2]))
        out_c = int(self.rng.integers(1, 9)) * groups
        padding, stride_h, stride_w, out_h, out_w = self._window(
            h, w, (kernel_h - 1) * dilation + 1, (kernel_w - 1) * dilation + 1
        )
        if kernel == 1:
            stride_h = stride_w = 1
            out_h, out_w = h, w
        shape = (out_c, kernel_h, kernel_w, c // groups)
        weights, bias, scales = self._weights(shape, out_c, 0, x, bool(self.rng.integers(0, 4)))
        y = self._output((n, out_h, out_w, out_c), x, scales, kernel_h * kernel_w * c // groups)
        self.operator(
            "CONV_2D",
            [x, weights, bias],
            [y],
            "Conv2DOptions",
            padding=padding,
            strideH=stride_h,
            strideW=stride_w,
            dilationHFactor=dilation,
            dilationWFactor=dilation,
            fusedActivationFunction=self._activation(),
        )
        return y

    def depthwise(self, x: int) -> int:
        """DEPTHWISE_CONV_2D."""
        n, h, w, c = self.shapes[x]
        multiplier = int(self.rng.choice([1, 1, 2, 3]))
        kernel_h, kernel_w = (int(v) for v in self.rng.integers(1, 5, 2))
        padding, stride_h, stride_w, out_h, out_w = self._window(h, w, kernel_h, kernel_w)
        out_c = c * multiplier
        weights, bias, scales = self._weights((1, kernel_h, kernel_w, out_c), out_c, 3, x)
        y = self._output((n, out_h, out_w, out_c), x, scales, kernel_h * kernel_w)
        self.operator(
            "DEPTHWISE_CONV_2D",
            [x, weights, bias],
            [y],
            "DepthwiseConv2DOptions",
            padding=padding,
            strideH=stride_h,
            strideW=stride_w,
            depthMultiplier=multiplier,
            fusedActivationFunction=self._activation(),
        )
        return y

    def dense(self, x: int) -> int:
        """FULLY_CONNECTED on the flattened tensor."""
        flat = self.reshape(x, (self.shapes[x][0], prod(self.shapes[x][1:])))
        in_c, out_c = self.shapes[flat][1], int(self.rng.integers(1, 12))
        weights, bias, scales = self._weights((out_c, in_c), out_c, 0, flat, bool(self.rng.integers(0, 2)))
        y = self._output((self.shapes[x][0], out_c), flat, scales, in_c)
        self.operator(
            "FULLY_CONNECTED",
            [flat, weights, bias],
            [y],
            "FullyConnectedOptions",
            fusedActivationFunction=self._activation(),
        )
        return y

    def pool(self, x: int, name: str) -> int:
        """AVERAGE_POOL_2D or MAX_POOL_2D."""
        n, h, w, c = self.shapes[x]
        filter_h, filter_w = (int(v) for v in self.rng.integers(1, 5, 2))
        padding, stride_h, stride_w, out_h, out_w = self._window(h, w, filter_h, filter_w)
        y = self.like((n, out_h, out_w, c), x)
        self.operator(
            name,
            [x],
            [y],
            "Pool2DOptions",
            padding=padding,
            strideH=stride_h,
            strideW=stride_w,
            filterHeight=filter_h,
            filterWidth=filter_w,
            fusedActivationFunction=self._activation(),
        )
        return y

    def mean(self, x: int, axes: Sequence[int] | None = None) -> int:
        """MEAN over random axes."""
        rank = len(self.shapes[x])
        chosen = sorted(axes or self.rng.choice(np.arange(1, rank), self.rng.integers(1, rank), replace=False).tolist())
        keep = bool(self.rng.integers(0, 2))
        shape = [1 if i in chosen else s for i, s in enumerate(self.shapes[x]) if keep or i not in chosen]
        y = self.random_tensor(shape) if self.rng.integers(0, 2) else self.like(shape, x)
        self.operator("MEAN", [x, self.integers(chosen)], [y], "ReducerOptions", keepDims=keep)
        return y

    def binary(self, name: str, a: int, b: int) -> int:
        """ADD, SUB or MUL."""
        shape = np.broadcast_shapes(self.shapes[a], self.shapes[b])
        (scale_a, _), (scale_b, _) = self.quantization[a], self.quantization[b]
        reach = scale_a * scale_b * 60 if name == "MUL" else max(scale_a, scale_b)
        y = self.tensor(shape, float(reach * np.exp(self.rng.uniform(-0.5, 1))), int(self.rng.integers(-128, 128)))
        self.operator(name, [a, b], [y], f"{name.capitalize()}Options", fusedActivationFunction=self._activation())
        return y

    def broadcast_operand(self, x: int) -> int:
        """A constant that is broadcast over some dimensions of x."""
        shape = [s if self.rng.integers(0, 2) else 1 for s in self.shapes[x]]
        data = self.rng.integers(-128, 128, shape).astype(np.int8)
        return self.tensor(shape, float(np.exp(self.rng.uniform(-5, -2))), int(self.rng.integers(-128, 128)), data=data)

    def unary(self, name: str, x: int) -> int:
        """Operators of one int8."""
        shape = self.shapes[x]
        if name == "SOFTMAX":
            y = self.tensor(shape, 1 / 256, -128)
            self.operator(name, [x], [y], "SoftmaxOptions", beta=float(self.rng.choice([1.0, 0.5])))
        elif name == "LOGISTIC":
            y = self.tensor(shape, 1 / 256, -128)
            self.operator(name, [x], [y])
        elif name == "TANH":
            y = self.tensor(shape, 1 / 128, 0)
            self.operator(name, [x], [y])
        elif name == "RELU6":
            y = self.like(shape, x)
            self.operator(name, [x], [y])
        elif name == "LEAKY_RELU":
            y = self.tensor(
                shape,
                self.quantization[x][0] * float(np.exp(self.rng.uniform(-0.3, 0.5))),
                int(self.rng.integers(-128, 128)),
            )
            self.operator(name, [x], [y], "LeakyReluOptions", alpha=float(self.rng.uniform(0.01, 0.5)))
        else:
            scale = self.quantization[x][0] * float(np.exp(self.rng.uniform(-0.3, 0.5)))
            y = self.tensor(shape, scale, int(self.rng.integers(-128, 128)))
            self.operator(name, [x], [y])
        return y

    def reshape(self, x: int, shape: Sequence[int]) -> int:
        """RESHAPE."""
        y = self.like(shape, x)
        self.operator("RESHAPE", [x, self.integers(list(shape))], [y], "ReshapeOptions", newShape=list(shape))
        return y

    def pad(self, x: int) -> int:
        """PAD by up to 2 at each side of height and width."""
        pairs = [[0, 0], *self.rng.integers(0, 3, (2, 2)).tolist(), [0, 0]]
        y = self.like([s + a + b for s, (a, b) in zip(self.shapes[x], pairs, strict=True)], x)
        self.operator("PAD", [x, self.integers(pairs)], [y], "PadOptions")
        return y

    def concatenation(self, x: int, axis: int) -> int:
        """A tensor beside itself."""
        shape = [2 * s if i == axis % 4 else s for i, s in enumerate(self.shapes[x])]
        y = self.like(shape, x)
        self.operator("CONCATENATION", [x, x], [y], "ConcatenationOptions", axis=axis)
        return y

    def split(self, x: int, axis: int) -> int:
        """The last of two halves, added to the first, where the size is even; else x itself."""
        shape = list(self.shapes[x])
        if shape[axis] % 2:
            return x
        shape[axis] //= 2
        halves = [self.like(shape, x), self.like(shape, x)]
        self.operator("SPLIT", [self.integers([axis]), x], halves, "SplitOptions", numSplits=2)
        return self.binary("ADD", *halves)

    def strided_slice(self, x: int) -> int:
        """A slice with steps, forwards and backwards."""
        _, h, w, c = self.shapes[x]
        y = self.like((1, -(-h // 2), w, c), x)
        backwards = bool(self.rng.integers(0, 2))
        begin, end, stride = (
            ([0, -1, 0, 0], [1, -h - 1, w, c], [1, -2, 1, 1])
            if backwards
            else ([0, 0, 0, 0], [1, h, 0, c], [1, 2, 1, 1])
        )
        self.operator(
            "STRIDED_SLICE",
            [x, self.integers(begin), self.integers(end), self.integers(stride)],
            [y],
            "StridedSliceOptions",
            endMask=4 if not backwards else 2,
        )
        return y

    def transpose(self, x: int) -> int:
        """Height, width and channels in another order."""
        order = [0, *self.rng.permutation([1, 2, 3]).tolist()]
        y = self.like([self.shapes[x][i] for i in order], x)
        self.operator("TRANSPOSE", [x, self.integers(order)], [y], "TransposeOptions")
        return y

    def resize(self, x: int) -> int:
        """RESIZE_NEAREST_NEIGHBOR to a random size."""
        n, _, _, c = self.shapes[x]
        height, width = (int(v) for v in self.rng.integers(1, 12, 2))
        y = self.like((n, height, width, c), x)
        corners, centers = [(False, False), (True, False), (False, True)][int(self.rng.integers(0, 3))]
        self.operator(
            "RESIZE_NEAREST_NEIGHBOR",
            [x, self.integers([height, width])],
            [y],
            "ResizeNearestNeighborOptions",
            alignCorners=corners,
            halfPixelCenters=centers,
        )
        return y


#: Name -> adds an operator with random parameters to a network, for tensors [1, H, W, C].
OPERATORS: dict[str, Callable[[Builder, int], int]] = {
    "CONV_2D": lambda b, x: b.conv(x),
    "CONV_2D 1x1": lambda b, x: b.conv(x, kernel=1),
    "CONV_2D groups": lambda b, x: b.conv(x, groups=2 if b.shapes[x][3] % 2 == 0 else 1),
    "DEPTHWISE_CONV_2D": Builder.depthwise,
    "AVERAGE_POOL_2D": lambda b, x: b.pool(x, "AVERAGE_POOL_2D"),
    "MAX_POOL_2D": lambda b, x: b.pool(x, "MAX_POOL_2D"),
    "ADD": lambda b, x: b.binary("ADD", x, b.unary("RELU", x)),
    "SUB": lambda b, x: b.binary("SUB", x, b.broadcast_operand(x)),
    "MUL": lambda b, x: b.binary("MUL", x, b.broadcast_operand(x)),
    "ADD broadcast": lambda b, x: b.binary("ADD", x, b.broadcast_operand(x)),
    **{
        name: (lambda b, x, name=name: b.unary(name, x))  # type: ignore[misc]
        for name in ("LOGISTIC", "TANH", "HARD_SWISH", "RELU", "RELU6", "LEAKY_RELU", "SOFTMAX", "QUANTIZE")
    },
    "PAD": Builder.pad,
    "CONCATENATION": lambda b, x: b.concatenation(x, int(b.rng.choice([1, 2, 3, -1]))),
    "SPLIT": lambda b, x: b.split(x, int(b.rng.choice([1, 2, 3]))),
    "STRIDED_SLICE": Builder.strided_slice,
    "TRANSPOSE": Builder.transpose,
    "RESIZE_NEAREST_NEIGHBOR": Builder.resize,
}
#: Operators that leave no image behind.
LAST = {"MEAN": Builder.mean, "FULLY_CONNECTED": Builder.dense}


def one_operator(name: str, seed: int) -> bytes:
    """A network of one operator (and what it needs around it)."""
    builder = Builder(seed)
    shape = (1, *(int(v) for v in builder.rng.integers(1, 9, 3)))
    y = {**OPERATORS, **LAST}[name](builder, builder.input(shape))
    return builder.finished([builder.unary("RELU", y) if y in builder.inputs else y])


def random_network(seed: int) -> bytes:
    """Two to six random operators, with a second branch now and then."""
    builder = Builder(seed)
    x = builder.input((1, *(int(v) for v in builder.rng.integers(2, 10, 3))))
    earlier = [x]
    for name in builder.rng.choice(sorted(OPERATORS), builder.rng.integers(2, 7)):
        x = OPERATORS[str(name)](builder, x)
        if prod(builder.shapes[x]) > 20_000:
            break
        same = [t for t in earlier if builder.shapes[t] == builder.shapes[x] and t != x]
        if same and builder.rng.integers(0, 3) == 0:
            x = builder.binary("ADD", x, same[-1])
        earlier.append(x)
    if builder.rng.integers(0, 2):
        x = LAST[str(builder.rng.choice(sorted(LAST)))](builder, x)
    return builder.finished([builder.unary("RELU", x) if x in builder.inputs else x])
