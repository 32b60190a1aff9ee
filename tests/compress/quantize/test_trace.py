# SPDX-License-Identifier: Apache-2.0
"""Batches of any size from one trace; two where one cannot tell what follows the batch."""

import pytest
import torch
from torch import nn

from edgepress.compress.quantize.graph import trace as traced
from edgepress.compress.quantize.graph.trace import trace
from tests.compress.quantize.operator_networks import Network


@pytest.fixture
def exports(monkeypatch):
    """The batches that torch.export sees."""
    seen, real = [], torch.export.export
    monkeypatch.setattr(
        torch.export, "export", lambda model, inputs, **more: seen.append(len(inputs[0])) or real(model, inputs, **more)
    )
    return seen


def in_rows(s, x):
    return s.b(s.a(x).reshape(len(x), -1))


def in_windows(s, x):
    """The batch times the windows on the first axis, and back."""
    n, c, h, w = x.shape
    windows = x.reshape(n, c, 2, h // 2, w).transpose(1, 2).reshape(2 * n, c, h // 2, w)
    return s.a(windows).reshape(n, 2, -1).mean(1)


def rows_of(channels: int, side: int, out: int):
    convolution = nn.Conv2d(3, channels, 3, padding=1)
    return Network(in_rows, a=convolution, b=nn.Linear(channels * side * side, out)), (3, side, side)


CASES = {
    "rows": (rows_of(4, 8, 5), [11]),
    # 11 channels, 13 x 13 pixels and 17 outputs: the first three primes say nothing.
    "its own primes": (rows_of(11, 13, 17), [19]),
    "windows": ((Network(in_windows, a=nn.Conv2d(3, 4, 3)), (3, 8, 8)), [11]),
    "sizes by keyword": (
        (Network(lambda s, x: s.a(x).view(size=(x.shape[0], 4, 36)).sum(1), a=nn.Conv2d(3, 4, 3)), (3, 8, 8)),
        [11],
    ),
    "a slice without an end": ((Network(lambda s, x: s.a(x)[:, :, 2:], a=nn.Conv2d(3, 4, 3)), (3, 8, 8)), [11]),
}


@pytest.mark.parametrize("name", CASES)
def test_one_trace_serves_every_batch(name, exports):
    (network, shape), batches = CASES[name]
    network.eval()
    found = trace(network, (torch.randn(3, *shape),))
    assert (found.fixed_batch, exports) == (None, batches)
    for batch in (1, 2, 7, 11, 22):
        x = torch.randn(batch, *shape)
        assert torch.allclose(found.module(x), network(x), atol=1e-5)


def test_a_number_of_the_network_that_the_trace_takes_for_the_batch_is_found_out(exports):
    """33 = 3 x 11 stands in the forward alone: taken for three batches, two samples would sum up 6 values."""
    network = Network(lambda s, x: s.a(x).flatten(1)[:, :33].sum(1), a=nn.Conv2d(3, 4, 3)).eval()
    found = trace(network, (torch.randn(2, 3, 8, 8),))
    assert exports == [11, 2, 3]
    assert found.fixed_batch is None
    for batch in (1, 2, 5, 11):
        x = torch.randn(batch, 3, 8, 8)
        assert torch.allclose(found.module(x), network(x), atol=1e-5)


def test_a_factor_that_depends_on_the_batch_is_no_number_of_the_network(exports):
    network = Network(lambda s, x: s.a(x) * (1.0 / len(x)), a=nn.Conv2d(3, 4, 3)).eval()
    found = trace(network, (torch.randn(4, 3, 8, 8),))
    assert found.fixed_batch == 4
    assert "mul" in found.reason
    assert exports == [11, 2, 3, 4]


def test_a_tensor_made_for_the_batch_follows_it(exports):
    network = Network(lambda s, x: s.a(x) + torch.arange(len(x)).reshape(-1, 1, 1, 1), a=nn.Conv2d(3, 4, 3)).eval()
    found = trace(network, (torch.randn(4, 3, 8, 8),))
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(found.module(x), network(x), atol=1e-5)
    assert (found.fixed_batch, exports) == (None, [11])  # arange is an operator, whose end follows the batch
    x = torch.randn(6, 3, 8, 8)
    assert torch.allclose(found.module(x), network(x), atol=1e-5)


def test_without_a_prime_of_its_own_a_network_is_traced_twice(exports, monkeypatch):
    monkeypatch.setattr(traced, "_PRIMES", (11,))
    (network, shape), _ = CASES["its own primes"]
    x = torch.randn(2, *shape)
    found = trace(network.eval(), (x,))
    assert exports == [2, 3]
    assert torch.allclose(found.module(x[:1]), network(x[:1]), atol=1e-5)
