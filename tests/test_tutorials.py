"""Every block of the tutorials runs, in order, in an empty folder: what a reader copies works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
#: What a page needs beside what every installation for tests has.
NEEDS = {
    "raspberry-pi": ("timm", "torchvision", "litert_torch"),
    "images": ("PIL", "litert_torch"),
    "audio": ("litert_torch",),
    "own-task": ("litert_torch", "soundfile", "tflite_micro"),
}
_BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)```\n", re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    text: str
    run: bool


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page; one behind `<!-- not run: REASON -->` is only shown."""
    return [
        Block(language, title or None, text, not skipped)
        for skipped, language, title, text in _BLOCK.findall(page.read_text(encoding="utf-8"))
    ]


def run_block(block: Block, folder: Path, environment: dict[str, str]) -> None:
    if block.title is not None:
        (folder / block.title).write_text(block.text, encoding="utf-8")
        return
    if block.language == "python":
        command = [sys.executable, "-c", block.text]
    elif block.language == "sh":
        lines = [line for line in block.text.splitlines() if not line.startswith("pip install ")]
        command = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
    else:
        return
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The commands and `python` are those of this checkout and this interpreter."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("compress", "deploy", "benchmarks", "edgepress", "python"):
        entry = "" if name == "python" else "-m edgepress " + ("" if name == "edgepress" else name)
        (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {entry} "$@"\n')
        (binaries / name).chmod(0o755)
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": modules, "EDGEPRESS_CACHE": str(tmp_path / "cache")}


@pytest.mark.slow
@pytest.mark.parametrize("page", [*TUTORIALS, *sorted((ROOT / "examples").glob("*.py"))], ids=lambda page: page.name)
def test_what_a_reader_copies_works(page, environment, tmp_path):
    missing = [name for name in NEEDS.get(page.stem, ()) if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    folder = tmp_path / "empty"
    folder.mkdir()
    if page.suffix == ".py":
        run_block(Block("sh", None, f"python '{page}'", True), folder, environment)
        return
    for block in blocks(page):
        if block.run:
            run_block(block, folder, environment)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(environment, tmp_path):
    notebook = json.loads((ROOT / "examples/first_steps.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 5
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    run_block(Block("python", None, "\n\n".join(cells), True), tmp_path, environment)


@pytest.mark.slow
def test_the_first_page_prunes_a_network(environment, tmp_path):
    (block,) = (block for block in blocks(ROOT / "docs/index.md") if block.language == "python")
    run_block(block, tmp_path, environment)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.name)
def test_a_tutorial_has_blocks_that_run_and_is_in_the_index(page):
    found = blocks(page)
    assert any(block.run and block.language in ("sh", "python") for block in found)
    assert len(found) == page.read_text(encoding="utf-8").count("```") // 2
    assert f"tutorials/{page.name}" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(example):
    assert len(example.read_text(encoding="utf-8").splitlines()) < 60
