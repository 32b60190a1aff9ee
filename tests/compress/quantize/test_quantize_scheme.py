"""Integer parameters: hand-worked numbers, bounds, and torch and NumPy to the same bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.compress.quantize.fake import ActivationQuantizer, ConstantQuantizer, WeightQuantizer
from edgepress.compress.quantize.scheme import (
    BIAS_LIMIT,
    bias_scales,
    constant_integers,
    integers_of_range,
    quantize_bias,
    quantize_weight,
    weight_scales,
)
from edgepress.models.errors import UsageError

reals = st.floats(-1e4, 1e4, width=32)


def test_hand_worked_ranges() -> None:
    assert (integers_of_range(-1.28, 1.27).zero_point, integers_of_range(0, 2.55).zero_point) == (0, -128)
    assert integers_of_range(0, 2.55).scale == np.float32(2.55) / np.float32(255)
    # The specification's fixed outputs of softmax and tanh.
    assert (integers_of_range(0, 255 / 256).scale, integers_of_range(0, 255 / 256).zero_point) == (1 / 256, -128)
    assert (integers_of_range(-1, 127 / 128).scale, integers_of_range(-1, 127 / 128).zero_point) == (1 / 128, 0)
    wide = integers_of_range(0, 32767 / 32768, bits=16)
    assert (wide.scale, wide.zero_point, wide.lowest, wide.highest) == (2**-15, 0, -32768, 32767)


@pytest.mark.parametrize("ends", [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="must be finite"):
        integers_of_range(*ends)


@given(a=reals, b=reals, bits=st.sampled_from([8, 16]))
def test_zero_is_exact_and_the_ends_are_near(a: float, b: float, bits: int) -> None:
    low, high = min(a, b), max(a, b)
    integers = integers_of_range(low, high, bits)
    assert integers.lowest <= integers.zero_point <= integers.highest
    assert float(integers.dequantize(integers.quantize(0.0))) == 0.0
    for end in (low, high):
        assert abs(float(integers.dequantize(integers.quantize(end))) - end) <= float(integers.scale) * 1.001


@given(a=reals, b=reals, bits=st.sampled_from([8, 16]), seed=st.integers(0, 99))
@settings(deadline=None)
def test_fake_quantization_equals_the_integers_to_the_bit(a: float, b: float, bits: int, seed: int) -> None:
    quantizer = ActivationQuantizer(bits)
    quantizer.set_range(min(a, b), max(a, b))
    integers = quantizer.integers()
    scale, zero_point = quantizer.parameters_of_range(bits)
    assert (np.float32(scale.item()), int(zero_point)) == (integers.scale, integers.zero_point)
    x = np.random.default_rng(seed).normal(0, max(abs(a), abs(b), 1e-3), 200).astype(np.float32)
    assert np.array_equal(quantizer(torch.from_numpy(x)).detach().numpy(), integers.dequantize(integers.quantize(x)))


@given(seed=st.integers(0, 999), axis=st.sampled_from([0, 1, None]))
@settings(deadline=None)
def test_weights_and_biases_equal_the_integers_to_the_bit(seed: int, axis: int | None) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(4, 4, 3, 3)) * 10.0 ** rng.uniform(-12, 2, (4, 1, 1, 1))).astype(np.float32)
    weight[int(rng.integers(4))] = 0
    bias = rng.normal(size=4).astype(np.float32)
    source = ActivationQuantizer()
    source.set_range(0, float(rng.uniform(1e-3, 10)))
    scales = weight_scales(weight, axis, bias, source.integers().scale)
    fake_weight, fake_bias = WeightQuantizer(axis, source)(torch.from_numpy(weight), torch.from_numpy(bias))
    shape = [-1 if i == axis else 1 for i in range(4)] if axis is not None else [1] * 4
    assert np.array_equal(fake_weight.numpy(), quantize_weight(weight, scales, axis) * scales.reshape(shape))
    steps = bias_scales(source.integers().scale, scales)
    assert np.array_equal(fake_bias.numpy(), quantize_bias(bias, steps).astype(np.float32) * steps)


def test_near_dead_channels_get_a_floor_and_biases_stay_in_int32() -> None:
    weight = np.array([[1e-20, 0], [0.5, -1.27], [0, 0]], np.float32)
    bias = np.array([3.0, 0.1, 2.0], np.float32)
    scales = weight_scales(weight, 0, bias, np.float32(0.02))
    assert scales[0] == pytest.approx(3.0 / (0.02 * BIAS_LIMIT))
    assert scales[1] == np.float32(1.27) / np.float32(127)
    assert scales[2] == scales[1], "a channel of zeros takes the largest scale"
    assert np.abs(quantize_bias(bias, bias_scales(np.float32(0.02), scales))).max() <= 2**30 + 64
    unfloored = weight_scales(weight, 0)
    with pytest.raises(UsageError, match="does not fit int32"):
        quantize_bias(bias * 1e3, bias_scales(np.float32(0.02), np.full(3, 1e-9, np.float32)))
    assert (unfloored > 0).all()


@given(values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5))
@settings(deadline=None)
def test_constants_equal_the_integers_to_the_bit(values: list[float]) -> None:
    array = np.array(values, np.float32)
    integers = constant_integers(array)
    fake = ConstantQuantizer()(torch.from_numpy(array)).numpy()
    assert np.array_equal(fake, integers.dequantize(integers.quantize(array)))


def test_gradients_of_a_range_are_those_of_the_paper() -> None:
    quantizer = ActivationQuantizer()
    quantizer.set_range(0.0, 2.55)
    quantizer.set_mode("learned")
    x = torch.tensor([-1.0, 0.013, 5.0, 1.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 0, 1], "straight through inside, nothing outside"
    # (rounded - x) / (255 steps) inside, 1 above; divided by sqrt(4 values).
    assert quantizer.high.grad is not None
    assert float(quantizer.high.grad) == pytest.approx((1 + (0.01 - 0.013) / 2.55) / 2, abs=1e-4)


def test_ranges_move_in_training_only_and_prescribed_ones_never() -> None:
    averaged, fixed = ActivationQuantizer(momentum=0.5), ActivationQuantizer(fixed=(0.0, 255 / 256))
    averaged.set_range(0, 1)
    averaged.set_mode("averaged")
    fixed.set_mode("learned")
    x = torch.tensor([-2.0, 3.0])
    for quantizer in (averaged.eval(), fixed.train()):
        quantizer(x)
    assert (float(averaged.low), float(averaged.high)) == (0, 1)
    assert (float(fixed.high.detach()), fixed.high.requires_grad) == (255 / 256, False)
    averaged.train()(x)
    assert (float(averaged.low), float(averaged.high)) == (-1, 2)
