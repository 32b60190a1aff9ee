"""CP-ResNet against the published network: keys, counts, logits, receptive field, initialisation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgepress.models.checkpoints.registry import build
from edgepress.models.errors import UsageError
from tests.models.zoo.golden_weights import arrays, count, fill, read_golden, shapes

GOLDEN = ("cp_resnet_rho8", "cp_resnet_dcase22", "cp_resnet_rho5_211")


@pytest.mark.parametrize("name", GOLDEN)
def test_keys_and_logits_are_the_published_ones(shared: Path, name: str) -> None:
    config, state = read_golden(shared, name)
    model = build("cp_resnet", **config)
    assert list(shapes(model).items()) == list(state.items())
    golden = arrays(shared)
    with torch.no_grad():
        logits = fill(model)(golden["mel22"][:, None])
    assert (logits - golden[f"{name}_logits"][:2]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("config", "macs", "params"),
    [
        ({"rho": 8}, 53_812_320, 294_026),
        ({"rho": 4}, 29_236_320, 130_186),
        ({"rho": 8, "n_blocks": (2, 1, 1)}, 37_837_920, 187_146),
        ({"rho": 8, "n_blocks": (2, 1, 1), "s2_group": 2, "cut_channels_s3": 36}, 28_839_120, 127_046),
        ({"rho": 4, "n_blocks": (2, 1, 1), "s2_group": 2, "cut_channels_s3": 36}, 19_315_920, 63_558),
        ({"rho": 6, "n_blocks": (2, 1, 1), "s2_group": 2, "cut_channels_s3": 36}, 21_773_520, 79_942),
    ],
)
def test_counts_are_the_published_ones(config: dict, macs: int, params: int) -> None:
    assert count(build("cp_resnet", **config), 1, 256, 44) == (macs, params)


@pytest.mark.parametrize(
    ("rho", "n_blocks", "frequency", "time"),
    [
        (4, (2, 2, 2), 91, 39),
        (6, (2, 2, 2), 155, 55),
        (8, (2, 2, 2), 219, 71),
        (4, (2, 1, 1), 91, 39),
        (5, (2, 1, 1), 123, 47),
        (8, (2, 1, 1), 155, 55),
        (10, (2, 1, 1), 187, 63),
    ],
)
def test_receptive_field(rho: int, n_blocks: tuple[int, ...], frequency: int, time: int) -> None:
    """Size of the input region that reaches one position of the last stage, from the kernels and strides alone."""
    field, step = [1, 1], [1, 1]
    for layer in build("cp_resnet", rho=rho, n_blocks=n_blocks).modules():
        if (isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)) or isinstance(layer, nn.MaxPool2d):
            kernel = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * 2
            stride = layer.stride if isinstance(layer.stride, tuple) else (layer.stride,) * 2
            for axis in range(2):
                field[axis] += (kernel[axis] - 1) * step[axis]
                step[axis] *= stride[axis]
    # The field of what stage 3 sees ends at its last 3 x 3; pooling after the last block of stage 1 lies before it.
    assert field == [frequency, time]


def test_building_twice_gives_the_same_weights() -> None:
    """The published initialisation depends on how many networks were built before; ours must not."""
    first, second = (torch.random.manual_seed(3) and build("cp_resnet", init="published") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_published_initialisation() -> None:
    torch.manual_seed(0)
    model = build("cp_resnet", rho=8, base_channels=64, init="published").requires_grad_(False)
    assert model.feed_forward[0].weight.abs().max() == 0
    assert model.stage2.block1.conv2.weight.abs().max() == 0
    conv1 = model.stage2.block1.conv1
    # sqrt(2 / (3 * 3 * 128)) / sqrt(6 blocks), estimated from 73,728 draws.
    assert float(conv1.weight.std()) == pytest.approx((2 / (9 * 128)) ** 0.5 * 6**-0.5, rel=0.02)
    assert float(model.stage2.block1.shortcut.conv.weight.std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)


def test_default_initialisation_is_small_but_says_something() -> None:
    """No filter is zero, and the logits of a fresh network do not vanish, in evaluation as in training."""
    torch.manual_seed(0)
    model = build("cp_resnet").requires_grad_(False)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            norms = layer.weight.flatten(1).norm(dim=1)
            small = name.endswith("conv2") or name == "feed_forward.0"
            assert norms.min() > 0
            # He: a filter's squared norm is about 2, whatever its size.
            assert float(norms.square().mean()) == pytest.approx(2 * (1e-4 if small else 1), rel=0.3)
    x = torch.randn(8, 1, 256, 44)
    evaluated = model.eval()(x)
    assert 0.1 < float(evaluated.std()) < 1000
    assert 0.01 < float(model.train()(x).std()) < 10


def test_one_step_of_training_changes_a_fresh_network() -> None:
    torch.manual_seed(0)
    model = build("cp_resnet", base_channels=4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x, y = torch.randn(16, 1, 256, 44), torch.arange(16) % 10
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.2


def test_latent_and_logits_of_one_pass() -> None:
    model = fill(build("cp_resnet", rho=8, base_channels=8))
    x = torch.randn(3, 1, 256, 44, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, latent = model.forward_with_latent(x)
        assert latent.shape == (3, 32)
        assert torch.equal(logits, model(x))
        assert torch.equal(latent, model.forward_features(x))
        # In evaluation mode the head is affine, so that it maps the averaged latent to the averaged logits.
        again = model.feed_forward(latent[:, :, None, None]).flatten(1)
    assert torch.allclose(again, logits, atol=1e-5)


def test_a_dropped_stage_three() -> None:
    model = build("cp_resnet", n_blocks=(1, 1, 0), base_channels=8)
    assert model(torch.zeros(2, 1, 256, 44)).shape == (2, 10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rho": -1}, "rho = -1 is out of range"),
        ({"rho": "8"}, "rho = '8' must be a whole number"),
        ({"rho": 8.5}, "rho = 8.5 must be a whole number"),
        ({"rho": float("inf")}, "rho = inf is out of range"),
        ({"base_channels": 10**9}, "base_channels = 1000000000 is out of range"),
        ({"base_channels": True}, "base_channels = True must be"),
        ({"n_blocks": (2, 2)}, "n_blocks = .* must be a list of 3"),
        ({"n_blocks": (3, 1, 1)}, r"n_blocks\[0\] = 3 is out of range"),
        ({"n_blocks": (0, 1, 1)}, r"n_blocks\[0\] = 0 is out of range"),
        ({"s2_group": 3}, "s2_group = 3 must divide the channels of stages 1 and 2"),
        ({"cut_channels_s3": 128}, "stage 3 would have 0 channels"),
        ({"init": "fixup"}, "init = 'fixup' is unknown: allowed are 'small', 'published'"),
    ],
)
def test_wrong_arguments(config: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build("cp_resnet", **config)
