# SPDX-License-Identifier: Apache-2.0
"""Verdicts as text, Markdown, JSON, JUnit, SARIF or a badge: views of one shape (`gate.gate.evaluate_gate`)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgepress.benchmarks.gate.badge import as_badge
from edgepress.benchmarks.gate.machine_formats import as_json, as_junit, as_sarif
from edgepress.benchmarks.gate.words import HEADINGS, Explanation, complaints, explanations, headline, rows
from edgepress.models.text_tables import table_text

_MARKS = {"failed": "FAIL", "warned": "WARN", "not measured": "?", "passed": "ok"}
_COLOURS = {"failed": "31;1", "warned": "33", "not measured": "36", "passed": "32"}
_EMOJI = {"failed": "❌", "warned": "⚠️", "not measured": "❔", "passed": "✅"}
_LINE_WIDTH = 118


def render(verdicts: Mapping[str, Any] | Sequence[Mapping[str, Any]], form: str, *, colours: bool = False) -> str:
    """One verdict, or those of several files, in one of FORMATS, with a final newline.

    Args:
        verdicts: of `evaluate_gate`.
        form: a key of FORMATS.
        colours: for a terminal; text only.
    """
    found = [verdicts] if isinstance(verdicts, Mapping) else list(verdicts)
    if form == "text":
        return as_text(found, colours=colours)
    return FORMATS[form](found)


def as_text(verdicts: Sequence[Mapping[str, Any]], *, colours: bool = False) -> str:
    """For a terminal: of several files one table in front, and in full only what did not pass."""
    if len(verdicts) == 1:
        return _text(verdicts[0], colours)
    table = [("", "File", "What failed")]
    table += [(_MARKS[_state(v)], str(v["file"]), complaints(v) or headline(v)) for v in verdicts]
    front = _aligned(table, [None, *(_state(v) for v in verdicts)], colours)
    failed = [_text(verdict, colours) for verdict in verdicts if not verdict["passed"]]
    count = f"{len(verdicts) - len(failed)} of {len(verdicts)} files passed"
    return "\n".join([*front, "", *failed, count]) + "\n"


def _state(verdict: Mapping[str, Any]) -> str:
    return "failed" if not verdict["passed"] else "warned" if verdict["warnings"] else "passed"


def _text(verdict: Mapping[str, Any], colours: bool) -> str:
    found = rows(verdict)
    table = [("", *HEADINGS), *((_MARKS[status], *cells) for status, cells in found)]
    lines = [f"{verdict['file']}", "", *_aligned(table, [None, *(status for status, _ in found)], colours), ""]
    for item in explanations(verdict):
        lines += _wrapped(item)
    ending = _coloured(headline(verdict), _state(verdict), colours)
    return "\n".join([*lines, "", ending]).replace("\n\n\n", "\n\n") + "\n"


def _aligned(table: Sequence[Sequence[str]], states: Sequence[str | None], colours: bool) -> list[str]:
    lines = table_text(table[0], table[1:]).splitlines()
    marks = [row[0] for row in table]
    return [
        _coloured(mark, state, colours) + line.removeprefix(mark)
        for mark, state, line in zip(marks, states, lines, strict=True)
    ]


def _coloured(text: str, state: str | None, colours: bool) -> str:
    return f"\x1b[{_COLOURS[state]}m{text}\x1b[0m" if colours and state is not None else text


def _wrapped(item: Explanation) -> list[str]:
    """At words; a command stays on a line of its own, so that it can be copied."""
    text = item.text + (":" if item.command else "")
    lines = textwrap.wrap(text, _LINE_WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [*lines, *([f"    {item.command}"] if item.command else [])]


def as_markdown(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """For a comment or a job summary: of several files one table in front, and those that passed folded."""
    if len(verdicts) == 1:
        return _markdown(verdicts[0])
    lines = ["| | File | What failed |", "|---|---|---|"]
    lines += [
        f"| {_EMOJI[_state(v)]} | {escaped(v['file'])} | {escaped(complaints(v) or headline(v))} |" for v in verdicts
    ]
    lines.append("")
    for verdict in sorted(verdicts, key=lambda verdict: verdict["passed"]):
        text = _markdown(verdict)
        if verdict["passed"]:
            text = f"<details><summary>{escaped(verdict['file'])}: passed</summary>\n\n{text}\n</details>\n"
        lines.append(text)
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown(verdict: Mapping[str, Any]) -> str:
    state = "✅" if verdict["passed"] else "❌"
    lines = [
        f"### {state} {escaped(verdict['file'])}: {headline(verdict)}",
        "",
        "| | " + " | ".join(HEADINGS) + " |",
        "|---" * (len(HEADINGS) + 1) + "|",
    ]
    lines += [f"| {_EMOJI[status]} | " + " | ".join(map(escaped, cells)) + " |" for status, cells in rows(verdict)]
    notes = [
        f"- {escaped(item.text)}" + (f": {code_span(item.command)}" if item.command else "")
        for item in explanations(verdict)
    ]
    if notes and verdict["passed"]:
        notes = ["<details><summary>Notes</summary>", "", *notes, "", "</details>"]
    return "\n".join([*lines, "", *notes, ""]).rstrip("\n") + "\n"


def escaped(text: str) -> str:
    """Text that stays text on GitHub and GitLab, whatever a file or a layer is called.

    No cell breaks its row; nothing becomes markup, a link, an emoji or a formula; no name notifies anybody and no
    number refers to an issue.
    """
    cleaned = "".join(c if c.isprintable() else "?" for c in str(text))
    for character in "\\`*_[]|~":
        cleaned = cleaned.replace(character, f"\\{character}")
    cleaned = cleaned.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A character without width takes the meaning from what follows: @name, #123, GH-123, !123, https://, www., :tada:
    cleaned = re.sub(r"([@#!])(?=\w)", "\\1\u200b", cleaned)
    cleaned = re.sub(r"\b(GH-)(?=\d)", "\\1\u200b", cleaned, flags=re.IGNORECASE)
    cleaned = re.sub(r"\b((?:https?|ftp|mailto|xmpp):)(?=\S)", "\\1\u200b", cleaned, flags=re.IGNORECASE)
    cleaned = re.sub(r"\b(www)(?=\.)", "\\1\u200b", cleaned, flags=re.IGNORECASE)
    return re.sub(r":(?=[\w+-]+:)", ":\u200b", cleaned).replace("$", "&#36;")


def code_span(text: str) -> str:
    """A command as code, outside of tables; a backtick in it ends nothing."""
    cleaned = "".join(c if c.isprintable() else "?" for c in text)
    longest = max((len(run) for run in re.findall("`+", cleaned)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{cleaned}{space}{fence}"


FORMATS: dict[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
    "junit": as_junit,
    "sarif": as_sarif,
    "badge": as_badge,
}
