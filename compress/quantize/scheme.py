# SPDX-License-Identifier: Apache-2.0
"""Integer parameters: the one place where a range becomes a scale and a zero point, and weights become integers.

Fake quantization, the TFLite file and the ONNX file all take their numbers from here, in float32 and in this order of
operations, so that they are equal to the bit. NumPy only.

Conventions (TFLite's 8-bit quantization specification): real = scale * (integer - zero_point); activations int8
asymmetric per tensor or int16 symmetric; weights int8 in [-127, 127], symmetric per output channel; biases int32
(int64 beside int16 activations) with scale input_scale * weight_scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edgepress.models.errors import UsageError

#: Name of a scheme -> bits of its activations; weights are int8 in all of them. "float" leaves a layer as it is.
SCHEMES: dict[str, int] = {"w8a8": 8, "a16w8": 16}
FLOAT = "float"
#: Narrower ranges than this are widened: a scale must be positive, and far from float32's denormals.
NARROWEST_RANGE = np.float32(1e-6)
#: The share by which a written range may be narrower, since float32 cannot write every one.
_GRANTED = 1e-3
#: Largest |bias| as an integer. The other half of int32 stays free for the products which are added to it.
BIAS_LIMIT = 2**30
#: Integers of a weight lie in [-WEIGHT_LIMIT, WEIGHT_LIMIT].
WEIGHT_LIMIT = 127


@dataclass(frozen=True)
class Integers:
    """How the values of one activation tensor are written as integers.

    Attributes:
        scale: float32, real units per integer step.
        zero_point: the integer that means 0.
        bits: 8 (int8, asymmetric) or 16 (int16, zero_point 0).
    """

    scale: np.float32
    zero_point: int
    bits: int = 8

    @property
    def lowest(self) -> int:
        return -(2 ** (self.bits - 1))

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def dtype(self) -> type[np.int8] | type[np.int16]:
        return np.int8 if self.bits == 8 else np.int16

    def quantize(self, values: ArrayLike) -> np.ndarray:
        """Real values -> integers; halves go to the even neighbour, values outside of the range saturate."""
        with np.errstate(over="ignore"):  # what leaves the range of float32 saturates all the same
            steps = np.rint(np.asarray(values, np.float32) / self.scale) + np.float32(self.zero_point)
        return np.clip(steps, self.lowest, self.highest).astype(self.dtype)

    def dequantize(self, integers: ArrayLike) -> np.ndarray:
        """Integers -> real float32 values."""
        return (np.asarray(integers, np.float32) - np.float32(self.zero_point)) * self.scale


def integers_of_range(minimum: float, maximum: float, bits: int = 8) -> Integers:
    """The scale and zero point which cover [minimum, maximum] and hold 0 exactly.

    Raises:
        UsageError: the range is not finite or is upside down.
    """
    low, high = np.float32(minimum), np.float32(maximum)
    if not (np.isfinite(low) and np.isfinite(high)) or low > high:
        raise UsageError(
            f"an activation range must be finite with min <= max, not [{minimum}, {maximum}]; "
            "look for NaN or infinite values in the calibration data and the network"
        )
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    if bits == 16:
        return Integers(np.maximum(np.maximum(-low, high), NARROWEST_RANGE) / np.float32(32767), 0, 16)
    scale = np.maximum(high - low, NARROWEST_RANGE) / np.float32(255)
    zero_point = int(np.clip(np.rint(np.float32(-128) - low / scale), -128, 127))
    return Integers(scale, zero_point)


def written_range(minimum: float, maximum: float, bits: int = 8) -> tuple[float, float]:
    """The range as a file holds it: with 0 inside and never narrower than `NARROWEST_RANGE`, for the same integers.

    Values that never moved (an activation that is always 0) have a range without a width. In a file such a range may
    as well be damage: whoever reads it could not tell, and a network whose every range is empty agrees with anything.
    """
    low, high = min(0.0, float(np.float32(minimum))), max(0.0, float(np.float32(maximum)))
    width = max(-low, high) if bits == 16 else high - low
    if width >= NARROWEST_RANGE:
        return low, high
    integers = integers_of_range(low, high, bits)
    low = float(np.float32(integers.lowest - integers.zero_point) * integers.scale) if bits == 8 else 0.0
    # Below it by less than what a reader grants: the scale is that of the narrowest range then, to the bit.
    return low, low + (1 - _GRANTED) * float(NARROWEST_RANGE)


def holds_values(minimum: float, maximum: float) -> bool:
    """Whether a range of a file is one that `written_range` may have written."""
    return minimum < maximum and max(0.0, maximum) - min(0.0, minimum) >= (1 - 2 * _GRANTED) * float(NARROWEST_RANGE)


def weight_scales(
    weight: np.ndarray, axis: int | None, bias: np.ndarray | None = None, input_scale: np.float32 | None = None
) -> np.ndarray:
    """Symmetric scales of a weight tensor, float32, one per index of `axis` (or one in all for None).

    A scale is max |w| / 127 with a floor: pruning and folded batch norms leave channels whose weights are all but
    zero while their bias is not, and such a bias would leave int32 (onnxruntime PR 22020). A channel of zeros takes
    the largest scale of its layer.

    Args:
        weight: any shape.
        axis: the output channels; None means one scale for the whole tensor.
        bias: [channels]; with `input_scale` it sets the floor |bias| / (input_scale * 2^30).
        input_scale: scale of the activations which meet the weight.
    """
    magnitude = np.abs(np.asarray(weight, np.float32))
    if axis is None:
        largest = magnitude.max(initial=np.float32(0)).reshape(1)
    else:
        largest = magnitude.max(axis=tuple(i for i in range(magnitude.ndim) if i != axis), initial=np.float32(0))
    scales = largest.astype(np.float32) / np.float32(WEIGHT_LIMIT)
    tiny = np.float32(2.0**-100)  # below this the product with an input scale would be a denormal
    fallback = scales.max(initial=np.float32(0))
    scales = np.where(scales > tiny, scales, fallback if fallback > tiny else np.float32(1 / WEIGHT_LIMIT))
    if bias is not None and input_scale is not None:
        floor = np.abs(np.asarray(bias, np.float32)) / (np.float32(input_scale) * np.float32(BIAS_LIMIT))
        scales = np.maximum(scales, floor if axis is not None else floor.max(initial=np.float32(0)))
    return scales.astype(np.float32)


def quantize_weight(weight: np.ndarray, scales: np.ndarray, axis: int | None) -> np.ndarray:
    """Real weights -> int8 in [-127, 127]."""
    weight = np.asarray(weight, np.float32)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    return np.clip(np.rint(weight / scales.reshape(shape)), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)


def bias_scales(input_scale: np.float32, scales: np.ndarray) -> np.ndarray:
    """Scale of each bias: input scale times weight scale, rounded to float32 once."""
    return (np.float32(input_scale) * scales.astype(np.float32)).astype(np.float32)


def quantize_bias(bias: np.ndarray, scales: np.ndarray, bits: int = 8, *, name: str = "bias") -> np.ndarray:
    """Real biases -> int32 (int64 beside 16-bit activations).

    Raises:
        UsageError: a bias does not fit; the floor of `weight_scales` keeps this from happening to finite biases.
    """
    steps = np.rint(np.asarray(bias, np.float32) / scales).astype(np.float64)
    if not np.isfinite(steps).all() or (bits == 8 and np.abs(steps).max(initial=0) > 2**31 - 1):
        raise UsageError(
            f"{name} does not fit int32 with scale {float(np.min(scales)):.3g}; the layer's weights "
            "are not finite, or its scales were not made with its bias"
        )
    return steps.astype(np.int32 if bits == 8 else np.int64)


def constant_integers(values: np.ndarray, bits: int = 8) -> Integers:
    """Integer parameters of a constant operand (the 0.5 of x * 0.5): exactly its own range."""
    values = np.asarray(values, np.float32)
    return integers_of_range(float(values.min(initial=np.float32(0))), float(values.max(initial=np.float32(0))), bits)


def activation_bits(scheme: str) -> int:
    """Bits of activations under a scheme.

    Raises:
        UsageError: unknown scheme.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"scheme = {scheme!r} is unknown; known are {', '.join(map(repr, SCHEMES))}")
    return SCHEMES[scheme]
