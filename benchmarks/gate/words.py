# SPDX-License-Identifier: Apache-2.0
"""The words of a verdict that all its formats share: cells of the table, one sentence a check, what explains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgepress.models.units import format_against, format_quantity

HEADINGS = ("Device", "Metric", "Baseline", "Now", "Change", "Limit", "Headroom")
_FROM_BASELINE = {"max_drop": "drop", "max_growth": "growth"}
#: From here on a share is said as a multiple: nobody reads -62938190.00 %.
_MULTIPLE = 10


@dataclass(frozen=True)
class Explanation:
    """A sentence below the table, with the command that it ends in, if any."""

    text: str
    command: str = ""


def rows(verdict: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """The table: (status, cells under HEADINGS), failures first."""
    return [(check["status"], cells(check)) for check in verdict["checks"]]


def cells(check: Mapping[str, Any]) -> tuple[str, ...]:
    """One check under HEADINGS."""
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
    share = abs(value) / base if base else 0
    if share >= _MULTIPLE:
        return f"{text} ({share:,.0f} times)"
    return text + (f" ({sign}{share:.2%})" if share >= 0.0001 else "")


def headline(verdict: Mapping[str, Any]) -> str:
    """One line: passed or failed, how many checks, where."""
    checks = verdict["checks"]
    refused = sum(check["status"] == "failed" and check["metric"] == "operators" for check in checks)
    over = sum(check["status"] == "failed" and check["over"] is not None for check in checks) - refused
    unmeasured = sum(check["status"] == "failed" and check["over"] is None for check in checks)
    left_open = sum(check["status"] == "not measured" for check in checks)
    warned, count = len(verdict["warnings"]), len(checks)
    parts = [
        f"does not run on {refused} class" + ("es" if refused > 1 else "") if refused else "",
        f"{over} over the limit" if over else "",
        f"{unmeasured} not measured" if unmeasured else "",
        f"{warned} warned" if warned else "",
        f"{left_open} left open" if left_open else "",
        f"{count} check" if count == 1 else f"{count} checks",
    ]
    return f"{'passed' if verdict['passed'] else 'FAILED'}: {', '.join(part for part in parts if part)}"


def complaints(verdict: Mapping[str, Any]) -> str:
    """What failed, in few words, for a table of several files."""
    found = []
    for check in verdict["checks"]:
        if check["status"] != "failed":
            continue
        if check["metric"] == "operators":
            found.append(f"{check['device']}: {check['rule']} does not run it")
        elif check["over"] is None:
            found.append(f"{check['metric']} not measured")
        else:
            _, metric, _, now, _, bound, _ = cells(check)
            found.append(f"{metric} {now}, limit {bound}")
    return "; ".join(dict.fromkeys(found))


def explanations(verdict: Mapping[str, Any]) -> list[Explanation]:
    """The sentences below the table."""
    lines = []
    for item in verdict["contributors"]:
        share = "" if item["share"] is None else f", {item['share']:.0%}"
        operator = f" ({item['operator']})" if item["operator"] else ""
        lines.append(
            Explanation(
                f"largest in {item['metric']}: {short_name(item['layer'])}{operator}: "
                f"{format_quantity(item['value'], item['unit'])}{share}"
            )
        )
    for item in verdict["fixes"]:
        after = "" if item["after"] is None else f" -> {format_quantity(item['after'], item['unit'])}"
        certainty = "measured" if item["measured"] else "not tried"
        enough = {True: ", enough", False: ", not enough alone", None: ""}[item["enough"]]
        state = "" if item["after"] is None and not item["measured"] else f" ({certainty}{enough})"
        lines.append(Explanation(f"fix for {item['metric']}: {item['fix']}{after}{state}", item["command"]))
    for check in verdict["checks"]:
        if check["note"]:
            source = f" [{check['source']}]" if check["source"] else ""
            lines.append(Explanation(f"{check['device']}, {check['metric']}: {check['note']}{source}"))
    if verdict["cause"]:
        lines.append(Explanation(f"against {verdict['baseline']['source']}: {verdict['cause']['summary']}"))
    return list(dict.fromkeys([*lines, *map(Explanation, verdict["notes"])]))


def short_name(name: str, longest: int = 60) -> str:
    """A layer's name for people: converters join every operator that went into a layer by semicolons."""
    last = name.rpartition(";")[2] or name
    return last if len(last) <= longest else f"{last[: longest // 2 - 2]}...{last[-(longest // 2 - 1) :]}"


def message(check: Mapping[str, Any]) -> str:
    """A check as one sentence."""
    _, metric, _, now, _, bound, headroom = cells(check)
    text = f"{check['device']}: {metric} is {now}, limit {bound}, headroom {headroom}"
    return text + (f" ({check['note']})" if check["note"] else "")
