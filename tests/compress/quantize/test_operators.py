"""Operators written as others: the same function, with an integer kernel for every one of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.fold import fold
from edgepress.compress.quantize.graph.outputs import tensors
from edgepress.compress.quantize.points import Points, find_points
from tests.compress.quantize.operator_networks import GROUPS, Network, together


@pytest.mark.parametrize("group", GROUPS)
def test_the_same_function_and_no_islands(group: str):
    torch.manual_seed(0)
    network, shape = together(group)
    folded = fold(network, torch.randn(shape))
    inputs = torch.randn(3, *shape[1:])
    with torch.no_grad():
        given, expected = folded.module(inputs), network(inputs)
    assert list(given) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            given[name], value, rtol=1e-4, atol=2e-5, msg=lambda said, name=name: f"{name}: {said}"
        )
    assert not find_points(folded.module.graph, "w8a8", {}).islands


def test_a_layer_between_two_islands_has_integers():
    network = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)).eval()
    points = find_points(fold(network, torch.randn(1, 16)).module.graph, "w8a8", {"1": "float", "3": "float"})
    layers = {key: name for name, key in points.layers.items()}
    assert {name.partition("/")[0] for name in _keys(points)} >= {"0", "1", "2", "4"}
    assert layers["2/linear"] not in points.islands
    assert points.of_node()[layers["2/linear"]].scheme == "w8a8"


def _keys(points: Points) -> list[str]:
    return [point.key for point in points.points if point.scheme != "float"]


def test_reciprocals_are_taken_before_values_are_spread():
    """F.normalize divides by a norm of one number a row: the table has that many entries to look up, not all."""
    folded = fold(Network(lambda s, x: F.normalize(x, dim=-1)), torch.randn(1, 6, 16))
    (inverse,) = (n for n in folded.module.graph.nodes if n.target is torch.ops.aten.reciprocal.default)
    assert tuple(inverse.meta["val"].shape)[1:] == (6, 1)


@pytest.mark.parametrize("written", [lambda y: y, lambda y: {"a": y.flatten(1), "b": (y, y)}])
def test_what_is_written_in_16_bits_leaves_with_those_of_the_network(written):
    """One rounding to 8 bits is left at the output of a norm: half a step at most, a quarter in the mean."""
    torch.manual_seed(0)
    network = Network(lambda s, x: written(F.layer_norm(x, (16,))))
    x = torch.randint(-128, 128, (64, 6, 16)) / 32  # integers of the input's range, so that nothing is lost there
    x[0, 0, :2] = torch.tensor([-128.0, 127.0]) / 32
    quantized = quantize_model(network, x[:1], [x], method="minmax")
    integers = quantized.output_integers()
    assert [entry is not None and entry.bits for entry in integers] == [8] * len(integers)
    with torch.no_grad():
        given, expected = (tensors(m(x)) for m in (quantized.model, network))
    for value, exact, entry in zip(given, expected, integers, strict=True):
        steps = value / float(entry.scale)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
        off = (steps - exact / float(entry.scale)).abs()
        assert off.max() <= 0.6
        assert 0.2 < off.mean() < 0.3


def test_bits_that_were_asked_for_stay_at_an_output():
    network, x = (
        Network(lambda s, x: s.norm(s.first(x)), first=nn.Linear(4, 8), norm=nn.LayerNorm(8)),
        torch.randn(9, 4),
    )
    quantized = quantize_model(network, x[:1], [x], exceptions={"norm": "a16w8"})
    assert [entry is not None and entry.bits for entry in quantized.output_integers()] == [16]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_precision_are_calibrated_in_single(kind):
    torch.manual_seed(0)
    network, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).to(kind),
        torch.randn(8, 3, 6, 6).to(kind),
    )
    quantized = quantize_model(network, x[:1], [x])
    assert quantized.model(x.float()).dtype == torch.float32
    assert {value.dtype for value in network.parameters()} == {kind}
