"""Why a check failed and what buys it back: the largest contributors, the cheapest fixes, the cause of a change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.measure.environment import changed_tools, environment
from edgepress.benchmarks.measure.manifests import manifest_beside
from edgepress.benchmarks.measure.profiles import is_float, layer_macs
from edgepress.models.command_line import import_path
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
    """What would bring a failed or warned figure under its limit, cheapest first.

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
    shrunk = _Shrunk(path if tried else "")
    for check in checks:
        if check["status"] not in ("failed", "warned") or check["value"] is None or check["limit"] is None:
            continue
        if (check["metric"], check["limit"]) in seen:
            continue
        seen.add((check["metric"], check["limit"]))
        for fix, command, after, measured in _candidates(profile, check, path, shrunk):
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


_Candidate = tuple[str, str, float | None, bool]


def _candidates(profile: Mapping[str, Any], check: Mapping[str, Any], path: str, shrunk: _Shrunk) -> list[_Candidate]:
    metric, limit, value = check["metric"], check["limit"], check["value"]
    found: list[_Candidate] = []
    if metric in ("file", "flash"):
        added = value - (profile.get("file_bytes") or value)
        size = shrunk.file_bytes()
        if size is not None and size + added < value:
            found.append(
                (
                    "strip names, metadata and duplicate buffers (outputs stay bit-identical)",
                    f"deploy shrink {path}",
                    size + added,
                    True,
                )
            )
    if metric == "arena":
        arena = shrunk.arena_bytes()
        if arena is not None and arena < value:
            found.append(("plan the arena offline (outputs stay bit-identical)", f"deploy shrink {path}", arena, True))
    if metric in ("weights", "file", "flash", "arena", "peak", "latency") and is_float(profile):
        after = value - _int8_saving(profile) if metric in ("weights", "file", "flash") else None
        found.append(("int8 weights and activations", "deploy export --format tflite", after, False))
    if metric in ("macs", "params", "weights"):
        option = {"macs": "--target-macs", "params": "--target-params", "weights": "--target-bytes"}[metric]
        target = f"{int(limit)}" if metric != "weights" else f"{int(limit)}B"
        found.append(
            (
                f"prune to {format_quantity(limit, check['unit'])}: {_percent(value, limit)} less",
                f"compress prune {option} {target}",
                limit,
                False,
            )
        )
    elif metric in ("arena", "peak"):
        found.append(
            (
                f"prune the layers around the peak: {_percent(value, limit)} less",
                f"compress prune --target-peak {int(limit)}B",
                limit,
                False,
            )
        )
    elif metric in ("file", "flash"):
        weights = (profile.get("weight_bytes") or 0) - (value - limit)
        if weights > 0:
            found.append(
                (
                    f"prune to {format_quantity(weights, 'bytes')} of weights",
                    f"compress prune --target-bytes {int(weights)}B",
                    limit,
                    False,
                )
            )
    elif metric == "latency" and profile.get("macs", {}).get("dcase"):
        macs = int(profile["macs"]["dcase"] * limit / value)
        found.append(
            (
                f"prune to {format_quantity(macs, 'macs')} MACs, if time follows MACs",
                f"compress prune --target-macs {macs}",
                None,
                False,
            )
        )
    elif metric in ("accuracy", "log_loss"):
        found.append(("fine-tune longer or quantization-aware, or prune less", "compress quantize --qat", None, False))
    return found


def _percent(value: float, limit: float) -> str:
    return f"{100 * (1 - limit / value):.2g} %" if value else "0 %"


def _int8_saving(profile: Mapping[str, Any]) -> int:
    # One byte for each parameter is slightly too little: biases keep four. Said as an estimate, never as measured.
    return max(0, (profile.get("weight_bytes") or 0) - (profile.get("params") or 0))


class _Shrunk:
    """What lossless shrinking makes of a file, tried once and only when a check asks."""

    def __init__(self, path: str):
        self._path = Path(path)
        self._tried: dict[bool, dict[str, Any]] = {}

    def file_bytes(self) -> int | None:
        return self._after(plan=False).get("file_bytes")

    def arena_bytes(self) -> int | None:
        return self._after(plan=True).get("arena_bytes")

    def _after(self, plan: bool) -> dict[str, Any]:
        if plan not in self._tried:
            fits = self._path.suffix == ".tflite" and self._path.is_file()
            self._tried[plan] = _try_shrinking(self._path, plan) if fits else {}
        return self._tried[plan]


#: `deploy shrink` proves what it does on every runtime, which takes seconds; the gate does not wait for longer.
_SHRINK_SECONDS = 8
_SHRINK = """
import json, sys
from pathlib import Path
from edgepress.deploy.verify.shrink import shrink_model
report = shrink_model(Path(sys.argv[1]).read_bytes(), samples=1, plan=sys.argv[2] == "plan").report
print(json.dumps(report["after"]))
"""


def _try_shrinking(path: Path, plan: bool) -> dict[str, Any]:
    """{"file_bytes", "arena_bytes"} of the shrunk file, {} where it cannot be had.

    It is tried in a child process, which may crash or hang.
    """
    root = import_path()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", _SHRINK, str(path.resolve()), "plan" if plan else ""],
            capture_output=True,
            timeout=_SHRINK_SECONDS,
            check=False,
            env=environment,
        )
        return json.loads(child.stdout) if child.returncode == 0 else {}
    except (subprocess.TimeoutExpired, ValueError, OSError):
        return {}


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
