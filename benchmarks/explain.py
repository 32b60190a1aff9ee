"""Why a check failed and what buys it back: the largest contributors, the cheapest fixes, the cause of a change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.environment import changed_tools, environment
from models.units import format_quantity

_SHOWN = 3
#: Metric -> the metric in which a layer's part of it is counted.
_LAYER_KEY = {"macs": "macs", "latency": "macs", "params": "params", "weights": "weight_bytes", "file": "weight_bytes",
              "flash": "weight_bytes", "arena": "activation_bytes", "peak": "activation_bytes"}


def layer_macs(layer: Mapping[str, Any], rule: str | None) -> int:
    """MACs of a layer under a rule; the layer may hold one number or one for each rule."""
    macs = layer.get("macs")
    if isinstance(macs, Mapping):
        value = macs.get(rule or "dcase")
        return int(value if value is not None else macs.get("core") or 0)
    return int(macs or 0)


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
        total = sum(values)
        # Activations are alive one after the other: a layer's part is that of the largest moment, not of a sum.
        whole = check["value"] if key == "activation_bytes" else total
        largest = sorted(range(len(layers)), key=lambda i: -values[i])[:_SHOWN]
        found += [{"metric": metric, "layer": str(layers[i].get("name", i)), "operator": layers[i].get("operator"),
                   "value": values[i], "unit": "macs" if key == "macs" else check["unit"] if key != "params" else "params",
                   "share": min(1.0, values[i] / whole) if whole else None} for i in largest if values[i]]
        if metric in ("file", "flash"):
            size, weights = profile.get("file_bytes") or 0, profile.get("weight_bytes") or 0
            if size > weights:
                found.append({"metric": metric, "layer": "everything that is not weights (names, structure, metadata)",
                              "operator": None, "value": size - weights, "unit": "bytes", "share": (size - weights) / size})
    return found


def fixes(profile: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What would bring a failed or warned figure under its limit, cheapest first.

    Returns:
        For each: device, metric, fix (a sentence), command, after (the figure with it, None where not known), enough
        (whether that is within the limit), measured (True only where it was tried on this very file).
    """
    found: list[dict[str, Any]] = []
    seen: set[tuple[str, Any]] = set()
    path = str(profile.get("file", "FILE"))
    shrunk = _Shrunk(path)
    for check in checks:
        if check["status"] not in ("failed", "warned") or check["value"] is None or check["limit"] is None:
            continue
        if (check["metric"], check["limit"]) in seen:
            continue
        seen.add((check["metric"], check["limit"]))
        for fix, command, after, measured in _candidates(profile, check, path, shrunk):
            within = None if after is None else (after >= check["limit"] if check["kind"] in ("min", "max_drop")
                                                 else after <= check["limit"])
            found.append({"device": check["device"], "metric": check["metric"], "fix": fix, "command": command,
                          "after": after, "unit": check["unit"], "enough": within, "measured": measured})
    return found


_Candidate = tuple[str, str, float | None, bool]


def _candidates(profile: Mapping[str, Any], check: Mapping[str, Any], path: str, shrunk: _Shrunk) -> list[_Candidate]:
    metric, limit, value = check["metric"], check["limit"], check["value"]
    found: list[_Candidate] = []
    if metric in ("file", "flash"):
        added = value - (profile.get("file_bytes") or value)
        size = shrunk.file_bytes()
        if size is not None and size + added < value:
            found.append(("strip names, metadata and duplicate buffers (outputs stay bit-identical)",
                          f"deploy shrink {path}", size + added, True))
    if metric == "arena":
        arena = shrunk.arena_bytes()
        if arena is not None and arena < value:
            found.append(("plan the arena offline (outputs stay bit-identical)", f"deploy shrink {path}", arena, True))
    if metric in ("weights", "file", "flash", "arena", "peak", "latency") and _is_float(profile):
        after = value - _int8_saving(profile) if metric in ("weights", "file", "flash") else None
        found.append(("int8 weights and activations", "deploy export --format tflite", after, False))
    if metric in ("macs", "params", "weights"):
        option = {"macs": "--target-macs", "params": "--target-params", "weights": "--target-bytes"}[metric]
        target = f"{int(limit)}" if metric != "weights" else f"{int(limit)}B"
        found.append((f"prune to {format_quantity(limit, check['unit'])}: {_percent(value, limit)} less",
                      f"compress prune {option} {target}", limit, False))
    elif metric in ("arena", "peak"):
        found.append((f"prune the layers around the peak: {_percent(value, limit)} less",
                      f"compress prune --target-peak {int(limit)}B", limit, False))
    elif metric in ("file", "flash"):
        weights = (profile.get("weight_bytes") or 0) - (value - limit)
        if weights > 0:
            found.append((f"prune to {format_quantity(weights, 'bytes')} of weights",
                          f"compress prune --target-bytes {int(weights)}B", limit, False))
    elif metric == "latency" and profile.get("macs", {}).get("dcase"):
        macs = int(profile["macs"]["dcase"] * limit / value)
        found.append((f"prune to {format_quantity(macs, 'macs')} MACs, if time follows MACs",
                      f"compress prune --target-macs {macs}", None, False))
    elif metric in ("accuracy", "log_loss"):
        found.append(("fine-tune longer or quantization-aware, or prune less", "compress quantize --qat", None, False))
    return found


