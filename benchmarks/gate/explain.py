# SPDX-License-Identifier: Apache-2.0
"""Why a check failed and what buys it back: the largest contributors, the cheapest fixes, the cause of a change."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.gate.shrunk import Shrunk
from edgepress.benchmarks.measure.environment import changed_tools, environment
from edgepress.benchmarks.measure.manifests import manifest_beside
from edgepress.benchmarks.measure.profiles import is_float, layer_macs
from edgepress.models.devices.device import is_of_task
from edgepress.models.units import format_quantity

_SHOWN = 3
#: Metric -> the metric in which a layer's part of it is counted.
_LAYER_KEY = {
    "macs": "macs",
    "latency": "macs",
    "params": "params",
    "weights": "weight_bytes",
    "file": "weight_bytes",
    "flash": "weight_bytes",
    "arena": "live_bytes",
    "peak": "live_bytes",
}

_UNIT = {"macs": "macs", "params": "params"}


def contributors(profile: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The layers that make up most of every metric that failed or warned: metric, layer, operator, value, share."""
    found: list[dict[str, Any]] = []
    layers = [layer for layer in profile.get("layers") or [] if isinstance(layer, Mapping)]
    done: set[tuple[str, str | None]] = set()
    for check in checks:
        metric, key = check["metric"], _LAYER_KEY.get(check["metric"])
        if check["status"] not in ("failed", "warned") or key is None or (metric, check["rule"]) in done:
            continue
        done.add((metric, check["rule"]))
        values = [layer_macs(layer, check["rule"]) if key == "macs" else int(layer.get(key) or 0) for layer in layers]
        size, weights = profile.get("file_bytes") or 0, profile.get("weight_bytes") or 0
        # Activations are alive one after the other: a layer's part is that of its own moment, not of a sum.
        whole = check["value"] if key == "live_bytes" else size if metric in ("file", "flash") else sum(values)
        parts: list[tuple[int, str, str | None]] = [
            (values[i], str(layer.get("name", i)), layer.get("operator")) for i, layer in enumerate(layers) if values[i]
        ]
        if metric in ("file", "flash") and size > weights:
            parts.append((size - weights, "everything that is not weights (names, structure, metadata)", None))
        found += [
            {
                "metric": metric,
                "layer": name,
                "operator": operator,
                "value": value,
                "unit": _UNIT.get(key, "bytes"),
                "share": min(1.0, value / whole) if whole else None,
            }
            for value, name, operator in sorted(parts, key=lambda part: -part[0])[:_SHOWN]
        ]
    return found


def fixes(profile: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], tried: bool = True) -> list[dict[str, Any]]:
    """What would bring a failed or warned figure of this very file under its limit, cheapest first.

    Lossless shrinking comes first, since it needs nothing but the file. What changes the network needs the checkpoint
    that the file was made from, and is only named where there is one (or where only a profile is known).

    Args:
        profile: of the model.
        checks: of the verdict.
        tried: whether lossless shrinking is tried on the file, which takes seconds.

    Returns:
        For each: device, metric, fix (a sentence), command, after (the figure with it, None where not known), enough
        (whether that is within the limit), measured (True only where it was tried on this very file).
    """
    found: list[dict[str, Any]] = []
    seen: set[tuple[str, Any]] = set()
    path = str(profile.get("file", "FILE"))
    shrunk = Shrunk(path, tried)
    network = has_checkpoint(path)
    for check in checks:
        if check["status"] not in ("failed", "warned") or check["value"] is None or check["limit"] is None:
            continue
        if (check["metric"], check["limit"]) in seen:
            continue
        seen.add((check["metric"], check["limit"]))
        candidates = _lossless(profile, check, path, shrunk)
        if network:
            candidates += _of_the_network(profile, check)
        for fix, command, after, measured in candidates:
            within = (
                None
                if after is None
                else (after >= check["limit"] if check["kind"] in ("min", "max_drop") else after <= check["limit"])
            )
            found.append(
                {
                    "device": check["device"],
                    "metric": check["metric"],
                    "fix": fix,
                    "command": command,
                    "after": after,
                    "unit": check["unit"],
                    "enough": within,
                    "measured": measured,
                }
            )
    return found


def has_checkpoint(path: str) -> bool:
    """Whether the network itself is at hand: a checkpoint, a file whose manifest names one, or a profile alone."""
    file = Path(path)
    if not file.is_file():
        return True
    origin = manifest_beside(file).get("checkpoint")
    named = origin.get("path") if isinstance(origin, Mapping) else None
    return isinstance(named, str) and (file.resolve().parent / named).is_dir()


_Candidate = tuple[str, str, float | None, bool]
#: Metric -> the option of `compress prune` that holds it.
_TARGETS = {
    "macs": "--target-macs",
    "params": "--target-params",
    "weights": "--target-bytes",
    "arena": "--target-peak",
    "peak": "--target-peak",
}
#: Below this share of what a network has, another network is the answer and not pruning.
_SMALLEST_SHARE = 0.02


def _lossless(profile: Mapping[str, Any], check: Mapping[str, Any], path: str, shrunk: Shrunk) -> list[_Candidate]:
    metric, value = check["metric"], check["value"]
    if metric not in ("file", "flash", "arena") or not shrunk.applies:
        return []
    plan, command = metric == "arena", f"deploy shrink {shlex.quote(path)}"
    if reason := shrunk.not_tried(plan):
        return [(f"lossless shrinking was not tried ({reason})", command, None, False)]
    if plan:
        arena = shrunk.arena_bytes()
        if arena is None or arena >= value:
            return []
        return [("plan the arena offline (outputs stay bit-identical)", command, arena, True)]
    added = value - (profile.get("file_bytes") or value)
    size = shrunk.file_bytes()
    if size is None or size + added >= value:
        return []
    what = "strip names, metadata and duplicate buffers (outputs stay bit-identical)"
    return [(what, command, size + added, True)]


