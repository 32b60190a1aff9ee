# SPDX-License-Identifier: Apache-2.0
"""The reports of `deploy` as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgepress.models.text_tables import table_text


def verify_text(report: dict[str, Any]) -> str:
    """`deploy verify`."""
    from edgepress.deploy.verify.parity import verdict_text

    form = ", streams" if report["inputs"].get("streams") else ""
    parts = [f"{report['file']}: {report['inputs']['samples']} inputs ({report['inputs']['source']}{form})"]
    for title, pairs in (("", report["pairs"]), ("random inputs", report["random_pairs"])):
        if pairs:
            body = table_text(
                ("a", "b", "max LSB", "mean LSB", "max |a-b|", "equal", "same label", "95 % interval"),
                [
                    (
                        p["a"],
                        p["b"],
                        _short(p["max_lsb"]),
                        _short(p["mean_lsb"]),
                        f"{p['max_abs']:.3g}",
                        f"{p['equal']:.2%}",
                        _percent(p["label_agreement"]),
                        _interval(p["label_interval"]),
                    )
                    for p in pairs
                ],
            )
            parts.append(f"{title}\n{body}" if title else body)
    scored = [
        (name, f"{e['correct']}/{e['total']}", f"{e['accuracy']:.2%}", _interval(e["interval"]))
        for name, e in report["runtimes"].items()
        if "accuracy" in e
    ]
    if scored:
        parts.append(table_text(("runtime", "correct", "accuracy", "95 % interval"), scored))
    if "layers" in report:
        parts.append(layers_text(report["layers"]))
    if report["float_islands"]:
        parts.append(f"in float: {', '.join(report['float_islands'])}")
    parts += [f"note: {note}" for note in report["notes"]]
    for v in report["violations"]:
        parts.append(f"FAILED {v['a']} and {v['b']}: {v['metric']} = {v['value']:.6g}, limit {v['limit']:g}")
    return "\n\n".join([*parts, verdict_text(report)])


def layers_text(layers: dict[str, Any]) -> str:
    """The table of `deploy verify --layers`."""
    runtimes = list(layers["first"])
    fed = any("own_equal" in row[name] for row in layers["layers"] for name in runtimes)
    rows = [
        (
            row["step"],
            row["operator"],
            _ending(row["name"]) or f"tensor {row['tensor']}",
            *(
                text
                for name in runtimes
                for text in (
                    _short(row[name]["max_lsb"]),
                    f"{row[name]['equal']:.2%}",
                    *([f"{row[name]['own_equal']:.4%}"] if fed else []),
                )
            ),
        )
        for row in layers["layers"]
    ]
    columns = ("equal", "by itself") if fed else ("equal",)
    header = ["step", "operator", "tensor", *(text for name in runtimes for text in (f"{name} max LSB", *columns))]
    first = [
        f"{name}: no layer departs from {layers['reference']}"
        if layer is None
        else f"{name}: first departs at step {layer['step']}, {layer['operator']} ({layer['max_lsb']:g} LSB)"
        for name, layer in layers["first"].items()
    ]
    first += [f"{name} was not run: {reason}" for name, reason in layers["not_run"].items()]
    if fed:
        first.append("by itself: values equal where fake quantization is given the runtime's values before the layer")
    return "\n".join(
        [f"layers against {layers['reference']}, {layers['samples']} inputs", table_text(header, rows), *first]
    )


def _ending(name: str, characters: int = 48) -> str:
    return name if len(name) <= characters else f"…{name[1 - characters :]}"


def conversion_text(report: dict[str, Any]) -> str:
    """What became of an ONNX file in a runtime's own format, and how far its outputs are from the file's."""
    lines = [
        f"{report['before']:,} bytes became {report['after']:,}",
        f"{report['samples']} random inputs: outputs at most {report['max_abs']:.3g} apart",
    ]
    if "onnxruntime_max_abs" in report:
        lsb = report["onnxruntime_max_lsb"]
        far = f"{report['onnxruntime_max_abs']:.3g}" if lsb is None else f"{lsb:.3g} LSB"
        lines.append(f"beside ONNX Runtime: outputs at most {far} apart")
    return "\n".join(lines)


def shrink_text(report: dict[str, Any]) -> str:
    """`deploy shrink`."""
    rows = [
        (
            step["step"],
            "yes" if step["applied"] else "no",
            f"{step['file_bytes_saved']:,}",
            f"{step['arena_bytes_saved']:,}",
            step["note"],
        )
        for step in report["steps"]
    ]
    before, after, proof = report["before"], report["after"], report["proof"]
    lines = [
        table_text(("step", "applied", "file bytes", "arena bytes", "note"), rows),
        f"file {before['file_bytes']:,} -> {after['file_bytes']:,} bytes",
    ]
    if after["arena_bytes"] is not None:
        lines.append(f"arena {before['arena_bytes']:,} -> {after['arena_bytes']:,} bytes (TFLite Micro, this machine)")
    counts = ", ".join(f"{name} on {proof['samples'][name]}" for name in proof["runtimes"])
    lines.append(f"outputs equal to the bit on random inputs: {counts}")
    lines += [f"not run on {name}: {reason}" for name, reason in proof["not_run"].items()]
    return "\n".join(lines)


def operators_text(found: dict[str, Any]) -> str:
    """`deploy operators`."""
    parts = [found["file"]]
    if found["operators"]:
        names = list(found["operators"])
        kinds = [(row["operator"], row["element_type"], row["count"]) for row in found["operators"][names[0]]]
        by_runtime = {
            name: {(r["operator"], r["element_type"]): r for r in rows} for name, rows in found["operators"].items()
        }
        rows = [
            (
                operator,
                kind,
                count,
                *("yes" if by_runtime[name][operator, kind]["supported"] else "NO" for name in names),
            )
            for operator, kind, count in kinds
        ]
        parts.append(table_text(("operator", "type", "count", *names), rows))
        parts += sorted(
            {
                f"{name}, {r['operator']} {r['element_type']}: {r['reason']}"
                + (f" From: {', '.join(r['modules'])}." if r["modules"] and not r["supported"] else "")
                for name in names
                for r in found["operators"][name]
                if r["reason"]
            }
        )
    for name, reason in found["runs"].items():
        parts.append(f"{name}: " + ("runs the file" if reason is None else f"does not run the file: {reason}"))
    return "\n".join(parts)


def run_text(result: dict[str, Any]) -> str:
    """`deploy run`."""
    lines = [f"{result['runtime']}: {result['samples']} samples"]
    if "accuracy" in result:
        lines.append(f"accuracy {result['correct']}/{result['total']} = {result['accuracy']:.2%}")
    labels = result["labels"]
    if labels:
        names = result.get("label_names") or labels
        lines.append("labels: " + ", ".join(str(name) for name in names[:20]) + (", ..." if len(labels) > 20 else ""))
    if "latency_ms" in result:
        latency = result["latency_ms"]
        lines.append(
            f"latency p50 {latency['p50']:.3g} ms, p90 {latency['p90']:.3g} ms, p99 {latency['p99']:.3g} ms "
            f"({latency['repeats']} repeats, {result['threads']} threads)"
        )
    if "device" in result:
        device = result["device"]
        lines.append(
            f"on {device['host']}: {device['system']} {device['machine']}, {device['interpreter']} {device['version']}"
        )
    if "output" in result:
        lines.append(f"wrote {result['output']}")
    return "\n".join(lines)


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.2%}"


def _interval(value: Sequence[float] | None) -> str | None:
    return None if value is None else f"{value[0]:.2%} to {value[1]:.2%}"
