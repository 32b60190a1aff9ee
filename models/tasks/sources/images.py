# SPDX-License-Identifier: Apache-2.0
"""Images in folders: a folder for each class, or train/ and test/ with these, read in place.

flowers/                     flowers/
  daisy/1.jpg ...              train/daisy/1.jpg ...
  tulip/7.png ...              test/daisy/4.jpg ...      and validation/, where there is one
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.cache import cache_directory
from edgepress.models.tasks.front_ends.images import IMAGES_VERSION, SUFFIXES, Images, image_size
from edgepress.models.tasks.sources.folders import (
    ComputedInputs,
    existing_folder,
    files_below,
    fingerprint,
    passed_over,
    stat_files,
    subfolders,
)
from edgepress.models.tasks.splitting import cut_validation, pick_calibration
from edgepress.models.tasks.task import Split, Task

#: What a folder of a split may be called.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
#: Of a folder that is not split: what is kept for the test, of every class.
TEST_SHARE = 0.2
_NOT_READ = (".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".ppm")
_LARGEST_DEFAULT = 96


def load_images(source: str, *, front_end: Images | None = None, cache: str | Path | None = None) -> Task:
    """Open a folder of images.

    Where there is no test/, a fifth of each class is kept for the test; where there is no validation/, an eighth of
    train is. Both are cut by a hash of the name: equal on every machine.

    Args:
        source: the folder.
        front_end: None takes the most frequent size of the images, at most 96 x 96.
        cache: see `edgepress.models.tasks.cache.cache_directory`.

    Raises:
        UsageError: no images, fewer than two classes, or a class that is in test only.
    """
    folder, root = existing_folder(source, "images:DIR"), cache_directory(cache)
    classes, listed, notes = _listing(folder)
    names = [name for rows in listed.values() for name, _ in rows]
    stats = stat_files(folder, names)
    front_end = front_end or Images(*usual_size(folder, names))
    splits = {
        name: Split(tuple(file for file, _ in rows), np.array([label for _, label in rows], np.int64))
        for name, rows in listed.items()
        if rows
    }
    chosen = None
    if "train" in splits:
        chosen = pick_calibration(splits["train"].labels, None, splits["train"].names)
        splits["calibration"] = splits["train"].subset(chosen)

    def compute(batch: Sequence[str]) -> np.ndarray:
        return front_end.normalised(np.stack([front_end.pixels(folder / name) for name in batch]))

    def keys(split: str) -> list[object]:
        return [IMAGES_VERSION, front_end.to_json(), [(name, *stats[name]) for name in splits[split].names]]

    return Task(
        folder.resolve().name,
        classes,
        front_end.shape,
        fingerprint(folder, splits, stats),
        splits,
        ComputedInputs(root, "images", splits, keys, front_end.shape, compute, chosen),
        front_end,
        notes=notes,
    )


def _listing(folder: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int]]], tuple[str, ...]]:
    """Classes, (file, label) by split, notes."""
    inside = subfolders(folder)
    places = {
        split: next((name for name in allowed if name in inside), None) for split, allowed in SPLIT_FOLDERS.items()
    }
    if places["train"] is None and any(places.values()):
        present = next(name for name in places.values() if name)
        raise UsageError(f"data = 'images:{folder}': there is {present}/ but no train/ with a folder for each class")
    roots = {split: folder / name for split, name in places.items() if name} if places["train"] else {"train": folder}
    classes = tuple(subfolders(roots["train"]))
    for split, place in roots.items():
        foreign = sorted(set(subfolders(place)) - set(classes))
        if foreign:
            raise UsageError(f"data = 'images:{folder}': the class {foreign[0]!r} of {split} has no folder in train")
    rows = {
        split: [
            (name, label)
            for label, one in enumerate(classes)
            if (place / one).is_dir()
            for name in files_below(folder, place / one, SUFFIXES)
        ]
        for split, place in roots.items()
    }
    counts = Counter(label for _, label in rows["train"])
    empty = [name for label, name in enumerate(classes) if not counts[label]]
    unread = passed_over(folder, _NOT_READ, "PNG or JPEG")
    if len(classes) < 2 or empty:
        problem = f"the class {empty[0]!r} has no image" if empty else "there are fewer than two classes"
        raise UsageError(
            f"data = 'images:{folder}': {problem}; expected a folder for each class with {', '.join(SUFFIXES)} files, "
            f"or train/ and test/ with these{''.join(f' ({note})' for note in unread)}"
        )
    notes = unread
    for split, share in (("test", TEST_SHARE), ("validation", None)):
        if rows.get(split):
            continue
        train = rows["train"]
        labels = np.array([label for _, label in train])
        held = cut_validation(labels, [name for name, _ in train], **({"share": share} if share else {}))
        rows[split] = [row for row, taken in zip(train, held, strict=True) if taken]
        rows["train"] = [row for row, taken in zip(train, held, strict=True) if not taken]
        if split == "test":
            notes.append("test was cut from the folder by a hash of the file names: one image in five of each class")
    return classes, rows, tuple(notes)


def usual_size(folder: Path, names: Sequence[str]) -> tuple[int, int]:
    """(height, width) of most of some images, at most 96 each."""
    return common_size([image_size(folder / name) for name in names[:: max(1, len(names) // 32)][:32]])


def common_size(found: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The most frequent (height, width), at most 96 each."""
    sizes = Counter(found)
    height, width = max(sizes, key=lambda size: (sizes[size], size))
    scale = min(1.0, _LARGEST_DEFAULT / min(height, width))
    return (height, width) if scale == 1 else (_LARGEST_DEFAULT, _LARGEST_DEFAULT)
