"""Operators written as others: the same function, with an integer kernel for every one of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgepress.compress.quantize.fold import fold
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
