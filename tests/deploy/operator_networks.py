"""Operators beside convolutions, pools and sums with random parameters: int8 and int16, tensor in, tensor out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from edgepress.deploy.tflite.writer import pack
from tests.deploy.integer_networks import LAST, OPERATORS, Builder

#: In the schema.
_INT32 = 2


def _shaped(b: Builder, shape: Sequence[int], dtype: str, scale: float | None = None, zero: int | None = None) -> int:
    """A tensor of int8 or int16; the latter's zero point is 0."""
    scale = float(np.exp(b.rng.uniform(-5, -2))) if scale is None else scale
    if dtype == "INT16":
        return b.tensor(shape, scale / 256, 0, "INT16")
    return b.tensor(shape, scale, int(b.rng.integers(-128, 128)) if zero is None else zero)


def _like(b: Builder, shape: Sequence[int], other: int, dtype: str) -> int:
    return b.tensor(shape, *b.quantization[other], dtype)


def slice_(b: Builder, x: int, dtype: str = "INT8") -> int:
    shape = b.shapes[x]
    start = [int(b.rng.integers(0, n)) for n in shape]
    size = [int(b.rng.integers(1, n - at + 1)) for n, at in zip(shape, start, strict=True)]
    y = _like(b, size, x, dtype)
    written = [
        -1 if at + n == whole and b.rng.integers(0, 2) else n for at, n, whole in zip(start, size, shape, strict=True)
    ]
    b.operator("SLICE", [x, b.integers(start), b.integers(written)], [y], "SliceOptions")
    return y


def pad_v2(b: Builder, x: int, dtype: str = "INT8") -> int:
    pairs = [[0, 0], *b.rng.integers(0, 3, (3, 2)).tolist()]
    data = np.array([b.rng.integers(-128, 128)], dtype.lower())
    value = b.tensor((1,), *b.quantization[x], dtype, data)
    y = _like(b, [s + first + last for s, (first, last) in zip(b.shapes[x], pairs, strict=True)], x, dtype)
    b.operator("PADV2", [x, b.integers(pairs), value], [y], "PadV2Options")
    return y


def pack_and_unpack(b: Builder, x: int, dtype: str = "INT8") -> int:
    shape, axis = b.shapes[x], int(b.rng.integers(1, 4))
    parts = [_like(b, (*shape[:axis], *shape[axis + 1 :]), x, dtype) for _ in range(shape[axis])]
    b.operator("UNPACK", [x], parts, "UnpackOptions", num=len(parts), axis=axis)
    to, kept = int(b.rng.integers(-3, 4)), [p for i, p in enumerate(parts) if i != 1]
    inner = b.shapes[parts[0]]
    at = to % (len(inner) + 1)
    y = _like(b, (*inner[:at], len(kept), *inner[at:]), x, dtype)
    b.operator("PACK", kept, [y], "PackOptions", valuesCount=len(kept), axis=to)
    return y


def split_v(b: Builder, x: int, dtype: str = "INT8") -> int:
    shape, axis = b.shapes[x], int(b.rng.integers(1, 4))
    cut = int(b.rng.integers(0, shape[axis]))
    sizes = [n for n in (cut, shape[axis] - cut) if n]
    parts = [_like(b, (*shape[:axis], n, *shape[axis + 1 :]), x, dtype) for n in sizes]
    b.operator("SPLIT_V", [x, b.integers(sizes), b.integers(axis)], parts, "SplitVOptions", numSplits=len(sizes))
    y = _like(b, shape, x, dtype)
    b.operator("CONCATENATION", parts[::-1], [y], "ConcatenationOptions", axis=axis)
    return y


def depth_and_space(b: Builder, x: int) -> int:
    n, h, w, c = b.shapes[x]
    block = int(b.rng.integers(2, 4))
    wide = b.like((n, h, w, c * block * block), x)
    b.operator("CONCATENATION", [x] * (block * block), [wide], "ConcatenationOptions", axis=3)
    spread = b.like((n, h * block, w * block, c), x)
    b.operator("DEPTH_TO_SPACE", [wide], [spread], "DepthToSpaceOptions", blockSize=block)
    turned = b.like((n, w * block, h * block, c), x)
    b.operator("TRANSPOSE", [spread, b.integers([0, 2, 1, 3])], [turned], "TransposeOptions")
    y = b.like((n, w, h, c * block * block), x)
    b.operator("SPACE_TO_DEPTH", [turned], [y], "SpaceToDepthOptions", blockSize=block)
    return y


