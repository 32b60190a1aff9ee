"""A verdict as text, Markdown, JSON, JUnit or SARIF: five views of one shape (`gate.gate.evaluate_gate`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from edgepress.models.devices.device import WALL_CLOCK
from edgepress.models.text_tables import table_text
from edgepress.models.units import format_against, format_quantity

HEADINGS = ("Device", "Metric", "Baseline", "Now", "Change", "Limit", "Headroom")
_MARKS = {"failed": "FAIL", "warned": "WARN", "not measured": "?", "passed": "ok"}
_EMOJI = {"failed": "❌", "warned": "⚠️", "not measured": "❔", "passed": "✅"}
_FROM_BASELINE = {"max_drop": "drop", "max_growth": "growth"}


def render(verdict: Mapping[str, Any], form: str) -> str:
    """The verdict in one of FORMATS, with a final newline."""
    return FORMATS[form](verdict)


def rows(verdict: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """The table: (status, cells under HEADINGS), failures first."""
    return [(check["status"], _cells(check)) for check in verdict["checks"]]


def _cells(check: Mapping[str, Any]) -> tuple[str, ...]:
    unit, value, limit = check["unit"], check["value"], check["limit"]
    metric = check["metric"] + (f" ({check['rule']})" if check["rule"] else "")
    if check["how"] == "estimated":
        metric += " (estimated)"
    if value is None:
        now, bound = "not measured", "-" if limit is None else format_quantity(limit, unit)
    elif limit is None:
        now, bound = format_quantity(value, unit), "no baseline"
    else:
        now, bound = format_against(value, limit, unit)
    sign = "≥" if check["kind"] in ("min", "max_drop") else "≤"
    if limit is not None:
        origin = _FROM_BASELINE.get(check["kind"])
        bound = f"{sign} {bound}" + (f" ({origin})" if origin else "")
    interval = check.get("interval")
    if interval and value is not None:
        now += f" [{format_quantity(interval[0], unit)}, {format_quantity(interval[1], unit)}]"
    return (
        check["device"],
        metric,
        format_quantity(check["baseline"], unit),
        now,
        _signed(check["change"], unit, check["baseline"]),
        bound,
        _signed(check["headroom"], unit, limit),
    )


def _signed(value: float | None, unit: str, base: float | None) -> str:
    """ "+12.3 kB (+4.2 %)"; a difference that is there never reads as zero."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    sign = "+" if value > 0 else "-"
    text = sign + format_quantity(abs(value), unit)
    if unit == "fraction":
        # A hundredth of a point is the finest that the usual text shows.
        points = f"{100 * abs(value):.2f}"
        return sign + (f"{points} points" if float(points) else f"{100 * abs(value):.2g} points")
    return text + (f" ({sign}{abs(value) / base:.2%})" if base and abs(value) / base >= 0.0001 else "")


def headline(verdict: Mapping[str, Any]) -> str:
    """One line: passed or failed, how many checks, where."""
    checks = verdict["checks"]
    over = sum(check["status"] == "failed" and check["over"] is not None for check in checks)
    unmeasured = sum(check["status"] == "failed" and check["over"] is None for check in checks)
    left_open = sum(check["status"] == "not measured" for check in checks)
    warned, count = len(verdict["warnings"]), len(checks)
    parts = [
        f"{over} over the limit" if over else "",
        f"{unmeasured} not measured" if unmeasured else "",
        f"{warned} warned" if warned else "",
        f"{left_open} left open" if left_open else "",
        f"{count} check" if count == 1 else f"{count} checks",
    ]
    return f"{'passed' if verdict['passed'] else 'FAILED'}: {', '.join(part for part in parts if part)}"


def _explanations(verdict: Mapping[str, Any]) -> list[str]:
    """The sentences below the table, the same for text and Markdown."""
    lines = []
    for item in verdict["contributors"]:
        share = "" if item["share"] is None else f", {item['share']:.0%}"
        operator = f" ({item['operator']})" if item["operator"] else ""
        lines.append(
            f"largest in {item['metric']}: {short_name(item['layer'])}{operator}: "
            f"{format_quantity(item['value'], item['unit'])}{share}"
        )
    for item in verdict["fixes"]:
        after = "" if item["after"] is None else f" -> {format_quantity(item['after'], item['unit'])}"
        certainty = "measured" if item["measured"] else "not tried"
        enough = {True: ", enough", False: ", not enough alone", None: ""}[item["enough"]]
        lines.append(f"fix for {item['metric']}: {item['fix']}{after} ({certainty}{enough}): {item['command']}")
    for check in verdict["checks"]:
        if check["note"]:
            lines.append(
                f"{check['device']}, {check['metric']}: {check['note']}"
                + (f" [{check['source']}]" if check["source"] else "")
            )
    if verdict["cause"]:
        lines.append(f"against {verdict['baseline']['source']}: {verdict['cause']['summary']}")
    return list(dict.fromkeys([*lines, *verdict["notes"]]))


