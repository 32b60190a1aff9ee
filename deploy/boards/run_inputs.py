# SPDX-License-Identifier: Apache-2.0
"""`deploy run`: a file on inputs, here or on a device, and what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgepress.deploy.artifact import find_manifest, sha256_of
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.verify.inputs import Inputs, load_inputs
from edgepress.models.errors import RuntimeFailure, UsageError


def run_here(
    path: Path, source: Path, runtime: str | None = None, *, threads: int = 1, trust: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """Run a file on this machine.

    Args:
        path: .tflite, .onnx or checkpoint.
        source: .npz or .npy with the inputs, all of which are run.

    Returns:
        (the first output, float32 [N, ...], {"schema", "file", "sha256", "runtime", "samples", "labels", ...}; with
        labels in the data also "correct", "total" and "accuracy").

    Raises:
        UsageError: a file is missing or damaged, or the inputs do not fit. RuntimeFailure: the runtime failed.
    """
    _check_source(source)
    with open_session(path, runtime, threads=threads, trust=trust) as session:
        inputs = load_inputs(source, session, split=None, trust=trust)
        made = session.run(*inputs.arrays)
        name = session.runtime
    outputs = np.asarray(made[0] if isinstance(made, tuple) else made, np.float32)
    return outputs, _result(path, name, outputs, inputs, threads)


def run_there(
    path: Path,
    source: Path,
    target: str,
    runtime: str = "litert",
    *,
    threads: int = 1,
    python: str = "python3",
    repeats: int = 50,
    identity: Path | None = None,
    known_hosts: Path | None = None,
    device_class: str | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Run a .tflite file on a device over ssh (see `edgepress.deploy.boards.ssh.run_remote`).

    Adds "latency_ms", "device" (what it said about itself) and "device_class" (what it stands for, where that is given;
    `benchmarks gate --results` takes the figures for that class then).

    The file is read here too, for its scales and layouts: both sides must have the same ones.
    """
    from edgepress.deploy.boards.ssh import parse_target, run_remote

    host = parse_target(target)
    _check_source(source)
    if path.suffix.lower() != ".tflite":
        raise UsageError(f"{path}: only .tflite files run on a device")
    with open_session(path, "litert-reference") as session:
        inputs = load_inputs(source, session, split=None)
        raw = session.quantize(*inputs.arrays)
        answer = run_remote(
            path,
            raw,
            host,
            runtime=runtime,
            threads=threads,
            python=python,
            repeats=repeats,
            identity=identity,
            known_hosts=known_hosts,
        )
        if (
            answer.arrays[0].shape[1:] != tuple(session.output.shape[1:])
            or answer.arrays[0].dtype.name != session.output.dtype
        ):
            raise RuntimeFailure(f"{host.address} gave outputs of another shape or type than the file has")
        outputs = session.dequantize(*answer.arrays)[0]
    return outputs, {
        **_result(path, runtime, outputs, inputs, threads),
        "latency_ms": answer.latency_ms,
        "device": answer.device,
        "device_class": device_class,
    }


def _check_source(source: Path) -> None:
    if source.suffix not in (".npz", ".npy") or not source.is_file():
        raise UsageError(f"--input {source} must be an existing .npz or .npy file")


def _result(path: Path, runtime: str, outputs: np.ndarray, inputs: Inputs, threads: int) -> dict[str, Any]:
    rows = outputs.reshape(len(outputs), -1) if len(outputs) else outputs.reshape(0, 1)
    labels = rows.argmax(1).tolist() if rows.shape[1] > 1 else []
    result: dict[str, Any] = {
        "schema": 1,
        "file": str(path),
        "sha256": sha256_of(path),
        "runtime": runtime,
        "samples": len(outputs),
        "threads": threads,
        "labels": labels,
    }
    manifest = find_manifest(path) if path.is_file() else None
    classes = ((manifest or {}).get("spec") or {}).get("classes") or ()
    if labels and len(classes) == rows.shape[1]:
        result["label_names"] = [classes[label] for label in labels]
    if inputs.labels is not None and labels:
        correct = int((np.asarray(labels) == inputs.labels).sum())
        result.update(correct=correct, total=len(labels), accuracy=correct / len(labels))
    return result
