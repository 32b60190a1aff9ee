# SPDX-License-Identifier: Apache-2.0
"""The script of action.yml: run the gate on each file, write the job summary, keep one comment up to date.

Everything comes from the environment (INPUT_FILE, INPUT_DEVICE, ... as action.yml sets them), so that no input of a
workflow ever becomes part of a shell command.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from edgepress.benchmarks.ci.github_comment import post_comment, pull_request, write_summary
from edgepress.benchmarks.gate.formats import code_span, escaped, render
from edgepress.models.children import bound
from edgepress.models.errors import EdgepressError

_SECONDS = 1800
#: Input of the action -> option of `benchmarks gate`; several values stand on lines of their own.
_OPTIONS = {
    "DEVICE": "--device",
    "LIMIT": "--limit",
    "BUDGETS": "--budgets",
    "BASELINE": "--baseline",
    "RESULTS": "--results",
    "DATA": "--data",
    "MACS_RULE": "--macs-rule",
    "SHAPE": "--shape",
    "ALLOW_UNMEASURED": "--allow-unmeasured",
}
#: Inputs with several values, on lines or (where no value has commas) separated by commas.
_SEVERAL = {"DEVICE": ",", "LIMIT": ",", "ALLOW_UNMEASURED": ",", "BASELINE": "\n", "SHAPE": "\n"}
#: Inputs that are switches -> the option.
_SWITCHES = {"STRICT": "--strict"}


def gate_arguments(environment: Mapping[str, str], file: str | None = None) -> list[str]:
    """The arguments of `benchmarks gate` for the inputs of the action and one file; None: the budgets name it."""
    arguments: list[str] = []
    for name, option in _OPTIONS.items():
        text = environment.get(f"INPUT_{name}", "").strip()
        values = text.replace(_SEVERAL[name], "\n").splitlines() if name in _SEVERAL else [text]
        arguments += [f"{option}={value.strip()}" for value in values if value.strip()]
    for name, option in _SWITCHES.items():
        arguments += [option] if environment.get(f"INPUT_{name}", "").strip().lower() == "true" else []
    return ["gate", *arguments, *(["--", file] if file else [])]


def files_of(environment: Mapping[str, str]) -> list[str | None]:
    """The files of INPUT_FILE, one a line, with patterns filled in; [None] where it is empty.

    A pattern that fits nothing stays as it is, so that the gate complains about it.
    """
    found: list[str | None] = []
    for line in environment.get("INPUT_FILE", "").splitlines():
        if line.strip():
            found += [line.strip()] if Path(line.strip()).exists() else sorted(glob(line.strip())) or [line.strip()]
    return found or [None]


def run(environment: Mapping[str, str]) -> int:
    """Do it all; the exit code is the largest of the gate's."""
    # Models and layers have names that others chose: none of them may act as a workflow command.
    fence = secrets.token_hex(16)
    print(f"::stop-commands::{fence}", flush=True)
    files = files_of(environment)
    done = [_gate(environment, file, several=len(files) > 1) for file in files]
    print(f"\n::{fence}::", flush=True)
    # What could not be decided first, then failures; those of one kind in the order of the files.
    done.sort(key=lambda outcome: (bool(outcome.verdicts), -outcome.code))
    code, name = max(outcome.code for outcome in done), environment.get("INPUT_NAME", "").strip() or "models"
    verdicts = sorted((v for outcome in done for v in outcome.verdicts), key=lambda verdict: verdict["passed"])
    parts = [outcome.complaint for outcome in done if not outcome.verdicts]
    parts += [render(verdicts, "markdown")] if verdicts else []
    text = f"## edgepress: {escaped(name)}\n\n" + "\n".join(parts)
    write_summary(text, environment)
    _output(environment, {"passed": str(code == 0).lower(), "exit-code": str(code)})
    if environment.get("INPUT_COMMENT", "true").strip().lower() == "true":
        _comment(text, name, environment)
    if code:
        print(
            "::error title=edgepress gate::"
            + {1: "a model is over its limit", 2: "bad configuration or file", 3: "a runtime failed"}.get(
                code, f"exit {code}"
            )
        )
    return code


@dataclass(frozen=True)
class _Outcome:
    """Of one run: the exit code, and the verdicts or (without any) what was complained about, as Markdown."""

    code: int
    verdicts: list[dict[str, Any]]
    complaint: str


def _gate(environment: Mapping[str, str], file: str | None, several: bool) -> _Outcome:
    """The gate on one file, in a process of its own; what it says goes to the log."""
    match = ["--match-baseline"] if several else []
    command = [
        *(sys.executable, "-I" if sys.flags.isolated else "-P", "-m", "edgepress.benchmarks"),
        *("gate", "--format", "json", *match, *gate_arguments(environment, file)[1:]),
    ]
    try:
        done = subprocess.run(
            bound(command),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
        code, printed, complaint = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        code, printed, complaint = 3, "", f"error: the gate did not end within {_SECONDS} s"
    if printed:
        found = json.loads(printed)
        verdicts = found.get("files", [found])  # of several files that the budgets name
        print(f"{complaint}{render(verdicts, 'text')}", flush=True)
        return _Outcome(code, verdicts, "")
    print(complaint, flush=True)
    named = f"{code_span(file)}: " if file else ""
    markdown = f"### ❌ {named}the gate could not decide (exit {code})\n\n```\n{_quoted(complaint)}\n```\n"
    return _Outcome(code, [], markdown)


def _comment(text: str, name: str, environment: Mapping[str, str]) -> None:
    """A comment that cannot be written never decides about a model."""
    try:
        number = pull_request(environment)
        if number is None:
            return
        if post_comment(text, name, number, environment) == "forbidden":
            print(
                "::warning title=edgepress::this token may not comment (a pull request from a fork, or no "
                "`pull-requests: write`): see the job summary"
            )
    except EdgepressError as error:
        print(f"::warning title=edgepress::{_escaped(str(error))}")


def _output(environment: Mapping[str, str], values: Mapping[str, str]) -> None:
    path = environment.get("GITHUB_OUTPUT")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("".join(f"{key}={value}\n" for key, value in values.items()))


def _quoted(text: str) -> str:
    """Text that stays inside its code block or heading."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.strip()).replace("```", "'''")


def _escaped(text: str) -> str:
    """As GitHub wants the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


if __name__ == "__main__":
    sys.exit(run(os.environ))
