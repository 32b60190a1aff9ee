# SPDX-License-Identifier: Apache-2.0
"""Lowering of operators on int16 activations (zero point 0) with int8 weights."""

from __future__ import annotations

from math import prod

import numpy as np

from edgepress.deploy.firmware.lowering.context import Refused, Rows, activation_range, described, fixed
from edgepress.deploy.firmware.lowering.steps import FieldValue, Value
from edgepress.deploy.firmware.lowering.tables import round_away, sigmoid_16, softmax_16
from edgepress.deploy.firmware.operators.layers import (
    channel_scales,
    dense_window,
    int8_weights,
    need_rank_4,
    window_of,
    with_padding,
)
from edgepress.deploy.tflite.reader import Operator

#: A sum of 32 bits has to stay below; one of 64 bits is only defined below 2^47.
_NARROW_SUM, _WIDE_SUM = 1 << 31, 1 << 47


def narrowed(multiplier: int, shift: int) -> tuple[int, int]:
    """A multiplier of 15 bits for sums of 64, as `MultiplyByQuantizedMultiplier` reduces it.

    Raises:
        Refused: the shift is out of its range.
    """
    if not -31 <= shift < 8:
        raise Refused("the scale of the output is out of reach for a sum of 64 bits")
    return (0x7FFF if multiplier >= 0x7FFF0000 else (multiplier + (1 << 15)) >> 16), shift


