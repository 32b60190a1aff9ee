# SPDX-License-Identifier: Apache-2.0
"""Which of several networks a device class gets: one rule, for `compress fit` and for the report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A network as the choice sees it.

    Attributes:
        name: of the network.
        score: the figure of the task on the validation split; None where it was not measured.
        macs: under the rule of its checkpoint.
        file_bytes: of its exported file.
        fits: whether its file passed every limit of the class.
        measured: whether its file was measured on the runtime of the class.
        higher: whether more of the score is better.
    """

    name: str
    score: float | None
    macs: int
    file_bytes: int = 0
    fits: bool = True
    measured: bool = True
    higher: bool = True

    @property
    def eligible(self) -> bool:
        """Whether it may be chosen: it fits, and nothing about it is a guess."""
        return self.fits and self.measured and self.score is not None and math.isfinite(self.score)


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that may be chosen, the best first: by score, of equal ones by MACs, then by bytes of the file.

    A network that does not fit, or of which a figure was not measured, is none of them.
    """

    def key(one: Candidate) -> tuple[float, int, int]:
        score = one.score or 0.0
        return (-score if one.higher else score, one.macs, one.file_bytes)

    return sorted((one for one in candidates if one.eligible), key=key)
