# SPDX-License-Identifier: Apache-2.0
"""Parity as a figure: the same inputs through every runtime, compared pair by pair.

One LSB is one step of the file's output scale. `equal` is the share of output values that agree to the bit,
`label_agreement` the share of samples with the same argmax (ties: the first index), with its Wilson interval.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.deploy.artifact import find_manifest, sha256_of
from edgepress.deploy.runtimes.registry import EMULATED, KINDS, available_runtimes
from edgepress.deploy.runtimes.sessions import Session, open_session
from edgepress.deploy.verify.differences import output_pairs
from edgepress.deploy.verify.inputs import Inputs, random_inputs, real_inputs
from edgepress.deploy.verify.known_defects import defects_in, differences_in
from edgepress.models.errors import EdgepressError, UsageError, VerdictError

SCHEMA = 1
#: The reference first: in a pair, `a` is the one nearer to it.
_ORDER = ("torch", "litert-reference", "tflm", *EMULATED, "litert", "onnxruntime", "executorch", "openvino")
#: LSB of an output value at most and in the mean, and share of equal labels: what int8 must reach.
MAX_LSB, MEAN_LSB, LABEL_AGREEMENT = 3.0, 0.5, 0.99


@dataclass(frozen=True)
class Thresholds:
    """What parity must reach; None leaves a figure out.

    Attributes:
        max_lsb: largest difference of any output value.
        mean_lsb: mean difference of all output values.
        label_agreement: least share of samples with the same label; missed where even the upper end of the 95 %
            interval lies below it, so that one flip among a few samples is no verdict.
        relative: largest difference of a file without integers, divided by max(1, largest |output|).
    """

    max_lsb: float | None = MAX_LSB
    mean_lsb: float | None = MEAN_LSB
    label_agreement: float | None = LABEL_AGREEMENT
    relative: float | None = 1e-3


DEFAULT_THRESHOLDS = Thresholds()


def behind_integers(thresholds: Thresholds) -> Thresholds:
    """The same, for a float output that follows integers: they move it by steps, as many of int8's 127 as allowed."""
    if thresholds.relative is None or thresholds.max_lsb is None:
        return thresholds
    return replace(thresholds, relative=max(thresholds.relative, thresholds.max_lsb / 127))


def in_steps_of(thresholds: Thresholds, bits: int) -> Thresholds:
    """The same limits for an output of so many bits; its range has 2^bits steps, and limits are given in steps of 8."""
    finer = 2 ** (bits - 8)
    return replace(
        thresholds,
        max_lsb=None if thresholds.max_lsb is None else thresholds.max_lsb * finer,
        mean_lsb=None if thresholds.mean_lsb is None else thresholds.mean_lsb * finer,
    )


