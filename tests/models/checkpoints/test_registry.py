"""Names, arguments, and factories outside the zoo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgepress.models.checkpoints.registry import arguments_of, build, fit_arguments, resolve_factory, zoo
from edgepress.models.errors import UsageError


def test_every_network_of_the_zoo_takes_its_stated_input() -> None:
    for name, entry in zoo().items():
        config = {"embed_dim": 24, "depth": 1} if name == "passt" else {}
        model = build(name, **config).eval()
        with torch.no_grad():
            out = model(*(torch.zeros(2, *shape) for shape in entry.input_shapes))
        assert out.ndim == 2
        assert len(out) == 2
        assert entry.summary


def test_zoo_is_light_and_a_copy() -> None:
    code = (
        "import sys; from edgepress.models.checkpoints import checkpoint, registry, spec; registry.zoo(); "
        "print([m for m in ('torch', 'lightning', 'safetensors') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
        ).stdout.strip()
        == "[]"
    )
    zoo().clear()
    assert zoo()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cp_resnt", r"network 'cp_resnt' is unknown \(did you mean 'cp_resnet'\?\); known are cp_resnet, cp_mobile"),
        ("zzz", "network 'zzz' is unknown; known are"),
        ("os:system", "a factory of your own goes through resolve_factory"),
        (None, "network None is unknown"),
    ],
)
def test_unknown_network(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name)


def test_unknown_argument() -> None:
    with pytest.raises(
        UsageError,
        match=r"cp_resnet has no argument 'base_chanels' \(did you mean "
        r"'base_channels'\?\); known are rho, in_channels",
    ):
        build("cp_resnet", base_chanels=8)
    assert arguments_of("cp_resnet")["base_channels"] == 32


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cp_resnet", (2, 128, 30)),
        ("cp_mobile", (1, 256, 64)),
        ("ds_cnn", (1, 256, 44)),
        ("resnet8", (1, 40, 41)),
        ("mobilenet", (1, 128, 43)),
        ("passt_tiny", (1, 64, 50)),
    ],
)
def test_fit_arguments_make_any_network_take_a_task(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, **fit_arguments(name, shape, 7)).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, *shape)).shape == (1, 7)


def test_fit_arguments_of_the_autoencoder_and_a_misfit() -> None:
    assert fit_arguments("autoencoder", (320,), 2) == {"n_inputs": 320}
    with pytest.raises(UsageError, match=r"autoencoder takes inputs with 1 dim.* the task has 3 \(1 x 256 x 44\)"):
        fit_arguments("autoencoder", (1, 256, 44), 10)


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder, which no path of Python's holds."""
    (tmp_path / "ep_user_net.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    pass\n\ndef make(n=2):\n    return Net(n, n)\nnumber = 3\n"
    )
    (tmp_path / "ep_broken_net.py").write_text("raise RuntimeError('no such luck')\n")
    (tmp_path / "ep_needy_net.py").write_text("import a_package_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "ep_user_net"
    for name in ("ep_user_net", "ep_broken_net", "ep_needy_net"):
        sys.modules.pop(name, None)


def test_factory_in_the_working_folder(user_module: str) -> None:
    before = list(sys.path)
    assert resolve_factory(f"{user_module}:make")(3).weight.shape == (3, 3)
    assert resolve_factory(f"{user_module}:Net.to").__name__ == "to"
    assert sys.path == before


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
    ],
)
def test_bad_factories(user_module: str, reference: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_factory(reference)
