# SPDX-License-Identifier: Apache-2.0
"""What the gate compares: one figure for each metric of a model on a device class, and how it was obtained."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.benchmarks.measure.layers.file_layers import uncountable_sentences
from edgepress.benchmarks.measure.linked_firmware import KIND
from edgepress.models.devices.device import TASK_METRIC, DeviceClass, is_of_task
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.units import format_quantity

#: Of front ends, whose instructions are counted on an emulated core: on a Cortex-M4 a load takes 2 and most others 1.
CYCLES_PER_INSTRUCTION = 1.5
#: What TFLite Micro with kernels takes in flash where no device class says so (mcufit-bench 2026-08, the larger one).
TFLM_RUNTIME_BYTES = 115_000
#: Rules of torch's own tools; a file without batch normalisation cannot give them.
_TORCH_RULES = ("torchinfo", "nessi-torch")


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        value: in the metric's unit; None where it is not known.
        how: "counted", "measured" or "estimated"; "" where it is not known.
        rule: the counting rule of MACs, the runtime of an accuracy; None for the rest.
        note: what a reader must know: a rule used in place of another, what is included, how to measure.
        low, high: an interval, where there is one.
        source: where it was measured or what it was estimated from.
    """

    value: float | None
    how: str = "counted"
    rule: str | None = None
    note: str = ""
    low: float | None = None
    high: float | None = None
    source: str = ""


def figure(
    metric: str,
    profile: Mapping[str, Any],
    device: DeviceClass | None,
    *,
    results: Sequence[dict[str, Any]] = (),
    macs_rule: str | None = None,
    runtime: str | None = None,
) -> Figure:
    """The figure of one metric.

    Args:
        metric: a key of `edgepress.models.devices.classes.METRICS`, or metric.NAME of the task.
        profile: what `edgepress.benchmarks.measure.profiling.profile` returned.
        device: the class it is meant for; None for limits without one.
        results: measurements, oldest first; those of other models are passed over.
        macs_rule: the rule of the limit; None takes the one of the class, else "dcase".
        runtime: on which runtime accuracy counts; None takes the one of the class, else any.

    Raises:
        UsageError: MACs cannot be counted under this rule for this kind of file, or a figure is not finite.
    """
    found = _figure(metric, profile, device, results, macs_rule, runtime)
    if found.value is not None and not math.isfinite(found.value):
        raise UsageError(f"{metric} = {found.value!r} is no usable figure; profile or measure again")
    return found


def _figure(
    metric: str,
    profile: Mapping[str, Any],
    device: DeviceClass | None,
    results: Sequence[dict[str, Any]],
    macs_rule: str | None,
    runtime: str | None,
) -> Figure:
    if metric == "macs":
        return _macs(profile, macs_rule or (device.macs_rule if device else "dcase"))
    if is_of_task(metric):
        return _measured(metric, profile, device, results, runtime)
    if metric == "latency":
        return _latency(profile, device, results)
    if metric in ("arena", "flash") and (linked := _same_model(profile, results, KIND)):
        return _of_firmware(metric, linked[-1])
    if metric == "arena":
        arena = (profile.get("arena_bytes") or {}).get("tflm")
        why = _note(profile, "arena") or "TFLite Micro's arena could not be measured for this file"
        return (
            Figure(arena, "measured", note="64-bit host; a 32-bit device needs a little less")
            if arena is not None
            else Figure(None, "", note=why)
        )
    if metric == "flash":
        runtime_bytes = device.flash_runtime_bytes if device else TFLM_RUNTIME_BYTES
        size = profile.get("file_bytes")
        return Figure(
            None if size is None else size + runtime_bytes,
            note=f"model file and {format_quantity(runtime_bytes, 'bytes')} of runtime and kernels",
        )
    if metric in ("params", "weights") and device is not None and device.memory_rule == "nessi-tflite":
        return _challenge_memory(metric, profile)
    key = {"params": "params", "weights": "weight_bytes", "file": "file_bytes", "peak": "peak_activation_bytes"}[metric]
    value = profile.get(key)
    if value is not None:
        return Figure(value)
    return Figure(None, "", note=_note(profile, key) or "not known for this file")


def _of_firmware(metric: str, linked: dict[str, Any]) -> Figure:
    what = f"firmware linked for {linked['runtime']}"
    if linked.get("front_end_instructions"):
        what += ", front end included"
    elif linked.get("note"):
        what += f", {linked['note']}"
    if metric == "flash":
        note = linked["verdict"] or "code, weights and tables"
        return Figure(linked["flash_bytes"], "measured", note=note, source=what)
    return Figure(
        linked["ram_bytes"],
        "measured",
        note=linked["verdict"] or f"static RAM; {linked['stack_bytes']} B of stack beside it",
        source=what,
    )


def _note(profile: Mapping[str, Any], key: str) -> str:
    notes = profile.get("notes")
    return str(notes.get(key, "")) if isinstance(notes, dict) else ""


def _macs(profile: Mapping[str, Any], rule: str) -> Figure:
    counts, note = profile["macs"], ""
    if counts.get(rule) is None and rule in _TORCH_RULES:
        note = f"{rule} cannot be derived (no batch normalisation is left in this file): dcase is used"
        rule = "dcase"
    unknown = [found for found in profile.get("uncountable") or () if rule in found["rules"]]
    if unknown:
        return Figure(None, "", rule=rule, note="; ".join(uncountable_sentences(unknown)))
    if counts.get(rule) is not None:
        return Figure(counts[rule], rule=rule, note=note)
    why = _note(profile, rule)
    known = ", ".join(name for name, value in counts.items() if value is not None)
    raise UsageError(
        f"MACs under the rule {rule!r} are not known for this file{f' ({why})' if why else ''}, and "
        f"figures of different rules are never compared: known here are {known}"
    )


