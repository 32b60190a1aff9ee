# SPDX-License-Identifier: Apache-2.0
"""Cutting splits: validation by recording location, calibration by class and device; both deterministic."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

VALIDATION_SHARE = 0.125
CALIBRATION_CLIPS = 128


def cut_validation(labels: np.ndarray, groups: Sequence[str], share: float = VALIDATION_SHARE) -> np.ndarray:
    """Choose whole groups (recording locations) for validation, about `share` of every class.

    Classes are served in turn, the one with the fewest groups first; within a class, groups come in the order of a
    hash of their name, so that the choice neither depends on the order of rows nor moves much when clips are added. A
    group is taken unless it would leave the class further above `share` than it was below. Every class with two or
    more groups gives at least one and keeps at least one.

    Args:
        labels: [N] class indices.
        groups: N group names; clips of one group stay together.
        share: the wanted part of every class's clips.

    Returns:
        bool [N], True for validation.
    """
    labels = np.asarray(labels)
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for label, group in zip(labels.tolist(), groups, strict=True):
        counts[group][label] += 1
    by_class: dict[int, list[str]] = defaultdict(list)
    for group in counts:
        for label in counts[group]:
            by_class[label].append(group)
    chosen: set[str] = set()
    left = {label: len(members) for label, members in by_class.items()}
    for label in sorted(by_class, key=lambda one: (len(by_class[one]), one)):
        members = sorted(by_class[label], key=_hash)
        wanted = share * sum(counts[group][label] for group in members)
        have = sum(counts[group][label] for group in members if group in chosen)
        for group in members:
            # A group with several classes must not take the last one from any of them.
            if group in chosen or any(left[other] <= 1 for other in counts[group]):
                continue
            size = counts[group][label]
            if abs(have + size - wanted) < abs(have - wanted) or not have:
                chosen.add(group)
                have += size
                for other in counts[group]:
                    left[other] -= 1
    return np.array([group in chosen for group in groups], bool)


def pick_calibration(
    labels: np.ndarray, devices: Sequence[str] | None, names: Sequence[str], clips: int = CALIBRATION_CLIPS
) -> np.ndarray:
    """Choose clips for calibration, spread over classes and recording devices in their proportions.

    Every (class, device) cell gets its share by largest remainder; within a cell, clips come in the order of a hash
    of their name.

    Returns:
        int64 indices, sorted, min(clips, N) of them.
    """
    cells: dict[tuple[int, str], list[int]] = defaultdict(list)
    for index, label in enumerate(np.asarray(labels).tolist()):
        cells[label, devices[index] if devices else ""].append(index)
    total = len(labels)
    clips = min(clips, total)
    exact = {cell: clips * len(members) / total for cell, members in cells.items()} if total else {}
    quota = {cell: int(value) for cell, value in exact.items()}
    by_remainder = sorted(exact, key=lambda cell: (quota[cell] - exact[cell], cell))
    for cell in by_remainder[: clips - sum(quota.values())]:
        quota[cell] += 1
    picked = [
        index
        for cell, members in cells.items()
        for index in sorted(members, key=lambda one: _hash(names[one]))[: quota[cell]]
    ]
    return np.array(sorted(picked), np.int64)


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