def batches_and_space(b: Builder, x: int) -> int:
    n, h, w, c = b.shapes[x]
    grown = b.like((n, 2 * h, 3 * w, c), x)
    b.operator("RESIZE_NEAREST_NEIGHBOR", [x, b.integers([2 * h, 3 * w])], [grown], "ResizeNearestNeighborOptions")
    many = b.like((6 * n, h, w, c), x)
    zeros = b.integers([[0, 0], [0, 0]])
    b.operator("SPACE_TO_BATCH_ND", [grown, b.integers([2, 3]), zeros], [many], "SpaceToBatchNDOptions")
    y = b.like((n, 3 * h, 2 * w, c), x)
    b.operator("BATCH_TO_SPACE_ND", [many, b.integers([3, 2]), zeros], [y], "BatchToSpaceNDOptions")
    return y


def broadcast_to(b: Builder, x: int) -> int:
    n, h, w, c = b.shapes[x]
    row = b.like((n, 1, w, c), x)
    b.operator("SLICE", [x, b.integers([0, h - 1, 0, 0]), b.integers([n, 1, w, c])], [row], "SliceOptions")
    y = b.like((n, 3, w, c), x)
    b.operator("BROADCAST_TO", [row, b.integers([n, 3, w, c])], [y], "BroadcastToOptions")
    return y


def reverse(b: Builder, x: int) -> int:
    y = b.like(b.shapes[x], x)
    b.operator("REVERSE_V2", [x, b.integers([int(b.rng.integers(1, 4))])], [y], "ReverseV2Options")
    return y


def gather(b: Builder, x: int) -> int:
    shape, axis = b.shapes[x], int(b.rng.integers(1, 4))
    which = b.rng.integers(0, shape[axis], b.rng.integers(1, 6))
    y = b.like((*shape[:axis], len(which), *shape[axis + 1 :]), x)
    b.operator("GATHER", [x, b.integers(which)], [y], "GatherOptions", axis=axis)
    return y


def gather_nd(b: Builder, x: int) -> int:
    """Slices along the first axis, which a TRANSPOSE makes longer than 1."""
    n, h, w, c = b.shapes[x]
    turned = b.like((h, n, w, c), x)
    b.operator("TRANSPOSE", [x, b.integers([1, 0, 2, 3])], [turned], "TransposeOptions")
    count = int(b.rng.integers(1, 6))
    made = b.like((count, n, w, c), x)
    b.operator("GATHER_ND", [turned, b.integers(b.rng.integers(0, h, (count, 1)))], [made], "GatherNdOptions")
    y = b.like((n, count, w, c), x)
    b.operator("TRANSPOSE", [made, b.integers([1, 0, 2, 3])], [y], "TransposeOptions")
    return y


def mirror_pad(b: Builder, x: int) -> int:
    """Up to the whole image on both sides, its edge repeated or not."""
    shape, edge = b.shapes[x], int(b.rng.integers(0, 2))
    pairs = [[int(v) for v in b.rng.integers(0, size + edge, 2)] for size in shape]
    y = b.like(tuple(size + sum(pair) for size, pair in zip(shape, pairs, strict=True)), x)
    b.operator("MIRROR_PAD", [x, b.integers(pairs)], [y], "MirrorPadOptions", mode=edge)
    return y


def resize_16(b: Builder, x: int) -> int:
    n, _, _, c = b.shapes[x]
    height, width = (int(v) for v in b.rng.integers(1, 12, 2))
    y = _like(b, (n, height, width, c), x, "INT16")
    options = {"alignCorners": False, "halfPixelCenters": bool(b.rng.integers(0, 2))}
    sizes = b.integers([height, width])
    b.operator("RESIZE_NEAREST_NEIGHBOR", [x, sizes], [y], "ResizeNearestNeighborOptions", **options)
    return y


