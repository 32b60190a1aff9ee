"""The wheel in a stranger's project that has packages of our folders' names: neither finds the other's by accident."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

NETWORK = """
from torch import nn

from compress import CHANNELS
from deploy.sizes import CLASSES


def make():
    return nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES))
"""
TASK = """
import numpy as np

from edgepress import Split, Task
from benchmarks import CLIPS


def make():
    rng = np.random.default_rng(0)
    sizes = {"train": CLIPS, "validation": 8, "test": 8}
    splits = {name: Split([f"{name}-{i}" for i in range(n)], rng.integers(0, 4, n)) for name, n in sizes.items()}
    arrays = {name: rng.normal(size=(n, 3, 16, 16)).astype("float32") for name, n in sizes.items()}
    return Task("mine", ("a", "b", "c", "d"), (3, 16, 16), "0f", splits, arrays.__getitem__)
"""


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel alone in a folder, with what this interpreter has of its dependencies; this checkout is hidden."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel],
        check=True,
        capture_output=True,
    )
    # An editable install would answer for whatever the wheel lacks.
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in getattr(f, '__module__', '')]\n"
    )
    return folder


@pytest.fixture(params=["packages", "folders"])
def project(request, tmp_path) -> Path:
    """A project with packages named like our folders; as plain folders they are namespace packages."""
    files = {
        "models/net.py": NETWORK,
        "compress/__init__.py": "CHANNELS = 16\n",
        "deploy/sizes.py": "CLASSES = 4\n",
        "benchmarks/__init__.py": "CLIPS = 24\n",
        "mytask.py": TASK,
        "tests/test_net.py": "from models.net import make\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    if request.param == "packages":
        for name in ("models", "deploy", "tests"):
            (tmp_path / name / "__init__.py").write_text("")
    return tmp_path


def call(installed: Path, project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(command), cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_both_are_imported_side_by_side(installed, project):
    program = (
        "from models.net import make; import edgepress, torch; from edgepress import prune_model\n"
        "pruned = prune_model(make(), torch.zeros(1, 3, 16, 16), macs='50%')\n"
        "print(edgepress.__file__); print(pruned.after.macs <= 0.5 * pruned.before.macs)"
    )
    done = call(installed, project, sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(installed / "edgepress/__init__.py"), "True"]
    hidden = call(installed, project, sys.executable, "-c", "import edgepress.benchmarks.experiments")
    assert "ModuleNotFoundError" in hidden.stderr


@pytest.mark.parametrize("entry", ["script", "module", "one command"])
def test_an_own_network_is_pruned_and_gated_from_every_entry(installed, project, entry):
    def entered(name: str) -> tuple[str, ...]:
        return {
            "script": (sys.executable, str(installed / "bin" / name)),
            "module": (sys.executable, "-m", f"edgepress.{name}"),
            "one command": (sys.executable, "-m", "edgepress", name),
        }[entry]

    pruned = call(
        installed,
        project,
        *entered("compress"),
        *("prune", "--model", "models.net:make", "--input", "1,3,16,16", "--target-macs", "50%", "--no-device-limits"),
        *("--data", "mytask:make", "--epochs", "1", "--run", "run"),
    )
    assert pruned.returncode == 0, pruned.stderr[-2000:]
    index = [json.loads(line) for line in (project / "run/index.jsonl").read_text().splitlines()]
    dense, smaller = (entry for entry in index if entry["kind"] == "checkpoint")
    assert smaller["macs"] <= dense["macs"] / 2
    checkpoint = str(project / "run" / smaller["path"])
    for limit, code in ((smaller["macs"], 0), (smaller["macs"] - 1, 1)):
        gated = call(
            installed, project, *entered("benchmarks"), "gate", checkpoint, "--limit", f"macs={limit}", "--trust"
        )
        assert gated.returncode == code, gated.stdout + gated.stderr


def test_the_hook_holds_a_model_in_a_project_with_a_package_named_benchmarks(source_tree, tmp_path, shared):
    """With the real pre-commit, which installs the hook into an environment of its own."""
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    project = tmp_path / "project"
    (project / "benchmarks").mkdir(parents=True)
    (project / "benchmarks/__init__.py").write_text("")

    def git(folder: Path, *arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)

    git(source_tree, "init", "-q")
    git(source_tree, "add", "-A", "-f")
    git(source_tree, "commit", "-q", "-m", "as it is")
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=source_tree, capture_output=True, text=True, check=True
    ).stdout.strip()
    shutil.copy(shared / "data/reference_models/kws_ref_model.tflite", project / "kws.tflite")
    environment = {**os.environ, "PRE_COMMIT_HOME": str(project / ".pre-commit")}
    environment.pop("PYTHONPATH", None)

    def hook(limit: str) -> subprocess.CompletedProcess[str]:
        (project / ".pre-commit-config.yaml").write_text(
            f"repos:\n- repo: {source_tree}\n  rev: {revision}\n  hooks:\n"
            f"  - id: edgepress-gate\n    args: [--limit, {limit}]\n"
        )
        git(project, "add", "kws.tflite", ".pre-commit-config.yaml")
        return subprocess.run(
            [sys.executable, "-m", "pre_commit", "run", "--files", "kws.tflite"],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    git(project, "init", "-q")
    passed = hook("file=60kB")
    if passed.returncode and "No matching distribution" in passed.stdout + passed.stderr:
        pytest.skip("no package index is reachable for the hook's dependencies")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert hook("file=50kB").returncode == 1


def test_a_users_type_checker_knows_the_public_names(installed, tmp_path):
    """What pyright sees of the installed package: `py.typed`, and types that it need not infer from our bodies."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    checked = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "edgepress", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(checked.stdout)["typeCompleteness"]
    assert Path(report["pyTypedPath"]).parent == installed / "edgepress"
    assert report["completenessScore"] >= 0.95
