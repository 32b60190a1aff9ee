"""Fake-quantized networks: folding, shared ranges, checkpoints, training, exceptions."""

from __future__ import annotations

import json
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgepress.compress.quantize import (
    layer_sensitivity,
    prepare_qat,
    quantization_json,
    quantize_model,
    restore_quantized,
    unfold,
)
from edgepress.compress.quantize.fake import ActivationQuantizer
from edgepress.compress.quantize.fold import fold
from edgepress.compress.quantize.observe import INPUT_CLIPPING, Observed, choose_range
from edgepress.compress.quantize.points import find_points
from edgepress.compress.quantize.qat import parameter_groups
from edgepress.compress.quantize.scheme import holds_values, integers_of_range, written_range
from edgepress.compress.quantize.sensitivity import figure, table
from edgepress.models.errors import UsageError
from tests.compress.quantize.quantized_networks import Residual, trained_like


@pytest.fixture(scope="module")
def net() -> Residual:
    return trained_like(Residual)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(24, 2, 16, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def quantized(net: Residual, x: torch.Tensor):
    return quantize_model(net, x[:1], [x[:12], x[12:]])


@torch.no_grad()
def test_folding_changes_nothing_and_leaves_no_batch_norm(net: Residual, x: torch.Tensor) -> None:
    before = {key: value.clone() for key, value in net.state_dict().items()}
    folded = fold(net, x[:1])
    assert torch.allclose(folded.module(x), net(x), atol=2e-6)
    assert not any(
        "norm" in str(n.target) or "dropout" in str(n.target)
        for n in folded.module.graph.nodes
        if n.op == "call_function"
    )
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items()), "net is untouched"
    assert folded.dynamic_batch


def test_ranges_are_shared_where_the_specification_demands_it(net: Residual, x: torch.Tensor) -> None:
    points = find_points(fold(net, x[:1]).module.graph, "w8a8", {})
    shared = next(point for point in points.points if "cat" in point.followers)
    assert {"max_pool2d", "cat"} <= set(shared.followers)
    assert len(shared.nodes) == 2, "the stem's ReLU, by way of the pool, and the sum's"
    assert not {"conv2d", "add"} & set(points.of_node()), "what a ReLU melts with is in no file"
    assert not points.islands


@torch.no_grad()
def test_quantization_is_close_and_its_values_are_integers(net: Residual, x: torch.Tensor, quantized) -> None:
    y, reference = quantized.model(x), net(x)
    assert float((y - reference).abs().max()) < 0.05 * float(reference.abs().max())
    assert quantized.model(x[:5]).shape == (5, 3)
    integers = next(reversed(quantized.integers().values()))
    steps = y / float(integers.scale)
    assert torch.allclose(steps, steps.round(), atol=1e-3)


@torch.no_grad()
def test_evaluation_moves_nothing(x: torch.Tensor, quantized) -> None:
    ranges, y = quantized.ranges, quantized.model.eval()(x)
    quantized.model(100 * x)
    assert quantized.ranges == ranges
    assert torch.equal(quantized.model(x), y)


@torch.no_grad()
def test_a_checkpoint_gives_the_same_outputs_to_the_bit(net: Residual, x: torch.Tensor, quantized) -> None:
    saved = unfold(quantized, net)
    assert list(saved.state_dict()) == list(net.state_dict())
    again = restore_quantized(saved, x[:1], json.loads(json.dumps(quantization_json(quantized))))
    assert again.ranges == quantized.ranges
    assert torch.equal(again.model(x), quantized.model(x))
    assert torch.allclose(saved(x), quantized.float_module()(x), atol=1e-5), "without ranges: the float net"
    for key, value in quantized.float_module().state_dict().items():
        assert torch.equal(value, again.float_module().state_dict()[key]), key


