# SPDX-License-Identifier: Apache-2.0
"""Lowering of transposed convolutions, and of products of matrices that are both computed."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from edgepress.deploy.firmware.lowering.context import Refused, Rows, activation_range, described, fixed, strides
from edgepress.deploy.firmware.operators.layers import along, channel_scales, int8_weights, need_rank_4
from edgepress.deploy.firmware.operators.wide import narrowed, wide_bias
from edgepress.deploy.tflite.reader import Operator

#: A sum has to stay below.
_LARGEST_SUM = 1 << 31


def transpose_conv(rows: Rows, operator: Operator) -> None:
    """TRANSPOSE_CONV: inputs are the size of the output, weights [out, h, w, in], the image, and a bias or none."""
    x, weights, y = rows.operand(operator, 2), int8_weights(rows, operator), rows.values[operator.outputs[0]]
    need_rank_4(x, weights, y)
    dtype = "int16" if x.dtype == "int16" else "int8"
    (in_scale, in_zero), (out_scale, out_zero) = rows.quantized(x, dtype), rows.quantized(y, dtype)
    out_c, kernel_h, kernel_w, in_c = weights.shape
    if in_c != x.shape[3] or out_c != y.shape[3] or x.shape[0] != y.shape[0]:
        raise Refused(f"weights {list(weights.shape)} do not lead from {list(x.shape)} to {list(y.shape)}")
    size = rows.values[operator.inputs[0]]
    if size.data is not None and tuple(rows.integers(operator, 0)) != y.shape:
        raise Refused(f"the wanted size is not the one of the output, {list(y.shape)}")
    padding, option = operator.option("padding", "SAME"), operator.option
    stride_h, stride_w = option("stride_h", 0), option("stride_w", 0)
    pads = [along(padding, y.shape[i], k, s, 1)[1] for i, k, s in ((1, kernel_h, stride_h), (2, kernel_w, stride_w))]
    scales = channel_scales(rows, operator, out_c, 0)
    pairs = [fixed(float(in_scale) * float(scale) / float(out_scale)) for scale in scales]
    pairs = pairs * out_c if len(pairs) == 1 else pairs
    bias = wide_bias(rows, operator, out_c, 3)
    assert weights.data is not None
    data = weights.data.copy(order="C")
    sums = np.abs(data.reshape(out_c, -1).astype(np.int64)).sum(1)
    arrays: dict[str, np.ndarray] = {"weights": data}
    if dtype == "int8":
        reach = np.abs(bias) + 255 * sums
        if any(int(r) * 2 ** max(0, shift) >= _LARGEST_SUM for r, (_, shift) in zip(reach, pairs, strict=True)):
            raise Refused(f"a sum may reach {int(reach.max()):,}, which overflows 32 bits")
        arrays |= {"bias": bias.astype(np.int32)}
    else:
        pairs = [narrowed(*pair) for pair in pairs]
        arrays |= {"wide_bias": bias}
    arrays |= {
        "multipliers": np.array([m for m, _ in pairs], np.int32),
        "shifts": np.array([s for _, s in pairs], np.int8),
    }
    low, high = activation_range(option("fused_activation", "NONE"), out_scale, out_zero, dtype)
    fields: dict[str, Any] = {name: name for name in arrays} | {
        "batches": x.shape[0],
        "in_h": x.shape[1],
        "in_w": x.shape[2],
        "in_c": in_c,
        "out_h": y.shape[1],
        "out_w": y.shape[2],
        "out_c": out_c,
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": stride_h,
        "stride_w": stride_w,
        "pad_top": pads[0],
        "pad_left": pads[1],
        "in_zero": in_zero,
        "out_zero": out_zero,
        "out_min": low,
        "out_max": high,
    }
    rows.add(
        "ep_transpose_conv" if dtype == "int8" else "ep_transpose_conv_16",
        "ep_transposed",
        fields,
        [x.index],
        y.index,
        f"{described(x.shape)} -> {described(y.shape)}, {kernel_h}x{kernel_w}, stride {stride_h}x{stride_w}",
        arrays=arrays,
        macs=prod(x.shape) * kernel_h * kernel_w * out_c,
    )


def batch_matmul(rows: Rows, operator: Operator) -> None:
    """BATCH_MATMUL of two matrices in up to three dimensions of batches, which are broadcast."""
    a, b, y = rows.operand(operator, 0), rows.operand(operator, 1), rows.values[operator.outputs[0]]
    dtype = "int16" if a.dtype == "int16" else "int8"
    (a_scale, a_zero), (b_scale, b_zero) = rows.quantized(a, dtype), rows.quantized(b, dtype)
    out_scale, out_zero = rows.quantized(y, dtype)
    if not 2 <= min(len(a.shape), len(b.shape)) <= max(len(a.shape), len(b.shape)) <= 5:
        raise Refused(f"{list(a.shape)} times {list(b.shape)}")
    first, second = ((1,) * (5 - len(v.shape)) + v.shape for v in (a, b))
    a_step, b_step = strides(first), strides(second)
    row, depth = (4, 3) if operator.option("adj_x", False) else (3, 4)
    b_depth, column = (4, 3) if operator.option("adj_y", False) else (3, 4)
    batch = tuple(max(m, n) for m, n in zip(first[:3], second[:3], strict=True))
    broadcast = all(m == n or 1 in (m, n) for m, n in zip(first[:3], second[:3], strict=True))
    shape = (*batch, first[row], second[column])
    if not broadcast or first[depth] != second[b_depth] or prod(shape) != prod(y.shape):
        raise Refused(f"{list(a.shape)} times {list(b.shape)} is not {list(y.shape)}")
    # As for a dense layer with one scale, the product of the scales is rounded to float32 first.
    multiplier, shift = fixed(float(a_scale * b_scale) / float(out_scale))
    reach = 255 * 255 * first[depth]
    if dtype == "int16":
        multiplier, shift = narrowed(multiplier, shift)
    elif reach * 2 ** max(0, shift) >= _LARGEST_SUM:
        raise Refused(f"a sum may reach {reach:,}, which overflows 32 bits")
    rows.add(
        "ep_batch_matmul" if dtype == "int8" else "ep_batch_matmul_16",
        "ep_matmul",
        {
            "batch": batch,
            "a_stride": tuple(0 if n == 1 else s for n, s in zip(first[:3], a_step[:3], strict=True)),
            "b_stride": tuple(0 if n == 1 else s for n, s in zip(second[:3], b_step[:3], strict=True)),
            "rows": first[row],
            "columns": second[column],
            "depth": first[depth],
            "a_row": a_step[row],
            "a_depth": a_step[depth],
            "b_column": b_step[column],
            "b_depth": b_step[b_depth],
            "multiplier": multiplier,
            "shift": shift,
            "a_zero": a_zero,
            "b_zero": b_zero,
            "out_zero": out_zero,
        },
        [a.index, b.index],
        y.index,
        f"{described(a.shape)} times {described(b.shape)} -> {described(y.shape)}",
        macs=prod(shape) * first[depth],
    )