def function_by_table(b: Builder, x: int) -> int:
    """CAST, ADD and GATHER: any function of an int8, which becomes one table."""
    shape = b.shapes[x]
    whole, index = b.tensor(shape, element="INT32"), b.tensor(shape, element="INT32")
    b.operator("CAST", [x], [whole], "CastOptions", outDataType=_INT32)
    b.operator("ADD", [whole, b.integers([128])], [index], "AddOptions")
    table = b.tensor((256,), 0.02, 3, data=b.rng.integers(-128, 128, 256).astype(np.int8))
    y = b.tensor(shape, 0.02, 3)
    b.operator("GATHER", [table, index], [y], "GatherOptions", axis=0)
    return y


def chosen_by_arg_max(b: Builder, x: int) -> int:
    """ARG_MAX or ARG_MIN along the channels; another sum of int32; GATHER by what was computed."""
    n, h, w, c = b.shapes[x]
    name = str(b.rng.choice(["ARG_MAX", "ARG_MIN"]))
    best, sum_ = b.tensor((n, h, w), element="INT32"), b.tensor((n, h, w), element="INT32")
    b.operator(
        name, [x, b.integers([3])], [best], f"{'ArgMax' if name == 'ARG_MAX' else 'ArgMin'}Options", outputType=_INT32
    )
    b.operator("ADD", [best, best], [sum_], "AddOptions")
    table = b.tensor((2 * c, 2), 0.02, 3, data=b.rng.integers(-128, 128, (2 * c, 2)).astype(np.int8))
    y = b.tensor((n, h, w, 2), 0.02, 3)
    b.operator("GATHER", [table, sum_], [y], "GatherOptions", axis=0)
    return y


def extreme_of_two(b: Builder, x: int, dtype: str = "INT8") -> int:
    other = b.tensor(
        (1, 1, 1, b.shapes[x][3]),
        *b.quantization[x],
        dtype,
        b.rng.integers(-100, 100, (1, 1, 1, b.shapes[x][3])).astype(dtype.lower()),
    )
    y = _like(b, b.shapes[x], x, dtype)
    b.operator(str(b.rng.choice(["MAXIMUM", "MINIMUM"])), [x, other], [y], "MaximumMinimumOptions")
    return y


def reduce_extreme(b: Builder, x: int) -> int:
    axes = sorted(b.rng.choice([1, 2, 3], b.rng.integers(1, 3), replace=False).tolist())
    y = b.like([1 if i in axes else n for i, n in enumerate(b.shapes[x])], x)
    name = str(b.rng.choice(["REDUCE_MAX", "REDUCE_MIN"]))
    b.operator(name, [x, b.integers(axes)], [y], "ReducerOptions", keepDims=True)
    return y


def mean_or_sum(b: Builder, x: int, dtype: str = "INT8", name: str = "SUM") -> int:
    axes = sorted(b.rng.choice([1, 2, 3], b.rng.integers(1, 3), replace=False).tolist())
    count = prod(b.shapes[x][a] for a in axes)
    shape = [1 if i in axes else n for i, n in enumerate(b.shapes[x])]
    scale = b.quantization[x][0] * float(np.exp(b.rng.uniform(-1, 1))) * (np.sqrt(count) if name == "SUM" else 1.0)
    y = _shaped(b, shape, dtype, float(scale) * (256 if dtype == "INT16" else 1))
    b.operator(name, [x, b.integers(axes)], [y], "ReducerOptions", keepDims=True)
    return y


def prelu(b: Builder, x: int, dtype: str = "INT8") -> int:
    shape = (1, 1, b.shapes[x][3]) if b.rng.integers(0, 2) else (1, 1, 1)
    slopes = b.tensor(
        shape,
        0.004,
        int(b.rng.integers(-20, 20)) if dtype == "INT8" else 0,
        data=b.rng.integers(-128, 128, shape).astype(np.int8),
    )
    y = _shaped(
        b,
        b.shapes[x],
        dtype,
        b.quantization[x][0] * float(np.exp(b.rng.uniform(-1, 1))) * (256 if dtype == "INT16" else 1),
    )
    b.operator("PRELU", [x, slopes], [y])
    return y


def divide(b: Builder, x: int) -> int:
    zero = int(b.rng.integers(-128, 128))
    data = b.rng.integers(-128, 128, (1, 1, 1, b.shapes[x][3]))
    data[data == zero] += 1 if zero < 0 else -1
    other = b.tensor(data.shape, 0.02, zero, data=data.astype(np.int8))
    ratio = b.quantization[x][0] / 0.02
    y = b.tensor(b.shapes[x], ratio * float(np.exp(b.rng.uniform(-5, -4.5))), int(b.rng.integers(-128, 128)))
    b.operator("DIV", [x, other], [y], "DivOptions", fusedActivationFunction=b._activation())
    return y


