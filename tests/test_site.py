"""The site: what the code writes into it is whole, and it builds without a warning."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import edgepress

ROOT = Path(__file__).resolve().parents[1]
SITE = runpy.run_path(str(ROOT / ".ci/site.py"))
PICTURES = runpy.run_path(str(ROOT / ".ci/pictures.py"))


def test_the_python_page_has_every_public_name():
    page = SITE["python_page"]()
    assert [line for line in page.splitlines() if line.startswith(":::")] == [
        f"::: edgepress.{edgepress._HOME[name]}.{name}" for name in edgepress.__all__
    ]


def test_the_commands_page_has_every_command_and_option():
    page = SITE["commands_page"]()
    for text in ("### compress prune", "### deploy verify", "### benchmarks gate", "`--target-macs <str>`"):
        assert text in page
    assert "compress sweep grid.toml" in page
    assert "`-q, --quiet`" not in page


def test_the_recipes_page_has_every_section_and_key():
    page = SITE["recipes_page"]()
    assert "## `[prune.train.augment]`" in page
    assert "| `mixstyle_alpha` | float | `0.3` | of its Beta distribution |" in page
    assert '| `"dcase2023"` | the device class whose limits bind' in page
    assert "### esc10-mobile" in page


def test_links_that_leave_the_pages_lead_to_the_repository():
    class Page:
        class file:
            src_uri = "how-to/data.md"

    class Config:
        repo_url = "https://example.org/e"

    text = SITE["on_page_markdown"]("[a](../../SECURITY.md#x) [b](../ci.md) [c](https://x.org/y)", Page, Config, None)
    assert text == "[a](https://example.org/e/blob/main/SECURITY.md#x) [b](../ci.md) [c](https://x.org/y)"


_BEGINS_A_LIST = re.compile(r"(- |\* |1\. )\S")
_MAY_STAND_ABOVE = re.compile(r"\s*$|#|- |\* |\d+\. |  ")


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda path: path.stem)
def test_lists_begin_behind_an_empty_line(page: Path):
    """GitHub shows a list without one, MkDocs goes on with the paragraph."""
    fenced, above = False, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and _BEGINS_A_LIST.match(line):
            assert _MAY_STAND_ABOVE.match(above), f"{page.name}:{number}: {line}"
        above = line


def test_a_recording_keeps_what_stays_on_the_screen_and_shows_it_in_turn():
    screen = PICTURES["Screen"](Path("/home/me/here"))
    screen.feed("\x1b[1m$ run\x1b[0m\r\n", 0.0)
    screen.feed("1 of 2\r\x1b[2K2 of 2\r\n\x1b[1A\x1b[2K", 0.5)  # a bar, which goes when it is done
    screen.feed("wrote /home/me/here/net.tflite\r\n\r\n", 9.0)
    assert screen.lines == ["\x1b[1m$ run\x1b[0m", "wrote net.tflite", "", ""]
    picture = PICTURES["svg_of"](screen)
    assert picture.count("animation-delay:0.00s") >= 1
    assert "animation-delay:1.00s" in picture  # of nine seconds, one
    assert "url(http" not in picture
    assert "@media (prefers-reduced-motion: reduce)" in picture


def test_the_pictures_are_small():
    for name in ("terminal.svg", "report.webp"):
        assert 10_000 < (ROOT / "docs/pictures" / name).stat().st_size < 150_000


@pytest.mark.slow
def test_it_builds_with_warnings_as_errors(tmp_path):
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("the extra docs is not installed: make site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    page = (tmp_path / "site/reference/python/index.html").read_text()
    assert all(f'id="edgepress.{edgepress._HOME[name]}.{name}"' in page for name in edgepress.__all__)
