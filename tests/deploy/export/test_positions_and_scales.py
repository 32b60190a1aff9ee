"""What EdgeNeXt, EfficientViT and their like bring: positions counted in a mask, scales of layers, tables of tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.fold import fold
from edgepress.deploy.export.comparison import compare_with_torch
from edgepress.deploy.export.export import export_model
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.verify.match import match_values
from edgepress.models.errors import ParityError

aten = torch.ops.aten
X = torch.randn(8, 3, 6, 4, generator=torch.Generator().manual_seed(1))


class Positions(nn.Module):
    """Sines of the place of every pixel, counted for each sample of the batch, as in EdgeNeXt and DETR."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.project = nn.Conv2d(3, 4, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        here = ~torch.zeros((len(x), *x.shape[2:]), device=x.device).bool()
        places = [here.cumsum(axis, dtype=torch.float32) for axis in (1, 2)]
        return torch.relu(self.conv(x)) + self.project(torch.stack([torch.sin(one / 3) for one in places], 1))


class ScaledLayers(nn.Module):
    """A dense layer over [N, H, W, C] with a scale of its own for every channel behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense, self.scale = nn.Linear(3, 5), nn.Parameter(torch.rand(5) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.scale * self.dense(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class TwoTables(nn.Module):
    """A function of one variable of another one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(nn.functional.gelu(self.conv(x)))


def test_what_depends_on_the_size_of_the_batch_alone_is_a_constant():
    net = Positions().eval()
    folded = fold(net, X[:1])
    made = {node.target for node in folded.module.graph.nodes if node.op == "call_function"}
    assert not {aten.linear.default, aten.sin.default, aten.bitwise_not.default, aten.zeros.default} & made
    for batch in (X[:1], X[:3], X):
        assert torch.allclose(folded.module(batch), net(batch), atol=1e-6)


def test_what_differs_from_sample_to_sample_is_none():
    class Counted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(len(x), 1, 1, 1).cumsum(0)

    folded = fold(Counted(), X[:1])
    assert torch.equal(folded.module(X), Counted()(X))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
@pytest.mark.parametrize("kind", [Positions, ScaledLayers, TwoTables])
def test_files_hold_what_the_network_computes(kind: type[nn.Module], suffix: str, tmp_path: Path):
    pytest.importorskip("litert_torch")
    net = kind().eval()
    made = export_model(quantize_model(net, X[:1], [X]), X[:1], tmp_path / f"net.{suffix}", samples=X)
    assert made.manifest["float_islands"] == []
    with open_session(made.path) as session, torch.no_grad():
        expected = net(X).numpy()
        assert np.abs(session.run(X.numpy()) - expected).max() < 0.03 * np.abs(expected).max()


