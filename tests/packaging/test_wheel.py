"""The built wheel: exactly the package edgepress, and it works in an empty environment without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.deploy.small_models import qdq_onnx
from tests.packaging.conftest import build

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def test_the_same_source_gives_the_same_bytes(source_tree, wheel, tmp_path):
    copy, made = tmp_path / "elsewhere", shutil.ignore_patterns("build", "*.egg-info")
    shutil.copytree(source_tree, copy, copy_function=shutil.copyfile, ignore=made)
    (tmp_path / "out").mkdir()
    assert build(copy, tmp_path / "out").read_bytes() == wheel.read_bytes()


def test_the_wheel_holds_one_package_and_all_of_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"edgepress"}
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    parts = ("models/", "compress/", "deploy/", "benchmarks/")
    wanted = {f"edgepress/{name}" for name in tracked if name.startswith(parts) and (ROOT / name).is_file()}
    wanted |= {name for name in tracked if name.startswith("edgepress/")}
    developers = ("edgepress/benchmarks/experiments/", "edgepress/benchmarks/results/")
    assert {name for name in names if ".dist-info/" not in name} == {
        name for name in wanted if not name.startswith(developers)
    }


@pytest.fixture(scope="module")
def empty_environment(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    installed = subprocess.run(
        [folder / "bin/python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode and "No matching distribution" in installed.stderr:
        pytest.skip("no package index is reachable for the base dependencies")
    assert installed.returncode == 0, installed.stderr[-2000:]
    return folder


def run(environment: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [environment / "bin" / arguments[0], *arguments[1:]], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ["compress", "deploy", "benchmarks"])
def test_commands_answer_without_torch(empty_environment, tmp_path, command):
    assert run(empty_environment, "python", "-c", "import torch", cwd=tmp_path).returncode == 1
    shown = run(empty_environment, command, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Usage" in shown.stdout


def test_a_model_is_profiled_and_gated_without_torch(empty_environment, shared, tmp_path):
    model = str(shared / "data/reference_models/kws_ref_model.tflite")
    profiled = run(empty_environment, "benchmarks", "profile", model, cwd=tmp_path)
    assert profiled.returncode == 0, profiled.stderr
    assert run(empty_environment, "benchmarks", "gate", model, "--limit", "macs=3M", cwd=tmp_path).returncode == 0
    assert run(empty_environment, "benchmarks", "gate", model, "--limit", "macs=2M", cwd=tmp_path).returncode == 1


def test_onnx_is_profiled_and_gated_and_what_runs_it_is_named(empty_environment, tmp_path):
    import numpy as np

    (tmp_path / "net.onnx").write_bytes(qdq_onnx())
    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    assert run(empty_environment, "python", "-c", "import onnxruntime", cwd=tmp_path).returncode == 1
    assert run(empty_environment, "benchmarks", "profile", "net.onnx", cwd=tmp_path).returncode == 0
    assert run(empty_environment, "benchmarks", "gate", "net.onnx", "--limit", "file=1MB", cwd=tmp_path).returncode == 0
    failed = run(empty_environment, "deploy", "run", "net.onnx", "--input", "x.npy", cwd=tmp_path)
    assert failed.returncode == 3
    assert "pip install" in failed.stderr
    assert "edgepress[onnx]" in failed.stderr


def test_training_without_torch_says_what_to_install(empty_environment, tmp_path):
    failed = run(empty_environment, "compress", "train", cwd=tmp_path)
    assert failed.returncode == 3
    assert "edgepress[train]" in failed.stderr
    assert "Traceback" not in failed.stderr
