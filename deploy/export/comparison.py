# SPDX-License-Identifier: Apache-2.0
"""A file against the network that it was made of: the same inputs through every runtime, before the file is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.deploy.runtimes.registry import RUNTIMES, available_runtimes
from edgepress.deploy.verify.differences import compare
from edgepress.deploy.verify.known_defects import defects_in
from edgepress.deploy.verify.parity import LABEL_AGREEMENT, MEAN_LSB, Thresholds, violations
from edgepress.models.errors import EdgepressError, ParityError, RuntimeFailure, UsageError
from edgepress.models.tasks.kinds.intervals import wilson

#: A flip among a few samples of noise is no verdict; `deploy verify` counts labels on real inputs.
_THRESHOLDS = Thresholds(label_agreement=None)
_INDICES = Thresholds(None, None, LABEL_AGREEMENT, None)
#: How much farther from the float network (root mean square) a file may be than fake quantization: 1 dB.
_AS_NEAR = 10 ** (1 / 20)
#: The same where no layer of it is wrong: 12 dB.
_AMPLIFIED = 4.0
#: Steps that a kernel may round by another way than fake quantization, in any one layer.
_LAYER_LSB = 1.0
#: Kind of file -> the runtime that stands for phones, boards and servers: a file that it cannot run is not written.
MUST_RUN = {"tflite": ("litert",), "onnx": ("onnxruntime",), "executorch": ("executorch",)}


def compare_with_torch(
    path: Path,
    reference: Any,
    batch: tuple[Any, ...],
    runtimes: Sequence[str],
    original: Any = None,
    *,
    scales: Sequence[float | None] = (),
    required: Sequence[str] = (),
    fixed_batch: int | None = None,
    quantized: Any = None,
) -> dict[str, Any]:
    """Run a file and its network on the same inputs.

    Some kernels round twice where they scale a sum (docs/integers.md): about one value in 500 of each layer comes
    out one step away. Most networks damp this; deep ones with little redundancy (the published CP-Mobile) amplify
    it, as they do every rounding, so that two exact implementations differ by several LSB. A departure beyond the
    usual thresholds is therefore accepted, and noted as "amplified", where it is smaller (root mean square) than
    what quantization itself does to the outputs: then it is rounding. A wrong scale or operator is far larger. The
    same holds where the file is as near to the float network as fake quantization is, from 6 dB nearer to 1 dB
    farther: transformers carry every rounding on in their sums, and two ways of rounding one network end in two equally
    good ones. And it holds up to 12 dB farther where every layer of a TFLite file by itself, given what the runtime
    computed before it, is within a step and within the usual mean: networks without normalization (NFNets) carry a
    rounding that has a direction through.

    Args:
        path: the file, with its manifest.
        reference: module in evaluation mode.
        batch: tensors of N samples.
        runtimes: names for `open_session`.
        original: the float network that `reference` quantizes; None holds every file to the limits themselves.
        scales: real value of one step of each output; without them differences are absolute.
        required: runtimes which must run the file. Another may be missing, or refuse it: that is noted.
        fixed_batch: the only size of batch that `reference` takes; None means any.
        quantized: what a TFLite file was made of, for its layers; None judges the file as a whole only.

    Returns:
        {"samples", "runtimes": {name: figures of `parity.compare` or {"skipped": reason}}}.

    Raises:
        ParityError: a runtime departs too far; but for a known defect of its own, which is named in its figures.
        RuntimeFailure: a runtime that must run the file doesn't, or none does.
    """
    from edgepress.compress.quantize.graph.trace import run_in_pieces
    from edgepress.deploy.runtimes.sessions import open_session

    expected = [y.cpu().numpy() for y in run_in_pieces(reference, batch, fixed_batch)]
    unrounded = expected
    if original is not None:
        unrounded = [y.cpu().numpy() for y in run_in_pieces(original, batch, fixed_batch)]
    noise = _rms(unrounded, expected)
    figures: dict[str, Any] = {}
    departed, ran = [], 0
    for runtime in runtimes:
        try:
            # In a child process, whatever lies beside the file: nothing has run it yet.
            with open_session(path, runtime, isolate=True) as session:
                given = session.run(*(x.cpu().numpy() for x in batch))
        except EdgepressError as error:
            if runtime in required:
                raise RuntimeFailure(
                    f"{runtime} cannot run {path.name}, so that it was not written: {error}"
                ) from error
            figures[runtime] = {"skipped": str(error)}
            continue
        ran += 1
        got = list(given) if isinstance(given, (tuple, list)) else [given]
        got = [_in_rows_of(np.asarray(a), b) for a, b in zip(got, expected, strict=True)]
        pairs = _figures(got, expected, scales or [None] * len(expected))
        figures[runtime] = max(
            pairs, key=lambda pair: (_missed(runtime, pair) != [], pair["max_lsb"] or pair["max_abs"])
        )
        missed = [violation for pair in pairs for violation in _missed(runtime, pair)]
        # A reference that is wrong itself would be far from a float network that the file is near to.
        far = _rms(got, unrounded)
        equally_good = noise / 2 < far < noise * _AS_NEAR
        if missed and noise and (equally_good or _rms(got, expected) < noise):
            figures[runtime]["amplified"] = True
        elif missed and (defects := defects_in(path, runtime)):
            figures[runtime]["known_defects"] = defects
        elif (
            missed
            and quantized is not None
            and (not noise or noise / 2 < far < noise * _AMPLIFIED)
            and _rounds(path, runtime, quantized, batch, fixed_batch)
        ):
            figures[runtime]["amplified"] = True
        else:
            departed += missed
    if departed:
        reasons = "; ".join(
            f"{v['b']} by {v['metric']} {v['value']:.3g} (allowed are {v['limit']:g})" for v in departed
        )
        raise ParityError(f"{path.name} departs from the network: {reasons}; it was not written")
    if not ran:
        reasons = "; ".join(f"{name}: {entry['skipped']}" for name, entry in figures.items())
        raise RuntimeFailure(f"no runtime could run {path.name} for the comparison with torch: {reasons}")
    return {"samples": len(batch[0]), "runtimes": figures}


def must_run(format: str, runtimes: Sequence[str] | None, device: str | None) -> tuple[str, ...]:
    """The runtimes without which a file is not written.

    Args:
        format: "tflite", "onnx" or "executorch".
        runtimes: those that somebody asked for, or None.
        device: a device class, whose runtime is meant, or None for what phones, boards and servers have.

    Raises:
        UsageError: unknown device class, or one that runs files of another format.
    """
    from edgepress.models.devices.classes import device_class

    if runtimes is not None:
        return tuple(runtimes)
    if device is not None:
        wanted = device_class(device).runtime
        if RUNTIMES[wanted].file_kind != format:
            raise UsageError(
                f"device = {device!r} runs .{RUNTIMES[wanted].file_kind} files, by {wanted}: choose format = "
                f"{RUNTIMES[wanted].file_kind!r}, or another device class"
            )
        return (wanted,)
    missing = available_runtimes(format)
    return tuple(name for name in MUST_RUN[format] if not missing[name])


def _rounds(path: Path, runtime: str, quantized: Any, batch: tuple[Any, ...], fixed_batch: int | None) -> bool:
    from edgepress.deploy.verify.layers import only_rounds

    return only_rounds(path, runtime, quantized, [x[:fixed_batch].cpu().numpy() for x in batch], _LAYER_LSB, MEAN_LSB)


def _missed(runtime: str, pair: dict[str, Any]) -> list[dict[str, Any]]:
    thresholds = _INDICES if pair.get("indices") else _THRESHOLDS
    return violations([{"a": "torch", "b": runtime, **pair}], thresholds)


def _figures(got: list[np.ndarray], expected: list[np.ndarray], scales: Sequence[float | None]) -> list[dict[str, Any]]:
    """`parity.compare` of each output."""
    pairs = []
    for a, b, scale in zip(got, expected, scales, strict=True):
        pair = compare(b, a, scale)
        if not np.issubdtype(b.dtype, np.floating):  # indices, as of argmax: how far apart they are says nothing
            same = int((a == b).sum())
            interval = [float(v) for v in wilson(same, a.size)]
            pair.update(indices=True, label_agreement=same / max(1, a.size), label_interval=interval, relative=None)
        pairs.append(pair)
    return pairs


def _in_rows_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a` in the shape of `b`. What is equal for all samples, such as the anchors of a detector, has no batch: a
    runtime gives it once for each run, of which every one must hold.
    """
    runs = a.size // b.size if b.size and a.size > b.size and a.size % b.size == 0 else 1
    rows = a.reshape(runs, *b.shape)
    far = np.abs(rows.astype(np.float64) - b).reshape(runs, -1).max(1, initial=0)
    return rows[int(far.argmax())]


def _rms(values: list[np.ndarray], expected: list[np.ndarray]) -> float:
    squares = [np.square(a.astype(np.float64) - b).ravel() for a, b in zip(values, expected, strict=True)]
    return float(np.sqrt(np.concatenate(squares).mean()))
