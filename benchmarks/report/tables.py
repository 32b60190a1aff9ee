# SPDX-License-Identifier: Apache-2.0
"""Results as text for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgepress.models.tasks.kinds.table import metric_text
from edgepress.models.text_tables import table_text
from edgepress.models.units import format_quantity

if TYPE_CHECKING:
    from edgepress.models.devices.device import DeviceClass


#: Parts of a record that break its first figure down, with the head of their table.
_BREAKDOWNS = (
    ("by_recording_device", "Recording device"),
    ("by_class", "Class"),
    ("by_machine", "Machine"),
    ("by_output", "Output"),
)


def accuracy_text(measured: Mapping[str, Any]) -> str:
    """What `benchmarks run` prints."""
    results = measured["results"]
    data = measured["data"]
    parts = [f"{measured['file']}: {data['samples']} samples of {data['name']} ({data['split']})\n"]
    if results:
        parts.append(_correct(results) if "correct" in results[0] else _figures(results))
        shown = {"accuracy", "log_loss"} if "correct" in results[0] else set(results[0].get("metrics") or ())
        if set(results[0].get("metrics") or ()) - shown:
            parts.append(_figures(results, shown))
    emulated = [(r["runtime"], r["firmware"]) for r in results if r.get("firmware")]
    if emulated:
        parts.append(
            table_text(
                ("Firmware", "Flash B", "RAM B", "Stack B", "Instructions per inference", "Kernels"),
                [
                    (
                        name,
                        f"{f['flash_bytes']:,}",
                        f"{f['ram_bytes']:,}",
                        f"{f['stack_bytes']:,}",
                        f"{f['instructions']:,}",
                        f["kernels"],
                    )
                    for name, f in emulated
                ],
            )
        )
    for key, title in _BREAKDOWNS:
        names = list(dict.fromkeys(name for r in results for name in r.get(key) or {}))
        if names:
            parts.append(
                table_text(
                    (title, *[r["runtime"] for r in results]),
                    [(name, *[_part((r.get(key) or {}).get(name)) for r in results]) for name in names],
                )
            )
    flips = [f for f in measured["flips"] if f["labels_differ"]]
    for flip in flips:
        parts.append(
            f"{flip['a']} and {flip['b']} name another label for {flip['labels_differ']} of {flip['samples']} "
            f"samples: {flip['only_a_correct']} right only on {flip['a']}, {flip['only_b_correct']} only on "
            f"{flip['b']}\n"
        )
    if len(results) > 1 and measured["flips"] and not flips:
        parts.append("every runtime names the same labels\n")
    if not measured["flips"]:
        parts += [
            f"outputs of {pair['a']} and {pair['b']} differ by at most {pair['max']:.4g}, {pair['mean']:.2g} in the "
            f"mean (they range over {pair['range']:.4g})\n"
            for pair in measured.get("differences") or ()
        ]
    parts += [f"{failure['runtime']} failed: {failure['error']}\n" for failure in measured["failures"]]
    return "\n".join(parts)


def _correct(results: Sequence[Mapping[str, Any]]) -> str:
    """Of classification: how many are right."""
    return table_text(
        ("Runtime", "Correct", "Accuracy", "95 % interval", "Log loss", "Stands for"),
        [
            (
                r["runtime"],
                f"{r['correct']} of {r['total']}",
                _percent(r["accuracy"]),
                f"{_percent(r['interval'][0])} to {_percent(r['interval'][1])}" if r.get("interval") else "-",
                "-" if r.get("log_loss") is None else f"{r['log_loss']:.4f}",
                ", ".join(r["device_classes"]) or "-",
            )
            for r in results
        ],
    )


def _figures(results: Sequence[Mapping[str, Any]], left_out: Collection[str] = ()) -> str:
    """Every metric of every runtime, with its interval."""
    return table_text(
        ("Runtime", "Metric", "Value", "95 % interval", "Samples", "Stands for"),
        [
            (
                r["runtime"],
                name,
                metric_text(name, value),
                " to ".join(metric_text(name, end) for end in (r.get("intervals") or {}).get(name) or ()) or "-",
                f"{r['total']:,}",
                ", ".join(r["device_classes"]) or "-",
            )
            for r in results
            for name, value in r["metrics"].items()
            if name not in left_out
        ],
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _part(value: Any) -> str:
    """A figure by class or recording device: a number, or an object with an accuracy."""
    if isinstance(value, Mapping) and "accuracy" not in value:
        name = next((key for key in value if key != "total"), "")
        return metric_text(name, value.get(name)) if name else "-"
    if isinstance(value, Mapping):
        value = value["accuracy"]
    return _percent(value) if isinstance(value, int | float) else "-"


def latency_text(found: Mapping[str, Any]) -> str:
    """What `benchmarks latency` prints."""
    parts = [f"{found['file']}\n"]
    if found["measured"]:
        parts.append(f"measured on this host ({found['measured'][0]['cpu']}):\n")
        parts.append(
            table_text(
                ("Runtime", "p50", "p90", "p99", "Runs", "Threads", ""),
                [
                    (
                        m["runtime"],
                        *[format_quantity(m[key], "ms") for key in ("p50_ms", "p90_ms", "p99_ms")],
                        str(m["runs"]),
                        str(m["threads"]),
                        "with a pipe to a child process" if m["round_trip"] else "",
                    )
                    for m in found["measured"]
                ],
            )
        )
    parts += [f"{failure['runtime']} failed: {failure['error']}\n" for failure in found["failures"]]
    if found["estimated"]:
        parts.append("estimated for device classes:\n")
        parts.append(
            table_text(
                ("Device", "Latency", "Interval", "Energy", "From"),
                [
                    (
                        name,
                        format_quantity(e["latency_ms"], "ms"),
                        "-"
                        if e["low_ms"] is None
                        else f"{format_quantity(e['low_ms'], 'ms')} to {format_quantity(e['high_ms'], 'ms')}",
                        format_quantity(e["energy_uj"], "uJ"),
                        e["source"] or "-",
                    )
                    for name, e in found["estimated"].items()
                ],
            )
        )
        names: dict[str, list[str]] = {}
        for name, e in found["estimated"].items():
            names.setdefault(e["note"], []).append(name)
        parts.append("".join(f"{', '.join(group)}: {note}\n" for note, group in names.items() if note))
    return "\n".join(parts)


def compare_text(found: Mapping[str, Any]) -> str:
    """What `benchmarks compare` prints."""
    table = table_text(("Metric", "A", "B", "Change"), _compare_rows(found))
    return f"A: {found['a']}\nB: {found['b']}\n\n{table}" + "".join(f"\n{note}" for note in found["notes"]) + "\n"


def compare_markdown(found: Mapping[str, Any]) -> str:
    """The same as a Markdown table."""
    lines = [f"A: `{found['a']}`, B: `{found['b']}`", "", "| Metric | A | B | Change |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in _compare_rows(found)]
    return "\n".join([*lines, "", *[f"- {note}" for note in found["notes"]]]) + "\n"


def _compare_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    from edgepress.models.units import format_against

    rows = []
    for row in found["rows"]:
        a, b = row["a"], row["b"]
        if a is None or b is None:
            texts, change = (format_quantity(a, row["unit"]), format_quantity(b, row["unit"])), "-"
        else:
            texts = format_against(a, b, row["unit"])
            difference = b - a
            sign = "+" if difference > 0 else "-"
            change = (
                "0"
                if not difference
                else sign
                + format_quantity(abs(difference), row["unit"])
                + (f" ({sign}{abs(difference) / a:.2%})" if a and row["unit"] != "fraction" else "")
            )
        rows.append((row["metric"], *texts, change))
    return rows


def devices_json(known: Mapping[str, DeviceClass]) -> dict[str, Any]:
    """What `benchmarks devices --format json` prints."""
    from dataclasses import asdict

    return {"schema": 1, "devices": [{**asdict(device), "limits": device.limits.given()} for device in known.values()]}


def devices_text(known: Mapping[str, DeviceClass]) -> str:
    """What `benchmarks devices` prints."""
    rows = []
    for device in known.values():
        limits = ", ".join(
            f"{metric} {'at least' if rule.minimum is not None else 'at most'} "
            f"{format_quantity(rule.minimum if rule.minimum is not None else rule.maximum, rule.unit)}"
            + (f" ({device.macs_rule})" if metric == "macs" else "")
            for metric, rule in device.rules.items()
            if rule.level != "off"
        )
        rows.append((device.name, device.runtime, limits or "-", device.summary))
    return table_text(("Device", "Runtime", "Limits", ""), rows)
