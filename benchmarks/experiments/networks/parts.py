# SPDX-License-Identifier: Apache-2.0
"""What is done to every network: prune, quantize, export and lower it, and the same by other tools."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.networks.float_operators import (
    float_operators_of_onnx,
    float_operators_of_tflite,
)
from edgepress.benchmarks.experiments.networks.subject import Subject, leaves
from edgepress.models.errors import EdgepressError

#: Shares of the MACs that pruning is asked for.
SHARES = (0.5, 0.25)
#: Torch-Pruning takes its channels in so many steps, until the share is reached.
_STEPS = 60


def prune(subject: Subject) -> dict[str, Any]:
    """Ratio, proof and CPU seconds for each share, and the share of parameters that no group can remove."""
    from edgepress.compress.prune.model import prune_model

    found: dict[str, Any] = {"targets": []}
    for share in SHARES:
        begin = cpu_seconds()
        pruned = prune_model(subject.model, subject.example, macs=f"{100 * share:g}%")
        found["targets"].append(
            {
                "share": share,
                "ratio": pruned.after.macs / pruned.before.macs,
                "proof": pruned.proof.max_abs_diff,
                "cpu_s": round(cpu_seconds() - begin, 2),
                "notes": list(pruned.notes),
            }
        )
        found |= {"macs": pruned.before.macs, "params": pruned.before.params}
        found["frozen_share"] = _frozen_share(pruned.graph)
        found["frozen"] = sorted({f"{frozen.operator}: {frozen.reason}" for frozen in pruned.frozen})
    return found


def _frozen_share(graph: Any) -> float:
    """Of all elements of parameters: how many lie in no channel that could go."""
    stays: dict[str, dict[int, float]] = {}
    for group in graph.groups:
        for member in group.members:
            if member.trained:
                axes = stays.setdefault(member.tensor, {})
                size = graph.shapes[member.tensor][member.axis]
                axes[member.axis] = axes.get(member.axis, 1.0) - member.positions.size / size
    total = frozen = 0.0
    parameters = {node.source for phase in graph.phases for node in phase.graph.nodes if node.kind == "parameter"}
    for name in parameters:
        elements = float(np.prod(graph.shapes[name]))
        total += elements
        frozen += elements * float(np.prod([max(0.0, share) for share in stays.get(name, {}).values()]))
    return frozen / max(total, 1.0)


def quantize(subject: Subject) -> dict[str, Any]:
    """Whether it can be, and under which batch."""
    return {"scheme": subject.quantized.scheme, "fixed_batch": subject.quantized.fixed_batch}


def tflite(subject: Subject) -> dict[str, Any]:
    """Our int8 TFLite file."""
    return _ours(subject, "tflite", float_operators_of_tflite, "litert")


def onnx(subject: Subject) -> dict[str, Any]:
    """Our int8 ONNX file."""
    return _ours(subject, "onnx", float_operators_of_onnx, "onnxruntime")


def _ours(subject: Subject, form: str, floats: Callable[[Path], dict[str, int]], runtime: str) -> dict[str, Any]:
    from edgepress.deploy.export.export import export_model

    path = subject.folder / f"ours.{form}"
    artifact = export_model(subject.quantized, subject.example, path, overwrite=True)
    return {
        "file_bytes": path.stat().st_size,
        "float_operators": floats(path),
        "float_islands": artifact.manifest["float_islands"],
        "runtimes": {
            name: {key: figures.get(key) for key in ("max_lsb", "mean_lsb", "skipped", "amplified", "known_defects")}
            for name, figures in artifact.manifest["parity"]["runtimes"].items()
        },
        "snr_db": _signal_to_noise(subject, path, runtime),
    }


def firmware(subject: Subject) -> dict[str, Any]:
    """C from our TFLite file, or the operators that refuse."""
    from edgepress.deploy.firmware.sources import firmware as lowered

    path = subject.folder / "ours.tflite"
    if not path.exists():
        return {"error": "there is no TFLite file", "kind": "not run"}
    made = lowered(path)
    return {"operators": made.network.operators, "weight_bytes": made.network.weight_bytes}


def plain_tflite(subject: Subject) -> dict[str, Any]:
    """litert-torch and ai-edge-quantizer, as their documentation has it."""
    from edgepress.benchmarks.experiments.integers.converters import litert_file

    path = subject.folder / "litert.tflite"
    litert_file(leaves(subject.model), subject.example, subject.calibration, path)
    return _theirs(subject, path, float_operators_of_tflite, "litert")


def plain_onnx(subject: Subject) -> dict[str, Any]:
    """torch's ONNX file and onnxruntime's static quantization; a batch of one where it takes no other."""
    from edgepress.benchmarks.experiments.integers.converters import onnxruntime_file

    path = subject.folder / "onnxruntime.onnx"
    model = leaves(subject.model)
    try:
        onnxruntime_file(model, subject.example, subject.calibration, path)
    except Exception:
        onnxruntime_file(model, subject.example, subject.calibration, path, dynamic_batch=False)
    return _theirs(subject, path, float_operators_of_onnx, "onnxruntime")


def _theirs(subject: Subject, path: Path, floats: Callable[[Path], dict[str, int]], runtime: str) -> dict[str, Any]:
    return {
        "file_bytes": path.stat().st_size,
        "float_operators": floats(path),
        "snr_db": _signal_to_noise(subject, path, runtime),
    }


def torch_pruning(subject: Subject) -> dict[str, Any]:
    """Torch-Pruning to the same shares by its own count, one ratio for all layers."""
    import torch

    from edgepress.benchmarks.experiments.peers.torch_pruning import Progress, Ranking
    from edgepress.models.cost.cost import cost_of

    dense = cost_of(subject.model, subject.example).macs
    shapes = [y.shape for y in subject.outputs_of(subject.model, subject.example)]
    begin = cpu_seconds()
    ranking = Ranking(steps=_STEPS)
    progress = Progress(subject.model, subject.example, ranking, heads=subject.network.heads)
    targets = []
    for share in SHARES:
        progress.until(share * progress.dense)
        spent = cpu_seconds() - begin
        with torch.no_grad():
            same = [y.shape for y in subject.outputs_of(progress.model, subject.example)] == shapes
        ratio = cost_of(progress.model, subject.example).macs / dense
        targets.append({"share": share, "ratio": ratio, "cpu_s": round(spent, 2), "same_outputs": same})
    return {"targets": targets}


def _signal_to_noise(subject: Subject, path: Path, runtime: str) -> float | None:
    """Decibels of a file's outputs on a runtime against the float network; this process may die of it.

    The noise of each output counts in parts of its own power; None where it is without noise.
    """
    from edgepress.deploy.runtimes.sessions import open_session

    with open_session(path, runtime, isolate=False) as session:
        given = session.run(*(x.numpy() for x in subject.compared))
    made = [np.asarray(y) for y in (given if isinstance(given, tuple) else (given,))]
    return decibels(_in_order(made, subject.expected), subject.expected)


def _in_order(made: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A converter may give outputs in another order: the first of the right shape is the one."""
    left, found = list(made), []
    for wanted in expected:
        at = next((i for i, y in enumerate(left) if y.shape == wanted.shape), None)
        at = at if at is not None else next(i for i, y in enumerate(left) if y.size == wanted.size)
        found.append(left.pop(at).reshape(wanted.shape))
    return found


