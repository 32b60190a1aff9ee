"""Graphs of networks that people bring: any batch, any layout in memory, channels where the operator has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.equalize import correct_biases, equalize_layers
from edgepress.compress.quantize.fold import fold
from edgepress.compress.quantize.graph.layers import LAYERS, weight_and_bias
from edgepress.compress.quantize.graph.outputs import named_leaves, tensors
from edgepress.models.errors import UsageError
from tests.compress.quantize.operator_networks import Network


class OneInput(Network):
    def forward(self, x: torch.Tensor) -> Any:
        return self.written(self, x)


def _windows(s: Any, x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 16, c)
    return s.l(x).view(n, h // 4, w // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).contiguous().view(n, h, w, -1)


def _shuffle(s: Any, x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    return s.c(x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w))


def _masked(s: Any, x: torch.Tensor) -> torch.Tensor:
    mask = x.new_zeros(len(x), 1, 8, 8)
    mask[:, :, :3] = 1
    return s.c(x * mask).relu_().mul_(2)


#: Forward, its parts, the shape of one input.
FORWARDS: dict[str, tuple[Callable[..., Any], dict[str, Any], tuple[int, ...]]] = {
    "flatten_of_a_permuted_map": (lambda s, x: s.l(s.c(x).permute(0, 2, 3, 1).flatten(1)), {"l": (180, 3)}, (4, 8, 8)),
    "slices_flattened": (lambda s, x: torch.cat([y.flatten(1) for y in s.c(x).chunk(2, 1)], 1), {}, (4, 8, 8)),
    "shuffle": (_shuffle, {}, (4, 8, 8)),
    "windows": (_windows, {"l": (4, 5)}, (4, 8, 8)),
    "length_as_a_number": (lambda s, x: s.c(x).reshape(len(x), -1) / len(x), {}, (4, 8, 8)),
    "token_for_every_sample": (
        lambda s, x: torch.cat([s.c.bias[None, None, :5].expand(len(x), 2, -1), s.c(x).flatten(2)[:, :, :5]], 1),
        {},
        (4, 8, 8),
    ),
    "everything_squeezed": (lambda s, x: s.c(x).mean((2, 3), keepdim=True).squeeze(), {}, (4, 8, 8)),
    "mask_in_place": (_masked, {}, (4, 8, 8)),
    "time_first": (lambda s, x: s.m(*[x.transpose(0, 1)] * 3)[0].mean(0), {"m": "attention"}, (6, 8)),
    "encoder_layer": (lambda s, x: s.m(x).mean(1), {"m": "encoder"}, (6, 8)),
    "last_state": (lambda s, x: s.m(x)[0][:, -1], {"m": "gru"}, (6, 8)),
    "autocast_off": (
        lambda s, x: torch.autocast("cpu", enabled=False)(lambda: s.c(x.float()).view(len(x), -1))(),
        {},
        (4, 8, 8),
    ),
}


def _network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    function, parts, shape = FORWARDS[name]
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {"c": nn.Conv2d(4, 5 if name != "slices_flattened" else 6, 3)}
    for key, value in parts.items():
        made[key] = {
            "attention": lambda: nn.MultiheadAttention(8, 2),
            "encoder": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            "gru": lambda: nn.GRU(8, 5, batch_first=True),
        }.get(value if isinstance(value, str) else "", lambda value=value: nn.Linear(*value))()
    return Network(function, **made).eval(), shape


@torch.no_grad()
@pytest.mark.parametrize("name", FORWARDS)
def test_a_folded_graph_means_what_the_network_means_for_any_batch(name: str) -> None:
    net, shape = _network(name)
    folded = fold(net, torch.randn(1, *shape))
    assert folded.dynamic_batch, folded.fixed_by
    for batch in (2, 5):  # one of a size that was traced and one that was not
        x = torch.randn(batch, *shape)
        assert torch.allclose(folded.module(x), net(x), atol=1e-6)
    one = torch.randn(1, *shape)
    assert torch.allclose(folded.module(one), net(one).reshape(1, *net(torch.cat([one, one])).shape[1:]), atol=1e-6)


def test_no_size_of_the_example_stands_in_the_graph() -> None:
    folded = fold(Network(lambda s, x: s.c(x).view(len(x), -1), c=nn.Conv2d(1, 2, 3)), torch.randn(7, 1, 5, 5))
    numbers: list[Any] = []
    for node in folded.module.graph.nodes:
        fx.map_arg(node.args, lambda n: n)
        numbers += [v for a in node.args for v in (a if isinstance(a, (list, tuple)) else [a]) if isinstance(v, int)]
    assert 7 not in numbers
    assert [2, 3] not in numbers
    assert [-1, 18] in [list(n.args[1]) for n in folded.module.graph.nodes if "reshape" in str(n.target)]


@torch.no_grad()
def test_a_batch_that_the_forward_fixes_is_calibrated_in_pieces_and_named() -> None:
    class Head(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, 1, 16)

    net = nn.Sequential(Head(), nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(56, 3)).eval()
    folded = fold(net, torch.randn(2, 16))
    assert (folded.fixed_batch, folded.dynamic_batch) == (2, False)
    assert folded.fixed_by == "reshape in module '0' writes the sizes [2, 1, 16] down"
    x = torch.randn(8, 16)
    made = quantize_model(net, x[:2], [x])
    assert torch.allclose(made.model(x[:2]), net(x[:2]), atol=0.05)
    with pytest.raises(UsageError, match=r"holds 7 samples, and the network takes exactly 2 at once.*x\.shape\[0\]"):
        quantize_model(net, x[:2], [x[:7]])


@torch.no_grad()
def test_outputs_stay_dictionaries_and_tuples() -> None:
    def forward(s: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        return {"out": s.c(x), "more": [s.c(y), {"mean": x.mean((2, 3))}, None]}

    net, x = Network(forward, c=nn.Conv2d(2, 3, 1)).eval(), torch.randn(4, 2, 3, 3)
    made = quantize_model(net, (x[:1], x[:1]), [(x, x)])
    expected, got = net(x, x), made.model(x, x)
    assert [name for name, _ in named_leaves(got)] == ["out", "more.0", "more.1.mean"]
    assert isinstance(got, dict)
    assert all(torch.allclose(a, b, atol=0.05) for a, b in zip(tensors(expected), tensors(got), strict=True))


#: A layer between permutations; sizes are all different, so that a wrong axis fails or shows.
AXES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 7), (6,)),
    "linear_3d": (lambda: nn.Linear(6, 7), (5, 6)),
    "linear_4d": (lambda: nn.Linear(6, 7), (3, 5, 6)),
    "linear_5d": (lambda: nn.Linear(6, 7), (2, 3, 5, 6)),
    "linear_channels_last": (
        lambda: OneInput(lambda s, x: s.l(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), l=nn.Linear(6, 7)),
        (6, 3, 5),
    ),
    "conv1d": (lambda: nn.Conv1d(6, 7, 3), (6, 11)),
    "conv1d_same": (lambda: nn.Conv1d(6, 7, 3, padding="same"), (6, 11)),
    "conv1d_equal_sizes": (lambda: nn.Conv1d(6, 7, 3, padding=1), (6, 7)),
    "conv2d_grouped": (lambda: nn.Conv2d(6, 9, 3, groups=3), (6, 5, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 7, 2, 2), (6, 3, 4)),
    "transposed_1d": (lambda: nn.ConvTranspose1d(6, 7, 2, 2), (6, 5)),
    "conv3d": (lambda: nn.Conv3d(6, 7, 2), (6, 3, 4, 5)),
}


def _layer_means(module: fx.GraphModule, batches: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Means of each layer's outputs by channel, which are as many as its bias has entries; another way than ours."""
    found: dict[str, list[torch.Tensor]] = {}

    class Seeing(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.target in LAYERS:
                last = "linear" in str(n.target)
                rows = value if last else value.movedim(1, -1)
                found.setdefault(n.name, []).append(rows.reshape(-1, rows.shape[-1]))
            return value

    for batch in batches:
        Seeing(module).run(batch)
    return {name: torch.cat(rows).mean(0) for name, rows in found.items()}


@torch.no_grad()
@pytest.mark.parametrize("name", AXES)
def test_bias_correction_takes_the_mean_error_out_of_each_channel(name: str) -> None:
    make, shape = AXES[name]
    torch.manual_seed(0)
    net, batches = make().eval(), [torch.randn(5, *shape) + 1, torch.randn(3, *shape) + 1]
    quantized = quantize_model(net, batches[0][:1], batches, bias_correction=False)
    wanted, before = (_layer_means(module, batches) for module in (quantized.float_module(), quantized.model))
    for module in quantized.model.modules():  # an error of which only the right axis gets rid
        if isinstance(getattr(module, "bias", None), torch.Tensor):
            module.bias.add_(torch.arange(len(module.bias)) * 0.1)
    correct_biases(quantized.model, fold(net, batches[0][:1]).module, [(batch,) for batch in batches])
    after = _layer_means(quantized.model, batches)
    for layer, mean in wanted.items():
        assert float((after[layer] - mean).abs().max()) < 1e-4
        assert float((before[layer] - mean).abs().max()) > 1e-4


@torch.no_grad()
def test_one_pass_corrects_as_one_pass_for_every_layer_does() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Conv1d(6, 6, 3, padding=1), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(66, 5)).eval()
    batches = [torch.randn(6, 6, 11), torch.randn(3, 6, 11)]
    fast = quantize_model(net, batches[0][:1], batches)
    slow = quantize_model(net, batches[0][:1], batches, bias_correction=False)
    reference = slow.float_module()
    wanted = _layer_means(reference, batches)
    for node in reference.graph.nodes:
        if node.target in LAYERS:
            bias = slow.model.get_parameter(str(weight_and_bias(node)[1].target))  # type: ignore[union-attr]
            bias.add_(wanted[node.name] - _layer_means(slow.model, batches)[node.name])
    for (key, a), (_, b) in zip(fast.model.named_parameters(), slow.model.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), key


