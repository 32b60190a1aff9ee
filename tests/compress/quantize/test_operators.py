"""Operators written as others: the same function, with an integer kernel for every one of them."""

from __future__ import annotations

import pytest
import torch

from edgepress.compress.quantize.fold import fold
from edgepress.compress.quantize.points import find_points
from tests.compress.quantize.operator_networks import GROUPS, together


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
