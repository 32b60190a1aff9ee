# SPDX-License-Identifier: Apache-2.0
"""Lowering of convolutions, fully connected layers, pooling, means and softmax."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from edgepress.compress.quantize.operators.attention import LONGEST
from edgepress.deploy.firmware.lowering.context import (
    Refused,
    Rows,
    activation_range,
    described,
    fixed,
)
from edgepress.deploy.firmware.lowering.steps import Value
from edgepress.deploy.firmware.lowering.tables import NoTable, exponentials
from edgepress.deploy.tflite.reader import Operator

#: The fast rescaling doubles a sum; the plain one only has to hold it.
_FAST_SUM, _LARGEST_SUM = 1 << 30, 1 << 31
#: The fast rescaling adds the output's zero point before it shifts: further, and that would not fit.
_FURTHEST_FAST_SHIFT = -22
#: Two bits beside each multiplier say how far the channel's shift is below the layer's largest.
_WIDEST_SPREAD = 3
#: A plane of a depthwise convolution is cut into bands that take at most this much, where one row allows it.
_PLANE_BYTES = 2048


def conv_2d(rows: Rows, operator: Operator) -> None:
    """Weights [out, h, w, in / groups]."""
    x, weights, y = rows.operand(operator, 0), int8_weights(rows, operator), rows.values[operator.outputs[0]]
    need_rank_4(x, weights, y)
    out_c, kernel_h, kernel_w, group_c = weights.shape
    if x.shape[3] % group_c or out_c % (x.shape[3] // group_c):
        raise Refused(f"{x.shape[3]} channels cannot be divided into groups of {group_c}")
    window = window_of(operator, x, y, kernel_h, kernel_w)
    data = _data(weights)
    quantized = _quantized(rows, operator, x, weights, y, data.reshape(out_c, -1), axis=0)
    _add_conv(rows, operator, "ep_conv_2d", x, y, {**window, "group_c": group_c}, quantized, data)


def depthwise_conv_2d(rows: Rows, operator: Operator) -> None:
    """Weights [1, h, w, channels * multiplier]."""
    x, weights, y = rows.operand(operator, 0), int8_weights(rows, operator), rows.values[operator.outputs[0]]
    need_rank_4(x, weights, y)
    _, kernel_h, kernel_w, out_c = weights.shape
    if weights.shape[0] != 1 or out_c % x.shape[3]:
        raise Refused(f"weights {list(weights.shape)} do not fit {x.shape[3]} channels")
    window = window_of(operator, x, y, kernel_h, kernel_w)
    data = _data(weights)
    quantized = _quantized(rows, operator, x, weights, y, data.reshape(-1, out_c).T, axis=3)
    # Where every output channel sees the only input channel, it is an ordinary convolution.
    kernel = "ep_conv_2d" if x.shape[3] == 1 else "ep_depthwise_conv_2d"
    out_first = np.ascontiguousarray(np.moveaxis(data, 3, 0).reshape(out_c, kernel_h, kernel_w, 1))
    _add_conv(rows, operator, kernel, x, y, {**window, "group_c": 1}, quantized, out_first)


def fully_connected(rows: Rows, operator: Operator) -> None:
    """Weights [out, in]: a 1x1 convolution of an image with one pixel per row."""
    x, weights, y = rows.operand(operator, 0), int8_weights(rows, operator), rows.values[operator.outputs[0]]
    if operator.option("weights_format", 0):
        raise Refused("its weights are shuffled")
    if len(weights.shape) != 2:
        raise Refused(f"weights of the shape {list(weights.shape)}")
    out_c, in_c = weights.shape
    if prod(x.shape) % in_c or prod(y.shape) != prod(x.shape) // in_c * out_c:
        raise Refused(f"{list(x.shape)} times {list(weights.shape)} is not {list(y.shape)}")
    count = prod(x.shape) // in_c
    data = _data(weights)
    quantized = _quantized(rows, operator, x, weights, y, data, axis=0, dense=True)
    window = dense_window(count, in_c, out_c)
    _add_conv(rows, operator, "ep_conv_2d", x, y, {**window, "group_c": in_c}, quantized, data)


def dense_window(count: int, in_c: int, out_c: int) -> dict[str, int]:
    """Of a 1x1 convolution of `count` pixels."""
    size = {"batches": 1, "in_h": 1, "in_w": count, "in_c": in_c, "out_h": 1, "out_w": count, "out_c": out_c}
    ones = ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w")
    return {**size, **dict.fromkeys(ones, 1), "pad_top": 0, "pad_left": 0}


def _add_conv(
    rows: Rows,
    operator: Operator,
    kernel: str,
    x: Value,
    y: Value,
    window: dict[str, int],
    quantized: dict[str, Any],
    data: np.ndarray,
) -> None:
    x, window = with_padding(rows, x, window)
    depthwise = kernel == "ep_depthwise_conv_2d"
    fast = quantized.pop("fast") and not (depthwise and window["dilation_h"] * window["dilation_w"] > 1)
    fast = fast and not (depthwise and window["in_c"] != window["out_c"])
    if largest := next((size for size in window.values() if size > 65535), None):
        raise Refused(f"a size of {largest:,} does not fit into 16 bits")
    w, scratch = window, {}
    if fast:
        data, window, scratch = _tiled_depthwise(data, window) if depthwise else _tiled(data, window)
    arrays = {"weights": data, **quantized.pop("arrays")}
    if fast and not depthwise and w["out_c"] % 2:
        # Pairs of channels are read: nothing lies behind the last one of an odd number otherwise.
        arrays |= {
            name: np.pad(arrays[name], [(0, 1), (0, 0)][: arrays[name].ndim]) for name in ("bias", "multipliers")
        }
    summary = f"{described(x.shape)} -> {described(y.shape)}"
    if operator.code != "FULLY_CONNECTED":
        summary += f", {w['kernel_h']}x{w['kernel_w']}, stride {w['stride_h']}x{w['stride_w']}"
    rows.add(
        kernel,
        "ep_conv",
        {**{name: name for name in arrays}, **window, **quantized},
        [x.index],
        y.index,
        summary,
        arrays=arrays,
        macs=prod(y.shape) * w["kernel_h"] * w["kernel_w"] * w["group_c"],
        fast_kernel=f"{kernel}_fast" if fast else None,
        scratch_bytes=scratch,
    )


def with_padding(rows: Rows, x: Value, window: dict[str, int]) -> tuple[Value, dict[str, int]]:
    """The convolution does what a PAD before it asked for."""
    if x.index not in rows.paddings:
        return x, window
    x, top, left = rows.paddings[x.index]
    size = {"in_h": x.shape[1], "in_w": x.shape[2]}
    return x, {**window, **size, "pad_top": window["pad_top"] + top, "pad_left": window["pad_left"] + left}


def _tiled(data: np.ndarray, w: dict[str, int]) -> tuple[np.ndarray, dict[str, int], dict[str, int]]:
    """Weights, fields and scratch of a convolution in tiles (ep_kernels.h says how they lie)."""
    groups = w["in_c"] // w["group_c"]
    products = w["kernel_h"] * w["kernel_w"] * w["group_c"]
    rounds = -(-products // 4)
    by_group = data.reshape(groups, w["out_c"] // groups, products)
    padded = np.pad(by_group, ((0, 0), (0, by_group.shape[1] % 2), (0, 4 * rounds - products)))
    packed = padded.reshape(groups, -1, 2, rounds, 4).swapaxes(2, 3)
    same = (w["in_h"], w["in_w"]) == (w["out_h"], w["out_w"]) and w["stride_h"] == w["stride_w"] == 1
    # A line that does not end with a round of four would be read beyond its end.
    in_place = w["kernel_h"] == w["kernel_w"] == groups == same == 1 and products % 4 == 0
    line = 0 if in_place else 4 * rounds
    scratch = {"tiled": 12 * rounds + line, "dsp": 24 * rounds + line, "mve": 48 * -(-products // 16)}
    # Vectors of sixteen products are read whole.
    packed = np.pad(packed.reshape(-1), (0, -rounds % 4 * 8))
    return packed, {**w, "packed": 1, "in_place": int(in_place)}, scratch


def _tiled_depthwise(data: np.ndarray, w: dict[str, int]) -> tuple[np.ndarray, dict[str, int], dict[str, int]]:
    """The same for a depthwise convolution: rows of the kernel in whole words, planes of a band of rows as scratch."""
    row = -(-w["kernel_w"] // 4) * 4
    packed = np.pad(data.reshape(w["out_c"], w["kernel_h"], w["kernel_w"]), ((0, 0), (0, 0), (0, row - w["kernel_w"])))
    width = (w["out_w"] - 1) * w["stride_w"] + row
    rows_that_fit = (_PLANE_BYTES // width - w["kernel_h"]) // w["stride_h"] + 1
    band = min(max(1, rows_that_fit), w["out_h"])
    plane = width * ((band - 1) * w["stride_h"] + w["kernel_h"])
    positions = w["kernel_h"] * ((w["out_w"] - 1) * w["stride_w"] + w["kernel_w"])
    scratch = {"tiled": plane, "dsp": plane, "mve": 16 * (positions + w["kernel_h"] * w["kernel_w"])}
    return np.ascontiguousarray(packed), {**w, "packed": 1, "band": band}, scratch


def int8_weights(rows: Rows, operator: Operator) -> Value:
    weights = rows.operand(operator, 1, constant=True)
    if weights.dtype != "int8":
        raise Refused(f"its weights are {weights.dtype}, not int8")
    return weights


def _data(weights: Value) -> np.ndarray:
    assert weights.data is not None
    return weights.data.copy(order="C")


def need_rank_4(*values: Value) -> None:
    for value in values:
        if len(value.shape) != 4:
            raise Refused(f"{value.name!r} has the shape {list(value.shape)}, not [N, H, W, C]")


def window_of(operator: Operator, x: Value, y: Value, kernel_h: int, kernel_w: int) -> dict[str, int]:
    """Sizes, strides and paddings, in the order of the structure."""
    padding, option = operator.option("padding", "SAME"), operator.option
    stride_h, stride_w = option("stride_h", 0), option("stride_w", 0)
    dilation_h, dilation_w = option("dilation_h", 1), option("dilation_w", 1)
    height = along(padding, x.shape[1], kernel_h, stride_h, dilation_h)
    width = along(padding, x.shape[2], kernel_w, stride_w, dilation_w)
    if (height[0], width[0]) != y.shape[1:3] or x.shape[0] != y.shape[0]:
        raise Refused(
            f"{list(x.shape)} gives {height[0]}x{width[0]} positions, but the output has the shape {list(y.shape)}"
        )
    return {
        "batches": x.shape[0],
        "in_h": x.shape[1],
        "in_w": x.shape[2],
        "in_c": x.shape[3],
        "out_h": y.shape[1],
        "out_w": y.shape[2],
        "out_c": y.shape[3],
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": stride_h,
        "stride_w": stride_w,
        "dilation_h": dilation_h,
        "dilation_w": dilation_w,
        "pad_top": height[1],
        "pad_left": width[1],
    }


def along(padding: str, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(outputs, padding before the first)."""
    if stride < 1 or dilation < 1 or kernel < 1:
        raise Refused(f"stride {stride} and dilation {dilation} must be positive")
    reach = (kernel - 1) * dilation + 1
    count = -(-size // stride) if padding == "SAME" else -(-(size - reach + 1) // stride)
    if count < 1:
        raise Refused(f"a kernel that reaches over {reach} does not fit into {size}")
    return count, max(0, (count - 1) * stride + reach - size) // 2


def _quantized(
    rows: Rows,
    operator: Operator,
    x: Value,
    weights: Value,
    y: Value,
    by_channel: np.ndarray,
    *,
    axis: int,
    dense: bool = False,
) -> dict[str, Any]:
    """Zero points, activation range, and [channels] arrays of bias, multiplier and shift.

    `by_channel` is a view of the weights, [channels, products]; those that can't change an output are set to 0 in it.
    """
    in_scale, in_zero = rows.int8(x)
    out_scale, out_zero = rows.int8(y)
    channels = len(by_channel)
    scales = channel_scales(rows, operator, channels, axis)
    # A dense layer with one scale is multiplied out in float32 first, as TFLite Micro does.
    single = dense and len(scales) == 1
    reals = (
        [float(in_scale * scales[0]) / float(out_scale)]
        if single
        else [float(in_scale) * float(scale) / float(out_scale) for scale in scales]
    )
    pairs = [fixed(real) for real in reals]
    pairs = pairs * channels if len(pairs) == 1 else pairs
    bias = _bias(rows, operator, channels)
    wide = by_channel.astype(np.int64)
    folded = bias - in_zero * wide.sum(1)
    # What a sum can reach at any moment, whatever the inputs are.
    reach = np.abs(folded) + 128 * np.abs(wide).sum(1)
    multipliers, shifts = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    # A channel whose output is its zero point whatever the sum is needs no weights, and may have any shift.
    silent = (multipliers == 0) | (reach < 2.0 ** (-shifts - 1))
    by_channel[silent], folded[silent], reach[silent] = 0, 0, 0
    multipliers[silent], shifts[silent] = 1 << 30, shifts[~silent].min(initial=-1)
    largest = int(shifts.max())
    if int(reach.max()) * 2 ** max(0, largest) >= _LARGEST_SUM:
        raise Refused(f"a sum may reach {int(reach.max()):,}, which overflows 32 bits")
    low, high = activation_range(operator.option("fused_activation", "NONE"), out_scale, out_zero)
    paired = largest - int(shifts.min()) > _WIDEST_SPREAD
    words = np.stack([multipliers, -shifts], 1) if paired else (multipliers & 0x3FFFFFFF) | (largest - shifts) << 30
    return {
        "largest_shift": largest,
        "in_zero": in_zero,
        "out_zero": out_zero,
        "out_min": low,
        "out_max": high,
        "fast": bool(reach.max() < _FAST_SUM and shifts.min() >= _FURTHEST_FAST_SHIFT and largest <= -1),
        "paired": int(paired),
        "arrays": {"bias": folded.astype(np.int32), "multipliers": words.astype(np.uint32)},
    }


def channel_scales(rows: Rows, operator: Operator, channels: int, axis: int) -> np.ndarray:
    quantization = rows.quantization(operator.inputs[1])
    if quantization is None or not quantization.scale.size:
        raise Refused("its weights have no scale")
    if np.any(quantization.zero_point != 0):
        raise Refused("its weights have a zero point")
    if quantization.scale.size > 1 and (quantization.scale.size != channels or quantization.axis != axis):
        raise Refused(
            f"its weights have {quantization.scale.size} scales along axis {quantization.axis} for {channels} channels"
        )
    return quantization.scale


def _bias(rows: Rows, operator: Operator, channels: int) -> np.ndarray:
    value = rows.optional(operator, 2)
    if value is None:
        return np.zeros(channels, np.int64)
    if value.dtype != "int32" or value.data is None or value.data.size != channels:
        raise Refused(f"its bias is {value.dtype} with the shape {list(value.shape)}")
    return value.data.reshape(-1).astype(np.int64)


def pool(rows: Rows, operator: Operator) -> None:
    """Average and maximum; the scale stays."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    need_rank_4(x, y)
    wide = x.dtype == "int16"
    rows.quantized(x, "int16" if wide else "int8")
    out_scale, out_zero = rows.quantized(y, x.dtype)
    window = window_of(operator, x, y, operator.option("filter_h", 0), operator.option("filter_w", 0))
    low, high = activation_range(operator.option("fused_activation", "NONE"), out_scale, out_zero, x.dtype)
    fields = (
        {name: window[name] for name in ("batches", "in_h", "in_w")}
        | {"channels": x.shape[3]}
        | {name: window[name] for name in ("out_h", "out_w")}
        | {
            "filter_h": window["kernel_h"],
            "filter_w": window["kernel_w"],
            "stride_h": window["stride_h"],
            "stride_w": window["stride_w"],
            "pad_top": window["pad_top"],
            "pad_left": window["pad_left"],
            "out_min": low,
            "out_max": high,
        }
    )
    if x.shape[3] != y.shape[3]:
        raise Refused(f"{x.shape[3]} channels become {y.shape[3]}")
    kernel = "ep_average_pool_2d" if operator.code == "AVERAGE_POOL_2D" else "ep_max_pool_2d"
    kernel, structure = (f"{kernel}_16", "ep_pool_wide") if wide else (kernel, "ep_pool")
    rows.add(kernel, structure, fields, [x.index], y.index, f"{described(x.shape)} -> {described(y.shape)}")


def softmax(rows: Rows, operator: Operator) -> None:
    """Along the last dimension, to scale 1/256 and zero point -128."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    (in_scale, _), (out_scale, out_zero) = rows.int8(x), rows.int8(y)
    if out_zero != -128 or float(out_scale) != 1 / 256:
        raise Refused(f"its output has scale {out_scale:g} and zero point {out_zero}, not 1/256 and -128")
    if not x.shape or x.shape != y.shape:
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    depth = x.shape[-1]
    if depth > LONGEST:
        raise Refused(f"it is over {depth} values; up to {LONGEST} are certain to be in range")
    try:
        table = exponentials(in_scale, operator.option("beta", 0.0))
    except (NoTable, ValueError) as reason:
        raise Refused(str(reason)) from None
    rows.add(
        "ep_softmax",
        "ep_softmax_plan",
        {
            "rows": prod(x.shape) // depth,
            "depth": depth,
            "exponentials_count": len(table),
            "exponentials": "exponentials",
        },
        [x.index],
        y.index,
        described(x.shape),
        arrays={"exponentials": table},
    )
