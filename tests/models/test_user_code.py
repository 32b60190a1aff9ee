"""A user's module is found in the folder where they work, from every entry, and nothing of ours is taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepress.models.checkpoints.registry import make_network, resolve_factory
from edgepress.models.errors import UsageError
from edgepress.models.tasks import load_task
from edgepress.models.user_code import find_object, is_reference

ROOT = Path(__file__).resolve().parents[2]
#: Where edgepress lies alone, as when it is installed; in a checkout our parts stand at the top as well.
ALONE, CHECKOUT = ROOT / "tests/typing", ROOT


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder that no path of Python's holds, with modules of a user."""
    (tmp_path / "ep_user_net.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    pass\n\ndef make(n=2):\n    return Net(n, n)\nnumber = 3\n"
        "def later():\n    import ep_user_sizes\n    return ep_user_sizes.SIZE\n"
    )
    (tmp_path / "ep_user_sizes.py").write_text("SIZE = 7\n")
    (tmp_path / "ep_broken_net.py").write_text("raise RuntimeError('no such luck')\n")
    (tmp_path / "ep_needy_net.py").write_text("import a_package_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("ep_")]:
        sys.modules.pop(name)


def test_what_names_code():
    assert is_reference("package.module:factory")
    assert is_reference("m:Class.method")
    assert not any(is_reference(text) for text in ("m", "../m:f", "m:", "m:f()", "1m:f", "m :f", None))


def test_a_module_of_the_working_folder(here):
    """It comes first while it is imported; what it imports later is found, but hides nothing of others."""
    before = list(sys.path)
    assert resolve_factory("ep_user_net:make")(3).weight.shape == (3, 3)
    assert resolve_factory("ep_user_net:Net.to").__name__ == "to"
    assert sys.path == [*before, str(here)]
    assert find_object("ep_user_net:later")() == 7


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("ep_user_net", "must have the form package.module:factory"),
        ("../evil:make", "must have the form package.module:factory"),
        ("ep_user_net:mak", r"has no 'mak' \(did you mean 'make'\?\)"),
        ("ep_user_net:number", "is a int; it must be a function or a class"),
        ("ep_broken_net:make", "cannot be imported: RuntimeError: no such luck"),
        ("ep_needy_net:make", "needs 'a_package_nobody_has', which is not installed"),
        ("ep_absent.net:make", "there is no module 'ep_absent.net'"),
        ("edgepress.models.absent:make", "there is no module 'edgepress.models.absent'"),
    ],
)
def test_bad_references(here, reference, message):
    with pytest.raises(UsageError, match=message):
        resolve_factory(reference)


def test_a_name_that_is_taken(here):
    """The module that the user typed is never silently another one; nor is another one's put in its place."""
    (here / "json.py").write_text("def make():\n    return 1\n")
    with pytest.raises(UsageError, match=r"the name json is taken by .*json/__init__.py.*; rename"):
        find_object("json:make")
    import json

    assert json.loads("1") == 1


def call(folder: Path, entry: str, path: Path, reference: str) -> subprocess.CompletedProcess[str]:
    """Find an object and call it, from a script that lies elsewhere, by `python -c`, or without the working folder."""
    program = f"from edgepress.models.user_code import find_object\nprint(find_object({reference!r})())"
    options = {"-c": ["-c", program], "-P": ["-P", "-c", program]}.get(entry)
    if options is None:
        script = folder.parent / "script.py"
        script.write_text(program)
        options = [str(script)]
    return subprocess.run(
        [sys.executable, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("entry", ["script", "-c", "-P"])
@pytest.mark.parametrize("kind", ["packages", "folders"])
def test_packages_named_like_ours(tmp_path, kind, entry):
    """With `__init__.py` or without; siblings are found when the module loads, and when its factory is called."""
    project = tmp_path / "project"
    for name in ("models", "compress", "deploy", "benchmarks", "tests"):
        (project / name).mkdir(parents=True)
        (project / name / "own.py").write_text(f"NAME = {name!r}\n")
        if kind == "packages":
            (project / name / "__init__.py").touch()
    siblings = "import compress.own, tests.own"
    (project / "models/net.py").write_text(
        f"{siblings}\ndef make():\n    import deploy.own, benchmarks.own\n"
        "    return compress.own.NAME, tests.own.NAME, deploy.own.NAME, benchmarks.own.NAME\n"
    )
    done = call(project, entry, ALONE, "models.net:make")
    assert done.stdout.strip() == "('compress', 'tests', 'deploy', 'benchmarks')", done.stderr
    assert done.stderr == "running code outside edgepress: models.net:make\n"


@pytest.mark.parametrize("kind", ["packages", "folders"])
def test_a_checkout_on_the_path_hides_nothing(tmp_path, kind):
    project = tmp_path / "project"
    (project / "models/nets").mkdir(parents=True)
    (project / "models/nets/small.py").write_text("def make():\n    return 'theirs'\n")
    if kind == "packages":
        (project / "models/__init__.py").touch()
    assert call(project, "script", CHECKOUT, "models.nets.small:make").stdout == "theirs\n"


@pytest.mark.parametrize("path", [ALONE, CHECKOUT])
@pytest.mark.parametrize("inside", [False, True])
def test_nothing_of_ours_is_found_by_accident(tmp_path, path, inside):
    (tmp_path / "models").mkdir()  # of weights, say
    done = call(ROOT if inside else tmp_path, "-P", path, "models.units:parse_quantity")
    assert done.returncode == 1
    assert "there is no module 'models.units'" in done.stderr
    assert ("say edgepress.models.units" in done.stderr) == (inside or path == CHECKOUT)


def test_a_task_is_found_the_same_way(here):
    (here / "ep_own_task.py").write_text(
        "import numpy as np\nfrom edgepress import Split, Task\n"
        "def make():\n"
        "    split = Split(('p', 'q'), np.array([0, 1]))\n"
        "    return Task('own', ('x', 'y'), (3,), '00', {'test': split}, lambda name: np.zeros((2, 3), np.float32))\n"
    )
    assert load_task("ep_own_task:make", trust=True).name == "own"
    with pytest.raises(UsageError, match=r"data = 'ep_own_task:made': .* \(did you mean 'make'\?\)"):
        load_task("ep_own_task:made", trust=True)


def test_code_that_fails_is_the_users_and_is_named_with_its_place(here):
    (here / "ep_failing.py").write_text(
        "def make(front_end=None):\n    return 1 / 0\ndef net(width):\n    return width\n"
    )
    message = r"ep_failing:make failed.*: ZeroDivisionError: division by zero \(.*ep_failing.py, line 2\)"
    with pytest.raises(UsageError, match=message):
        load_task("ep_failing:make", trust=True)
    with pytest.raises(UsageError, match=message):
        make_network("ep_failing:make", {})
    with pytest.raises(UsageError, match=r"ep_failing:net failed with {'depth': 3}: TypeError: .*'depth'"):
        make_network("ep_failing:net", {"depth": 3})
    with pytest.raises(UsageError, match=r"ep_failing:net returned a int; it must return a torch.nn.Module"):
        make_network("ep_failing:net", {"width": 3})
