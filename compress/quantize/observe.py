# SPDX-License-Identifier: Apache-2.0
"""Ranges from calibration data: minimum and maximum, percentiles, least squared error, least divergence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from edgepress.compress.quantize.graph.trace import place_of
from edgepress.models.errors import UsageError

BINS = 2048
#: Share of values left outside by "percentile", both ends together.
_OUTSIDE = 1e-4
_CANDIDATES = 100
#: Squared errors of what an input loses at its ends count so much against those of rounding. A layer averages rounding
#: errors out, each its own; what is cut off is alike in neighbouring samples and pixels, and adds up.
INPUT_CLIPPING = 8.0


@dataclass
class Observed:
    """What was seen of one point.

    Attributes:
        low, high: extremes over all batches.
        counts: [BINS] how many values fell into each of the equal bins between them.
    """

    low: float = np.inf
    high: float = -np.inf
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS))

    @property
    def centers(self) -> np.ndarray:
        """[BINS] the middle of each bin."""
        width = (self.high - self.low) / BINS
        return self.low + width * (np.arange(BINS) + 0.5)


def watch(
    module: fx.GraphModule,
    names: Collection[str],
    batches: Iterable[tuple[torch.Tensor, ...]],
    see: Callable[[str, torch.Tensor], None],
) -> None:
    """Run batches through a graph and show the tensors of some of its nodes: `see(name, value)`.

    Raises:
        UsageError: an operator cannot take what a batch gives it; the message names it and its module.
    """

    class Watcher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            try:
                value = super().run_node(n)
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise UsageError(
                    f"a calibration batch does not pass through the network: {place_of(n)} fails with {reason!r}; "
                    "give batches as the network takes them in use"
                ) from error
            if n.name in names and isinstance(value, torch.Tensor):
                see(n.name, value.detach())
            return value

    with torch.no_grad():
        for batch in batches:
            watcher = Watcher(module)
            watcher.extra_traceback = False  # of torch, put into messages of ours
            watcher.run(*batch)


def observe(
    module: fx.GraphModule, nodes: Mapping[str, str], batches: Iterable[tuple[torch.Tensor, ...]]
) -> dict[str, Observed]:
    """Run calibration batches through the float graph twice: for the extremes, then for histograms between them.

    Args:
        module: the folded float graph.
        nodes: node name -> key of its point.
        batches: tuples of tensors.

    Raises:
        UsageError: no batch was given, or a value isn't finite (the message names the point).
    """
    batches = list(batches)
    if not batches:
        raise UsageError("calibration holds no batch; give some tens of inputs as the network sees them in use")
    seen: dict[str, Observed] = {key: Observed() for key in nodes.values()}

    def extremes(name: str, value: torch.Tensor) -> None:
        key = nodes[name]
        if value.numel():
            low, high = (float(v) for v in torch.aminmax(value))
            if not (np.isfinite(low) and np.isfinite(high)):
                raise UsageError(
                    f"calibration gives NaN or infinite values at {key!r}; look at the data and the weights"
                )
            seen[key].low, seen[key].high = min(seen[key].low, low), max(seen[key].high, high)

    def histogram(name: str, value: torch.Tensor) -> None:
        point = seen[nodes[name]]
        if value.numel() and point.high > point.low:
            counts = torch.histc(value.float(), BINS, min=point.low, max=point.high)
            point.counts += counts.cpu().numpy().astype(np.float64)

    for see in (extremes, histogram):
        watch(module, nodes.keys(), batches, see)
    return seen


def choose_range(seen: Observed, method: str, levels: int = 256, clipping: float = 1.0) -> tuple[float, float]:
    """The range which a method takes from what was seen; 0 is always inside.

    Args:
        seen: extremes and histogram.
        method: "minmax", "percentile" (99.99 % of the values), "mse" (least squared rounding and clipping error)
            or "entropy" (least Kullback-Leibler divergence between the histogram and its rounded form).
        levels: number of integers; the searches are made for 256, wider integers take the extremes.
        clipping: weight of the squared clipping error in "mse".

    Raises:
        UsageError: unknown method.
    """
    if method not in METHODS:
        raise UsageError(f"method = {method!r} is unknown; known are {', '.join(map(repr, METHODS))}")
    low, high = min(0.0, float(seen.low)), max(0.0, float(seen.high))
    if not np.isfinite([low, high]).all():
        return 0.0, 1.0  # the point never held a value
    if levels > 256 or seen.counts.sum() == 0 or high - low <= 0:
        return low, high
    return METHODS[method](seen, low, high, clipping)


def _minmax(seen: Observed, low: float, high: float, clipping: float) -> tuple[float, float]:
    return low, high


def _percentile(seen: Observed, low: float, high: float, clipping: float) -> tuple[float, float]:
    share = np.cumsum(seen.counts) / seen.counts.sum()
    width = (seen.high - seen.low) / BINS
    first = int(np.searchsorted(share, _OUTSIDE / 2))
    last = int(np.searchsorted(share, 1 - _OUTSIDE / 2))
    return (
        min(0.0, max(low, seen.low + width * first)),
        max(0.0, min(high, seen.low + width * (min(last, BINS - 1) + 1))),
    )


def _search(low: float, high: float, losses: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Shrink either end in turn while the loss falls; the ends of a one-sided range stay at 0."""
    best, lowest = (low, high), float(losses(np.array([low]), np.array([high]))[0])
    shares = np.linspace(0.2, 1.0, _CANDIDATES, endpoint=True)
    for _ in range(2):
        before = best
        for end in (0, 1):
            if (low, high)[end] == 0:
                continue
            starts = low * shares if end == 0 else np.full(_CANDIDATES, best[0])
            ends = high * shares if end == 1 else np.full(_CANDIDATES, best[1])
            found = losses(starts, ends)
            least = int(np.argmin(found))
            if found[least] < lowest:
                best, lowest = (float(starts[least]), float(ends[least])), float(found[least])
        if best == before:
            break
    return best


