# SPDX-License-Identifier: Apache-2.0
"""Network inputs in an .npz file: keyword spotting sets, and users' own data."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.files.arrays import read_npz
from edgepress.models.tasks.splitting import cut_validation, pick_calibration
from edgepress.models.tasks.task import Split, StoredInputs, Task

#: Arrays that are read; anything else in the file is an error, since it would be passed over silently.
KNOWN = ("x", "y", "device", "names", "identifiers", "labels", "split", "layout", "scale", "zero_point")


def load_arrays(path: str | Path) -> Task:
    """Open an .npz file.

    Arrays (the first two are needed):
        x           [N, ...] floating, int8 or uint8: network inputs. Three-dimensional inputs are channels first if
                    floating and channels last if integers, unless `layout` says otherwise
        y           [N] integer labels from 0
        labels      [K] class names; without it "0" ... "K-1"
        device      [N] recording devices
        names       [N] clip names
        identifiers [N] what clips of one origin share
        split       [N] "train", "validation" or "test"; without it all clips are test clips
        layout      "NHWC" or "NCHW"
        scale, zero_point   of integers: real value = scale * (x - zero_point); 1 and 0 if missing

    Where there are train but no validation clips, validation is cut from train by identifier (by clip without them).
    Nothing pickled is read, and sizes are checked before anything is unpacked.

    Raises:
        UsageError: damaged, too large, an array that is missing, unknown or of the wrong type or length.
    """
    path = Path(path)
    arrays = read_npz(path)
    unknown = sorted(set(arrays) - set(KNOWN))
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing or unknown:
        problem = f"lacks the array {missing[0]!r}" if missing else f"holds the unknown array {unknown[0]!r}"
        raise UsageError(f"{path} {problem}; expected x and y, and any of {', '.join(KNOWN[2:])}")
    x = arrays["x"]
    if x.ndim < 2 or not len(x):
        raise UsageError(f"{path}: x must be [clips, ...] with at least one clip, not of shape {x.shape}")
    integers = x.dtype in (np.dtype(np.int8), np.dtype(np.uint8))
    if not integers and not np.issubdtype(x.dtype, np.floating):
        raise UsageError(f"{path}: x must be floating, int8 or uint8, not {x.dtype}")
    if not integers and not np.isfinite(x).all():
        raise UsageError(f"{path}: x holds values that are not finite")
    classes, labels = _labels(path, arrays, len(x))
    stored = stored_inputs(path, arrays)
    texts = {name: _texts(path, arrays, name, len(x)) for name in ("device", "names", "identifiers", "split")}
    indices = _split_indices(path, labels, texts["split"], texts["identifiers"], len(x))
    names = texts["names"] or tuple(f"clip-{number}" for number in range(len(x)))
    everything = Split(names, labels, texts["device"], texts["identifiers"])
    splits = {name: everything.subset(rows) for name, rows in indices.items() if len(rows)}

    def read_stored(split: str) -> np.ndarray:
        return x if len(indices[split]) == len(x) else x[indices[split]]

    def read_features(split: str) -> np.ndarray:
        return as_features(read_stored(split), stored)

    shape = stored.shape
    if stored.layout == "NHWC":
        shape = (shape[-1], *shape[:-1])
    content = hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16)  # the buffer itself: a copy may not fit
    content.update(labels.tobytes())
    return Task(
        path.stem, classes, shape, content.hexdigest(), splits, read_features, stored=stored, read_stored=read_stored
    )


def as_features(rows: np.ndarray, stored: StoredInputs) -> np.ndarray:
    """Stored inputs [N, ...] as float32 in torch's layout."""
    rows = rows.astype(np.float32)
    if stored.quantized:
        rows = np.float32(stored.scale) * (rows - np.float32(stored.zero_point))
    return np.ascontiguousarray(np.moveaxis(rows, -1, 1)) if stored.layout == "NHWC" else rows


