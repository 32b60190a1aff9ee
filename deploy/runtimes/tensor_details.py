# SPDX-License-Identifier: Apache-2.0
"""What a file says about its inputs and outputs, and the way between float and its integers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from edgepress.models.errors import UsageError


@dataclass(frozen=True)
class TensorDetails:
    """One input or output of a file.

    Attributes:
        name: as in the file, possibly empty.
        shape: in the file's layout, with the batch; -1 where the size is free.
        dtype: NumPy's name of the file's type.
        scale: real value of one step (one LSB); None for float.
        zero_point: the integer that stands for 0.0; None for float.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    @property
    def is_integer(self) -> bool:
        """Whether the tensor holds quantized integers."""
        return self.scale is not None

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Float to the file's integers: round(x / scale) + zero_point, saturated.

        Ties go to the even integer (torch's fake quantization and ONNX QuantizeLinear do the same; TFLite's own
        QUANTIZE operator rounds them away from zero). The division is in float32, as in runtimes. One rule for every
        runtime makes sure that each gets the same integers. A tensor without scale is only converted to its type.
        """
        if self.scale is None:
            return np.asarray(x).astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps = np.rint(np.asarray(x, np.float32) / np.float32(self.scale)) + np.float32(self.zero_point or 0)
        if np.isnan(steps).any():
            raise UsageError("the input holds NaN, which no integer stands for")
        return np.clip(steps, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, q: np.ndarray) -> np.ndarray:
        """The file's integers to float32: (q - zero_point) * scale."""
        if self.scale is None:
            return np.asarray(q).astype(np.float32)
        return (np.asarray(q).astype(np.float32) - np.float32(self.zero_point or 0)) * np.float32(self.scale)


def integer_details(
    name: str, shape: Iterable[int], dtype: DTypeLike, scales: Sequence[float], zeros: Sequence[int]
) -> TensorDetails:
    """Details of a tensor as TFLite's runtimes give them: integers where it has one scale, else its bare type.

    Raises:
        UsageError: a scale that is negative or no number, which would stand for nothing.
    """
    scale = float(scales[0]) if len(scales) == 1 and float(scales[0]) != 0 else None
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"tensor {name!r:.80} has the scale {scale:g}; a scale is positive: the file is damaged")
    zero = int(zeros[0]) if scale is not None and len(zeros) else (0 if scale is not None else None)
    return TensorDetails(name, tuple(int(s) for s in shape), np.dtype(dtype).name, scale, zero)


def to_file_layout(x: np.ndarray, details: TensorDetails, layout: str | None, name: str = "x") -> np.ndarray:
    """Bring [N, ...] in torch's layout (NCHW) into the layout of the file.

    Args:
        x: N samples; 4-D arrays are NCHW.
        details: of the file's input; its first dimension is the batch.
        layout: of the file, "NHWC" or "NCHW", or None where nobody said: then the shapes decide, NHWC before NCHW,
            as it is TFLite's own.
        name: for the error.

    Raises:
        UsageError: the shape fits in neither layout.
    """
    wanted = details.shape[1:]

    def fits(shape: tuple[int, ...]) -> bool:
        return len(shape) == len(wanted) and all(b in (-1, a) for a, b in zip(shape, wanted, strict=True))

    if x.ndim != len(details.shape) and fits(x.shape):
        raise UsageError(f"{name} has the shape {list(x.shape)} without a batch: give {[1, *x.shape]}")
    if x.ndim == 4:
        permuted = (x.shape[2], x.shape[3], x.shape[1])
        if layout in ("NHWC", None) and fits(permuted):
            return np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        if layout in ("NCHW", None) and fits(x.shape[1:]):
            return np.ascontiguousarray(x)
    elif fits(x.shape[1:]):
        return np.ascontiguousarray(x)
    raise UsageError(f"{name} has the shape {list(x.shape)}; the file takes {describe_torch_shape(details, layout)}")


def from_file_layout(y: np.ndarray, layout: str | None) -> np.ndarray:
    """Bring a 4-D output of the file into torch's layout where the file says NHWC; everything else is left."""
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2)) if y.ndim == 4 and layout == "NHWC" else y


def describe_torch_shape(details: TensorDetails, layout: str | None) -> str:
    """The shape that a caller must give, in torch's layout, as text."""
    wanted = list(details.shape[1:])
    if len(wanted) == 3 and layout != "NCHW":
        wanted = [wanted[2], wanted[0], wanted[1]]
    return "[N, " + ", ".join("any" if size < 0 else str(size) for size in wanted) + "]"
