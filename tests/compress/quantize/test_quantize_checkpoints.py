"""Int8 checkpoints of any network: layers whose tensors have no place in the original, what stands behind layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgepress.compress.quantize import prepare_qat, quantization_json, quantize_model, restore_quantized, unfold
from edgepress.compress.quantize.fold import fold
from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.layers import LAYERS, weight_and_bias
from edgepress.models.checkpoints.checkpoint import (
    load_checkpoint,
    read_quantization,
    save_checkpoint,
)
from edgepress.models.checkpoints.spec import ModelSpec
from edgepress.models.errors import UsageError


class Behind(nn.Module):
    """A convolution and what stands behind it, a second one."""

    def __init__(self, behind: Callable[[nn.Module, torch.Tensor], torch.Tensor], **tensors: torch.Tensor) -> None:
        super().__init__()
        self.first, self.last, self.behind = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), behind
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.behind(self, self.first(x))))


class Twice(nn.Module):
    """One convolution in two places, a batch norm behind one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.relu(self.norm(self.conv(x))))


class Standardized(nn.Module):
    """Weights that are computed: standardized, and of a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.last = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self.last(torch.relu(F.conv2d(x, weight)))


class Recurrent(nn.Module):
    """Steps that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.GRU(6, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.cell(x.flatten(2).mean(1, keepdim=True).reshape(len(x), -1, 6))[1][0])


def layer_scale() -> nn.Module:
    return Behind(lambda net, y: net.gamma * y, gamma=torch.tensor([0.1, -2.0, 1.0, 0.5]).reshape(4, 1, 1))


def make(factory: str = "layer_scale") -> nn.Module:
    return {"layer_scale": layer_scale, "twice": Twice, "standardized": Standardized, "recurrent": Recurrent}[factory]()