def _percent(value: float, limit: float) -> str:
    return f"{100 * (1 - limit / value):.2g} %" if value else "0 %"


def _is_float(profile: Mapping[str, Any]) -> bool:
    """Whether the weights take more than two bytes each, as floats do."""
    params, weights = profile.get("params") or 0, profile.get("weight_bytes") or 0
    return bool(params) and weights > 2 * params


def _int8_saving(profile: Mapping[str, Any]) -> int:
    # One byte for each parameter is slightly too little: biases keep four. Said as an estimate, never as measured.
    return max(0, (profile.get("weight_bytes") or 0) - (profile.get("params") or 0))


class _Shrunk:
    """What lossless shrinking makes of a file, tried once and only when a check asks."""

    def __init__(self, path: str):
        self._path = Path(path)
        self._bytes: bytes | None = None
        self._tried = False

    def _data(self) -> bytes | None:
        if not self._tried:
            self._tried = True
            if self._path.suffix == ".tflite" and self._path.is_file():
                self._bytes = _shrink(self._path)
        return self._bytes

    def file_bytes(self) -> int | None:
        data = self._data()
        return None if data is None else len(data)

    def arena_bytes(self) -> int | None:
        data = self._data()
        if data is None:
            return None
        import tempfile

        from benchmarks.baseline import profile_of
        from models.errors import EdgepressError

        with tempfile.TemporaryDirectory(prefix="edgepress-shrunk-") as folder:
            copy = Path(folder) / self._path.name
            copy.write_bytes(data)
            try:
                return (profile_of(copy)["arena_bytes"] or {}).get("tflm")
            except EdgepressError:
                return None


def _shrink(path: Path) -> bytes | None:
    """The shrunk file's bytes; None where shrinking is not installed or does not know the file."""
    from models.errors import EdgepressError

    try:
        from deploy.shrink import shrink_bytes  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    except ImportError:
        return None
    try:
        return shrink_bytes(path.read_bytes())
    except EdgepressError:
        return None


def cause_of(before: Any, profile: Mapping[str, Any]) -> dict[str, Any]:
    """What changed between the baseline and now: the model, or the tools that made or measured it.

    Args:
        before: a `benchmarks.baseline.Baseline`.
        profile: of the model now.

    Returns:
        model_changed (None where a hash is missing), tools (name -> [before, after]: those that measured), exporters
        (those that made the file, from the manifests), operators (type -> [before, after] counts), summary (a sentence).
    """
    from benchmarks.baseline import manifest_beside

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
        parts.append("made by other tools: " + _versions(exporters))
    if tools:
        parts.append("measured with other tools: " + _versions(tools))
    elif model_changed is False:
        parts.append("no tool changed" if before.environment else "both were measured with the tools installed now")
    return {"model_changed": model_changed, "tools": tools, "exporters": exporters, "operators": operators,
            "summary": "; ".join(parts)}


def _versions(changes: Mapping[str, Sequence[str | None]]) -> str:
    return ", ".join(f"{name} {a or 'absent'} -> {b or 'absent'}" for name, (a, b) in changes.items())


def _operator_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[int]]:
    from collections import Counter

    counts = [Counter(str(layer.get("operator")) for layer in p.get("layers") or [] if isinstance(layer, Mapping))
              for p in (before, after)]
    if not counts[0]:
        return {}
    return {name: [counts[0][name], counts[1][name]] for name in sorted({*counts[0], *counts[1]})
            if counts[0][name] != counts[1][name]}