def squared_difference(b: Builder, x: int) -> int:
    other = b.broadcast_operand(x)
    reach = max(b.quantization[x][0], b.quantization[other][0])
    y = b.tensor(b.shapes[x], float(reach * reach * 90 * np.exp(b.rng.uniform(-1, 1))), int(b.rng.integers(-128, 0)))
    b.operator("SQUARED_DIFFERENCE", [x, other], [y], "SquaredDifferenceOptions")
    return y


def unary(b: Builder, x: int, name: str, dtype: str = "INT8") -> int:
    scale = b.quantization[x][0] * float(np.exp(b.rng.uniform(-0.5, 1)))
    if name == "LOG_SOFTMAX":
        y = b.tensor(b.shapes[x], 1 / 16, 127)
    elif name in ("LOGISTIC", "TANH"):
        y = b.tensor(b.shapes[x], 1 / float(b.rng.choice([32767, 32768])), 0, "INT16")
    elif name == "RELU6":
        y = _like(b, b.shapes[x], x, dtype)
    else:
        y = _shaped(b, b.shapes[x], dtype, scale * (256 if dtype == "INT16" else 1))
    options: dict[str, Any] = {"alpha": float(b.rng.uniform(0.01, 0.5))} if name == "LEAKY_RELU" else {}
    b.operator(name, [x], [y], "LeakyReluOptions" if options else "", **options)
    return y


def softmax_16(b: Builder, x: int) -> int:
    """With the largest beta, all but the largest of a row is nothing."""
    y = b.tensor(b.shapes[x], 1 / 32768, 0, "INT16")
    beta = float(b.rng.choice([1.0, 0.125, 100.0]))
    b.operator("SOFTMAX", [x], [y], "SoftmaxOptions", beta=beta)
    return y


def rsqrt(b: Builder, x: int, dtype: str = "INT8") -> int:
    """Of a square, since what lies below 0 has no root."""
    scale, _ = b.quantization[x]
    if dtype == "INT8":
        distance = b.tensor(b.shapes[x], scale, -128)
        b.operator("ABS", [x], [distance])
        y = b.tensor(
            b.shapes[x], float(np.exp(b.rng.uniform(-1, 1)) / np.sqrt(scale) / 200), int(b.rng.integers(-128, 0))
        )
    else:
        distance = b.tensor(b.shapes[x], scale, 0, "INT16")
        b.operator("RELU", [x], [distance])
        y = b.tensor(b.shapes[x], float(np.exp(b.rng.uniform(-1, 1)) / np.sqrt(scale) / 9000), 0, "INT16")
    b.operator("RSQRT", [distance], [y])
    return y


def resize_bilinear(b: Builder, x: int) -> int:
    n, _, _, c = b.shapes[x]
    height, width = (int(v) for v in b.rng.integers(1, 16, 2))
    y = b.like((n, height, width, c), x)
    corners, centers = [(False, False), (True, False), (False, True)][int(b.rng.integers(0, 3))]
    options = {"alignCorners": corners, "halfPixelCenters": centers}
    b.operator("RESIZE_BILINEAR", [x, b.integers([height, width])], [y], "ResizeBilinearOptions", **options)
    return y


def transpose_conv(b: Builder, x: int, dtype: str = "INT8") -> int:
    n, h, w, c = b.shapes[x]
    kernel_h, kernel_w, stride_h, stride_w = (int(v) for v in b.rng.integers(1, 5, 4))
    same = bool(b.rng.integers(0, 2))
    size = [i * s if same else (i - 1) * s + k for i, k, s in ((h, kernel_h, stride_h), (w, kernel_w, stride_w))]
    out_c = int(b.rng.integers(1, 6))
    weights, bias, y = _products(b, x, (out_c, kernel_h, kernel_w, c), (n, *size, out_c), 0, dtype)
    b.operator(
        "TRANSPOSE_CONV",
        [b.integers([n, *size, out_c]), weights, x, *([bias] if b.rng.integers(0, 2) else [])],
        [y],
        "TransposeConvOptions",
        padding=0 if same else 1,
        strideH=stride_h,
        strideW=stride_w,
    )
    return y


