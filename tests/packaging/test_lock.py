"""The locks name every package by version and SHA-256: those of constraints.txt, and all that is needed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = {"linux-x86_64-cpu": "all", "linux-x86_64-cuda": "all", "linux-x86_64-dev": "dev"}
#: What only the CUDA build of torch brings; constraints.txt fits both builds and leaves it to torch.
OF_CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Package -> (version, hashes)."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith(("#", "--only-binary :all:"))]
    found = {}
    for pin, *hashes in lines:
        package, _, version = pin.partition("==")
        found[str(canonicalize_name(package))] = (version, hashes)
    assert len(found) == len(lines)
    return found


def pinned() -> dict[str, str]:
    """The versions of constraints.txt for the Python of the locks."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if "==" in line]
    asked = [one for one in pins if one.marker is None or one.marker.evaluate({"python_version": "3.11"})]
    return {str(canonicalize_name(one.name)): str(one.specifier).removeprefix("==") for one in asked}


def needed(extra: str, seen: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """What the project asks for with an extra, and with the extras that this one names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if not seen:
        yield from map(Requirement, project["dependencies"])
    for one in map(Requirement, project["optional-dependencies"][extra]):
        if one.name != "edgepress":
            yield one
        for inner in one.extras - seen if one.name == "edgepress" else ():
            yield from needed(inner, seen | {extra})


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_the_versions_of_the_constraints(name):
    constraints = pinned()
    for package, (version, hashes) in locked(name).items():
        assert hashes, package
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), package
        if not (name.endswith("cuda") and OF_CUDA.fullmatch(package)):
            assert Version(version).public == constraints[package], f"{package}: `make lock` writes the locks anew"


@pytest.mark.parametrize(("name", "extra"), LOCKS.items())
def test_a_lock_holds_what_the_project_asks_for(name, extra):
    found = locked(name)
    asked = [one for one in needed(extra) if one.marker is None or one.marker.evaluate({"python_version": "3.11"})]
    assert len(asked) > 20
    for one in asked:
        version = found[str(canonicalize_name(one.name))][0]
        assert one.specifier.contains(Version(version).public, prereleases=True), one


def test_the_builds_of_torch_are_what_the_names_say():
    assert locked("linux-x86_64-cpu")["torch"][0] == locked("linux-x86_64-dev")["torch"][0] == "2.13.0+cpu"
    assert locked("linux-x86_64-cuda")["torch"][0] == "2.13.0"
    assert not any(OF_CUDA.fullmatch(package) for package in locked("linux-x86_64-dev"))
