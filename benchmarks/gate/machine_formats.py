# SPDX-License-Identifier: Apache-2.0
"""Verdicts for machines: JSON, JUnit, SARIF."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgepress.benchmarks.gate.words import message
from edgepress.models.devices.device import WALL_CLOCK

SCHEMA = 1


def as_json(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """The verdict itself; of several files {"schema", "passed", "files": [verdict, ...]}."""
    several = {"schema": SCHEMA, "passed": all(v["passed"] for v in verdicts), "files": list(verdicts)}
    return json.dumps(verdicts[0] if len(verdicts) == 1 else several, indent=1, allow_nan=False) + "\n"


def as_junit(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """One test suite a device class (and file), one test case a check; warnings are passed cases with an output."""
    from xml.etree.ElementTree import Element, SubElement, indent, tostring

    root = Element("testsuites", name="edgepress gate")
    for verdict in verdicts:
        for device in verdict["devices"]:
            checks = [check for check in verdict["checks"] if check["device"] == device]
            suite = SubElement(
                root,
                "testsuite",
                name=device if len(verdicts) == 1 else f"{_printable(str(verdict['file']))}: {device}",
                tests=str(len(checks)),
                failures=str(sum(c["status"] == "failed" for c in checks)),
                errors="0",
                skipped=str(sum(c["status"] == "not measured" for c in checks)),
            )
            for check in checks:
                name = f"{check['metric']} {check['kind']}"
                case = SubElement(suite, "testcase", classname=device, name=name, time="0")
                sentence = _printable(message(check))
                if check["status"] == "failed":
                    SubElement(case, "failure", message=sentence, type=check["metric"]).text = sentence
                elif check["status"] == "not measured":
                    SubElement(case, "skipped", message=sentence)
                else:
                    SubElement(case, "system-out").text = sentence
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


_LEVELS = {"failed": "error", "warned": "warning", "not measured": "note"}


def as_sarif(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """SARIF 2.1.0 with a result for every check that did not pass, at the model file."""
    results = [result for verdict in verdicts for result in _sarif_results(verdict)]
    metrics = sorted({result["ruleId"].removeprefix("edgepress/") for result in results})
    driver = {
        "name": "edgepress",
        "version": verdicts[0]["environment"]["tools"].get("edgepress", "0") if verdicts else "0",
        "rules": [
            {
                "id": f"edgepress/{metric}",
                "shortDescription": {"text": f"{metric} within its limit"},
                "defaultConfiguration": {"level": "warning" if metric in WALL_CLOCK else "error"},
            }
            for metric in metrics
        ],
    }
    report = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def _sarif_results(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    from urllib.parse import quote

    location = {"physicalLocation": {"artifactLocation": {"uri": quote(verdict["file"].replace("\\", "/"))}}}
    return [
        {
            "ruleId": f"edgepress/{check['metric']}",
            "level": _LEVELS[check["status"]],
            "message": {"text": sarif_text(message(check))},
            "locations": [location],
            "partialFingerprints": {"check": f"{check['device']}/{check['metric']}/{check['kind']}"},
            "properties": {key: check[key] for key in ("device", "value", "limit", "baseline", "over")},
        }
        for check in verdict["checks"]
        if check["status"] in _LEVELS
    ]


def sarif_text(text: str) -> str:
    """Plain text in which brackets are no link and braces no placeholder (SARIF 2.1.0, 3.11.5 and 3.11.6)."""
    cleaned = "".join(c if c.isprintable() else "?" for c in text).replace("\\", "\\\\")
    for bracket in "[]":
        cleaned = cleaned.replace(bracket, f"\\{bracket}")
    return cleaned.replace("{", "{{").replace("}", "}}")


def _printable(text: str) -> str:
    """Without the control characters that XML does not allow."""
    return "".join(
        c if c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff") else "?"
        for c in text
    )