class Scattered(nn.Module):
    """Tensors whose values do not lie one behind the other, all of one size: maps of positions and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.ParameterList(torch.randn(12, 12, 8).permute(2, 0, 1)[None] for _ in range(6))
        self.convs = nn.ModuleList(
            nn.Conv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last) for _ in range(6)
        )
        self.first, self.second = (torch.randn(12, 12, 8).permute(2, 0, 1)[None] for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for place, conv in zip(self.maps, self.convs, strict=True):
            x = torch.tanh(conv(torch.relu(x) + place))
        return torch.relu(x + self.first) * self.second


@pytest.mark.slow
def test_scattered_tensors_are_told_apart(tmp_path: Path):
    """LiteRT-Torch takes two constants for one where the second is copied to the address that the first copy had."""
    pytest.importorskip("litert_torch")
    net, x = Scattered().eval(), torch.randn(2, 8, 12, 12, generator=torch.Generator().manual_seed(1))
    made = export_model(net, x[:1], tmp_path / "net.tflite", samples=x)
    with open_session(made.path) as session, torch.no_grad():
        assert np.abs(session.run(x.numpy()) - net(x).numpy()).max() < 1e-5
    assert net.convs[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]


def test_what_overflowed_matches_nothing():
    ours = {"big": np.array([np.inf, 1.0], np.float32), "plain": np.array([2.0, 3.0], np.float32)}
    theirs = [("a", np.array([np.inf, 1.0], np.float32)), ("b", np.array([2.0, 3.0], np.float32))]
    assert match_values(ours, theirs) == {"b": ["plain"]}


class MapsBehind(nn.Module):
    """Maps added to what a convolution and a dense layer with biases give, with nothing between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dense, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 8), nn.Conv2d(8, 4, 1)
        self.map, self.rows = nn.Parameter(torch.randn(1, 8, 4, 4)), nn.Parameter(torch.randn(1, 16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = (self.first(x) + self.map).flatten(2).transpose(1, 2)
        return self.last((self.dense(rows) + self.rows).transpose(1, 2).unflatten(2, (4, 4)))


@pytest.mark.slow
def test_a_map_behind_a_layer_leaves_the_layer_in_integers(tmp_path: Path):
    """The converter melts the bias of the layer into the map, and the value between them is in no file."""
    pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    net, x = MapsBehind().eval(), torch.randn(8, 3, 8, 8)
    made = export_model(quantize_model(net, x[:1], [x]), x[:1], tmp_path / "net.tflite")
    assert made.manifest["float_islands"] == []
    assert all(figures["max_lsb"] <= 1 for figures in made.manifest["parity"]["runtimes"].values())


class Distances(nn.Module):
    """Distances as a mean over bins, as YOLOv8's head has them (Li et al. 2020, arXiv 2006.04388, equation 5)."""

    def __init__(self, by: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.by = nn.Conv2d(3, 4 * 16, 3, padding=1), by
        self.register_buffer("bins", torch.arange(16.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.conv(x).view(len(x), 4, 16, -1)
        if self.by == "a product":
            return rows.transpose(2, 3).softmax(3) @ self.bins
        return (rows.softmax(2) * self.bins.view(1, 1, -1, 1)).sum(2)


@pytest.mark.parametrize("by", ["a sum", "a product"])
def test_distances_as_means_over_bins_are_in_integers(by: str, tmp_path: Path):
    """The converter moves a transpose behind the product that reads it; a product with a vector is a dense layer."""
    pytest.importorskip("litert_torch")
    net = Distances(by).eval()
    quantized = quantize_model(net, X[:1], [X])
    for form in ("tflite", "onnx"):
        made = export_model(quantized, X[:1], tmp_path / f"net.{form}")
        assert made.manifest["float_islands"] == []
        runtime = "litert" if form == "tflite" else "onnxruntime"
        assert made.manifest["parity"]["runtimes"][runtime]["max_lsb"] <= 1


class Amplifying(nn.Module):
    """Steps y -> 4 y (1 - y), each of which doubles a difference: 24 of them make everything of a rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sigmoid(self.first(x))
        for _ in range(24):
            y = 4 * y * (1 - y)
        return self.last(y)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_a_network_that_amplifies_roundings_stays_in_integers(form: str):
    """Its values in a converter's file are soon none of ours any more, which left everything behind in float."""
    from edgepress.deploy.export.to_onnx import integer_onnx
    from edgepress.deploy.export.to_tflite import integer_tflite

    if form == "tflite":
        pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    net, x = Amplifying().eval(), torch.randn(4, 3, 8, 8)
    made = {"tflite": integer_tflite, "onnx": integer_onnx}[form](quantize_model(net, x[:1], [x]), (x[:1],))
    assert made.islands == []
    assert len(made.ranges) >= 24 * 3 + 3


@pytest.mark.slow
def test_what_only_rounds_in_every_layer_is_written(tmp_path: Path):
    """Farther from fake quantization than quantization is from float; yet no layer by itself is off by two steps."""
    pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    net, x = Amplifying().eval(), torch.randn(4, 3, 8, 8)
    quantized = quantize_model(net, x[:1], [x])
    path = export_model(quantized, x[:1], tmp_path / "net.tflite", verify=False).path
    scales = [float(quantized.output_integers()[0].scale)]
    judged = {"reference": quantized.settled().model.eval(), "batch": (x,), "runtimes": ["litert-reference"]}
    with pytest.raises(ParityError, match="litert-reference by max_lsb"):
        compare_with_torch(path, **judged, scales=scales)
    found = compare_with_torch(path, **judged, scales=scales, quantized=quantized)
    assert found["runtimes"]["litert-reference"]["amplified"]
