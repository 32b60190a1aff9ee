# SPDX-License-Identifier: Apache-2.0
"""Lowering of RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR: where outputs lie in the image is worked out here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgepress.deploy.firmware.lowering.context import Refused, Rows, described
from edgepress.deploy.firmware.lowering.steps import Value
from edgepress.deploy.firmware.operators.moves import ends
from edgepress.deploy.tflite.reader import Operator

#: A step of the interpolation.
_ONE = 1024
#: (size, wanted size, align_corners, half_pixel_centers) -> where each output lies along an axis.
Line = Callable[[int, int, bool, bool], np.ndarray]


def resize_nearest(rows: Rows, operator: Operator) -> None:
    """Which row and column each output takes, in float32 as TFLite Micro does."""
    x, y = ends(rows, operator)
    if x.dtype not in ("int8", "int16"):
        raise Refused(f"{x.name!r} is {x.dtype}, not int8 or int16")
    rows.quantized(x, x.dtype)
    pixel = {"pixel_bytes": x.shape[-1] * np.dtype(x.dtype).itemsize}
    _resize(rows, operator, x, y, "ep_resize_nearest", "ep_resize", pixel, _nearest)


def resize_bilinear(rows: Rows, operator: Operator) -> None:
    """Which rows and columns each output lies between, in steps of 1/1024."""
    x, y = rows.operand(operator, 0), rows.values[operator.outputs[0]]
    if rows.int8(x) != rows.int8(y):
        raise Refused("input and output have different scales")
    _resize(rows, operator, x, y, "ep_resize_bilinear", "ep_bilinear", {"channels": x.shape[-1]}, _between)


def _resize(
    rows: Rows,
    operator: Operator,
    x: Value,
    y: Value,
    kernel: str,
    structure: str,
    pixel: dict[str, int],
    line: Line,
) -> None:
    if len(x.shape) != 4 or len(y.shape) != 4 or (x.shape[0], x.shape[3]) != (y.shape[0], y.shape[3]):
        raise Refused(f"{list(x.shape)} becomes {list(y.shape)}")
    if tuple(rows.integers(operator, 1)) != y.shape[1:3]:
        raise Refused(f"the wanted size is not the one of the output, {list(y.shape)}")
    corners, centers = operator.option("align_corners", False), operator.option("half_pixel_centers", False)
    rows.add(
        kernel,
        structure,
        {
            "batches": x.shape[0],
            "in_h": x.shape[1],
            "in_w": x.shape[2],
            **pixel,
            "out_h": y.shape[1],
            "out_w": y.shape[2],
            "rows": "rows",
            "columns": "columns",
        },
        [x.index],
        y.index,
        f"{described(x.shape)} -> {described(y.shape)}",
        arrays={
            "rows": line(x.shape[1], y.shape[1], corners, centers),
            "columns": line(x.shape[2], y.shape[2], corners, centers),
        },
    )


def _nearest(size: int, wanted: int, corners: bool, centers: bool) -> np.ndarray:
    if max(size, wanted) > 32767:
        raise Refused(f"a size of {max(size, wanted)} does not fit into int16")
    scale = (
        np.float32(size - 1) / np.float32(wanted - 1)
        if corners and wanted > 1
        else np.float32(size) / np.float32(wanted)
    )
    at = (np.arange(wanted, dtype=np.float32) + np.float32(0.5 if centers else 0)) * scale
    whole = np.floor(at + np.float32(0.5)) if corners else np.floor(at)
    return np.clip(whole, 0, size - 1).astype(np.int16)


def _between(size: int, wanted: int, corners: bool, centers: bool) -> np.ndarray:
    """[wanted, 3]: the two neighbours and the distance from the first."""
    if max(size, wanted) > 32767:
        raise Refused(f"a size of {max(size, wanted)} does not fit into int16")
    scale = (_ONE * size + wanted // 2) // wanted
    if corners and wanted > 1:
        scale = (_ONE * (size - 1) + (wanted - 1) // 2) // (wanted - 1)
    at = np.arange(wanted) * scale + (scale // 2 - _ONE // 2 if centers else 0)
    first = np.maximum(np.trunc(at / _ONE).astype(np.int64), 0)
    second = np.minimum(np.trunc((at + _ONE - 1) / _ONE).astype(np.int64), size - 1)
    if first.max() >= size:
        raise Refused(f"its steps of 1/{_ONE} lead from {size} to {wanted} out of the image")
    return np.stack([first, second, at - _ONE * first], 1).astype(np.int16)
