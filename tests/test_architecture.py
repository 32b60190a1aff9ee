"""What holds the packages together: direction of imports, light imports, file sizes, no leaked paths."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
ORDER = ("models", "compress", "deploy", "benchmarks")
SOURCES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FOLDERS = sorted({path.parent for path in SOURCES})
HEAVY = (
    "torch",
    "lightning",
    "litert_torch",
    "ai_edge_quantizer",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "scipy",
    "ai_edge_litert",
    "tflite_micro",
    "ray",
    "optuna",
    "jax",
    "pydantic",
)


def imported_modules(source: Path) -> set[str]:
    """What a file imports, inside functions and for types, too, as dotted names; `from a import b` as a.b."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_left(source: Path):
    own = ORDER.index(source.relative_to(ROOT).parts[0])
    right = tuple(f"edgepress.{package}." for package in ORDER[own + 1 :])
    wrong = sorted(name for name in imported_modules(source) if name.startswith(right))
    assert not wrong, f"{source.relative_to(ROOT)} imports {wrong}, which stand to its right"


#: Circles that are still there. Who mends one takes it out of the list; nothing is added.
FILE_CIRCLES: list[list[str]] = []
ROOM_CIRCLES: list[list[str]] = []


def file_imports() -> dict[Path, set[Path]]:
    """Source file -> the source files that it imports, inside functions and for types, too."""
    modules = {f"edgepress.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}": path for path in SOURCES}
    modules |= {name.removesuffix(".__init__"): path for name, path in modules.items()}

    def file_of(name: str) -> Path | None:  # `from a import b`: b is a module, or a name in a
        return modules.get(name) or modules.get(name.rpartition(".")[0])

    found = {path: {file_of(name) for name in imported_modules(path)} for path in SOURCES}
    return {path: {file for file in files if file is not None} - {path} for path, files in found.items()}


def circles(arrows: Mapping[T, set[T]]) -> list[set[T]]:
    """The strongly connected components of more than one node."""
    reach: dict[T, set[T]] = {}
    for start in arrows:
        seen, pending = set(), [start]
        while pending:
            new = arrows.get(pending.pop(), set()) - seen
            seen |= new
            pending += new
        reach[start] = seen
    found: list[set[T]] = []
    for node in arrows:
        circle = {other for other in reach[node] if node in reach.get(other, set())}
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


def listed(found: list[set[Path]]) -> list[list[str]]:
    return sorted(sorted(str(path.relative_to(ROOT)) for path in circle) for circle in found)


def test_no_circle_between_files():
    assert listed(circles(file_imports())) == FILE_CIRCLES


def test_arrows_between_the_rooms_of_a_package_run_one_way():
    """A room is a folder, or a file beside the folders of a package (its vocabulary, its command).

    An `__init__.py` is the face of its room, which names what lies in rooms within.
    """

    def room(path: Path) -> Path:
        return path if path.parent.parent == ROOT else path.parent

    arrows: dict[Path, set[Path]] = {room(source): set() for source in SOURCES}
    for source, imports in file_imports().items():
        if source.name != "__init__.py":
            own = source.relative_to(ROOT).parts[0]
            rooms = {room(path) for path in imports if path.relative_to(ROOT).parts[0] == own}
            arrows[room(source)] |= rooms - {room(source)}
    assert listed(circles(arrows)) == ROOM_CIRCLES


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": set()}) == [{"b", "c"}]
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a", "d"}, "d": {"c"}}) == [{"a", "b"}, {"c", "d"}]


@pytest.mark.parametrize("source", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_one_package_is_imported(source: Path):
    """`import models` works in this folder alone, and somewhere else finds somebody else's package."""
    wrong = sorted(name for name in imported_modules(source) if name.split(".")[0] in ORDER)
    assert not wrong, f"{source.relative_to(ROOT)} imports {wrong}: say edgepress.{wrong[0]}"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_folders_stay_small_and_say_what_they_are(folder: Path):
    files = [path.name for path in folder.iterdir() if path.is_file()]
    assert len(files) <= 14, f"{folder.relative_to(ROOT)} has {len(files)} files: split it"
    says = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert says, f"{folder.relative_to(ROOT)}/__init__.py: say in a sentence what comes in and what goes out"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(source: Path):
    lines = len(source.read_text().splitlines())
    assert lines <= 430, f"{source.relative_to(ROOT)} has {lines} lines, of 430: split it by what lives there"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_lives_there(source: Path):
    assert not re.search(r"util|helper|common|misc", source.stem), source.name


MODULES = ["edgepress", *(f"edgepress.{package}" for package in ORDER), *(f"edgepress.{p}.cli" for p in ORDER[1:])]


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_light(module: str):
    code = (
        f"import sys, {module}; heavy = [m for m in {HEAVY!r} if m in sys.modules]; "
        "sys.exit(', '.join(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, f"import {module} brings {result.stderr.strip()}"


def test_no_machine_paths_in_the_project():
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    texts = [ROOT / name for name in tracked if not name.endswith((".png", ".npz", ".tflite", ".onnx", ".safetensors"))]
    machine = re.compile("/" + "work/|/" + "root/|/" + "opt/wheels")
    bad = [
        str(path.relative_to(ROOT))
        for path in texts
        if path.is_file() and machine.search(path.read_text(errors="ignore"))
    ]
    assert not bad


def test_every_package_is_in_the_wheel():
    """setuptools is given a list, since folders and packages differ in name: a new folder would be missed silently."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {source.parent for source in SOURCES if source.name == "__init__.py"}
    present = {"edgepress", *(f"edgepress.{'.'.join(folder.relative_to(ROOT).parts)}" for folder in folders)}
    developers = ("edgepress.benchmarks.experiments", "edgepress.benchmarks.results")
    assert listed == {name for name in present if not name.startswith(developers)}
