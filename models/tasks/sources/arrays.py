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
from edgepress.models.tasks.kinds.segmentation import IGNORED
from edgepress.models.tasks.kinds.table import KINDS
from edgepress.models.tasks.splitting import cut_validation, pick_calibration
from edgepress.models.tasks.task import Split, StoredInputs, Task

#: Arrays that are read; anything else in the file is an error, since it would be passed over silently.
KNOWN = (
    *("x", "y", "kind", "device", "names", "identifiers", "groups", "attribute"),
    *("labels", "split", "layout", "scale", "zero_point"),
)


def load_arrays(path: str | Path, *, cache: str | Path | None = None) -> Task:
    """Open an .npz file.

    Arrays (the first two are needed):
        x           [N, ...] floating, int8 or uint8: network inputs. Three-dimensional inputs are channels first if
                    floating and channels last if integers, unless `layout` says otherwise
        y           labels: [N] integers from 0 (classification), 0 and 1 [N, K] (multi-label), floating [N] or [N, K]
                    (regression), masks of integers [N, H, W] (segmentation); of anomalies 0 is normal, 1 is not
        kind        what y means, where its type and shape do not say it: "anomaly", "detection", ...
        labels      [K] names of classes (or of numbers); without it "0" ... "K-1"
        device      [N] recording devices
        names       [N] clip names
        identifiers [N] what clips of one origin share
        groups      [N] what figures are broken down by, such as the machine
        attribute   [N] numbers that a network is not to tell (`train.contrastive.threshold`), nan where unknown
        split       [N] "train", "validation" or "test"; without it all clips are test clips
        layout      "NHWC" or "NCHW"
        scale, zero_point   of integers: real value = scale * (x - zero_point); 1 and 0 if missing

    Where there are train but no validation clips, validation is cut from train by identifier (by clip without them).
    Nothing pickled is read, and sizes are checked before anything is unpacked.

    The arrays are read into memory; `cache` is not used.

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
    kind, classes, labels = _labels(path, arrays, len(x))
    stored = stored_inputs(path, arrays)
    texts = {name: _texts(path, arrays, name, len(x)) for name in ("device", "names", "identifiers", "groups", "split")}
    by_class = labels if labels.ndim == 1 and labels.dtype.kind in "iu" else np.zeros(len(x), np.int64)
    indices = split_rows(path, by_class, texts["split"], texts["identifiers"], len(x))
    names = texts["names"] or tuple(f"clip-{number}" for number in range(len(x)))
    attribute = _numbers(path, arrays, "attribute", len(x))
    everything = Split(names, labels, texts["device"], texts["identifiers"], texts["groups"], attribute)
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
    if attribute is not None:
        content.update(attribute.tobytes())
    return Task(
        path.stem,
        classes,
        shape,
        content.hexdigest(),
        splits,
        read_features,
        stored=stored,
        read_stored=read_stored,
        kind=kind,
    )


def as_features(rows: np.ndarray, stored: StoredInputs) -> np.ndarray:
    """Stored inputs [N, ...] as float32 in torch's layout."""
    rows = rows.astype(np.float32)
    if stored.quantized:
        rows = np.float32(stored.scale) * (rows - np.float32(stored.zero_point))
    return np.ascontiguousarray(np.moveaxis(rows, -1, 1)) if stored.layout == "NHWC" else rows


def _labels(path: Path, arrays: dict[str, np.ndarray], clips: int) -> tuple[str, tuple[str, ...], np.ndarray]:
    """(kind, classes, labels)."""
    y = arrays["y"]
    if y.ndim < 1 or len(y) != clips or y.dtype.kind not in "iufb":
        raise UsageError(f"{path}: y must be {clips} labels, not {y.dtype} of shape {y.shape}")
    kind = _scalar(path, arrays, "kind", "U", None) or _kind_of_labels(path, y)
    given = _texts(path, arrays, "labels", None)
    if kind == "anomaly":
        return kind, given or ("normal", "anomalous"), y
    if kind not in ("classification", "segmentation"):
        columns = y.shape[1] if y.ndim == 2 else 1
        return kind, given or (tuple(map(str, range(columns))) if columns > 1 or kind == "multi-label" else ()), y
    largest = int(np.where(y == IGNORED, 0, y).max() if kind == "segmentation" else y.max())
    if y.dtype.kind not in "iu" or y.min() < 0 or largest > 9999:
        raise UsageError(f"{path}: y reaches from {y.min()} to {y.max()}; class numbers are integers and start at 0")
    if given is not None and largest >= len(given):
        raise UsageError(f"{path}: y reaches from {y.min()} to {largest}, but there are {len(given)} labels")
    return kind, given or tuple(map(str, range(max(2, largest + 1)))), y


def _kind_of_labels(path: Path, y: np.ndarray) -> str:
    """What labels of this type and shape mean where the file does not say."""
    whole = y.dtype.kind in "iub"
    if y.ndim == 1:
        return "classification" if y.dtype.kind in "iu" else "regression"
    if y.ndim == 2 and (not whole or np.isin(y, (0, 1)).all()):
        return "multi-label" if whole else "regression"
    if y.ndim == 3 and whole:
        return "segmentation"
    raise UsageError(
        f"{path}: y is {y.dtype} of shape {y.shape}, which says no kind of task: add an array kind, one of "
        f"{', '.join(KINDS)}"
    )


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


def _numbers(path: Path, arrays: dict[str, np.ndarray], name: str, length: int) -> np.ndarray | None:
    array = arrays.get(name)
    if array is None:
        return None
    if array.dtype.kind not in "iuf" or array.shape != (length,):
        raise UsageError(f"{path}: {name} must be {length} numbers, not {array.dtype} of shape {array.shape}")
    return array.astype(np.float64)


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


def split_rows(
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