def _labels(path: Path, arrays: dict[str, np.ndarray], clips: int) -> tuple[tuple[str, ...], np.ndarray]:
    y = arrays["y"]
    if y.shape != (clips,) or not np.issubdtype(y.dtype, np.integer):
        raise UsageError(f"{path}: y must be {clips} integers, not {y.dtype} of shape {y.shape}")
    labels = y.astype(np.int64)
    given = _texts(path, arrays, "labels", None)
    if given is None:
        if labels.min() < 0 or labels.max() > 9999:
            raise UsageError(f"{path}: y reaches from {labels.min()} to {labels.max()}; class numbers start at 0")
        return tuple(map(str, range(max(2, int(labels.max()) + 1)))), labels
    if labels.min() < 0 or labels.max() >= len(given):
        raise UsageError(f"{path}: y reaches from {labels.min()} to {labels.max()}, but there are {len(given)} labels")
    return given, labels


def _texts(path: Path, arrays: dict[str, np.ndarray], name: str, length: int | None) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    array = arrays[name]
    if array.ndim != 1 or array.dtype.kind not in "USiu" or (length is not None and len(array) != length):
        raise UsageError(
            f"{path}: {name} must be {length or 'a vector of'} texts, not {array.dtype} of shape {array.shape}"
        )
    return tuple(
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in array.tolist()
    )


def stored_inputs(path: Path, arrays: dict[str, np.ndarray]) -> StoredInputs:
    """How `x` is stored, by its type and the single values `layout`, `scale` and `zero_point`.

    Raises:
        UsageError: one of them is no single value or not allowed.
    """
    x = arrays["x"]
    integers = x.dtype in (np.dtype(np.int8), np.dtype(np.uint8))
    given = _scalar(path, arrays, "layout", "U", None)
    if given not in (None, "NHWC", "NCHW"):
        raise UsageError(f"{path}: layout = {given!r} is unknown: allowed are NHWC and NCHW")
    layout = (given or ("NHWC" if integers else "NCHW")) if x.ndim == 4 else "flat"
    scale, zero_point = _scalar(path, arrays, "scale", "fiu", 1.0), _scalar(path, arrays, "zero_point", "iu", 0)
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"{path}: scale = {scale} must be positive")
    return StoredInputs(str(x.dtype), x.shape[1:], layout, integers, float(scale), int(zero_point))


def _scalar(path: Path, arrays: dict[str, np.ndarray], name: str, kinds: str, missing: Any) -> Any:
    if name not in arrays:
        return missing
    array = arrays[name]
    if array.size != 1 or array.dtype.kind not in kinds:
        raise UsageError(f"{path}: {name} must be a single value, not {array.dtype} of shape {array.shape}")
    return array.reshape(()).item()


def _split_indices(
    path: Path, labels: np.ndarray, split: tuple[str, ...] | None, identifiers: tuple[str, ...] | None, clips: int
) -> dict[str, np.ndarray]:
    """Row numbers of every split."""
    nothing = np.zeros(0, np.int64)
    if split is None:
        return {"train": nothing, "validation": nothing, "test": np.arange(clips), "calibration": nothing}
    unknown = sorted(set(split) - {"train", "validation", "test"})
    if unknown:
        raise UsageError(f"{path}: split holds {unknown[0]!r}; allowed are train, validation and test")
    where = np.array(split)
    rows = {name: np.flatnonzero(where == name) for name in ("train", "validation", "test")}
    if len(rows["train"]) and not len(rows["validation"]):
        groups = [identifiers[row] if identifiers else str(row) for row in rows["train"]]
        held = cut_validation(labels[rows["train"]], groups)
        rows["train"], rows["validation"] = rows["train"][~held], rows["train"][held]
    rows["calibration"] = nothing
    if len(rows["train"]):
        chosen = pick_calibration(labels[rows["train"]], None, [str(row) for row in rows["train"]])
        rows["calibration"] = rows["train"][chosen]
    return rows