@pytest.mark.parametrize("factory", ["layer_scale", "twice", "standardized", "recurrent"])
def test_every_network_has_an_int8_checkpoint(factory: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = make(factory).eval(), torch.randn(8, 3, 6, 6)
    quantized = quantize_model(net, x[:1], [x])
    prepared = prepare_qat(quantized)
    with torch.no_grad():
        for name, parameter in prepared.model.named_parameters():
            if not name.startswith("activation_quantizers."):
                parameter.mul_(1.01)  # as training would
    prepared.freeze_ranges()
    prepared.model.eval()
    spec = ModelSpec(f"{__name__}:make", {"factory": factory}, ((3, 6, 6),))
    for made in (quantized, prepared):
        path = save_checkpoint(
            tmp_path / "int8", unfold(made, net), spec, quantization=quantization_json(made), overwrite=True
        )
        model, _ = load_checkpoint(path, trust=True)
        again = restore_quantized(model, x[:1], read_quantization(path) or {})
        with torch.no_grad():
            assert torch.equal(again.model(x), made.model(x))
    for key, value in net.state_dict().items():
        assert model.state_dict()[key].shape == value.shape


def test_damaged_tensors_of_layers_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = layer_scale().eval(), torch.randn(8, 3, 6, 6)
    quantized = quantize_model(net, x[:1], [x])
    said = quantization_json(quantized)
    assert sorted(said["tensors"]) == ["conv2d.bias", "conv2d.weight"]
    path = save_checkpoint(
        tmp_path / "int8", unfold(quantized, net), ModelSpec(f"{__name__}:make", {}, ((3, 6, 6),)), quantization=said
    )
    file = path / "folded.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UsageError, match="altered"):
        read_quantization(path)
    file.unlink()
    with pytest.raises(UsageError, match="incomplete: it has no folded"):
        read_quantization(path)
    for tensors in (
        {"conv2d.weight": torch.zeros(4, 3, 1, 1)},
        {"conv2d.scale": torch.zeros(4)},
        {"other.weight": torch.zeros(4)},
        {"conv2d.bias": torch.zeros(4, dtype=torch.float64)},
    ):
        with pytest.raises(UsageError, match="made for another network"):
            restore_quantized(net, x[:1], {**said, "tensors": tensors})
    with pytest.raises(UsageError, match="its tensors are none"):
        restore_quantized(net, x[:1], {**said, "tensors": {"conv2d.weight": [0.0]}})


CHANNELS = torch.tensor([0.5, -2.0, 1.0, 4.0]).reshape(1, 4, 1, 1)
BEHIND: dict[str, tuple[Callable[..., torch.Tensor], list[float], list[float]]] = {
    "scale": (lambda net, y: y * net.c, [0.5, -2, 1, 4], [0, 0, 0, 0]),
    "scale_before": (lambda net, y: net.c * y, [0.5, -2, 1, 4], [0, 0, 0, 0]),
    "shift": (lambda net, y: net.c + y, [1, 1, 1, 1], [0.5, -2, 1, 4]),
    "shift_taken": (lambda net, y: y - net.c, [1, 1, 1, 1], [-0.5, 2, -1, -4]),
    "taken_from": (lambda net, y: net.c - y, [-1, -1, -1, -1], [0.5, -2, 1, 4]),
    "divided": (lambda net, y: y / net.c, [2, -0.5, 1, 0.25], [0, 0, 0, 0]),
    "numbers": (lambda net, y: 3 - 2 * (y / 4 + 1), [-0.5] * 4, [1] * 4),
    "alpha": (lambda net, y: torch.add(y, net.c, alpha=2), [1, 1, 1, 1], [1, -4, 2, 8]),
    "alpha_of_the_layer": (lambda net, y: torch.sub(net.c, y, alpha=2), [-2] * 4, [0.5, -2, 1, 4]),
    "computed": (lambda net, y: y * torch.rsqrt(net.c.square()) + net.c, [2, 0.5, 1, 0.25], [0.5, -2, 1, 4]),
}


@pytest.mark.parametrize("name", BEHIND)
def test_scales_and_shifts_behind_a_layer_are_part_of_it(name: str) -> None:
    behind, scale, shift = BEHIND[name]
    net, x = Behind(behind, c=CHANNELS).eval(), torch.randn(2, 3, 5, 5)
    folded = fold(net, x)
    layers = [node for node in folded.module.graph.nodes if node.target in LAYERS]
    operators = [node for node in folded.module.graph.nodes if node.op == "call_function"]
    assert len(operators) == 3, "two convolutions and the ReLU"
    weight, bias = (fetch(folded.module, str(node.target)) for node in weight_and_bias(layers[0]) if node is not None)
    torch.testing.assert_close(weight, net.first.weight * torch.tensor(scale).reshape(4, 1, 1, 1))
    torch.testing.assert_close(bias, net.first.bias * torch.tensor(scale) + torch.tensor(shift))
    with torch.no_grad():
        torch.testing.assert_close(folded.module(x), net(x))


@pytest.mark.parametrize(
    "behind",
    [
        lambda net, y: y * net.map,  # differs between positions
        lambda net, y: y + y.mean() * net.c,  # is read twice
        lambda net, y: net.c / y,
        lambda net, y: y / (net.c - net.c),
        lambda net, y: y[:, :, :1] * net.row,  # the result is larger
    ],
)
def test_what_is_no_scale_by_channel_stays(behind: Callable[..., torch.Tensor]) -> None:
    net = Behind(behind, c=CHANNELS, map=torch.rand(3, 3) + 1, row=torch.rand(3, 1) + 1).eval()
    folded = fold(net, torch.randn(2, 3, 5, 5))
    first = next(node for node in folded.module.graph.nodes if node.target in LAYERS)
    assert torch.equal(fetch(folded.module, str(weight_and_bias(first)[0].target)), net.first.weight)


def test_the_channels_of_a_linear_layer_are_its_last_axis() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(6, 4), nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
            self.places = nn.Parameter(torch.randn(1, 4, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) * self.scale + self.places

    net, x = Tokens().eval(), torch.randn(2, 4, 6)
    folded = fold(net, x)
    left = [node.target for node in folded.module.graph.nodes if node.op == "call_function"]
    assert len(left) == 2, "the scale of channels is in the layer, the map of places is not"
    with torch.no_grad():
        torch.testing.assert_close(folded.module(x), net(x))
