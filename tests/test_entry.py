"""Every way in: one command, three commands, and modules; each knows its name and its version."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["compress", "deploy", "benchmarks"])
def test_the_one_command_is_the_three(name):
    assert call("edgepress", name, "--help").stdout.startswith(f"Usage: edgepress {name} ")
    assert (
        call(f"edgepress.{name}", "--help").stdout.split("Usage: ")[1]
        == call("edgepress", name, "--help")
        .stdout.replace(f"edgepress {name}", f"python -m edgepress.{name}")
        .split("Usage: ")[1]
    )


@pytest.mark.parametrize("entry", [("edgepress",), ("edgepress", "compress"), ("edgepress.benchmarks",)])
def test_the_version_is_shown(entry):
    shown = call(*entry, "--version")
    assert (shown.returncode, shown.stdout) == (0, f"edgepress {version('edgepress')}\n")


def test_an_unknown_command_is_named_with_those_that_exist():
    wrong = call("edgepress", "prune")
    assert wrong.returncode == 2
    assert "'prune' is no command of edgepress; it has compress, deploy, benchmarks" in wrong.stderr
    assert call("edgepress").returncode == 0
