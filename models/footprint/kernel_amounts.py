# SPDX-License-Identifier: Apache-2.0
"""What each of our kernels does, as a function of sizes: rounds of its innermost loop, tiles, copies of a row.

The names follow the loops of deploy/firmware/templates/kernels. Odd channels, tails and the positions at the border are
amounts of their own, so that widths which a kernel likes are cheap here as they are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod

#: Of a plane of a depthwise convolution, as in `edgepress.deploy.firmware`.
_PLANE_BYTES = 2048
_LINES = 3


@dataclass(frozen=True)
class Window:
    """The sizes of a layer that pruning leaves as they are. Height and width of its kernel, strides, image and outputs.

    Attributes:
        inside: output positions whose window lies in the image.
        edge: those whose columns do, but not all of their rows.
        border: the others.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    image: tuple[int, int]
    outputs: tuple[int, int]

    @property
    def positions(self) -> int:
        return prod(self.outputs)

    @property
    def inside(self) -> int:
        return prod(self._inside(axis) for axis in (0, 1))

    @property
    def edge(self) -> int:
        return self._inside(1) * (self.outputs[0] - self._inside(0))

    @property
    def border(self) -> int:
        return self.positions - self.inside - self.edge

    def _inside(self, axis: int) -> int:
        reach = (self.kernel[axis] - 1) * self.dilation[axis]
        starts = (i * self.stride[axis] - self.pad[axis] for i in range(self.outputs[axis]))
        return sum(start >= 0 and start + reach < self.image[axis] for start in starts)


