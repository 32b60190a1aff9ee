"""The project as a stranger gets it: its tracked files alone, and the wheel that they build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory) -> Path:
    """A copy of all files that are or would be committed."""
    source = tmp_path_factory.mktemp("source") / "edgepress"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


def build(source: Path, folder: Path) -> Path:
    """The wheel of a source tree, as `make wheel` builds it: with the time of the commit in place of now."""
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def wheel(source_tree, tmp_path_factory) -> Path:
    return build(source_tree, tmp_path_factory.mktemp("wheel"))
