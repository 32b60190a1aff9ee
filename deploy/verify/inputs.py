# SPDX-License-Identifier: Apache-2.0
"""Inputs for a file, real or random, as float arrays in torch's layout with the labels where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.deploy.runtimes.engine import lengths_of
from edgepress.deploy.runtimes.sessions import Session
from edgepress.models.errors import EdgepressError, UsageError
from edgepress.models.files.arrays import read_npy, read_npz
from edgepress.models.tasks.sources.arrays import as_features, stored_inputs


@dataclass(frozen=True)
class Inputs:
    """What is run.

    Attributes:
        arrays: one float32 [N, ...] for each input of the network, NCHW.
        labels: int64 [N] of classes, or None.
        source: where they come from, for people.
        begins: samples that begin a recording, where the data say so; None where they do not.
    """

    arrays: tuple[np.ndarray, ...]
    labels: np.ndarray | None
    source: str
    begins: tuple[int, ...] | None = None

    @property
    def samples(self) -> int:
        """N."""
        return len(self.arrays[0])


def random_inputs(session: Session, samples: int, seed: int = 0) -> Inputs:
    """Noise over the whole range of each input: an uniform draw of its integers, or standard normal for float."""
    generator = np.random.default_rng(seed)
    arrays = []
    lengths = lengths_of(samples, session.inputs)
    for length, details, layout in zip(lengths, session.inputs, session.layouts["inputs"], strict=True):
        shape = (length, *(max(1, size) for size in details.shape[1:]))
        if details.is_integer:
            limits = np.iinfo(details.dtype)
            raw = generator.integers(limits.min, limits.max, shape, dtype=details.dtype, endpoint=True)
            arrays.append(_to_torch(details.dequantize(raw), layout))
        else:
            arrays.append(_to_torch(generator.standard_normal(shape).astype(np.float32), layout))
    return Inputs(tuple(arrays), None, "random")


def load_inputs(
    source: str | Path,
    session: Session,
    *,
    samples: int | None = None,
    split: str | None = "test",
    front_end: dict[str, Any] | None = None,
    trust: bool = False,
    seed: int = 0,
    in_order: bool = False,
) -> Inputs:
    """Real inputs.

    Args:
        source: an .npz or .npy file (float in torch's layout, or the file's own raw integers), or a task's source.
        session: whose inputs they are; raw integers are read with its scale and layout.
        samples: at most so many, drawn evenly over the data; None takes all.
        in_order: the first ones instead, for streams.
        split: of the task, or of an .npz that says so in an array `split`; a task without it gives what it has.
            None takes every row of an .npz.
        front_end: of the network (`FrontEnd.to_json`), for a task that computes features.
        trust: allow a task "package.module:factory" to run code.
        seed: of the draw.

    Raises:
        UsageError: nothing there, or its shape does not fit the network.
    """
    path = Path(source)
    if path.suffix == ".npy" and path.is_file():
        return _thinned(Inputs((_as_float(read_arrays(path)["x"], session),), None, str(path)), samples, seed, in_order)
    if path.suffix == ".npz" and path.is_file():
        arrays = _of_split(read_arrays(path), split, path)
        if "x" not in arrays or len(session.inputs) > 1:
            names = sorted(name for name in arrays if name.startswith("x") and name[1:].isdigit())
            if len(names) != len(session.inputs):
                raise UsageError(
                    f"{path} holds {', '.join(arrays) or 'nothing'}; the network takes "
                    + ("an array x" if len(session.inputs) == 1 else f"x0 to x{len(session.inputs) - 1}")
                )
            return _thinned(
                Inputs(
                    tuple(_as_float(arrays[n], session, i) for i, n in enumerate(names)),
                    _labels(arrays, len(arrays[names[0]]), path),
                    str(path),
                ),
                samples,
                seed,
                in_order,
            )
        x = arrays["x"]
        if x.ndim and any(name in arrays for name in ("layout", "scale", "zero_point")):
            # It says itself what its numbers mean, as the data of a task do: these are not the file's own integers.
            x = as_features(x, stored_inputs(path, arrays))
        x = _as_float(x, session)
        begins = _begins(list(arrays["identifiers"])) if len(arrays.get("identifiers", ())) == len(x) else None
        return _thinned(Inputs((x,), _labels(arrays, len(x), path), str(path), begins), samples, seed, in_order)
    from edgepress.models.tasks import load_task
    from edgepress.models.tasks.sources.load import front_end_for

    task = load_task(source, front_end=front_end_for(source, front_end), trust=trust)
    chosen = next(
        (name for name in (split or "test", "test", "validation", "calibration", "train") if task.has(name)), "test"
    )
    clips = task.split(chosen)
    indices = _indices(len(clips), samples, seed, in_order)
    features = np.asarray(task.features(chosen)[indices], np.float32)
    labels = clips.labels[indices] if task.kind == "classification" else None
    begins = _begins([clips.identifiers[index] for index in indices]) if clips.identifiers else None
    return Inputs((features,), labels, f"{task.name}, {chosen}", begins)


def real_inputs(
    data: str | Path | None,
    session: Session,
    manifest: Mapping[str, Any],
    samples: int,
    trust: bool,
    seed: int,
    notes: list[str],
    in_order: bool = False,
) -> Inputs | None:
    """Inputs from `data`, else from the task that a manifest names, if it is there; `notes` is told why there are none.

    Raises:
        UsageError: `data` is not there, or does not fit the network.
    """
    spec = manifest.get("spec") or {}
    if data is not None:
        return load_inputs(
            data, session, samples=samples, front_end=spec.get("front_end"), trust=trust, seed=seed, in_order=in_order
        )
    source = spec.get("task")
    from edgepress.models.tasks.sources.load import is_code

    # A manifest may come from a stranger: the code that it names isn't run because of it.
    if not isinstance(source, str) or (is_code(source) and not trust):
        notes.append("no real inputs: give --data; these figures are of noise, the hardest input")
        return None
    try:
        return load_inputs(
            source, session, samples=samples, front_end=spec.get("front_end"), trust=trust, seed=seed, in_order=in_order
        )
    except EdgepressError as error:
        notes.append(f"no real inputs, since the task of the network is not there ({error}): give --data")
        return None


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, or {"x": array} of an .npy; nothing in them is unpickled.

    Raises:
        UsageError: missing, damaged, or holding Python objects.
    """
    return {"x": read_npy(path)} if Path(path).suffix == ".npy" else read_npz(path)