def verify(
    path: str | Path,
    *,
    data: str | Path | None = None,
    runtimes: Sequence[str] | None = None,
    also: Sequence[str | Path] = (),
    samples: int = 200,
    random_samples: int = 32,
    seed: int = 0,
    threads: int = 1,
    thresholds: Thresholds | None = None,
    only_torch: bool | None = None,
    trust: bool = False,
    streams: bool = False,
) -> dict[str, Any]:
    """Compare every runtime that can run a file, and the checkpoint that it was made from.

    Args:
        path: a .tflite, .onnx, .pte, .ort or .xml file.
        data: real inputs (`verify.inputs.load_inputs`); None takes the task that the manifest names, if it is there.
        runtimes: some of `edgepress.deploy.runtimes.registry.RUNTIMES`; None takes all that are installed and apply.
        also: further files of the same network (the ONNX beside the TFLite). A file of the other format beside it, made
            from the same checkpoint, is taken by itself.
        samples, random_samples: how many real and random inputs.
        thresholds: in steps of an 8-bit output; None takes `DEFAULT_THRESHOLDS`.
        streams: inputs are taken in their order; those of one recording are one stream (all, where none is known),
            whose states a network that remembers keeps. Otherwise each is begun anew.
        only_torch: judge only the pairs with torch; None judges every pair where thresholds are given, else those of
            `judged_pairs`.

    Returns:
        {"schema", "file", "sha256", "inputs", "output_bits", "pairs", "random_pairs", "runtimes", "float_islands",
        "passed", "judged", "violations", "beyond_unjudged", "notes"}; `passed` is False where no pair was judged, and
        `beyond_unjudged` holds what the other pairs miss of the thresholds;
        the pairs are of real inputs where there are any (`random_pairs` then holds those of noise), each {"a", "b",
        "max_lsb", "mean_lsb", "equal", "label_agreement", "label_interval", "max_abs", "relative", "samples"}. LSBs are
        null for files without integers, labels for networks with one output, and for tasks that have
        no classes.

    Raises:
        UsageError: a file or the data is missing or damaged. RuntimeFailure: not one runtime runs the file.
    """
    path = Path(path)
    manifest = find_manifest(path) or {}
    notes: list[str] = []
    with ExitStack() as stack:
        sessions, ran = _open_all(path, also, manifest, runtimes, threads, trust, stack, notes)
        main = next(s for s in sessions.values() if s.path == path)
        real = real_inputs(data, main, manifest, samples, trust, seed, notes, in_order=streams)
        noise = random_inputs(main, random_samples, seed) if random_samples else None
        outputs = {n: _run(n, session, real, ran, streams) for n, session in sessions.items()} if real else {}
        noisy = {n: _run(n, session, noise, ran, streams) for n, session in sessions.items()} if noise else {}
        output = next((s.output for n, s in sessions.items() if n != "torch" and s.output.scale), None)
        bits = 8 * np.dtype(output.dtype).itemsize if output else None
        scales = next((scales for s in sessions.values() if any(scales := [o.scale for o in s.outputs])), [])
    main_inputs = real or noise
    labelled = (manifest.get("spec") or {}).get("kind", "classification") == "classification"
    for name, made in outputs.items():
        if labelled and real is not None and real.labels is not None and made is not None and ran[name]["ran"]:
            ran[name].update(_accuracy(made[0], real.labels))
    pairs, random_pairs = (output_pairs(made, scales, labels=labelled) for made in (outputs, noisy))
    if real is None:
        pairs, random_pairs = random_pairs, []
    gate_all = thresholds is not None if only_torch is None else not only_torch
    judged = pairs if gate_all else judged_pairs(pairs, real is not None, only_torch=bool(only_torch))
    defects = {name: defects_in(Path(entry["file"]), name) for name, entry in ran.items()}
    judged = [pair for pair in judged if not (defects.get(pair["a"]) or defects.get(pair["b"]))]
    limits = in_steps_of(thresholds or DEFAULT_THRESHOLDS, bits or 8)
    limits = behind_integers(limits) if manifest.get("float_islands") else limits
    if real is None:
        # The two best of noise are often a step apart, and a flip among a few such samples is no verdict.
        limits = replace(limits, label_agreement=None)
    missed = violations(judged, limits)
    others = [pair for pair in pairs if pair not in judged]
    beyond = {name for missing in (missed, violations(others, limits)) for v in missing for name in (v["a"], v["b"])}
    notes += [text for n, entry in ran.items() if n in beyond for text in differences_in(Path(entry["file"]), n)]
    failures = [f"{name} does not run the file: {entry['reason']}" for name, entry in ran.items() if not entry["ran"]]
    return {
        "schema": SCHEMA,
        "file": str(path),
        "sha256": sha256_of(path),
        "inputs": {
            "source": real.source if real else "random",
            "samples": main_inputs.samples if main_inputs else 0,
            "random_samples": noise.samples if noise else 0,
            "streams": streams,
        },
        "output_bits": bits,
        "pairs": pairs,
        "random_pairs": random_pairs,
        "runtimes": ran,
        "float_islands": manifest.get("float_islands") or [],
        "passed": bool(judged) and not missed,
        "judged": [[pair["a"], pair["b"]] for pair in judged],
        "violations": missed,
        "beyond_unjudged": violations(others, limits),
        "notes": notes + failures + [sentence for found in defects.values() for sentence in found],
    }


def judged_pairs(pairs: Sequence[dict[str, Any]], real: bool, only_torch: bool = False) -> list[dict[str, Any]]:
    """The pairs that decide where nobody named thresholds.

    With torch, those with torch: it computed what was measured. Without it, all that have TFLite's own arithmetic, or
    two files. XNNPACK rounds integers otherwise by design, which noise exaggerates: it is judged against torch on real
    inputs, and where the outputs are float.
    """

    def rounds(pair: dict[str, Any]) -> bool:
        return "litert" in (pair["a"], pair["b"]) and pair["max_lsb"] is not None

    with_torch = [pair for pair in pairs if pair["a"] == "torch"]
    if with_torch or only_torch:
        return [pair for pair in with_torch if real or not rounds(pair)]
    return [pair for pair in pairs if not rounds(pair)]


