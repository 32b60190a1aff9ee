# SPDX-License-Identifier: Apache-2.0
"""Two models or two files of results, side by side; figures of different rules or data are never compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgepress.benchmarks.gate.explain import cause_of, versions_text
from edgepress.models.errors import UsageError

_FIGURES = (
    ("params", "params", "params"),
    ("weights", "weight_bytes", "bytes"),
    ("file", "file_bytes", "bytes"),
    ("peak activations", "peak_activation_bytes", "bytes"),
)


def compare_files(a: str | Path, b: str | Path) -> dict[str, Any]:
    """Compare two models, or two files of results.

    Returns:
        schema, a, b, rows (metric, unit, a, b), notes.

    Raises:
        UsageError: a file is missing or damaged, one is a model and the other holds results, or nothing is comparable.
    """
    kinds = [_holds_results(Path(path)) for path in (a, b)]
    if kinds[0] != kinds[1]:
        raise UsageError(f"{a} and {b} are not of one kind: compare two models or two files of results")
    return _results(a, b) if kinds[0] else _models(a, b)


def _holds_results(path: Path) -> bool:
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    return path.suffix in (".jsonl", ".json")


def _models(a: str | Path, b: str | Path) -> dict[str, Any]:
    from edgepress.benchmarks.gate.baseline import Baseline
    from edgepress.benchmarks.measure.manifests import manifest_beside
    from edgepress.benchmarks.measure.profiling import profile_of

    first, second = profile_of(a), profile_of(b)
    rows = [
        {"metric": f"macs ({rule})", "unit": "macs", "a": count, "b": second["macs"].get(rule)}
        for rule, count in first["macs"].items()
        if count is not None or second["macs"].get(rule) is not None
    ]
    rows += [
        {"metric": name, "unit": unit, "a": first.get(key), "b": second.get(key)}
        for name, key, unit in _FIGURES
        if first.get(key) is not None or second.get(key) is not None
    ]
    arenas = [(found.get("arena_bytes") or {}).get("tflm") for found in (first, second)]
    if arenas != [None, None]:
        rows.append({"metric": "arena (tflm)", "unit": "bytes", "a": arenas[0], "b": arenas[1]})
    cause = cause_of(Baseline(first, str(a), manifest=manifest_beside(a)), second)
    return {"schema": 1, "a": str(a), "b": str(b), "rows": rows, "notes": [cause["summary"]]}


def _results(a: str | Path, b: str | Path) -> dict[str, Any]:
    from edgepress.benchmarks.measure.result_log import read

    newest = [{_key(record): record for record in read(path)} for path in (a, b)]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for key, first in newest[0].items():
        second = newest[1].get(key)
        if second is None:
            continue
        fingerprints = [(record.get("data") or {}).get("fingerprint") for record in (first, second)]
        if first.get("kind", "accuracy") == "accuracy" and fingerprints[0] != fingerprints[1]:
            notes.append(f"{first.get('runtime')}: measured on different data, so not compared")
            continue
        for metric, unit in (("accuracy", "fraction"), ("log_loss", "number"), ("p50_ms", "ms"), ("p99_ms", "ms")):
            if first.get(metric) is not None and second.get(metric) is not None:
                rows.append(
                    {
                        "metric": f"{metric.removesuffix('_ms')} ({first.get('runtime')})",
                        "unit": unit,
                        "a": first[metric],
                        "b": second[metric],
                    }
                )
        own = [{**(record.get("metrics") or {})} for record in (first, second)]
        rows += [
            {"metric": f"{name} ({first.get('runtime')})", "unit": "number", "a": own[0][name], "b": own[1][name]}
            for name in own[0]
            if name not in ("accuracy", "log_loss") and own[0][name] is not None and own[1].get(name) is not None
        ]
        notes.append(f"{first.get('runtime')}: {why_another(first, second)}")
    if not rows:
        raise UsageError(f"{a} and {b} have no result in common: " + ("; ".join(notes) or "no runtime is in both"))
    return {"schema": 1, "a": str(a), "b": str(b), "rows": rows, "notes": notes}


def why_another(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs between two measurements: the model, the tools, or neither."""
    from edgepress.benchmarks.measure.environment import changed_tools

    model = "the same model" if before.get("sha256") == after.get("sha256") else "another model"
    changes = changed_tools(*[(record.get("environment") or {}).get("tools", {}) for record in (before, after)])
    return f"{model}, " + (f"other tools: {versions_text(changes)}" if changes else "the same tools")


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return record.get("kind", "accuracy"), record.get("runtime"), record.get("device_class")