def short_name(name: str, longest: int = 60) -> str:
    """A layer's name for people: converters join every operator that went into a layer by semicolons."""
    last = name.rpartition(";")[2] or name
    return last if len(last) <= longest else f"{last[: longest // 2 - 2]}...{last[-(longest // 2 - 1) :]}"


def _text(verdict: Mapping[str, Any]) -> str:
    cells = [(_MARKS[status], *row) for status, row in rows(verdict)]
    lines = [f"{verdict['file']}", "", table_text(("", *HEADINGS), cells)]
    lines += ["", *_explanations(verdict), "", headline(verdict)]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _markdown(verdict: Mapping[str, Any]) -> str:
    state = "✅" if verdict["passed"] else "❌"
    lines = [
        f"### {state} {_escape(verdict['file'])}: {headline(verdict)}",
        "",
        "| | " + " | ".join(HEADINGS) + " |",
        "|---" * (len(HEADINGS) + 1) + "|",
    ]
    lines += [f"| {_EMOJI[status]} | " + " | ".join(map(_escape, cells)) + " |" for status, cells in rows(verdict)]
    notes = [f"- {_escape(line)}" for line in _explanations(verdict)]
    if notes and verdict["passed"]:
        notes = ["<details><summary>Notes</summary>", "", *notes, "", "</details>"]
    return "\n".join([*lines, "", *notes, ""]).rstrip("\n") + "\n"


def _escape(text: str) -> str:
    """No cell breaks its row or becomes markup, whatever a file or a layer is called."""
    cleaned = "".join(c if c.isprintable() else "?" for c in str(text))
    for character in "\\`*_[]|":
        cleaned = cleaned.replace(character, f"\\{character}")
    cleaned = cleaned.replace("<", "&lt;").replace(">", "&gt;")
    # No name notifies anybody.
    return cleaned.replace("@", "@\u200b")


def _json(verdict: Mapping[str, Any]) -> str:
    return json.dumps(verdict, indent=1, allow_nan=False) + "\n"


def _junit(verdict: Mapping[str, Any]) -> str:
    """One test suite a device class, one test case a check; warnings are passed cases with an output."""
    from xml.etree.ElementTree import Element, SubElement, indent, tostring

    root = Element("testsuites", name="edgepress gate")
    for device in verdict["devices"]:
        checks = [check for check in verdict["checks"] if check["device"] == device]
        suite = SubElement(
            root,
            "testsuite",
            name=device,
            tests=str(len(checks)),
            failures=str(sum(c["status"] == "failed" for c in checks)),
            errors="0",
            skipped=str(sum(c["status"] == "not measured" for c in checks)),
        )
        for check in checks:
            case = SubElement(suite, "testcase", classname=device, name=f"{check['metric']} {check['kind']}", time="0")
            sentence = _printable(message(check))
            if check["status"] == "failed":
                SubElement(case, "failure", message=sentence, type=check["metric"]).text = sentence
            elif check["status"] == "not measured":
                SubElement(case, "skipped", message=sentence)
            else:
                SubElement(case, "system-out").text = sentence
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _sarif(verdict: Mapping[str, Any]) -> str:
    """SARIF 2.1.0 with a result for every check that did not pass, at the model file."""
    from urllib.parse import quote

    levels = {"failed": "error", "warned": "warning", "not measured": "note"}
    found = [check for check in verdict["checks"] if check["status"] in levels]
    location = {"physicalLocation": {"artifactLocation": {"uri": quote(verdict["file"].replace("\\", "/"))}}}
    results = [
        {
            "ruleId": f"edgepress/{check['metric']}",
            "level": levels[check["status"]],
            "message": {"text": message(check)},
            "locations": [location],
            "partialFingerprints": {"check": f"{check['device']}/{check['metric']}/{check['kind']}"},
            "properties": {key: check[key] for key in ("device", "value", "limit", "baseline", "over")},
        }
        for check in found
    ]
    metrics = sorted({check["metric"] for check in found})
    driver = {
        "name": "edgepress",
        "version": verdict["environment"]["tools"].get("edgepress", "0"),
        "rules": [
            {
                "id": f"edgepress/{metric}",
                "shortDescription": {"text": f"{metric} within its limit"},
                "defaultConfiguration": {"level": "warning" if metric in WALL_CLOCK else "error"},
            }
            for metric in metrics
        ],
    }
    return (
        json.dumps(
            {
                "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
                "version": "2.1.0",
                "runs": [{"tool": {"driver": driver}, "results": results}],
            },
            indent=1,
            allow_nan=False,
        )
        + "\n"
    )


def message(check: Mapping[str, Any]) -> str:
    """A check as one sentence."""
    _, metric, _, now, _, bound, headroom = _cells(check)
    text = f"{check['device']}: {metric} is {now}, limit {bound}, headroom {headroom}"
    return text + (f" ({check['note']})" if check["note"] else "")


def _printable(text: str) -> str:
    """Without the control characters that XML does not allow."""
    return "".join(
        c if c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff") else "?"
        for c in text
    )


FORMATS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "json": _json,
    "junit": _junit,
    "sarif": _sarif,
}