def verdict_text(report: Mapping[str, Any]) -> str:
    """The last line of a report: "passed" only where something was judged and nothing shown lies beyond the limits."""
    if report["violations"]:
        return f"FAILED: {len(report['violations'])} beyond the limits"
    if not report["judged"]:
        ran = [name for name, entry in report["runtimes"].items() if entry["ran"]]
        why = (
            f"only {ran[0]} ran it"
            if len(ran) == 1
            else "no pair of these has the same arithmetic"
            if ran
            else "none ran it"
        )
        return f"NOT COMPARED: {why}; --with FILE, a checkpoint or --max-lsb gives something to judge"
    if report["beyond_unjudged"]:
        beyond = dict.fromkeys(f"{v['a']} and {v['b']}" for v in report["beyond_unjudged"])
        return (
            f"within the limits: {_and_pairs(report['judged'])}; beyond them, and not judged since XNNPACK rounds "
            f"otherwise: {', '.join(beyond)} (--max-lsb judges every pair)"
        )
    return f"{_and_pairs(report['judged'])}: passed"


def _and_pairs(pairs: Sequence[Sequence[str]]) -> str:
    return ", ".join(f"{a} and {b}" for a, b in pairs)


def summary(report: dict[str, Any]) -> str:
    """The violations, or the worst pair with torch (else of all), as one sentence."""
    if report["violations"]:
        return ", ".join(
            f"{v['a']} and {v['b']}: {v['metric']} {v['value']:.6g} against {v['limit']:g}"
            for v in report["violations"]
        )
    pairs = [pair for pair in report["pairs"] if pair["a"] == "torch"] or report["pairs"]
    if not pairs:
        return "nothing to compare: one runtime only"
    worst = max(pairs, key=lambda pair: pair["max_abs"])
    size = f"{worst['max_lsb']:g} LSB" if worst["max_lsb"] is not None else f"{worst['max_abs']:.3g}"
    labels = "" if worst["label_agreement"] is None else f", labels agree on {worst['label_agreement']:.2%}"
    return f"at most {size} between {worst['a']} and {worst['b']}{labels}"


def _open_all(
    path: Path,
    also: Sequence[str | Path],
    manifest: dict[str, Any],
    runtimes: Sequence[str] | None,
    threads: int,
    trust: bool,
    stack: ExitStack,
    notes: list[str],
) -> tuple[dict[str, Session], dict[str, dict[str, Any]]]:
    files = [path, *(Path(other) for other in also)]
    if not also:
        files += _siblings(path, manifest)
    checkpoint = checkpoint_of(path, manifest, notes)
    if checkpoint is not None:
        files.append(checkpoint)
    sessions: dict[str, Session] = {}
    ran: dict[str, dict[str, Any]] = {}
    errors: dict[Path, list[EdgepressError]] = {}
    for file in files:
        kind = "checkpoint" if file.is_dir() else KINDS.get(file.suffix.lower(), "")
        for name, missing in available_runtimes(kind, emulated=runtimes is not None).items():
            if name in ran or (runtimes is not None and name not in runtimes):
                continue
            if missing and runtimes is None:
                notes.append(f"{name} is left out: {missing}")
                continue
            try:
                sessions[name] = stack.enter_context(open_session(file, name, threads=threads, trust=trust))
                ran[name] = {"ran": True, "file": str(file)}
            except EdgepressError as error:
                if runtimes is not None:
                    raise
                ran[name] = {"ran": False, "file": str(file), "reason": str(error)}
                errors.setdefault(file, []).append(error)
    unknown = [name for name in runtimes or () if name not in ran]
    if unknown:
        raise UsageError(
            f"runtimes = {', '.join(unknown)}: nothing here runs with it (files: {', '.join(map(str, files))})"
        )
    if not any(session.path == path for session in sessions.values()):
        reasons = "; ".join(f"{name}: {entry.get('reason')}" for name, entry in ran.items() if not entry["ran"])
        from edgepress.models.errors import RuntimeFailure

        # One runtime that refuses a file is that runtime's affair; where all call it damaged, it is.
        if errors.get(path) and all(isinstance(error, UsageError) for error in errors[path]):
            raise errors[path][0]
        if path.is_file() and path.suffix.lower() not in KINDS:
            raise UsageError(f"{path} is no file of {', '.join(KINDS)}; name one of these, or a checkpoint")
        raise RuntimeFailure(f"no runtime runs {path}" + (f" ({reasons})" if reasons else ": none is installed"))
    ordered = {name: sessions[name] for name in _ORDER if name in sessions}
    return ordered, ran