def _products(
    b: Builder, x: int, shape: Sequence[int], out: Sequence[int], axis: int, dtype: str, bias_type: str = ""
) -> tuple[int, int, int]:
    """Weights, bias and output of a convolution."""
    channels = shape[axis]
    data = b.rng.integers(-127, 128, shape).astype(np.int8)
    scales = np.exp(b.rng.uniform(-6, -3, channels)).astype(np.float32)
    weights = b.tensor(shape, scales, 0, data=data, axis=axis)
    element = bias_type or ("INT64" if dtype == "INT16" else "INT32")
    values = b.rng.integers(-3000, 3000, channels).astype(element.lower())
    bias = b.tensor((channels,), scales * np.float32(b.quantization[x][0]), 0, element, values)
    spread = b.quantization[x][0] * float(np.median(scales)) * 70 * np.sqrt(prod(shape) / channels)
    y = _shaped(b, out, dtype, float(spread * np.exp(b.rng.uniform(-1, 1))) * (256 if dtype == "INT16" else 1))
    return weights, bias, y


def batch_matmul(b: Builder, x: int, dtype: str = "INT8") -> int:
    n, h, w, c = b.shapes[x]
    adj_x, adj_y = bool(b.rng.integers(0, 2)), bool(b.rng.integers(0, 2))
    depth, columns = (w if adj_x else c), int(b.rng.integers(1, 6))
    batch = (n, h) if b.rng.integers(0, 2) else (1, 1)
    shape = (*batch, columns, depth) if adj_y else (*batch, depth, columns)
    scale = 0.01
    other = b.tensor(
        shape,
        scale,
        0 if dtype == "INT16" else int(b.rng.integers(-20, 20)),
        dtype,
        b.rng.integers(-128, 128, shape).astype(dtype.lower()),
    )
    spread = b.quantization[x][0] * scale * 70 * 70 * np.sqrt(depth) / 60
    y = _shaped(b, (n, h, c if adj_x else w, columns), dtype, float(spread) * (256 if dtype == "INT16" else 1))
    b.operator("BATCH_MATMUL", [x, other], [y], "BatchMatMulOptions", adjX=adj_x, adjY=adj_y)
    return y


def conv_16(b: Builder, x: int) -> int:
    n, h, w, c = b.shapes[x]
    kernel_h, kernel_w, out_c = (int(v) for v in b.rng.integers(1, 5, 3))
    padding, stride_h, stride_w, out_h, out_w = b._window(h, w, kernel_h, kernel_w)
    bias_type = str(b.rng.choice(["INT64", "INT32"]))
    weights, bias, y = _products(b, x, (out_c, kernel_h, kernel_w, c), (n, out_h, out_w, out_c), 0, "INT16", bias_type)
    options = {"padding": padding, "strideH": stride_h, "strideW": stride_w, "fusedActivationFunction": b._activation()}
    b.operator("CONV_2D", [x, weights, bias], [y], "Conv2DOptions", dilationHFactor=1, dilationWFactor=1, **options)
    return y


def depthwise_16(b: Builder, x: int) -> int:
    n, h, w, c = b.shapes[x]
    kernel_h, kernel_w, multiplier = (int(v) for v in b.rng.integers(1, 4, 3))
    padding, stride_h, stride_w, out_h, out_w = b._window(h, w, kernel_h, kernel_w)
    out_c = c * multiplier
    weights, bias, y = _products(b, x, (1, kernel_h, kernel_w, out_c), (n, out_h, out_w, out_c), 3, "INT16")
    options = {"padding": padding, "strideH": stride_h, "strideW": stride_w, "fusedActivationFunction": b._activation()}
    b.operator(
        "DEPTHWISE_CONV_2D", [x, weights, bias], [y], "DepthwiseConv2DOptions", depthMultiplier=multiplier, **options
    )
    return y


