"""What a release needs: notes for its version, one number everywhere, workflows that run on all supported Pythons."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ["3.11", "3.12", "3.13"]
notes = runpy.run_path(str(ROOT / ".ci/release_notes.py"))["notes"]
CHANGES = "# Changelog\n\n## 0.2.0 (2026-12-01)\n\n- new\n\n### Fixed\n- old\n\n## 0.1.0 (unreleased)\n\n- first\n"


def test_the_changelog_has_notes_for_this_version():
    shown = subprocess.run([sys.executable, ROOT / ".ci/release_notes.py"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip()
    wrong = subprocess.run(
        [sys.executable, ROOT / ".ci/release_notes.py", "v99.0"], capture_output=True, text=True, check=False
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert f"the tag v99.0 is not v{PROJECT['version']}" in wrong.stderr


def test_notes_are_those_of_one_version():
    assert notes(CHANGES, "0.2.0", "v0.2.0") == "- new\n\n### Fixed\n- old\n"
    assert notes(CHANGES, "0.1.0") == "- first\n"


@pytest.mark.parametrize(
    ("changelog", "version", "tag", "says"),
    [
        (CHANGES, "0.1.0", "v0.1.0", "has no date"),
        (CHANGES, "0.2", None, "0 sections for version 0.2"),
        (CHANGES, "0.2.0", "0.2.0", "is not v0.2.0"),
        ("## 1.0 (2026-01-01)\n\n## 0.9\n- x\n", "1.0", None, "is empty"),
        (CHANGES + CHANGES, "0.1.0", None, "2 sections"),
    ],
)
def test_what_is_missing_is_said(changelog, version, tag, says):
    with pytest.raises(ValueError, match=says):
        notes(changelog, version, tag)


def test_one_version_and_one_home_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]


def test_supported_pythons_are_the_same_everywhere():
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert named == PYTHONS
    for name, job in (("ci", "test"), ("release", "test")):
        workflow = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
        assert workflow["jobs"][job]["strategy"]["matrix"]["python"] == PYTHONS, name
    finder = (ROOT / ".ci/find-python").read_text()
    assert "3.11 | 3.12 | 3.13)" in finder


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_are_yaml(path):
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    if path.parent.name == "workflows":  # what a workflow runs exists
        for command in re.findall(r"(?<![\w/])\.ci/[\w-]+(?:\.py)?", path.read_text()):
            assert (ROOT / command).is_file(), command
        targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
        for target in re.findall(r"run: (?:sudo )?make ([\w-]+)", path.read_text()):
            assert target in targets, target


def fake(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def python(version: str, venv: bool = True) -> str:
    return f'case "$2" in *venv*) exit {0 if venv else 1};; *) echo {version};; esac'


def find(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", ROOT / ".ci/find-python"], env={"PATH": str(folder)}, capture_output=True, text=True, check=False
    )


def test_the_newest_supported_python_is_found(tmp_path):
    fake(tmp_path, "python3.11", python("3.11"))
    fake(tmp_path, "python3", python("3.14"))
    assert find(tmp_path).stdout == "python3.11\n"
    fake(tmp_path, "python3.13", python("3.13", venv=False))
    fake(tmp_path, "python3.12", "exit 127")  # a stand-in of pyenv, for a Python that is not chosen
    assert find(tmp_path).stdout == "python3.11\n"
    fake(tmp_path, "python3.13", python("3.13"))
    assert find(tmp_path).stdout == "python3.13\n"


def test_uv_gives_a_python_where_there_is_none(tmp_path):
    fake(tmp_path, "uv", 'test "$2" = find && echo /somewhere/python3.13')
    found = find(tmp_path)
    assert (found.returncode, found.stdout) == (0, "/somewhere/python3.13\n")


def test_what_is_missing_of_a_python_is_said(tmp_path):
    fake(tmp_path, "python3.12", python("3.12", venv=False))
    fake(tmp_path, "python3", python("3.9"))
    nothing = find(tmp_path)
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "python3.12 has no venv (Debian: apt-get install python3.12-venv)" in nothing.stderr
    assert "python3 is Python 3.9" in nothing.stderr
    assert "make PYTHON=/path/to/python" in nothing.stderr