def test_training_moves_weights_and_ranges_and_survives_a_checkpoint(net: Residual, x: torch.Tensor, quantized) -> None:
    prepared = prepare_qat(quantized)
    optimizer = torch.optim.Adam(parameter_groups(prepared.model, 1e-3), 1e-3, weight_decay=1e-4)
    with torch.no_grad():
        goal = net(x) + 1
    losses = []
    for _ in range(30):
        loss = (prepared.model(x) - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert prepared.ranges != quantized.ranges
    prepared.freeze_ranges()
    frozen = prepared.refresh()
    (prepared.model(x) - goal).square().mean().backward()
    optimizer.step()
    assert prepared.refresh() == frozen
    prepared.model.eval()
    again = restore_quantized(unfold(prepared, net), x[:1], quantization_json(prepared))
    with torch.no_grad():
        assert torch.equal(again.model(x), prepared.model(x))


@torch.no_grad()
def test_exceptions_lower_the_error(net: Residual, x: torch.Tensor, quantized) -> None:
    reference = net(x)

    def error(model: nn.Module) -> float:
        return float((model(x) - reference).square().mean())

    wide = quantize_model(net, x[:1], [x], scheme="a16w8")
    assert error(wide.model) < error(quantized.model)
    left = quantize_model(net, x[:1], [x], exceptions={"stem": "float", "head": "a16w8"})
    assert any("conv2d" in operator for operator in left.points.islands.values())
    assert error(left.model) < error(quantized.model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "method = 'best' is unknown; known are 'mse'"),
        ({"scheme": "w4a4"}, "scheme = 'w4a4' is unknown"),
        ({"exceptions": {"nose": "float"}}, "'nose', which the network does not have; known are .*stem"),
        ({"exceptions": {"stem": "int3"}}, "is no scheme"),
    ],
)
def test_wrong_options_are_named(net: Residual, x: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quantize_model(net, x[:1], [x[:8]], **options)


def test_unusable_calibration_is_named(net: Residual, x: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="holds no batch"):
        quantize_model(net, x[:1], [])
    with pytest.raises(UsageError, match="NaN or infinite values at 'input'"):
        quantize_model(net, x[:1], [x[:4] * float("nan")])
    with pytest.raises(UsageError, match="may differ in the batch size only"):
        quantize_model(net, x[:1], [x[:4, :1]])


@pytest.mark.parametrize(
    "damage", [{"schema": 9}, {"ranges": {"input": {"min": 0}}}, {"ranges": {"input": {"min": 0, "max": 1}}}]
)
def test_damaged_quantization_is_refused(net: Residual, x: torch.Tensor, quantized, damage: dict) -> None:
    with pytest.raises(UsageError, match=r"damaged|another network"):
        restore_quantized(net, x[:1], {**quantization_json(quantized), **damage})


@pytest.mark.parametrize("ends", [(0, 0), (-1, -1), (1, 1), (2, 1), (-1e-9, 1e-9), (0, 1e-30), (0.0, -1.0)])
def test_ranges_that_hold_no_values_are_refused(net: Residual, x: torch.Tensor, quantized, ends) -> None:
    """Such a network gives the same output for everything, and agrees with its file on every sample."""
    stored = quantization_json(quantized)
    key = list(stored["ranges"])[1]
    ranges = {**stored["ranges"], key: {"min": ends[0], "max": ends[1]}}
    with pytest.raises(UsageError, match=f"the range of {key!r} is .* which holds no values"):
        restore_quantized(net, x[:1], {**stored, "ranges": ranges})


@torch.no_grad()
def test_values_that_never_move_survive_a_checkpoint(x: torch.Tensor) -> None:
    """A ReLU behind a bias of -100: its range has no width while the network lives, and one in the file."""
    first = nn.Conv2d(x.shape[1], 4, 1)
    nn.init.constant_(cast("torch.Tensor", first.bias), -100.0)
    net = nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    quantized = quantize_model(net, x[:1], [x[:8]])
    stored = json.loads(json.dumps(quantization_json(quantized)))
    assert all(ends["min"] < ends["max"] for ends in stored["ranges"].values())
    again = restore_quantized(unfold(quantized, net), x[:1], stored)
    assert again.integers() == quantized.integers()
    assert torch.equal(again.model(x), quantized.model(x))


@given(st.floats(-3, 3, width=32), st.floats(0, 3, width=32), st.sampled_from([1.0, 1e-6, 1e-9, 0.0]))
def test_a_range_is_written_with_the_same_integers(low: float, width: float, factor: float) -> None:
    low, high = np.float32(low * factor), np.float32(low * factor) + np.float32(width * factor)
    for bits in (8, 16):
        written = written_range(float(low), float(high), bits)
        assert holds_values(*written)
        assert integers_of_range(*written, bits) == integers_of_range(float(low), float(high), bits)


def _least_squared_error(seen: Observed, clipping: float) -> tuple[float, float]:
    """The search as it is said: every value rounded, for one range after the other."""
    low, high = min(0.0, seen.low), max(0.0, seen.high)

    def loss(start: float, end: float) -> float:
        scale = (end - start) / 255
        zero_point = np.clip(np.rint(-128 - start / scale), -128, 127)
        rounded = (np.clip(np.rint(seen.centers / scale) + zero_point, -128, 127) - zero_point) * scale
        inside = (seen.centers > start) & (seen.centers < end)
        return float((np.where(inside, scale**2 / 12, clipping * (seen.centers - rounded) ** 2) * seen.counts).sum())

    best = (low, high)
    for _ in range(2):
        for end in (0, 1):
            for share in np.linspace(0.2, 1.0, 100):
                trial = (low * share, best[1]) if end == 0 else (best[0], high * share)
                best = trial if loss(*trial) < loss(*best) else best
    return best


@pytest.mark.parametrize("clipping", [1.0, INPUT_CLIPPING])
@pytest.mark.parametrize("shift", [-20.0, -1.0, 0.0, 1.0, 20.0])
def test_the_least_squared_error_is_that_of_rounding_every_value(shift: float, clipping: float) -> None:
    values = np.random.default_rng(int(shift) + 20).standard_t(2.5, 3_000) + shift
    for kept in (values, np.maximum(values, 0.0)):
        seen = Observed(float(kept.min()), float(kept.max()))
        seen.counts += np.histogram(kept, 2048, (seen.low, seen.high))[0]
        found = choose_range(seen, "mse", clipping=clipping)
        assert found == pytest.approx(_least_squared_error(seen, clipping), rel=1e-9)


def test_methods_clip_a_long_tail_and_keep_a_flat_range() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200_000, generator=generator)
    values[0] = 100.0
    tailed = Observed(float(values.min()), 100.0)
    tailed.counts += torch.histc(values, 2048, tailed.low, tailed.high).numpy()
    assert choose_range(tailed, "minmax")[1] == 100
    assert choose_range(tailed, "percentile")[1] < 6
    assert choose_range(tailed, "mse")[1] < 90
    assert choose_range(tailed, "mse")[1] < choose_range(tailed, "mse", clipping=8.0)[1] <= 100
    assert choose_range(tailed, "entropy")[1] < 60
    flat = Observed(0.0, 1.0)
    flat.counts += 1
    for method in ("minmax", "mse", "entropy"):
        low, high = choose_range(flat, method)
        assert low == 0
        assert high > 0.98