def _of_the_network(profile: Mapping[str, Any], check: Mapping[str, Any]) -> list[_Candidate]:
    metric, limit, value = check["metric"], check["limit"], check["value"]
    found: list[_Candidate] = []
    if metric in ("weights", "file", "flash", "arena", "peak", "latency") and is_float(profile):
        after = value - _int8_saving(profile) if metric in ("weights", "file", "flash") else None
        found.append(("int8 weights and activations", "deploy export --format tflite", after, False))
    if metric in _TARGETS and limit < _SMALLEST_SHARE * value:
        words = f"a smaller network: the limit is {limit / value:.2%} of what this one has, which no pruning reaches"
        return [*found, (words, "compress list", None, False)]
    if metric in ("params", "weights") and check["rule"] == "nessi-tflite":
        # What is no weight stays in the file, and is counted with them.
        weights = limit - (value - (profile.get("weight_bytes") or 0))
        words = f"prune to {format_quantity(weights, 'bytes')} of weights: {_percent(value, limit)} less"
        found.append((words, f"compress prune --target-bytes {int(weights)}B", limit, False))
    elif metric in ("macs", "params", "weights"):
        target = f"{int(limit)}" if metric != "weights" else f"{int(limit)}B"
        words = f"prune to {format_quantity(limit, check['unit'])}: {_percent(value, limit)} less"
        found.append((words, f"compress prune {_TARGETS[metric]} {target}", limit, False))
    elif metric in ("arena", "peak"):
        words = f"prune the layers around the peak: {_percent(value, limit)} less"
        found.append((words, f"compress prune {_TARGETS[metric]} {int(limit)}B", limit, False))
    elif metric in ("file", "flash"):
        weights = (profile.get("weight_bytes") or 0) - (value - limit)
        if weights > _SMALLEST_SHARE * (profile.get("weight_bytes") or 0):
            words = f"prune to {format_quantity(weights, 'bytes')} of weights"
            found.append((words, f"compress prune --target-bytes {int(weights)}B", limit, False))
    elif metric == "latency" and profile.get("macs", {}).get("dcase"):
        macs = int(profile["macs"]["dcase"] * limit / value)
        words = f"prune to {format_quantity(macs, 'macs')} MACs, if time follows MACs"
        found.append((words, f"compress prune --target-macs {macs}", None, False))
    elif is_of_task(metric):
        found.append(("fine-tune longer or quantization-aware, or prune less", "compress quantize --qat", None, False))
    return found


def _percent(value: float, limit: float) -> str:
    return f"{100 * (1 - limit / value):.1f} %" if value else "0 %"


def _int8_saving(profile: Mapping[str, Any]) -> int:
    # One byte for each parameter is slightly too little: biases keep four. Said as an estimate, never as measured.
    return max(0, (profile.get("weight_bytes") or 0) - (profile.get("params") or 0))


def cause_of(before: Any, profile: Mapping[str, Any]) -> dict[str, Any]:
    """What changed between the baseline and now: the model, or the tools that made or measured it.

    Args:
        before: a `edgepress.benchmarks.gate.baseline.Baseline`.
        profile: of the model now.

    Returns:
        model_changed (None where a hash is missing), tools (name -> [before, after]: those that measured), exporters
        (those that made the file, from the manifests), operators (type -> counts [before, after]), summary (a
        sentence).
    """
    old, new = before.profile.get("sha256"), profile.get("sha256")
    model_changed = None if not old or not new else old != new
    tools = changed_tools(before.environment.get("tools", {}), environment()["tools"]) if before.environment else {}
    manifest = manifest_beside(str(profile.get("file", "")))
    made = [m.get("tools") or m.get("tool_versions") for m in (before.manifest, manifest)]
    exporters = changed_tools(made[0], made[1]) if isinstance(made[0], dict) and isinstance(made[1], dict) else {}
    operators = _operator_changes(before.profile, profile)
    parts = []
    if model_changed is None:
        parts.append("whether the model changed is not known: a hash is missing")
    else:
        parts.append("the model file changed" if model_changed else "the model file is the same to the byte")
    if operators:
        parts.append("operators: " + ", ".join(f"{name} {a} -> {b}" for name, (a, b) in operators.items()))
    if exporters:
        parts.append("made by other tools: " + versions_text(exporters))
    if tools:
        parts.append("measured with other tools: " + versions_text(tools))
    elif model_changed is False:
        parts.append("no tool changed" if before.environment else "both were measured with the tools installed now")
    return {
        "model_changed": model_changed,
        "tools": tools,
        "exporters": exporters,
        "operators": operators,
        "summary": "; ".join(parts),
    }


def versions_text(changes: Mapping[str, Sequence[str | None]]) -> str:
    """Changed tools for people: "numpy 1 -> 2, torch absent -> 2.13.0"."""
    return ", ".join(f"{name} {a or 'absent'} -> {b or 'absent'}" for name, (a, b) in changes.items())


def _operator_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[int]]:
    from collections import Counter

    counts = [
        Counter(str(layer.get("operator")) for layer in p.get("layers") or [] if isinstance(layer, Mapping))
        for p in (before, after)
    ]
    if not counts[0]:
        return {}
    return {
        name: [counts[0][name], counts[1][name]]
        for name in sorted({*counts[0], *counts[1]})
        if counts[0][name] != counts[1][name]
    }