def conv_tiles(w: Window, in_c: float, out_c: float, groups: float) -> dict[str, float]:
    """Tiles of two channels and three positions, over lines of rounds of four values."""
    group_c, group_out, count = in_c / groups, out_c / groups, w.positions
    products = w.kernel[0] * w.kernel[1] * group_c
    rounds, pairs = ceil(products / 4), groups * ceil(group_out / 2)
    tiles, left = divmod(count, _LINES)
    single, two = float(left == 1), float(left == 2)
    same = w.image == w.outputs and w.stride == (1, 1)
    in_place = w.kernel == (1, 1) and groups == 1 and same and products % 4 == 0
    row = w.kernel[1] * group_c
    whole = groups == 1 and w.dilation[1] == 1
    inside, edge, border = (w.inside, w.edge, w.border) if whole else (0, 0, count)
    gathered = 0.0 if in_place else float(groups)
    fours = float(group_c % 4 == 0)
    plain = gathered * (1 - fours)
    return {
        "rounds": tiles * pairs * rounds,
        "odd rounds": tiles * pairs * (rounds % 2),
        "pairs": tiles * pairs,
        "odd channels": tiles * groups * (group_out % 2),
        "tiles": tiles * groups,
        "two: rounds": two * pairs * rounds,
        "two: pairs": two * pairs,
        "two: odd channels": two * groups * (group_out % 2),
        "single: rounds": single * pairs * rounds,
        "single: pairs": single * pairs,
        "single: odd channels": single * groups * (group_out % 2),
        "spread rounds": (count - single) * rounds * (plain + float(in_place)),
        "spread tails": (count - single) * (rounds % 2) * (plain + float(in_place)),
        "positions": count * groups,
        "rounds inside: rows": gathered * fours * inside * w.kernel[0],
        "rounds inside: rounds": gathered * fours * inside * rounds,
        "rounds edge: rows": gathered * fours * edge * w.kernel[0],
        "rounds edge: rounds": gathered * fours * edge * rounds,
        "rounds border: columns": gathered * fours * border * w.kernel[0] * w.kernel[1],
        "rounds border: rounds": gathered * fours * border * rounds,
        "inside: rows": plain * inside * w.kernel[0],
        "inside: words": plain * inside * w.kernel[0] * (row // 4),
        "inside: halves": plain * inside * w.kernel[0] * (row % 4 // 2),
        "inside: bytes": plain * inside * w.kernel[0] * row,
        "inside: odd": plain * inside * w.kernel[0] * (row % 2),
        "edge: rows": plain * edge * w.kernel[0],
        "edge: words": plain * edge * w.kernel[0] * (row // 4),
        "edge: halves": plain * edge * w.kernel[0] * (row % 4 // 2),
        "edge: odd": plain * edge * w.kernel[0] * (row % 2),
        "border: columns": plain * border * w.kernel[0] * w.kernel[1],
        "border: words": plain * border * w.kernel[0] * w.kernel[1] * (group_c // 4),
        "border: halves": plain * border * w.kernel[0] * w.kernel[1] * (group_c % 4 // 2),
        "border: odd": plain * border * w.kernel[0] * w.kernel[1] * (group_c % 2),
        "layer": 1.0,
    }


def conv_vectors(w: Window, in_c: float, out_c: float, groups: float) -> dict[str, float]:
    """The same with vectors of sixteen products; four channels become int8 together."""
    group_c, group_out, count = in_c / groups, out_c / groups, w.positions
    products = w.kernel[0] * w.kernel[1] * group_c
    rounds, pairs, fours = ceil(products / 16), groups * ceil(group_out / 2), groups * ceil(group_out / 4)
    tiles, left = divmod(count, _LINES)
    single, two = float(left == 1), float(left == 2)
    same = w.image == w.outputs and w.stride == (1, 1)
    in_place = w.kernel == (1, 1) and groups == 1 and same and products % 16 == 0
    row = w.kernel[1] * group_c
    short = groups == 1 and w.dilation == (1, 1) and row <= 16
    columns = groups == 1 and w.dilation[1] == 1
    inside, edge, border = (w.inside, w.edge, w.border) if columns else (0, 0, count)
    gathered = float(left) if in_place else float(groups)
    if in_place:
        inside, edge, border = 1, 0, 0
    return {
        "rounds": (tiles + two) * pairs * rounds,
        "pairs": (tiles + two) * pairs,
        "fours": (tiles + two) * fours,
        "stored": count * fours,
        "single: rounds": single * pairs * rounds,
        "single: pairs": single * pairs,
        "tiles": (tiles + two + single) * groups,
        "positions": float(left) if in_place else count * groups,
        "vector positions": gathered * inside * float(short and not in_place),
        "vector rows": gathered * inside * w.kernel[0] * float(short and not in_place),
        "rows": gathered * inside * w.kernel[0] * float(not short or in_place),
        "row vectors": gathered * inside * w.kernel[0] * ceil(row / 16) * float(not short or in_place),
        "edge: rows": gathered * edge * w.kernel[0],
        "edge: vectors": gathered * edge * w.kernel[0] * ceil(row / 16),
        "border: rows": gathered * border * w.kernel[0],
        "border: columns": gathered * border * w.kernel[0] * w.kernel[1],
        "border: vectors": gathered * border * w.kernel[0] * w.kernel[1] * ceil(group_c / 16),
        "lines": float(rounds),
        "layer": 1.0,
    }


def depthwise_planes(w: Window, channels: float, *_: float) -> dict[str, float]:
    """Planes of a band of rows; kernels of 3x3 have loops of their own, two outputs at a time at stride 1."""
    (high, wide), out_h, out_w = w.kernel, *w.outputs
    fours = ceil(wide / 4)
    width = (out_w - 1) * w.stride[1] + 4 * fours
    band = min(max(1, (_PLANE_BYTES // width - high) // w.stride[0] + 1), out_h)
    bands = ceil(out_h / band)
    copied = min(w.image[1], width - w.pad[1])
    rows = planes = 0
    for start in range(0, out_h, band):
        height = (min(band, out_h - start) - 1) * w.stride[0] + high
        first = start * w.stride[0] - w.pad[0]
        rows += max(0, min(first + height, w.image[0]) - max(first, 0))
        planes += height * width
    three = float(w.kernel == (3, 3))
    one = three * float(w.stride == (1, 1))
    strided, other = three - one, 1 - three
    return {
        "3x3: pairs": one * channels * out_h * (out_w // 2),
        "3x3: odd": one * channels * out_h * (out_w % 2),
        "3x3: rows": one * channels * out_h,
        "3x3: channels": one * channels * bands,
        "3x3 strided: outputs": strided * channels * w.positions,
        "3x3 strided: rows": strided * channels * out_h,
        "any: rounds": other * channels * w.positions * high * fours,
        "any: kernel rows": other * channels * w.positions * high,
        "any: outputs": other * channels * w.positions,
        "any: rows": other * channels * out_h,
        "channels": channels * bands,
        "copied words": channels * rows * (copied // 4),
        "copied bytes": channels * rows * (copied % 4),
        "copied rows": channels * rows,
        "planes": float(planes),
        "layer": 1.0,
    }


def depthwise_vectors(w: Window, channels: float, *_: float) -> dict[str, float]:
    """Sixteen channels of a position at a time."""
    (high, wide), some = w.kernel, ceil(channels / 16)
    width = (w.outputs[1] - 1) * w.stride[1] + wide
    three = float(w.kernel == (3, 3))
    return {
        "3x3: positions": three * some * w.positions,
        "any: pairs": (1 - three) * some * w.positions * high * (wide // 2),
        "any: odd": (1 - three) * some * w.positions * high * (wide % 2),
        "any: rows": (1 - three) * some * w.positions * high,
        "any: positions": (1 - three) * some * w.positions,
        "copied": some * w.outputs[0] * high * min(w.image[1], width - w.pad[1]),
        "copied rows": some * w.outputs[0] * high,
        "rows": some * w.outputs[0],
        "weights": channels * high * wide,
        "planes": some * high * width,
        "vectors": float(some),
        "layer": 1.0,
    }


def pool(w: Window, channels: float, *_: float) -> dict[str, float]:
    """Windows of positions; four or sixteen channels at a time where the core has instructions for that."""
    window, fours = prod(w.kernel), ceil(channels / 4) if channels >= 4 else channels
    steps = {"channels": channels, "fours": fours, "eights": channels // 8, "sixteens": float(ceil(channels / 16))}
    return {
        "positions": float(w.positions),
        **{name: w.positions * count for name, count in steps.items()},
        **{f"rows of {name}": w.positions * count * w.kernel[0] for name, count in steps.items()},
        **{f"window of {name}": w.positions * count * window for name, count in steps.items()},
        "layer": 1.0,
    }


def elements(w: Window | None, outputs: float, inputs: float, *_: float) -> dict[str, float]:
    """What goes over its elements once."""
    return {
        "outputs": outputs,
        "sixteens": float(ceil(outputs / 16)),
        "inputs": inputs,
        "layer": 1.0,
    }


Amounts = Callable[..., dict[str, float]]
_POOLS: dict[str, Amounts] = {"max_pool": pool, "avg_pool": pool}
#: Kind of kernels -> kind of layer -> amounts; what is not named goes over its elements.
AMOUNTS: dict[str, dict[str, Amounts]] = {
    "tiles": {
        "conv": conv_tiles,
        "dense": conv_tiles,
        "depthwise": depthwise_planes,
        "max_pool": pool,
        "avg_pool": pool,
    },
    "vectors": {
        "conv": conv_vectors,
        "dense": conv_vectors,
        "depthwise": depthwise_vectors,
        "max_pool": pool,
        "avg_pool": pool,
    },
}
