"""CP-Mobile against the published network: keys, counts, logits, the trained weights on a real recording."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgepress.models.checkpoints.registry import build
from edgepress.models.errors import UsageError
from edgepress.models.zoo.cp_mobile import GRN, make_divisible
from tests.models.zoo.golden_weights import arrays, count, fill, read_golden, shapes


def test_published_weights_load_and_name_the_scene(shared: Path) -> None:
    _, state = read_golden(shared, "cp_mobile")
    model = build("cp_mobile")
    assert list(shapes(model).items()) == list(state.items())
    model.load_state_dict(load_file(shared / "data/golden/cp_mobile_tau22.safetensors"))
    golden = arrays(shared)
    with torch.no_grad():
        logits = model.eval()(golden["mel23"][:, None])
    assert (logits - golden["cp_mobile_logits"][:2]).abs().max() < 1e-4
    assert logits.argmax(1).tolist() == [3, 3]  # metro_station


@pytest.mark.parametrize(
    ("base", "growth", "expansion", "macs_with_bias", "params"),
    [
        (8, 1.9, 1.7, 1.582e6, 5_722),
        (16, 1.5, 1.7, 4.354e6, 12_310),
        (24, 1.5, 1.9, 9.638e6, 30_106),
        (32, 1.7, 1.9, 16.803e6, 54_182),
        (32, 2.3, 3.0, 29.561e6, 124_862),
    ],
)
def test_counts_are_the_official_ones(
    base: int, growth: float, expansion: float, macs_with_bias: float, params: int
) -> None:
    """The official figures count the bias once per output position, and GRN's two numbers per block as parameters."""
    model = build("cp_mobile", base_channels=base, channels_multiplier=growth, expansion_rate=expansion)
    core, found = count(model, 1, 256, 64)
    biases = 0

    def hook(layer: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal biases
        biases += output[0].numel()

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(hook)
    with torch.no_grad():
        model(torch.zeros(1, 1, 256, 64))
    assert found + 2 * 6 == params
    assert core + biases == pytest.approx(macs_with_bias, abs=500)


def test_grn_by_hand() -> None:
    """Channel norms 5 and 15, their mean 10, so shares 0.5 and 1.5; y = gamma x n + beta + x."""
    grn = GRN()
    with torch.no_grad():
        grn.gamma.fill_(2)
        grn.beta.fill_(1)
    x = torch.tensor([[[[3.0, 4.0]], [[9.0, 12.0]]]])
    expected = torch.tensor([[[[7.0, 9.0]], [[37.0, 49.0]]]])
    assert torch.allclose(grn(x), expected, atol=1e-4)


def test_grn_of_silence_has_finite_gradients() -> None:
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    GRN()(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_widths_are_rounded_as_published() -> None:
    assert [make_divisible(n) for n in (1, 11.9, 12, 24.1, 26.9, 73.6, 169.28)] == [8, 16, 16, 24, 32, 72, 168]


def test_strides_and_shortcuts() -> None:
    model = build("cp_mobile", base_channels=16, n_blocks=(2, 1), strides={"b1": [2, 1]})
    assert model.stages.s1.b1.shortcut.stride == (2, 1)
    assert model.stages.s1.b2.block[1][0].stride == (1, 1)
    assert not model.stages.s2.b3.use_shortcut
    with torch.no_grad():
        body = model.stages(model.in_c(torch.zeros(1, 1, 256, 64)))
    assert body.shape[2:] == (32, 16)


def test_latent_and_logits_of_one_pass() -> None:
    model = fill(build("cp_mobile", base_channels=8))
    x = torch.randn(2, 1, 256, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, latent = model.forward_with_latent(x)
        assert torch.equal(logits, model(x))
        assert torch.equal(latent, model.forward_features(x))
        assert torch.allclose(model.feed_forward(latent[:, :, None, None]).flatten(1), logits, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"strides": {"b9": (2, 2)}}, "unknown block 'b9': known are b1, b2, b3, b4, b5, b6"),
        ({"strides": [2, 2]}, "strides = .* must map block names"),
        ({"strides": {"b2": 2}}, r"strides\['b2'\] = 2 must be a list of 2"),
        ({"channels_multiplier": 1e9}, "channels_multiplier = .* from 0.125 to 8"),
        ({"base_channels": 4096, "channels_multiplier": 8}, "width of the last stage"),
        ({"expansion_rate": float("nan")}, "expansion_rate = nan must be a number"),
        ({"n_blocks": ()}, "n_blocks = .* must be a list of 1 to 8"),
    ],
)
def test_wrong_arguments(config: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build("cp_mobile", **config)
