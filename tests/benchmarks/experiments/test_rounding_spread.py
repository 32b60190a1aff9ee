"""How far a network carries roundings that may go either way, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.benchmarks.experiments.rounding_spread import OPEN_OF_8_BITS, rounding_spread
from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.model import Quantized


def chain(gain: float) -> Quantized:
    """x in steps of 1, then in steps of 2, then `gain` times that in steps of 2: odd x lie on a half of the second."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with torch.no_grad():
        for layer, factor in zip(net, (1.0, gain), strict=True):
            layer.weight.fill_(factor)
            layer.bias.zero_()
    x = torch.linspace(-20, 20, 41)[:, None]
    quantized = quantize_model(net, x[:1], [x], bias_correction=False)
    first, *others = quantized.points.points
    quantized.quantizer(first).set_range(-128, 127)
    for point in others:
        quantized.quantizer(point).set_range(-256, 254)
    return quantized


@pytest.mark.parametrize("gain", [1.0, 5.0])
def test_a_half_goes_either_way_and_what_is_behind_multiplies_it(gain: float) -> None:
    odd, even = (np.arange(first, 21, 2, dtype=np.float32)[:, None] for first in (-19, -20))
    found = rounding_spread(chain(gain), [odd], draws=4)
    assert found["max_lsb"] == gain  # one step of 2, times the gain, in steps of 2
    assert len(found["max_lsb_by_draw"]) == 4
    assert 0.2 * gain < found["mean_lsb"] < 0.8 * gain  # about half of the values go to the other side
    assert rounding_spread(chain(gain), [even], draws=4)["max_lsb"] == 0


def test_what_is_farther_from_a_half_than_float32_reaches_stays() -> None:
    quantized = chain(1.0)
    second = quantized.points.points[1]
    # Steps a little longer than 2: x = 1 lies 5 of the open shares below a half, and nothing crosses it.
    share = 5 * OPEN_OF_8_BITS
    quantized.quantizer(second).set_range(-256 * (1 + 2 * share), 254 * (1 + 2 * share))
    assert rounding_spread(quantized, [np.ones((8, 1), np.float32)], draws=4)["max_lsb"] == 0


def test_the_network_is_left_as_it_was() -> None:
    quantized = chain(3.0)
    x = torch.arange(-19, 20, 2, dtype=torch.float32)[:, None]
    before = quantized.model(x)
    rounding_spread(quantized, [x.numpy()], draws=1)
    assert torch.equal(quantized.model(x), before)
