# SPDX-License-Identifier: Apache-2.0
"""Pictures of the first page of the site: the tutorial of images is run, recorded, its report photographed.

    make pictures

writes docs/pictures/terminal.svg and docs/pictures/report.webp. What is shown is what the commands of
docs/tutorials/images.md printed and wrote, with all of the recipe's epochs, not the rehearsal's (`--set`). Of pauses
longer than a second, a second is kept; the path of the folder is left out.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/tutorials/images.md"
PICTURES = ROOT / "docs/pictures"
COLUMNS = 100
LONGEST_PAUSE_S = 1.0
#: The first word of what is run and shown; what comes before is run unseen.
SHOWN = ("compress run", "benchmarks gate")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1200, 900)

_BLOCK = re.compile(r"```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)```\n", re.DOTALL)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]|\x1b\][^\x07]*\x07")
#: As rich's own, without fonts from elsewhere; lines appear in turn, or stand there for who wants nothing to move.
_SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Consolas, Menlo, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-family: sans-serif; }}
@keyframes appear {{ from {{ opacity: 0 }} to {{ opacity: 1 }} }}
.row {{ animation: appear 0.01s linear both; }}
@media (prefers-reduced-motion: reduce) {{ .row {{ animation: none; }} }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


class Screen:
    """What stays on a terminal: lines, each with the time when it was last written."""

    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder}/"
        self.lines: list[str] = [""]
        self.times: list[float] = [0.0]
        self._row, self._fresh = 0, True

    def feed(self, text: str, now: float) -> None:
        """Output as it comes; a line that is written anew replaces itself."""
        for part in re.split(r"(\x1b\[\d*A|\x1b\[2K|\r|\n)", text):
            if part == "\n":
                self._row += 1
                if self._row == len(self.lines):
                    self.lines.append("")
                    self.times.append(now)
                self._fresh = False
            elif part.endswith("A") and part.startswith("\x1b["):
                self._row = max(0, self._row - int(part[2:-1] or 1))
            elif part == "\x1b[2K":
                self.lines[self._row] = ""
            elif part == "\r":
                self._fresh = True
            elif shown := _CONTROL.sub("", part):
                shown = shown.replace(self._folder, "")
                self.lines[self._row] = shown if self._fresh else self.lines[self._row] + shown
                self.times[self._row], self._fresh = now, False


def record(command: str, folder: Path, screen: Screen, begin: float) -> None:
    """Run a command on a terminal of its own; raises where it fails."""
    screen.feed(f"\x1b[1m$ {command}\x1b[0m\r\n", time.monotonic() - begin)
    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": "50"}
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, stdout=other, stderr=other
    ) as process:
        os.close(other)
        waiting = b""
        while True:
            try:
                waiting += os.read(main, 65536)
            except OSError:  # nobody writes any more
                break
            if not waiting:
                break
            ready = waiting.decode("utf-8", errors="ignore")
            screen.feed(ready, time.monotonic() - begin)
            waiting = b""
    os.close(main)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}:\n" + "\n".join(screen.lines[-20:]))


def svg_of(screen: Screen) -> str:
    """The recording as an SVG whose lines appear one after the other."""
    from rich.console import Console
    from rich.text import Text

    while screen.lines and not screen.lines[-1]:
        screen.lines.pop()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    appears, clock, before = [], 0.0, 0.0
    for line, when in zip(screen.lines, screen.times, strict=False):
        clock += min(max(0.0, when - before), LONGEST_PAUSE_S)
        before = max(before, when)
        rows = Text.from_ansi(line).wrap(console, COLUMNS) or [Text("")]
        for row in rows:
            console.print(row, highlight=False, no_wrap=True)
            appears.append(clock)
    text = console.export_svg(title="edgepress", code_format=_SVG, unique_id="t")

    def timed(found: re.Match[str]) -> str:
        return f'style="animation-delay:{appears[int(found[1])]:.2f}s" {found[0]}'

    text = re.sub(r'clip-path="url\(#t-line-(\d+)\)"', timed, text)
    return text.replace('<text class="t-r', '<text class="row t-r')


def photograph(page: Path, target: Path) -> None:
    """The top of an HTML page, light, as WebP."""
    from PIL import Image

    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"a browser is needed, one of {', '.join(BROWSERS)}: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "page.png"
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
                f"--window-size={SIZE[0]},{SIZE[1]}",
                "--virtual-time-budget=20000",
                f"--screenshot={picture}",
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=300,
        )
        Image.open(picture).convert("RGB").save(target, quality=82, method=6)


def main() -> int:
    """Run the tutorial and write both pictures; with a folder as argument, there, and going on where it was."""
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    screen, begin = Screen(folder), time.monotonic()
    for language, title, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if title:
            (folder / title).write_text(text, encoding="utf-8")
        for command in text.splitlines() if language == "sh" else ():
            if command.startswith(SHOWN):
                record(re.sub(r" --set \S+", "", command), folder, screen, begin)
            elif not command.startswith(("pip ", "deploy ")) and not (folder / "shapes.toml").exists():
                subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / "terminal.svg").write_text(svg_of(screen), encoding="utf-8")
    page = folder / "report.html"
    page.write_text((folder / "runs/shapes/report.html").read_text(encoding="utf-8").replace(f"{folder}/", ""), "utf-8")
    photograph(page, PICTURES / "report.webp")
    for name in ("terminal.svg", "report.webp"):
        print(f"wrote docs/pictures/{name} ({(PICTURES / name).stat().st_size:,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