def _challenge_memory(metric: str, profile: Mapping[str, Any]) -> Figure:
    size = profile.get("nessi_memory_bytes")
    if size is None:
        value = profile.get("params" if metric == "params" else "weight_bytes")
        return Figure(value, note="weights and biases: the challenge's counter reads .tflite files only")
    note = (
        f"bytes of every constant that an operator reads, as NeSsi counts; {profile.get('weight_bytes'):,} B of them "
    )
    return Figure(size, rule="nessi-tflite", note=note + "are weights and biases")


def _same_model(profile: Mapping[str, Any], results: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    sha256 = profile.get("sha256")
    return [r for r in results if r.get("kind", "accuracy") == kind and sha256 and r.get("sha256") == sha256]


def _measured(
    metric: str,
    profile: Mapping[str, Any],
    device: DeviceClass | None,
    results: Sequence[dict[str, Any]],
    runtime: str | None,
) -> Figure:
    wanted = runtime or (device.runtime if device else None)
    path = shlex.quote(str(profile.get("file", "FILE")))
    how_to = f"measure it with `benchmarks run {path} --data DATA" + (f" --runtime {wanted}`" if wanted else "`")
    fitting = [
        r
        for r in _same_model(profile, results, "accuracy")
        if (wanted is None or r.get("runtime") == wanted) and _task_value(r, metric) is not None
    ]
    if not fitting:
        return Figure(None, "", note=f"not measured for this file: {how_to}")
    newest = fitting[-1]
    name = metric.removeprefix(TASK_METRIC)
    interval = newest.get("interval") if metric == "accuracy" else (newest.get("intervals") or {}).get(name)
    low, high = interval or (None, None)
    data = newest.get("data") or {}
    return Figure(
        _task_value(newest, metric),
        "measured",
        rule=newest.get("runtime"),
        low=low,
        high=high,
        source=f"{newest.get('total', '?')} samples of {data.get('name', 'data')} on {newest.get('runtime')}",
        note=str(data.get("fingerprint", "")),
    )


def _task_value(record: Mapping[str, Any], metric: str) -> float | None:
    """A figure of a task in a record; metric.accuracy is accuracy."""
    value = record.get(metric)
    return value if value is not None else (record.get("metrics") or {}).get(metric.removeprefix(TASK_METRIC))


def _latency(profile: Mapping[str, Any], device: DeviceClass | None, results: Sequence[dict[str, Any]]) -> Figure:
    measured = [
        r
        for r in _same_model(profile, results, "latency")
        if r.get("p50_ms") is not None and (r.get("device_class") == device.name if device else True)
    ]
    if measured:
        newest = measured[-1]
        return Figure(
            newest["p50_ms"],
            "measured",
            rule=newest.get("runtime"),
            low=newest.get("p50_ms"),
            high=newest.get("p99_ms"),
            source=f"{newest.get('runtime')} on {newest.get('cpu', 'this host')}",
        )
    if device is None:
        return Figure(
            None,
            "",
            note="not measured: `benchmarks latency FILE` measures on this host, a device class gives an estimate",
        )
    from edgepress.benchmarks.estimate.estimate import estimate_latency

    try:
        estimate = estimate_latency(profile, device)
    except RuntimeFailure as error:  # a compiler that fails on the file gives no estimate, and takes no verdict away
        return Figure(None, "", note=str(error))
    if estimate.latency_ms is None:
        return Figure(None, "", note=estimate.note)
    hearing_ms, words = _front_end_ms(profile, device, results)
    return Figure(
        estimate.latency_ms + hearing_ms,
        "estimated",
        low=None if estimate.low_ms is None else estimate.low_ms + hearing_ms,
        high=None if estimate.high_ms is None else estimate.high_ms + hearing_ms,
        source=estimate.source,
        note=f"{estimate.note}{words}",
    )


def _front_end_left_out(profile: Mapping[str, Any], device: DeviceClass) -> str:
    """Words for the front end of a network that hears, where its time on a microcontroller is in no figure."""
    from edgepress.deploy.artifact import find_manifest

    if device.runtime != "tflm" or not profile.get("file"):
        return ""
    try:
        definition = ((find_manifest(Path(str(profile["file"]))) or {}).get("spec") or {}).get("front_end")
        if not isinstance(definition, Mapping) or definition.get("kind") == "images":
            return ""
        from edgepress.deploy.firmware.front_end.emit import log_mel_in

        counted = log_mel_in(definition) is not None
    except UsageError:
        return ""
    return "; the front end that makes its input of sound is not in it" + (
        ": `benchmarks gate --runtime` with an emulated core, as cortex-m4, counts it" if counted else ""
    )


def _front_end_ms(
    profile: Mapping[str, Any], device: DeviceClass, results: Sequence[dict[str, Any]]
) -> tuple[float, str]:
    """Milliseconds of the front end of a clip, from the instructions of linked firmware, and words for them."""
    linked = _same_model(profile, results, KIND)
    instructions = linked[-1].get("front_end_instructions") if linked else None
    if not instructions or device.clock_hz is None:
        return 0.0, _front_end_left_out(profile, device)
    found = instructions * CYCLES_PER_INSTRUCTION / device.clock_hz * 1e3
    return found, (
        f"; {found:.1f} ms of it are the front end: {instructions:,} instructions of a clip at an assumed "
        f"{CYCLES_PER_INSTRUCTION:g} cycles each"
    )
