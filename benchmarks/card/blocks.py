# SPDX-License-Identifier: Apache-2.0
"""The blocks that only a result card has: what the model is, its cost under all rules, accuracy, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgepress.benchmarks.gate.words import short_name
from edgepress.benchmarks.measure.environment import environment
from edgepress.benchmarks.report.gather import File
from edgepress.benchmarks.report.shapes import Block, cell, table, table_block
from edgepress.models.cost.op_costs import RULES
from edgepress.models.units import format_quantity

_LARGEST_MOMENTS = 8


def identity_block(file: File, metrics: Mapping[str, Any]) -> Block | None:
    """What the model is."""
    profile, spec = file.profile, file.manifest.get("spec") or {}
    network = spec.get("factory") or profile["facts"].get("spec")
    rows = [["format", f"{profile['format']}, {profile['file_bytes']:,} bytes"]]
    rows += [["network", _network(str(network), spec)]] if network else []
    rows += [["scheme", str(file.manifest["scheme"])]] if file.manifest.get("scheme") else []
    for side in ("inputs", "outputs"):
        for tensor in profile[side]:
            rows.append([side.removesuffix("s"), _tensor(tensor)])
    rows.append(["operators", _operators(profile["layers"])])
    islands = file.manifest.get("float_islands")
    rows += [["left in float", ", ".join(map(str, islands))]] if islands else []
    classes = (metrics.get("data") or {}).get("classes") or _classes_of_results(file)
    rows += [["classes", ", ".join(map(str, classes))]] if classes else []
    rows += [
        [str(key).replace("_", " "), str(value)]
        for key, value in profile["facts"].items()
        if key != "spec" and isinstance(value, str | int | float)
    ]
    return table_block("What it is", table(["", ""], rows, wrap=[1]))


def _network(name: str, spec: Mapping[str, Any]) -> str:
    given = ", ".join(f"{key}={value}" for key, value in (spec.get("arguments") or {}).items())
    pruned = ", pruned" if spec.get("plan") else ""
    return f"{name}({given}){pruned}" if given else f"{name}{pruned}"


def _tensor(tensor: Mapping[str, Any]) -> str:
    scale = tensor.get("scale")
    steps = "" if scale is None else f", step {scale:.6g}, zero at {tensor.get('zero_point')}"
    sizes = " x ".join("?" if size < 0 else str(size) for size in tensor["shape"])
    return f"{short_name(tensor['name'], 40) or 'unnamed'}: {tensor['dtype']} [{sizes}]{steps}"


def _operators(layers: Sequence[Mapping[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer["operator"]] = counts.get(layer["operator"], 0) + 1
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items(), key=lambda entry: -entry[1]))


def _classes_of_results(file: File) -> list[str]:
    return next((record["classes"] for record in file.accuracy.values() if record.get("classes")), [])


def cost_block(file: File) -> Block | None:
    """MACs under every rule, parameters and bytes; where there is no number, why."""
    profile, notes = file.profile, file.profile["notes"]
    rows: list[list[Any]] = []
    for rule in RULES:
        count = profile["macs"].get(rule)
        rows.append([f"MACs, rule {rule}", "-" if count is None else cell(f"{count:,}", count), notes.get(rule, "")])
    arena = profile["arena_bytes"]
    named = (("head", "activations"), ("tail", "persistent"))
    parts = ", ".join(f"{arena[part]:,} {name}" for part, name in named if arena.get(part))
    sizes = [
        ("parameters", profile["params"], "number", "weights and biases"),
        ("weights and biases", profile["weight_bytes"], "bytes", notes.get("weight_bytes", "")),
        (
            "constants, as NeSsi counts",
            profile.get("nessi_memory_bytes"),
            "bytes",
            "what dcase2022 and dcase2023 limit",
        ),
        ("file", profile["file_bytes"], "bytes", ""),
        ("peak of activations", profile["peak_activation_bytes"], "bytes", "the largest sum alive at once"),
        ("TFLite Micro arena", arena.get("tflm"), "bytes", parts or notes.get("arena", "")),
    ]
    for name, value, unit, note in sizes:
        if value is not None or note:
            shown = "-" if value is None else cell(f"{value:,}" + (" B" if unit == "bytes" else ""), value)
            rows.append([name, shown, note])
    uncounted = [str(entry) for entry in profile["uncounted"]]
    text = f"Not counted: {', '.join(uncounted)}." if uncounted else ""
    return table_block("What it costs", table(["figure", "value", ""], rows, [1], [2]), text)


def accuracy_block(file: File, records: Sequence[Mapping[str, Any]]) -> Block | None:
    """Accuracy and measured latency by runtime; a card without a measurement says so."""
    timed = {str(r.get("runtime")): r for r in records if r.get("kind") == "latency" and r.get("p50_ms") is not None}
    names = dict.fromkeys([*(name for name, record in file.accuracy.items() if _has_accuracy(record)), *timed])
    rows = []
    for name in names:
        record, time = file.accuracy.get(name) or {}, timed.get(name) or {}
        rows.append(
            [
                name,
                *_accuracy_cells(record),
                "-" if record.get("log_loss") is None else f"{record['log_loss']:.4f}",
                _time(time.get("p50_ms")),
                _time(time.get("p99_ms")),
                (record.get("data") or {}).get("name", "-"),
            ]
        )
    title = "Accuracy by runtime"
    if not rows and any(record.get("metrics") for record in records):
        return None
    if not rows:
        return {"title": title, "text": f"Not measured: `benchmarks run {file.path} --data DATA` measures it."}
    columns = [
        "runtime",
        "correct",
        "accuracy",
        "95 % interval",
        "log loss",
        "latency, median",
        "99th",
        "data",
    ]
    return table_block(
        title,
        table(columns, rows, range(1, 7)),
        "The same samples through each runtime; intervals respect recordings where they are known. Latency is of the "
        "machine that the provenance names.",
    )


def metrics_block(records: Sequence[Mapping[str, Any]]) -> Block | None:
    """What a task measures beside accuracy, or in its place, on every runtime; the newest record of each counts."""
    from edgepress.models.tasks.kinds.table import metric_text

    newest = {str(record.get("runtime")): record for record in records if record.get("metrics")}
    rows = []
    for runtime, record in newest.items():
        for name, value in record["metrics"].items():
            if value is None or (name in ("accuracy", "log_loss") and record.get("accuracy") is not None):
                continue
            ends = (record.get("intervals") or {}).get(name)
            interval = f"{metric_text(name, ends[0])} to {metric_text(name, ends[1])}" if ends else "-"
            rows.append([runtime, name, cell(metric_text(name, value), value), interval, str(record.get("total", "-"))])
    columns = ["runtime", "metric", "value", "95 % interval", "samples"]
    return table_block("What the task measures", table(columns, rows, [2, 3, 4]))


def _has_accuracy(record: Mapping[str, Any]) -> bool:
    """Tasks of other kinds have other metrics, and a block of their own."""
    return record.get("accuracy") is not None


def _time(ms: float | None) -> Any:
    return "-" if ms is None else cell(format_quantity(ms, "ms"), ms)


def _accuracy_cells(record: Mapping[str, Any]) -> list[Any]:
    if record.get("accuracy") is None:
        return ["-", "-", "-"]
    interval = record.get("cluster_interval") or record.get("interval")
    return [
        f"{record.get('correct', '-')} / {record.get('total', '-')}",
        cell(format_quantity(record["accuracy"], "fraction"), record["accuracy"]),
        f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %" if interval else "-",
    ]


def accuracy_by_block(file: File, key: str, what: str) -> Block | None:
    """Accuracy by class or by recording device on every runtime, with Wilson's intervals."""
    from edgepress.models.tasks.kinds.intervals import wilson

    groups = {name: record[key] for name, record in file.accuracy.items() if _has_accuracy(record) and record.get(key)}
    names = dict.fromkeys(group for of_runtime in groups.values() for group in of_runtime)
    rows = []
    for name in names:
        row: list[Any] = [name]
        for of_runtime in groups.values():
            found = of_runtime.get(name) or {}
            if found.get("accuracy") is None or not found.get("total"):
                row += ["-", "-"]
                continue
            low, high = wilson(found["correct"], found["total"])
            row.append(cell(f"{format_quantity(found['accuracy'], 'fraction')} of {found['total']}", found["accuracy"]))
            row.append(f"{100 * low:.1f} to {100 * high:.1f} %")
        rows.append(row)
    columns = [what, *(heading for name in groups for heading in (name, "95 % interval"))]
    return table_block(f"Accuracy by {what}", table(columns, rows, range(1, len(columns))))