@torch.no_grad()
def test_what_is_cut_off_an_input_costs_more_than_rounding() -> None:
    """A mean over time averages rounding errors out, and adds up what a slow wave loses at its crests."""
    generator = torch.Generator().manual_seed(0)
    time = torch.linspace(0, 6.28, 64)
    x = torch.cat([(1 + 3 * s) * torch.sin(time)[None, None] for s in torch.rand(64, generator=generator) ** 4])
    net = nn.Sequential(nn.Conv1d(1, 1, 15, bias=False)).eval()
    net[0].weight.fill_(1 / 15)
    error = {}
    for clipping in (1.0, INPUT_CLIPPING):
        seen = Observed(float(x.min()), float(x.max()))
        seen.counts += torch.histc(x, 2048, seen.low, seen.high).numpy()
        quantizer = ActivationQuantizer(8)
        quantizer.set_range(*choose_range(seen, "mse", clipping=clipping))
        error[clipping] = float((net(quantizer(x)) - net(x)).square().mean())
    assert error[INPUT_CLIPPING] < error[1.0]


@torch.no_grad()
@pytest.mark.parametrize("options", [{"equalize": True}, {"bias_correction": False}, {"method": "percentile"}])
def test_options_keep_the_function(net: Residual, x: torch.Tensor, options: dict) -> None:
    made = quantize_model(net, x[:1], [x], **options)
    assert float((made.model(x) - net(x)).abs().max()) < 0.1 * float(net(x).abs().max())


@torch.no_grad()
def test_equalisation_evens_channels_out_without_changing_the_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )
    net[0].weight.mul_(torch.logspace(-1, 1, 8).reshape(-1, 1, 1, 1))
    net[0].bias.mul_(torch.logspace(-1, 1, 8))
    net.eval()
    x = torch.randn(16, 3, 8, 8)
    from edgepress.compress.quantize.equalize import equalize_layers

    folded = fold(net, x[:1])
    equal = equalize_layers(folded, [(x,)])
    assert torch.allclose(equal.module(x), net(x), rtol=1e-4, atol=1e-5)
    plain, even = (
        quantize_model(net, x[:1], [x], equalize=flag, bias_correction=False, method="minmax") for flag in (False, True)
    )
    errors = [float((made.model(x) - net(x)).square().mean()) for made in (plain, even)]
    assert errors[1] < errors[0]


def test_sensitivity_names_the_costliest_layer(x: torch.Tensor, quantized) -> None:
    results = layer_sensitivity(quantized, [x[:8]])
    assert results == sorted(results, key=lambda entry: -entry.error)
    assert {"weights", "activations"} == {entry.kind for entry in results}
    assert "stem.0/conv2d" in {entry.key for entry in results}
    assert results[-1].error >= 0
    points = {point.key for point in quantized.points.points}
    assert all(entry.value in points for entry in results), "an exported file names the value so"
    assert next(entry.value for entry in results if entry.key == "stem.0/conv2d") == "stem.2/relu"
    assert figure(results, "net").startswith("<svg")
    assert "stem.0/conv2d" in table(results)
