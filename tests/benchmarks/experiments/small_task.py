"""A task of four recordings on two devices, for what only counts."""

from __future__ import annotations

import numpy as np


class Clips:
    """A split: two clips of each recording, one by each device."""

    labels = np.array([0, 1] * 4)
    devices = ("a", "s4") * 4
    identifiers = tuple("wwxxyyzz")

    def __len__(self) -> int:
        return 8


class SmallTask:
    name, fingerprint, unseen_devices, classes = "small", "0", ("s4",), ("x", "y")

    def split(self, name: str) -> Clips:
        return Clips()