def _mse(seen: Observed, low: float, high: float, clipping: float) -> tuple[float, float]:
    centers = seen.centers
    # Of the first n bins: how many values, their sum, and that of their squares.
    sums = [np.concatenate([[0.0], np.cumsum(seen.counts * centers**power)]) for power in range(3)]

    def outside(first: np.ndarray, last: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Squared distance of all values in bins [first, last) from the level that they are clipped to."""
        number, total, squares = (one[last] - one[first] for one in sums)
        return squares - 2 * level * total + level**2 * number

    def losses(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        scale = (ends - starts) / 255
        zero_point = np.clip(np.rint(-128 - starts / scale), -128, 127)
        below, above = np.searchsorted(centers, starts, "right"), np.searchsorted(centers, ends, "left")
        clipped = outside(np.zeros_like(below), below, (-128 - zero_point) * scale)
        clipped += outside(above, np.full_like(above, BINS), (127 - zero_point) * scale)
        # A bin is wider than a point: rounding errors inside it average to scale^2/12 where the grid is fine.
        return scale**2 / 12 * (sums[0][above] - sums[0][below]) + clipping * clipped

    return _search(low, high, losses)


def _entropy(seen: Observed, low: float, high: float, clipping: float) -> tuple[float, float]:
    centers, counts = seen.centers, seen.counts
    total = counts.sum()

    def loss(start: float, end: float) -> float:
        # Clipped mass lies on the outermost levels, in the histogram as in the rounded one (Migacz 2017, TensorRT).
        scale = (end - start) / 255
        level = np.clip(np.rint((centers - start) / scale), 0, 255).astype(int)
        inside = (centers >= start) & (centers <= end)
        reference = np.where(inside, counts, 0.0)
        first, last = np.flatnonzero(inside)[[0, -1]] if inside.any() else (0, 0)
        reference[first] += counts[centers < start].sum()
        reference[last] += counts[centers > end].sum()
        filled = inside & (counts > 0)
        mass = np.bincount(level[inside], counts[inside], 256)
        bins = np.bincount(level[filled], minlength=256)
        spread = np.where(filled, mass[level] / np.maximum(bins[level], 1), 0.0)
        kept = (reference > 0) & (spread > 0)
        lost = reference[(reference > 0) & ~(spread > 0)].sum() / total
        p, q = reference[kept] / total, spread[kept] / max(spread.sum(), 1e-12)
        return float((p * np.log(p / q)).sum() + 50 * lost)

    return _search(low, high, lambda starts, ends: np.array([loss(a, b) for a, b in zip(starts, ends, strict=True)]))


METHODS: dict[str, Callable[[Observed, float, float, float], tuple[float, float]]] = {
    "mse": _mse,
    "minmax": _minmax,
    "percentile": _percentile,
    "entropy": _entropy,
}