def dense_16(b: Builder, x: int) -> int:
    shape = (b.shapes[x][0], prod(b.shapes[x][1:]))
    flat = _like(b, shape, x, "INT16")
    b.operator("RESHAPE", [x, b.integers(list(shape))], [flat], "ReshapeOptions", newShape=list(shape))
    out_c = int(b.rng.integers(1, 8))
    weights, bias, y = _products(b, flat, (out_c, shape[1]), (shape[0], out_c), 0, "INT16")
    b.operator("FULLY_CONNECTED", [flat, weights, bias], [y], "FullyConnectedOptions")
    return y


def pool_16(b: Builder, x: int) -> int:
    n, h, w, c = b.shapes[x]
    filter_h, filter_w = (int(v) for v in b.rng.integers(1, 4, 2))
    padding, stride_h, stride_w, out_h, out_w = b._window(h, w, filter_h, filter_w)
    y = _like(b, (n, out_h, out_w, c), x, "INT16")
    options = {
        "padding": padding,
        "strideH": stride_h,
        "strideW": stride_w,
        "filterHeight": filter_h,
        "filterWidth": filter_w,
    }
    b.operator(str(b.rng.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D"])), [x], [y], "Pool2DOptions", **options)
    return y


def binary_16(b: Builder, x: int, name: str) -> int:
    shape = [s if b.rng.integers(0, 2) else 1 for s in b.shapes[x]]
    data = b.rng.integers(-32768, 32768, shape).astype(np.int16)
    other = b.tensor(shape, float(np.exp(b.rng.uniform(-11, -8))), 0, "INT16", data)
    (first, _), (second, _) = b.quantization[x], b.quantization[other]
    reach = first * second * 16000 if name == "MUL" else max(first, second)
    y = b.tensor(b.shapes[x], float(reach * np.exp(b.rng.uniform(-0.5, 1))), 0, "INT16")
    b.operator(name, [x, other], [y], f"{name.capitalize()}Options", fusedActivationFunction=b._activation())
    return y


def requantized(b: Builder, x: int, dtype: str, to: str) -> int:
    scale = b.quantization[x][0] * float(np.exp(b.rng.uniform(-0.5, 1)))
    scale *= {("INT8", "INT16"): 1, ("INT16", "INT8"): 256, ("INT16", "INT16"): 256}[dtype, to]
    y = _shaped(b, b.shapes[x], to, scale)
    b.operator("QUANTIZE", [x], [y])
    return y


#: Name -> adds an operator to a network of int8 tensors [1, H, W, C], and leaves such a tensor behind.
IMAGES: dict[str, Callable[[Builder, int], int]] = {
    "SLICE": slice_,
    "PADV2": pad_v2,
    "SPLIT_V": split_v,
    "DEPTH_TO_SPACE": depth_and_space,
    "SPACE_TO_BATCH_ND": batches_and_space,
    "BROADCAST_TO": broadcast_to,
    "REVERSE_V2": reverse,
    "GATHER": gather,
    "GATHER_ND": gather_nd,
    "MIRROR_PAD": mirror_pad,
    "CAST": function_by_table,
    "ARG_MAX": chosen_by_arg_max,
    "MAXIMUM": extreme_of_two,
    "REDUCE_MAX": reduce_extreme,
    "SUM": mean_or_sum,
    "PRELU": prelu,
    "DIV": divide,
    "SQUARED_DIFFERENCE": squared_difference,
    "ABS": lambda b, x: unary(b, x, "ABS"),
    "ELU": lambda b, x: unary(b, x, "ELU"),
    "LOG_SOFTMAX": lambda b, x: unary(b, x, "LOG_SOFTMAX"),
    "RSQRT": rsqrt,
    "RESIZE_BILINEAR": resize_bilinear,
    "TRANSPOSE_CONV": transpose_conv,
    "BATCH_MATMUL": batch_matmul,
}
#: The same on int16.
WIDE: dict[str, Callable[[Builder, int], int]] = {
    "SLICE 16": lambda b, x: slice_(b, x, "INT16"),
    "PADV2 16": lambda b, x: pad_v2(b, x, "INT16"),
    "SPLIT_V 16": lambda b, x: split_v(b, x, "INT16"),
    "MAXIMUM 16": lambda b, x: extreme_of_two(b, x, "INT16"),
    "SUM 16": lambda b, x: mean_or_sum(b, x, "INT16"),
    "MEAN 16": lambda b, x: mean_or_sum(b, x, "INT16", "MEAN"),
    "PRELU 16": lambda b, x: prelu(b, x, "INT16"),
    "TRANSPOSE_CONV 16": lambda b, x: transpose_conv(b, x, "INT16"),
    "BATCH_MATMUL 16": lambda b, x: batch_matmul(b, x, "INT16"),
    "CONV_2D 16": conv_16,
    "DEPTHWISE_CONV_2D 16": depthwise_16,
    "POOL 16": pool_16,
    "QUANTIZE 16": lambda b, x: requantized(b, x, "INT16", "INT16"),
    "SOFTMAX 16": softmax_16,
    "RESIZE_NEAREST_NEIGHBOR 16": resize_16,
    "RSQRT 16": lambda b, x: rsqrt(b, x, "INT16"),
    **{f"{name} 16": lambda b, x, name=name: binary_16(b, x, name) for name in ("ADD", "SUB", "MUL")},  # type: ignore[misc]
    **{
        f"{name} 16": lambda b, x, name=name: unary(b, x, name, "INT16")  # type: ignore[misc]
        for name in ("RELU", "RELU6", "LEAKY_RELU", "LOGISTIC", "TANH")
    },
}
#: Operators whose output is no image of the input's type.
ENDS: dict[str, Callable[[Builder, int], int]] = {
    "PACK": pack_and_unpack,
    "FULLY_CONNECTED 16": dense_16,
    "QUANTIZE 8 to 16": lambda b, x: requantized(b, x, "INT8", "INT16"),
    "QUANTIZE 16 to 8": lambda b, x: requantized(b, x, "INT16", "INT8"),
}


def one_operator(name: str, seed: int) -> bytes:
    """A network of one operator, and what it needs around it."""
    b = Builder(seed)
    shape = (1, *(int(v) for v in b.rng.integers(2, 9, 3)))
    make = {**IMAGES, **WIDE, **ENDS}[name]
    wide = name in WIDE or name in ("FULLY_CONNECTED 16", "QUANTIZE 16 to 8")
    x = _shaped(b, shape, "INT16" if wide else "INT8")
    b.inputs.append(x)
    y = make(b, x)
    return b.finished([y])


#: Networks grow no larger.
_LARGEST = 12_000


def random_network(seed: int) -> bytes:
    """Two to seven random operators of all kinds; int16 in between now and then, and a second branch."""
    b = Builder(seed)
    x = b.input((1, *(int(v) for v in b.rng.integers(2, 9, 3))))
    images, wide = {**OPERATORS, **IMAGES}, False
    earlier = [x]
    for _ in range(int(b.rng.integers(2, 8))):
        if b.rng.integers(0, 4) == 0:
            x = requantized(b, x, *(("INT16", "INT8") if wide else ("INT8", "INT16")))
            wide = not wide
        before = x
        name = str(b.rng.choice(sorted(WIDE if wide else images)))
        x = {**images, **WIDE}[name](b, x)
        if prod(b.shapes[x]) > _LARGEST:
            break
        same = [t for t in earlier if b.shapes[t] == b.shapes[x] and t not in (x, before)]
        if same and not wide and b.rng.integers(0, 3) == 0:
            x = b.binary("ADD", x, same[-1])
        if not wide:
            earlier.append(x)
    if wide:
        x = requantized(b, x, "INT16", "INT8")
    if b.rng.integers(0, 2):
        x = LAST[str(b.rng.choice(sorted(LAST)))](b, x)
    return b.finished([b.unary("RELU", x) if x in b.inputs else x])


def unsigned_ends(b: Builder) -> int:
    """From uint8 to uint8, with a function between."""
    b.inputs.append(b.tensor((1, 5, 6, 3), 0.03, 120, "UINT8"))
    x, y = b.tensor((1, 5, 6, 3), 0.025, -7), b.tensor((1, 5, 6, 3), 0.04, 131, "UINT8")
    b.operator("QUANTIZE", [b.inputs[0]], [x])
    b.operator("QUANTIZE", [b.unary("LEAKY_RELU", x)], [y])
    return y


def streaming(seed: int) -> bytes:
    """What the past gives and what comes new, one behind the other; the last of both is kept for the next time.

    One variable begins with values of a subgraph that is called once, the other one with what is there.
    """
    b = Builder(seed)
    b.inputs.append(b.tensor((1, 2, 3), 0.05, 4))
    kept = b.like((1, 4, 3), 0)
    begins = b.rng.integers(-128, 128, (1, 4, 3)).astype(np.int8)
    joined, sums = b.like((1, 6, 3), 0), b.like((1, 4, 3), 0)
    now = b.like((1, 4, 3), 0)
    first, second = (b.tensor((1,), element="RESOURCE") for _ in range(2))
    b.operator("CALL_ONCE", [], [], "CallOnceOptions", initSubgraphIndex=1)
    b.operator("VAR_HANDLE", [], [first], "VarHandleOptions", container=b"", sharedName=b"past")
    b.operator("VAR_HANDLE", [], [second], "VarHandleOptions", container=b"", sharedName=b"sums")
    b.operator("READ_VARIABLE", [first], [kept], "ReadVariableOptions")
    b.operator("CONCATENATION", [kept, 0], [joined], "ConcatenationOptions", axis=1)
    b.operator("SLICE", [joined, b.integers([0, 2, 0]), b.integers([1, 4, 3])], [now], "SliceOptions")
    b.operator("ASSIGN_VARIABLE", [first, now], [], "AssignVariableOptions")
    b.operator("READ_VARIABLE", [second], [sums], "ReadVariableOptions")
    more = b.like((1, 4, 3), 0)
    b.operator("MAXIMUM", [sums, now], [more], "MaximumMinimumOptions")
    b.operator("ASSIGN_VARIABLE", [second, more], [], "AssignVariableOptions")
    y = b.binary("ADD", kept, more)
    main = b.graph
    b.graph = b.kinds.SubGraphT()
    b.graph.name, b.graph.operators, b.graph.tensors = "begin", [], []
    b.graph.inputs = b.graph.outputs = np.array([], np.int32)
    known, b.shapes = b.shapes, []
    handle, value = b.tensor((1,), element="RESOURCE"), b.tensor((1, 4, 3), 0.05, 4, data=begins)
    b.operator("VAR_HANDLE", [], [handle], "VarHandleOptions", container=b"", sharedName=b"past")
    b.operator("ASSIGN_VARIABLE", [handle, value], [], "AssignVariableOptions")
    begin, b.graph, b.shapes = b.graph, main, known
    b.graph.inputs, b.graph.outputs = np.array(b.inputs, np.int32), np.array([y], np.int32)
    b.model.subgraphs = [main, begin]
    return pack(b.model)


def lstm(seed: int, dtype: str = "INT8") -> bytes:
    """UNIDIRECTIONAL_SEQUENCE_LSTM over several steps."""
    b = Builder(seed)
    steps, inputs, size = (int(v) for v in b.rng.integers(2, 7, 3))
    x = _shaped(b, (1, steps, inputs), dtype, 0.02)
    b.inputs.append(x)

    def weights(columns: int) -> int:
        data = b.rng.integers(-127, 128, (size, columns)).astype(np.int8)
        return b.tensor((size, columns), float(np.exp(b.rng.uniform(-6, -4))), 0, data=data)

    element = "INT64" if dtype == "INT16" else "INT32"
    given, kept = [weights(inputs) for _ in range(4)], [weights(size) for _ in range(4)]
    biases = []
    for tensor in given:
        scale = b.quantization[tensor][0] * b.quantization[x][0]
        data = b.rng.integers(-3000, 3000, size).astype(element.lower())
        biases.append(b.tensor((size,), scale, 0, element, data))
    hidden = b.tensor(
        (1, size), *((1 / 32768, 0) if dtype == "INT16" else (1 / 128, int(b.rng.integers(-9, 9)))), dtype
    )
    cell = b.tensor((1, size), 2.0 ** int(b.rng.integers(-14, -10)), 0, "INT16")
    for state in (hidden, cell):
        b.graph.tensors[state].isVariable = True
    y = b.tensor((1, steps, size), *b.quantization[hidden], dtype)
    absent = [-1, -1, -1]
    b.operator(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        [x, *given, *kept, *absent, *biases, -1, -1, hidden, cell, -1, -1, -1, -1],
        [y],
        "UnidirectionalSequenceLSTMOptions",
        fusedActivationFunction=4,
        cellClip=float(b.rng.choice([0.0, 0.3])),
    )
    return b.finished([y])