def _of_split(arrays: dict[str, np.ndarray], split: str | None, path: Path) -> dict[str, np.ndarray]:
    if split is None or "split" not in arrays:
        return arrays
    rows = np.asarray(arrays["split"]) == split
    if rows.ndim != 1 or not rows.any():
        raise UsageError(f"{path} has an array split without a row {split!r}")
    return {name: array[rows] if array.shape[:1] == rows.shape else array for name, array in arrays.items()}


def _as_float(array: np.ndarray, session: Session, index: int = 0) -> np.ndarray:
    details, layout = session.inputs[index], session.layouts["inputs"][index]
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise UsageError("the inputs hold NaN or infinite values")
        return np.asarray(array, np.float32)
    if array.dtype.name == details.dtype and details.is_integer:
        fits = array.ndim == len(details.shape) and all(
            want in (-1, got) for got, want in zip(array.shape[1:], details.shape[1:], strict=True)
        )
        if fits:
            return _to_torch(details.dequantize(array), layout)
        raise UsageError(
            f"raw inputs of the shape {list(array.shape)} do not fit: the file takes [N, *{list(details.shape[1:])}]"
        )
    if array.dtype.kind in "iu" and not details.is_integer:
        return np.asarray(array, np.float32)
    raise UsageError(f"inputs of the type {array.dtype} do not fit: give float, or the file's own {details.dtype}")


def _to_torch(x: np.ndarray, layout: str | None) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 and layout != "NCHW" else x


def _labels(arrays: dict[str, np.ndarray], count: int, path: Path) -> np.ndarray | None:
    if "y" not in arrays:
        return None
    labels = arrays["y"]
    if labels.shape[:1] != (count,):
        raise UsageError(f"{path}: y has the shape {list(labels.shape)}; it must be labels of {count} samples")
    # Numbers, masks and sets of labels name no class that a runtime could agree on.
    classes = labels.ndim == 1 and labels.dtype.kind in "iu" and "kind" not in arrays
    return labels.astype(np.int64) if classes else None


def _begins(recordings: Sequence[Any]) -> tuple[int, ...]:
    """Where one recording follows another."""
    return tuple(i for i, name in enumerate(recordings) if i == 0 or recordings[i - 1] != name)


def _indices(count: int, samples: int | None, seed: int, in_order: bool = False) -> np.ndarray:
    if samples is None or samples >= count or in_order:
        return np.arange(count if samples is None else min(count, samples))
    return np.sort(np.random.default_rng(seed).choice(count, samples, replace=False))


def _thinned(inputs: Inputs, samples: int | None, seed: int, in_order: bool = False) -> Inputs:
    chosen = _indices(inputs.samples, samples, seed, in_order)
    begins = None if inputs.begins is None else tuple(i for i in inputs.begins if i < len(chosen)) if in_order else None
    labels = None if inputs.labels is None else inputs.labels[chosen]
    return Inputs(tuple(a[chosen] for a in inputs.arrays), labels, inputs.source, begins)


def join_names(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""]))
