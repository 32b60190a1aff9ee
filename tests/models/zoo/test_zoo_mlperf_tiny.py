"""DS-CNN, ResNet-8, MobileNetV1 and the auto-encoder against the counts of the MLPerf Tiny reference files."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgepress.models.checkpoints.registry import build, zoo
from edgepress.models.errors import UsageError
from edgepress.models.zoo.same_padding import output_size, same_conv, same_padding
from tests.models.zoo.golden_weights import count

NETWORKS = ("ds_cnn", "resnet8", "mobilenet", "autoencoder")


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("ds_cnn", 2_656_768, 22_604),
        ("resnet8", 12_501_632, 77_706),
        ("mobilenet", 7_489_664, 210_850),
        ("autoencoder", 264_192, 265_864),
    ],
)
def test_counts_are_those_of_the_reference_files(name: str, macs: int, params: int) -> None:
    assert count(build(name), *zoo()[name].input_shapes[0]) == (macs, params)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_before_a_nonlinearity_is_normalised(name: str) -> None:
    layers = [m for m in build(name).modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d))]
    convolutions = [m for m in layers if isinstance(m, (nn.Conv2d, nn.Linear))]
    # Only the head, and ResNet-8's two shortcut convolutions, keep a bias of their own.
    assert sum(m.bias is not None for m in convolutions) == (3 if name == "resnet8" else 1)
    assert len(layers) - len(convolutions) == sum(m.bias is None for m in convolutions)


@pytest.mark.parametrize("name", NETWORKS)
def test_latent_and_logits_of_one_pass(name: str) -> None:
    model = build(name).eval()
    x = torch.randn(2, *zoo()[name].input_shapes[0], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, latent = model.forward_with_latent(x)
        assert torch.equal(logits, model(x))
        assert torch.equal(latent, model.forward_features(x))
    assert latent.shape == {"ds_cnn": (2, 64), "resnet8": (2, 64), "mobilenet": (2, 256), "autoencoder": (2, 8)}[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_network_does_not_fade_out(name: str) -> None:
    """Before training, BatchNorm does nothing in evaluation: the weights alone must carry the input to the output."""
    torch.manual_seed(0)
    model = build(name).eval()
    x = torch.randn(8, *zoo()[name].input_shapes[0])
    with torch.no_grad():
        assert 0.01 < float((model(x) - model(torch.zeros_like(x))).std()) < 1000


def test_same_padding_by_hand() -> None:
    assert same_padding((96, 96), (3, 3), (2, 2)) == (0, 1, 0, 1)
    assert same_padding((49, 10), (10, 4), (2, 2)) == (1, 1, 4, 5)
    assert same_padding((25, 5), (3, 3), (1, 1)) == (1, 1, 1, 1)
    assert same_padding((32, 32), (1, 1), (2, 2)) == (0, 0, 0, 0)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_same_convolution_keeps_ceil_of_size_over_stride(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    layer = nn.Sequential(*same_conv(size, 1, 1, kernel, stride))
    assert tuple(layer(torch.zeros(1, 1, *size)).shape[2:]) == output_size(size, stride)
    left, right, top, bottom = same_padding(size, kernel, stride)
    assert 0 <= right - left <= 1
    assert 0 <= bottom - top <= 1


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("ds_cnn", {"input_size": (49,)}, "input_size = .* must be a list of 2"),
        ("mobilenet", {"width": 0}, "width = 0 must be a number from 0.03125 to 4"),
        ("resnet8", {"n_classes": 0}, "n_classes = 0 is out of range"),
        ("autoencoder", {"n_layers": 1000}, "n_layers = 1000 is out of range"),
    ],
)
def test_wrong_arguments(name: str, config: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, **config)
