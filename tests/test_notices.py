"""Licences: the notices name every package that is used, every source says its own licence, generated C too."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from edgepress.deploy.firmware.projects.project import write_project
from tests.deploy.integer_networks import one_operator

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("edgepress", "models", "compress", "deploy", "benchmarks")
LICENCE = "SPDX-License-Identifier: Apache-2.0"
#: Module -> distribution, where their names differ by more than `_` for `-`.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "google": "protobuf",
    "modelopt": "nvidia-modelopt",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
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


TEXTS = sorted(
    [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    + [path for path in (ROOT / "deploy").rglob("templates/**/*") if path.is_file()]
)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_source_says_its_licence(path: Path):
    sign = "#" if path.suffix == ".py" or ".txt" in path.suffixes else ";" if ".ini" in path.suffixes else "/*"
    line = f"{sign} {LICENCE}" + (" */" if sign == "/*" else "")
    assert path.read_text().startswith(line + "\n"), f"the first line of {path.relative_to(ROOT)} must be: {line}"


def test_generated_c_says_its_licence(tmp_path: Path):
    (tmp_path / "net.tflite").write_bytes(one_operator("CONV_2D", 0))
    write_project(tmp_path / "net.tflite", tmp_path / "firmware")
    made = sorted(path for path in (tmp_path / "firmware").iterdir() if path.suffix in (".c", ".h"))
    assert {"net.c", "net.h", "net_weights.c", "net_weights.h", "main.c", "ep_conv.c"} <= {path.name for path in made}
    for path in made:
        assert path.read_text().count(LICENCE) == 1, path.name
        assert path.read_text().startswith(f"/* {LICENCE} */"), path.name