def moments_block(file: File) -> Block | None:
    """The moments that need most memory, as a table."""
    moments = sorted(file.profile.get("memory") or (), key=lambda moment: -moment["live_bytes"])[:_LARGEST_MOMENTS]
    rows = [
        [
            cell(str(moment["step"]), moment["step"]),
            cell(f"{moment['live_bytes']:,} B", moment["live_bytes"]),
            moment["operator"],
            short_name(moment["layer"], 40) or "-",
        ]
        for moment in moments
    ]
    return table_block("The fullest moments", table(["step", "alive", "operator", "layer"], rows, [0, 1]))


def provenance_block(file: File, metrics: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Block | None:
    """Where the file, its training and its figures come from."""
    profile, manifest = file.profile, file.manifest
    origin = manifest.get("checkpoint") or {}
    data = metrics.get("data") or {}
    rows = [["SHA-256 of the " + ("file" if file.path.is_file() else "weights"), profile["sha256"]]]
    rows += [["exported with", _flat(manifest["tools"])]] if manifest.get("tools") else []
    rows += [["checkpoint", f"{origin.get('path')}, SHA-256 {origin.get('sha256')}"]] if origin else []
    rows += [["made by", str(metrics["command"])]] if metrics.get("command") else []
    rows += [["trained with", _flat(metrics["versions"])]] if metrics.get("versions") else []
    if metrics.get("seed") is not None:
        rows.append(["seed", str(metrics["seed"])])
    pruned = metrics.get("prune") or {}
    if pruned.get("method"):
        proof = f", proof {pruned['proof_max_abs_diff']:.1e}" if pruned.get("proof_max_abs_diff") is not None else ""
        rows.append(["pruned by", f"{pruned['method']}{proof}"])
    if data:
        clips = ", ".join(f"{count:,} {split}" for split, count in (data.get("clips") or {}).items())
        rows.append(
            ["trained on", f"{data.get('source') or data.get('task')} ({clips}), fingerprint {data.get('fingerprint')}"]
        )
    for name, record in file.accuracy.items():
        if not _has_accuracy(record):
            continue
        on = record.get("data") or {}
        rows.append(
            [
                f"accuracy on {name}",
                f"{on.get('name', 'data')}, {on.get('split', '-')}, fingerprint {on.get('fingerprint', '-')}; "
                + _flat(record.get("environment") or {}),
            ]
        )
    for record in records:
        if record.get("metrics") and record.get("accuracy") is None:
            on = record.get("data") or {}
            data_text = f"{on.get('name', 'data')}, {on.get('split', '-')}, fingerprint {on.get('fingerprint', '-')}; "
            rows.append([f"metrics on {record.get('runtime')}", data_text + _flat(record.get("environment") or {})])
        if record.get("kind") == "latency":
            rows.append(
                [f"latency on {record.get('runtime')}", f"{record.get('cpu', '-')}, {record.get('runs', '-')} runs"]
            )
    if not manifest:
        rows.append(["manifest", "none beside the file: who made it, and from what, is not known here"])
    rows.append(["counted and compared with", _flat(environment())])
    return table_block("Provenance", table(["what", "from"], rows, wrap=[1]))


def _flat(facts: Mapping[str, Any]) -> str:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    return ", ".join(f"{name} {value}" for name, value in flat.items() if value is not None)
