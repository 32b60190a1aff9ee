"""What to type for a missing extra: from a release, a repository, a file and a clone; and where there is no package."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgepress.models.terminal import installation

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def released(monkeypatch, tmp_path):
    """As installed in a site-packages of its own, with pip beside its Python; the origin is set by the test."""
    for name in ("bin/python", "bin/pip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    monkeypatch.setattr(installation, "find_spec", lambda name: object())
    monkeypatch.setattr(installation.edgepress, "__file__", str(tmp_path / "site-packages/edgepress/__init__.py"))

    def origin(told: dict | None) -> None:
        text = None if told is None else json.dumps(told)
        monkeypatch.setattr(installation, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))

    origin(None)
    return origin


def test_a_release_is_extended_by_name(released):
    assert installation.how_to_install("torch") == "pip install 'edgepress[train]'"


def test_what_came_from_a_repository_is_extended_from_there(released):
    vcs = {"vcs": "git", "commit_id": "abc123", "requested_revision": "v0.1.0"}
    released({"url": "https://example.org/edgepress.git", "vcs_info": vcs})
    expected = "pip install 'edgepress[sweep] @ git+https://example.org/edgepress.git@abc123'"
    assert installation.how_to_install("optuna") == expected


def test_what_came_from_a_file_is_extended_from_it_while_it_is_there(released, tmp_path):
    wheel = tmp_path / "edgepress-0.1.0-py3-none-any.whl"
    released({"url": wheel.as_uri(), "archive_info": {}})
    assert installation.how_to_install("jinja2") == "pip install 'edgepress[report]'"
    wheel.touch()
    assert installation.how_to_install("jinja2") == f"pip install 'edgepress[report] @ {wheel.as_uri()}'"


def test_a_clone_is_extended_in_place(released, monkeypatch, tmp_path):
    clone = tmp_path / "my clone"
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    monkeypatch.setattr(installation.edgepress, "__file__", str(clone / "edgepress/__init__.py"))
    assert installation.how_to_install("torch") == f"pip install -e '{clone}[train]'"


def test_the_installer_is_that_of_this_environment(released, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installation.how_to_install("torch") == f"{sys.executable} -m pip install 'edgepress[train]'"
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    expected = f"uv pip install --python {sys.executable} 'edgepress[train]'"
    assert installation.how_to_install("torch") == expected


@pytest.mark.parametrize(
    ("package", "system", "machine", "why"),
    [
        ("tflite_micro", "darwin", "arm64", "no package of TFLite Micro for macOS on arm64"),
        ("tflite_micro", "linux", "aarch64", "no package of TFLite Micro for Linux on aarch64"),
        ("tflite_micro", "linux", "x86_64", None),
        ("litert_torch", "win32", "AMD64", "no converter to TFLite (litert-converter) for Windows on AMD64"),
        ("litert_torch", "linux", "aarch64", "no converter to TFLite (litert-converter) for Linux on aarch64"),
        ("litert_torch", "darwin", "arm64", None),
        ("litert_torch", "linux", "x86_64", None),
        ("torch", "win32", "AMD64", None),
    ],
)
def test_a_machine_without_a_package_is_told_so(released, monkeypatch, package, system, machine, why):
    monkeypatch.setattr(installation, "_installer", lambda: "pip install")
    monkeypatch.setattr(installation.sys, "platform", system)
    monkeypatch.setattr(installation.platform, "machine", lambda: machine)
    told = installation.how_to_install(package)
    if why is None:
        assert told.startswith("pip install")
    else:
        assert why in told
        assert "pip" not in told


def test_every_package_is_in_the_extra_that_is_named():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = {"ethosu": "ethos-u-vela", "vl_convert": "vl-convert-python", "yaml": "pyyaml"}
    for package, extra in installation.EXTRAS.items():
        name = distributions.get(package, package.replace("_", "-"))
        assert any(entry.startswith(name) for entry in extras[extra]), f"{package} is not in {extra}"