def decibels(made: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float | None:
    """10 log10 of signal to noise power, the ratio of each output counting alike; None where nothing differs.

    Raises:
        ValueError: an output is no number.
    """
    ratios = []
    for got, wanted in zip(made, expected, strict=True):
        signal = float(np.square(wanted, dtype=np.float64).mean())
        noise = float(np.square(got.astype(np.float64) - wanted).mean())
        if not np.isfinite(noise):
            raise ValueError("an output is no number")
        ratios.append(noise / max(signal, 1e-30))
    mean = sum(ratios) / len(ratios)
    return None if mean == 0 else float(-10 * np.log10(mean))


#: Name -> what it does, in order: a part may need what an earlier one left in the folder.
PARTS: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "prune": prune,
    "quantize": quantize,
    "tflite": tflite,
    "onnx": onnx,
    "firmware": firmware,
    "plain-tflite": plain_tflite,
    "plain-onnx": plain_onnx,
    "torch-pruning": torch_pruning,
}


def measured(subject: Subject, part: str) -> dict[str, Any]:
    """One part of one network as a row: its figures, or why there are none.

    Returns:
        {"network", "part", "cpu_s", "seconds", ...}; with "error" and "kind" ("refused": a sentence for its user;
        "fault": anything else) where it failed.
    """
    begin, spent = time.monotonic(), cpu_seconds()
    try:
        found = PARTS[part](subject)
    except EdgepressError as error:
        found = {"error": str(error)[:1500], "kind": "refused"}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"[:1500], "kind": "fault"}
    return {
        "network": subject.network.name,
        "part": part,
        "cpu_s": round(cpu_seconds() - spent, 2),
        "seconds": round(time.monotonic() - begin, 1),
        **found,
    }


def cpu_seconds() -> float:
    """Of this process and the finished ones that it started."""
    import resource

    used = (resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)