def conv(rows: Rows, operator: Operator) -> None:
    """CONV_2D (weights [out, h, w, in / groups]) and DEPTHWISE_CONV_2D (weights [1, h, w, channels * multiplier])."""
    x, weights, y = rows.operand(operator, 0), int8_weights(rows, operator), rows.values[operator.outputs[0]]
    need_rank_4(x, weights, y)
    assert weights.data is not None
    depthwise = operator.code == "DEPTHWISE_CONV_2D"
    data, group_c = (np.moveaxis(weights.data, 3, 0), 1) if depthwise else (weights.data, weights.shape[3])
    _, kernel_h, kernel_w, _ = weights.shape
    if x.shape[3] % group_c or len(data) % (x.shape[3] // group_c):
        raise Refused(f"weights {list(weights.shape)} do not fit {x.shape[3]} channels")
    window = window_of(operator, x, y, kernel_h, kernel_w)
    x, window = with_padding(rows, x, window)
    _add(rows, operator, x, y, {**window, "group_c": group_c}, data.reshape(len(data), -1), 3 if depthwise else 0)


def fully_connected(rows: Rows, operator: Operator) -> None:
    """Weights [out, in]: a 1x1 convolution of an image with one pixel per row."""
    x, weights, y = rows.operand(operator, 0), int8_weights(rows, operator), rows.values[operator.outputs[0]]
    if operator.option("weights_format", 0) or len(weights.shape) != 2:
        raise Refused(f"its weights of the shape {list(weights.shape)} are shuffled or no matrix")
    out_c, in_c = weights.shape
    count = prod(x.shape) // in_c
    if prod(x.shape) % in_c or prod(y.shape) != count * out_c:
        raise Refused(f"{list(x.shape)} times {list(weights.shape)} is not {list(y.shape)}")
    assert weights.data is not None
    window = {**dense_window(count, in_c, out_c), "group_c": in_c}
    _add(rows, operator, x, y, window, weights.data, 0, dense=True)


def _add(
    rows: Rows,
    operator: Operator,
    x: Value,
    y: Value,
    window: dict[str, int],
    by_channel: np.ndarray,
    axis: int,
    dense: bool = False,
) -> None:
    in_scale, _ = rows.quantized(x, "int16")
    out_scale, _ = rows.quantized(y, "int16")
    channels = len(by_channel)
    scales = channel_scales(rows, operator, channels, axis)
    pairs = (
        [fixed(float(in_scale * scales[0]) / float(out_scale))]
        if dense and len(scales) == 1
        else [fixed(float(in_scale) * float(scale) / float(out_scale)) for scale in scales]
    )
    pairs = pairs * channels if len(pairs) == 1 else pairs
    bias = wide_bias(rows, operator, channels, 2)
    given = rows.optional(operator, 2)
    narrow = (given is not None and given.dtype == "int32") or (given is None and _narrow_by_option(operator))
    reach = np.abs(bias) + 32768 * np.abs(by_channel.astype(np.int64)).sum(1)
    if narrow and operator.code == "DEPTHWISE_CONV_2D":
        raise Refused("its bias is int32, where TFLite Micro takes int64")
    shifts = [max(0, shift) if narrow else 0 for _, shift in pairs]
    if any(int(r) << s >= (_NARROW_SUM if narrow else _WIDE_SUM) for r, s in zip(reach, shifts, strict=True)):
        raise Refused(f"a sum may reach {int(reach.max()):,}, which overflows")
    if not narrow:
        pairs = [narrowed(*pair) for pair in pairs]
    if largest := next((size for size in window.values() if size > 65535), None):
        raise Refused(f"a size of {largest:,} does not fit into 16 bits")
    low, high = activation_range(operator.option("fused_activation", "NONE"), out_scale, 0, "int16")
    arrays = {
        "weights": np.ascontiguousarray(by_channel),
        "bias": bias,
        "multipliers": np.array([m for m, _ in pairs], np.int32),
        "shifts": np.array([s for _, s in pairs], np.int8),
    }
    fields: dict[str, FieldValue] = {name: name for name in arrays}
    rows.add(
        "ep_conv_2d_16",
        "ep_conv_wide",
        {**fields, **window, "narrow": int(narrow), "out_min": low, "out_max": high},
        [x.index],
        y.index,
        f"{described(x.shape)} -> {described(y.shape)}, int16",
        arrays=arrays,
        macs=prod(y.shape) * window["kernel_h"] * window["kernel_w"] * window["group_c"],
    )


def _narrow_by_option(operator: Operator) -> bool:
    return operator.code != "DEPTHWISE_CONV_2D" and operator.option("quantized_bias_type", 0) == 2  # TensorType.INT32


def wide_bias(rows: Rows, operator: Operator, channels: int, position: int) -> np.ndarray:
    """[channels] of int64; zeros where there is none."""
    value = rows.optional(operator, position)
    if value is None:
        return np.zeros(channels, np.int64)
    if value.dtype not in ("int32", "int64") or value.data is None or value.data.size != channels:
        raise Refused(f"its bias is {value.dtype} with the shape {list(value.shape)}")
    return value.data.reshape(-1).astype(np.int64)


def two_slopes(rows: Rows, operator: Operator) -> None:
    """RELU, RELU6 and LEAKY_RELU."""
    x, y, in_scale, out_scale = _unary(rows, operator)
    least, most = -32768, 32767
    positive, negative = fixed(float(in_scale / out_scale)), (0, 0)
    if operator.code == "RELU":
        positive, least = fixed(float(in_scale) / float(out_scale)), 0
    elif operator.code == "RELU6":  # without a change of scale: TFLite Micro takes the input's
        positive, least = (1 << 30, 1), 0
        most = min(most, round_away(float(np.float32(6) / in_scale)))
    else:
        slope = np.float32(in_scale * np.float32(operator.option("alpha", 0.0))) / out_scale
        if slope < 0:
            raise Refused(f"alpha = {operator.option('alpha', 0.0):g} is negative")
        negative = fixed(float(slope))
    if max(positive[1], negative[1]) > 15:
        raise Refused("the scale of the output is too small for the input")
    numbers = (*positive, *negative, least, most, prod(y.shape))
    _add_unary(rows, "ep_two_slopes_16", x, y, numbers)


def saturating(rows: Rows, operator: Operator) -> None:
    """LOGISTIC and TANH, to scale 1/32768, by a table that is interpolated."""
    x, y, in_scale, out_scale = _unary(rows, operator)
    if power_of_two(out_scale) != -15:
        raise Refused(f"its output has the scale {out_scale:g}, not 1/32768")
    multiplier, shift = input_factor(in_scale, (0,) if operator.code == "LOGISTIC" else (0, 1))
    kernel = f"ep_{operator.code.lower()}_16"
    arguments = ("table", str(multiplier), str(shift), str(prod(y.shape)))
    rows.add(
        kernel, "", {}, [x.index], y.index, described(x.shape), arguments=arguments, arrays={"table": sigmoid_16()}
    )


def softmax(rows: Rows, operator: Operator) -> None:
    """Along the last dimension, to scale 1/32768, by tables of exp and of 1 / (1 + x) that are interpolated."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    (in_scale, _), (out_scale, _) = rows.quantized(x, "int16"), rows.quantized(y, "int16")
    if abs(float(out_scale) * 32768 - 1) > 1e-3:
        raise Refused(f"its output has the scale {out_scale:g}, not 1/32768")
    if not x.shape or x.shape != y.shape:
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    depth = x.shape[-1]
    if depth > 65536:  # the sum of exponentials has 32 bits
        raise Refused(f"it is over {depth:,} values; up to 65,536 are certain to be in range")
    # 65,535 steps for what is 10 below the largest; exp of less is nothing.
    multiplier, shift = fixed(float(in_scale) * float(np.float32(operator.option("beta", 0.0))) / (10.0 / 65535.0))
    if shift > 15:
        raise Refused(f"beta * scale = {operator.option('beta', 0.0) * float(in_scale):g} is too large")
    exponentials, reciprocals = softmax_16()
    rows.add(
        "ep_softmax_16",
        "ep_softmax_wide",
        {
            "rows": prod(x.shape) // depth,
            "depth": depth,
            "exponentials": "exponentials",
            "reciprocals": "reciprocals",
            "multiplier": multiplier,
            "shift": shift,
        },
        [x.index],
        y.index,
        f"{described(x.shape)}, int16",
        arrays={"exponentials": exponentials, "reciprocals": reciprocals},
    )


def power_of_two(scale: np.float32) -> int | None:
    """The exponent of what TFLite Micro takes for a power of 2 (`CheckedLog2`), or None."""
    exponent = np.float32(np.log(scale)) * (np.float32(1) / np.float32(np.log(np.float32(2))))
    return int(np.rint(exponent)) if abs(float(exponent - np.rint(exponent))) < 1e-3 else None


def input_factor(scale: np.float32, powers: tuple[int, ...]) -> tuple[int, int]:
    """(multiplier, shift to the right) to steps of 1/(3 * 4096); `powers` of 2 above 1/4096 are exact."""
    exponent = power_of_two(scale)
    if exponent is not None and exponent + 12 in powers:
        return 3 << exponent + 12, 0
    real, shift = float(scale) * 4096.0 * 3.0, 0
    while real <= 32767.0 / 2.0 and shift <= 30:
        real, shift = real * 2.0, shift + 1
    if int(real) > 65535:
        raise Refused(f"the input scale {scale:g} is out of reach for the fixed-point function")
    return int(real), shift


def rsqrt(rows: Rows, operator: Operator) -> None:
    """1 / sqrt(x) by Newton's method."""
    x, y, in_scale, out_scale = _unary(rows, operator)
    multiplier, shift = rsqrt_factor(in_scale, out_scale)
    _add_unary(rows, "ep_rsqrt_16", x, y, (multiplier, shift, prod(y.shape)))


def rsqrt_factor(in_scale: np.float32, out_scale: np.float32) -> tuple[int, int]:
    """What turns 1 / sqrt of an integer, with 20 more bits, into the output's scale."""
    multiplier, shift = fixed(1.0 / float(np.float32(np.sqrt(in_scale)) * out_scale))
    if not -11 <= shift <= 29:
        raise Refused("the scale of the output is out of reach for the input")
    return multiplier, shift


def requantize(rows: Rows, operator: Operator) -> None:
    """QUANTIZE between int8 and int16, in either direction, and to int16 from float32."""
    x, y = rows.operand(operator, 0, constant=False), rows.values[operator.outputs[0]]
    if prod(x.shape) != prod(y.shape):
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    (in_scale, in_zero), (out_scale, out_zero) = rows.quantized(x, x.dtype), rows.quantized(y, y.dtype)
    multiplier, shift = fixed(float(in_scale) / float(out_scale))
    if shift > (22 if x.dtype == "int8" else 15):
        raise Refused("the scale of the output is too small for the input")
    zero: tuple[int, ...] = (in_zero,) if x.dtype == "int8" else (out_zero,) if y.dtype == "int8" else ()
    kernel = f"ep_requantize_{x.dtype.removeprefix('int')}_{y.dtype.removeprefix('int')}"
    _add_unary(rows, kernel, x, y, (*zero, multiplier, shift, prod(y.shape)))


def _unary(rows: Rows, operator: Operator) -> tuple[Value, Value, np.float32, np.float32]:
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    if prod(x.shape) != prod(y.shape):
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    return x, y, rows.quantized(x, "int16")[0], rows.quantized(y, "int16")[0]


def _add_unary(rows: Rows, kernel: str, x: Value, y: Value, numbers: tuple[int, ...]) -> None:
    rows.add(kernel, "", {}, [x.index], y.index, described(x.shape), arguments=tuple(map(str, numbers)))
