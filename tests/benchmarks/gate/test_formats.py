"""Five views of one verdict."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from edgepress.benchmarks.gate.formats import FORMATS, code_span, escaped, render
from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.gate.machine_formats import sarif_text
from edgepress.benchmarks.gate.words import HEADINGS, headline, rows
from tests.benchmarks.measure.profiles import small_profile


@pytest.fixture
def verdict():
    old = {"schema": 1, "profile": small_profile(file_bytes=900), "results": [], "environment": {}, "manifest": {}}
    return evaluate_gate(
        small_profile(), {"macs": "1721", "file": "2 kB", "accuracy": "90%"}, baseline=old, try_fixes=False
    )


def test_the_table_has_failures_first_and_exact_digits_where_rounding_hides_the_reason(verdict):
    text = render(verdict, "text")
    lines = text.splitlines()
    assert lines[2].split() == list(HEADINGS)
    assert [line.split()[0] for line in lines[3:6]] == ["FAIL", "FAIL", "ok"]
    macs = next(cells for _, cells in rows(verdict) if cells[1].startswith("macs"))
    assert macs[1] == "macs (dcase)"
    assert (macs[3], macs[5], macs[6]) == ("1,722", "≤ 1,721", "-1 (-0.06%)")


def test_change_and_headroom(verdict):
    file = next(cells for _, cells in rows(verdict) if cells[1] == "file")
    assert file == ("limits", "file", "900 B", "1.0 kB", "+100 B (+11.11%)", "≤ 2.0 kB", "+1.0 kB (+50.00%)")


def test_a_tiny_change_is_not_shown_as_none():
    old = {"schema": 1, "profile": small_profile(file_bytes=99_999_999), "environment": {}, "results": []}
    new = evaluate_gate(small_profile(file_bytes=100_000_000), {"file": "1 GB"}, baseline=old)
    assert rows(new)[0][1][4] == "+1 B"


def test_accuracy_changes_are_points(verdict):
    record = {"schema": 1, "sha256": "ab" * 32, "runtime": "tflm", "accuracy": 0.90001, "total": 100_000}
    new = evaluate_gate(small_profile(), {"accuracy": "90%"}, results=[record])
    assert rows(new)[0][1][6] == "+0.001 points"


def test_markdown_is_a_table_that_no_name_can_break():
    nasty = small_profile(file="a|b`<script>\n@team.tflite")
    text = render(evaluate_gate(nasty, {"macs": "1"}, try_fixes=False), "markdown")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {len(HEADINGS) + 2}
    assert "<script>" not in text
    assert "@team" not in text
    assert "\n@" not in text


def test_json_is_the_verdict_itself(verdict):
    assert json.loads(render(verdict, "json")) == json.loads(json.dumps(verdict))


def test_junit_counts_failures_and_survives_control_characters():
    profile = small_profile(notes={"arena": "bad \x00\x1b name"}, arena_bytes={"tflm": None})
    verdict = evaluate_gate(profile, {"macs": "1"}, "cortex-m4", try_fixes=False, allow_unmeasured=["arena"])
    root = ElementTree.fromstring(render(verdict, "junit"))
    suites = {suite.get("name"): suite for suite in root}
    assert suites["limits"].get("failures") == "1"
    assert "1,722" in suites["limits"].find("testcase/failure").get("message").replace("1.7 k", "1,722")
    assert suites["cortex-m4"].get("skipped") == "1", "the arena is unknown"


def test_sarif_has_one_result_for_each_check_that_did_not_pass(verdict):
    run = json.loads(render(verdict, "sarif"))["runs"][0]
    assert [r["ruleId"] for r in run["results"]] == ["edgepress/macs", "edgepress/accuracy"]
    assert {r["level"] for r in run["results"]} == {"error"}
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {"edgepress/macs", "edgepress/accuracy"}
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "m.tflite"


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_takes_unicode_and_an_empty_story(form):
    profile = small_profile(file="modèle-音.tflite", layers=[])
    text = render(evaluate_gate(profile, {"macs": "1"}, try_fixes=False), form)
    assert text.endswith("\n")
    assert "1" in text


def test_the_badge_says_the_verdict(verdict):
    passed = evaluate_gate(small_profile(), {"macs": "2 k"})
    for found, words in ((passed, "passed"), (verdict, "failed"), ([passed, verdict], "1 of 2 failed")):
        svg = ElementTree.fromstring(render(found, "badge"))
        assert svg.get("aria-label") == f"edgepress gate: {words}"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a&lt;b", "a&amp;lt;b"),
        ("a`b", "a\\`b"),
        ("https://example.org/x", "https:\u200b//example.org/x"),
        ("see www.example.org", "see www\u200b.example.org"),
        ("#123 of o/r#4", "#\u200b123 of o/r#\u200b4"),
        ("@team", "@\u200bteam"),
        ("gh-7", "gh-\u200b7"),
        ("!9", "!\u200b9"),
        (":tada:", ":\u200btada:"),
        ("$x$ ~~y~~", "&#36;x&#36; \\~\\~y\\~\\~"),
        ("<img>|[a](b)", "&lt;img&gt;\\|\\[a\\](b)"),
        ("line\nbreak", "line?break"),
    ],
)
def test_names_stay_text_in_markdown(name, shown):
    assert escaped(name) == shown


def test_a_command_is_code_whatever_is_in_it():
    assert code_span("deploy shrink a.tflite") == "`deploy shrink a.tflite`"
    assert code_span("deploy shrink a`b``c|d.tflite") == "``` deploy shrink a`b``c|d.tflite ```"


def test_sarif_takes_brackets_and_braces_as_text():
    assert sarif_text("a[b](1) {0} \\") == "a\\[b\\](1) {{0}} \\\\"


def test_lines_wrap_at_words_and_commands_stay_whole(verdict):
    long = evaluate_gate(small_profile(notes={"arena": "word " * 60}, arena_bytes={"tflm": None}), {"arena": "1kB"})
    assert max(len(line) for line in render(long, "text").splitlines()) <= 118
    far = evaluate_gate(small_profile(file="x" * 200 + ".tflite"), {"macs": "1 k"})
    assert "\n    compress prune --target-macs 1000\n" in render(far, "text")


def test_colours_are_for_terminals(verdict):
    assert "\x1b[" not in render(verdict, "text")
    assert render(verdict, "text", colours=True).count("\x1b[31;1m") == 3


def test_the_headline_tells_over_from_unmeasured_and_multiples_are_said_as_such(verdict):
    assert headline(verdict) == "FAILED: 1 over the limit, 1 not measured, 3 checks"
    far = evaluate_gate(small_profile(), {"macs": "20"}, try_fixes=False)
    assert rows(far)[0][1][6] == "-1.7 k (85 times)"
