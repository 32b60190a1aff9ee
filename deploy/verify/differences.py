# SPDX-License-Identifier: Apache-2.0
"""How far apart two runs of the same inputs are: figures of a pair of outputs, and of all outputs of all runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError

#: Differences below this are dust of float32 arithmetic around the same integer.
_DUST_LSB = 1e-3


def compare(a: np.ndarray, b: np.ndarray, scale: float | None, labels: bool = True) -> dict[str, Any]:
    """Figures of one pair of outputs, float [N, ...] each, with `scale` the real value of one LSB (or None).

    `labels`: whether the largest output is a sample's class.
    """
    one, other = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(one - other)
    # NaN is no agreement: the same in both is one, anything else is as far apart as numbers can be.
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    difference = np.where(np.isfinite(difference), difference, np.where(same, 0.0, float(np.finfo(np.float32).max)))
    figures: dict[str, Any] = {"max_lsb": None, "mean_lsb": None}
    if scale:
        lsb = difference / scale
        lsb = np.where(np.abs(lsb - np.rint(lsb)) < _DUST_LSB, np.rint(lsb), lsb)
        figures = {"max_lsb": _number(lsb.max(initial=0)), "mean_lsb": _number(lsb.mean() if lsb.size else 0)}
        equal = lsb == 0
    else:
        equal = difference == 0
    figures.update(
        equal=float(equal.mean()) if equal.size else 1.0,
        label_agreement=None,
        label_interval=None,
        max_abs=float(difference.max(initial=0)),
        relative=None
        if scale
        else float(difference.max(initial=0) / max(1.0, np.abs(a[np.isfinite(a)]).max(initial=0))),
        samples=len(a),
    )
    rows_a, rows_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    if labels and len(a) and rows_a.shape[1] > 1:
        from edgepress.models.tasks.kinds.intervals import wilson

        same = int((rows_a.argmax(1) == rows_b.argmax(1)).sum())
        figures.update(label_agreement=same / len(a), label_interval=[float(v) for v in wilson(same, len(a))])
    return figures


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else round(float(value), 6)


def output_pairs(
    outputs: Mapping[str, Sequence[np.ndarray] | None], scales: Sequence[float | None], *, labels: bool = True
) -> list[dict[str, Any]]:
    """Every two runtimes that gave outputs.

    Args:
        outputs: runtime -> each output of the network; None where it did not run.
        scales: the real value of one LSB of each output; none for files without integers.
        labels: whether the largest output is a sample's class.

    Raises:
        UsageError: the outputs are of different sizes, and so of different networks.
    """
    there = {name: made for name, made in outputs.items() if made is not None}
    pairs = []
    for a, b in combinations(there, 2):
        one, other = there[a], there[b]
        sizes = [[int(output.size) for output in made] for made in (one, other)]
        if sizes[0] != sizes[1]:
            raise UsageError(
                f"{a} gives outputs of the shape {', '.join(str(list(o.shape)) for o in one)}, {b} of "
                f"{', '.join(str(list(o.shape)) for o in other)}: these are different networks"
            )
        own = [*scales, *[None] * len(one)]
        figures = [compare(x, y.reshape(x.shape), scale, labels) for x, y, scale in zip(one, other, own, strict=False)]
        pairs.append({"a": a, "b": b, **_worst(figures, sizes[0])})
    return pairs


def _worst(figures: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """Several outputs as one pair: the largest differences, means over all values, labels of the first output."""
    if len(figures) == 1:
        return figures[0]

    def known(key: str) -> list[float]:
        return [found[key] for found in figures if found[key] is not None]

    means = [(f["mean_lsb"], size) for f, size in zip(figures, sizes, strict=True) if f["mean_lsb"] is not None]
    return {
        **figures[0],
        "max_lsb": max(known("max_lsb"), default=None),
        "mean_lsb": sum(mean * size for mean, size in means) / max(1, sum(size for _, size in means))
        if means
        else None,
        "equal": sum(f["equal"] * size for f, size in zip(figures, sizes, strict=True)) / max(1, sum(sizes)),
        "max_abs": max(known("max_abs")),
        "relative": max(known("relative"), default=None),
    }
