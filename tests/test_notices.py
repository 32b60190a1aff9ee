"""What the project says about others' work: the notices name every package that is used, and no other."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("edgepress", "models", "compress", "deploy", "benchmarks")
#: Module -> distribution, where their names differ by more than `_` for `-`.
DISTRIBUTIONS = {
    "google": "protobuf",
    "modelopt": "nvidia-modelopt",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
}


def declared() -> set[str]:
    """Distributions that the package and its extras depend on, without what only its own tests and checks need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *(entry for extra in extras if extra != "dev" for entry in extras[extra])]
    found = {re.split(r"[<>=~!;\[ ]", entry, maxsplit=1)[0].lower() for entry in named}
    return found - {"edgepress"}


def imported() -> set[str]:
    """Distributions that some source file imports."""
    modules: set[str] = set()
    for source in (path for part in PARTS for path in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.split(".")[0])
    return {
        DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in modules - sys.stdlib_module_names - {"edgepress"}
    }


def test_the_notices_name_what_is_used_and_nothing_else():
    table = [line for line in (ROOT / "THIRD_PARTY_NOTICES.md").read_text().splitlines() if line.startswith("| `")]
    named = [name for line in table for name in re.findall(r"`([\w-]+)`", line.split("|")[1])]
    assert len(named) == len(set(named))
    assert set(named) == declared() | imported()
    assert all(cell.strip() for line in table for cell in line.split("|")[2:4])
