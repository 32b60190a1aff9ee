"""Names, arguments, and factories outside the zoo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgepress.models.checkpoints.registry import arguments_of, build, fit_arguments, zoo
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
