"""The README: its table is that of the results file, its links and commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

from edgepress.benchmarks.report.summary import as_markdown

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_is_what_the_results_file_says():
    block = re.search(r"<!-- results: (\S+) -->\n(.*?)<!-- end of results -->", README, re.S)
    assert block is not None
    assert block[2] == as_markdown(json.loads((ROOT / block[1]).read_text()))


def test_it_is_short_and_leads_to_the_pages():
    assert len(README.splitlines()) < 120
    assert "](docs/index.md)" in README


def test_every_linked_file_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_every_named_command_exists():
    from typer.main import get_command

    import edgepress.benchmarks.cli
    import edgepress.compress.cli
    import edgepress.deploy.cli

    known = {
        name: set(get_command(module.app).commands)
        for name, module in (  # type: ignore[attr-defined]
            ("compress", edgepress.compress.cli),
            ("deploy", edgepress.deploy.cli),
            ("benchmarks", edgepress.benchmarks.cli),
        )
    }
    for group, command in re.findall(r"`?\b(compress|deploy|benchmarks) ([a-z]+)\b", README):
        if f"`{group} {command}" in README or f"\n{group} {command}" in README:
            assert command in known[group], f"{group} {command}"