def _siblings(path: Path, manifest: dict[str, Any]) -> list[Path]:
    """The same network in other formats, beside the file: same name, and made from the same checkpoint."""
    origin = (manifest.get("checkpoint") or {}).get("sha256")
    found = []
    for other in (path.with_suffix(suffix) for suffix in KINDS):
        if not origin or other == path or not other.is_file():
            continue
        theirs = find_manifest(other) or {}
        if (theirs.get("checkpoint") or {}).get("sha256") == origin and theirs.get("scheme") == manifest.get("scheme"):
            found.append(other)
    return found


def checkpoint_of(file: Path, manifest: dict[str, Any], notes: list[str]) -> Path | None:
    """The checkpoint that a file was made from, if it is still there unchanged; else None, and a note says why."""
    origin = manifest.get("checkpoint") or {}
    if not isinstance(origin.get("path"), str):
        notes.append("the file names no checkpoint, so that torch is left out")
        return None
    path = Path(os.path.normpath(file.resolve().parent / origin["path"]))
    if not path.is_dir():
        notes.append(f"the checkpoint {path} is not there, so that torch is left out")
        return None
    try:
        unchanged = sha256_of(path) == origin.get("sha256")
    except UsageError as error:
        notes.append(f"{error}, so that torch is left out")
        return None
    if not unchanged:
        notes.append(f"the checkpoint {path} was changed since the export, so that torch is left out")
        return None
    return path


def _run(
    name: str, session: Session, inputs: Inputs | None, ran: dict[str, dict[str, Any]], streams: bool
) -> list[np.ndarray] | None:
    """Every output; None where the runtime failed, which `ran` then says."""
    if inputs is None or not ran[name]["ran"]:
        return None
    try:
        made = streamed(session, inputs) if streams else session.run(*inputs.arrays)
    except UsageError:
        raise
    except EdgepressError as error:
        ran[name].update(ran=False, reason=str(error))
        return None
    outputs = [np.asarray(output, np.float32) for output in (made if isinstance(made, tuple) else (made,))]
    for output in outputs:
        if bad := int(np.isnan(output.reshape(len(output), -1)).any(axis=1).sum()):
            raise VerdictError(
                f"{name} gives NaN for {bad} of {len(output)} samples: there is nothing to compare; look "
                "for weights and scales that are no numbers"
            )
    return outputs


def streamed(session: Session, inputs: Inputs) -> tuple[np.ndarray, ...]:
    """Every output of all samples, each recording a stream of its own."""
    pieces = []
    for begin, end in pairwise([*(inputs.begins or (0,)), inputs.samples]):
        session.reset()
        made = session.run(*(array[begin:end] for array in inputs.arrays), stream=True)
        pieces.append(made if isinstance(made, tuple) else (made,))
    return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    from edgepress.models.tasks.kinds.intervals import wilson

    correct = int((outputs.reshape(len(outputs), -1).argmax(1) == labels).sum())
    return {
        "correct": correct,
        "total": len(labels),
        "accuracy": correct / max(1, len(labels)),
        "interval": [float(v) for v in wilson(correct, len(labels))],
    }


def violations(pairs: Sequence[dict[str, Any]], thresholds: Thresholds) -> list[dict[str, Any]]:
    """What misses the thresholds: {"a", "b", "metric", "value", "limit"} each."""
    found = []
    for pair in pairs:
        for metric, sign in (("max_lsb", 1), ("mean_lsb", 1), ("label_agreement", -1), ("relative", 1)):
            limit, value = getattr(thresholds, metric), pair[metric]
            best = pair["label_interval"][1] if metric == "label_agreement" and pair["label_interval"] else value
            if limit is not None and value is not None and sign * best > sign * limit:
                found.append({"a": pair["a"], "b": pair["b"], "metric": metric, "value": value, "limit": limit})
    return found