@torch.no_grad()
@pytest.mark.parametrize("make", [lambda: nn.Conv1d(4, 8, 3, groups=4), lambda: nn.Conv1d(4, 8, 3), lambda: None])
def test_equalisation_finds_the_channels_of_other_layers(make: Callable[[], nn.Module | None]) -> None:
    torch.manual_seed(0)
    second = make()
    if second is None:  # fully connected over a sequence
        net: nn.Module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5)).eval()
        first, x = net[0], torch.randn(8, 3, 6)
    else:
        net = nn.Sequential(nn.Conv1d(6, 4, 3), nn.ReLU(), nn.MaxPool1d(2), second).eval()
        first, x = net[0], torch.randn(8, 6, 16)
    first.weight.mul_(torch.logspace(-1, 1, 4).reshape(-1, *[1] * (first.weight.ndim - 1)))
    first.bias.mul_(torch.logspace(-1, 1, 4))
    folded = fold(net, x[:1])
    equal = equalize_layers(folded, [(x,)])
    assert torch.allclose(equal.module(x), net(x), rtol=1e-4, atol=1e-5)
    before, after = (m.get_parameter("0.weight").abs().flatten(1).amax(1) for m in (folded.module, equal.module))
    assert float(after.max() / after.min()) < 0.5 * float(before.max() / before.min())
