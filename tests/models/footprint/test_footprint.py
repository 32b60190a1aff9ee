"""Figures of devices by hand, and against the file, TFLite Micro and the estimate that they predict."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgepress.benchmarks.estimate.estimate import estimate_latency
from edgepress.models.devices.classes import device_class
from edgepress.models.errors import UsageError
from edgepress.models.footprint.latency import systems_table, usable_systems
from edgepress.models.footprint.memory import planned_bytes
from edgepress.models.footprint.table import footprint, held_limits


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    ).eval()


EXAMPLE = torch.zeros(1, 3, 16, 16)


def test_latency_is_the_sum_over_kinds_of_layer():
    device = device_class("cortex-m4")
    table = systems_table()["latency_us"]
    per_mac = table["systems"][usable_systems(device)[0][0]]["per_mac"]
    positions = 16 * 16
    conv = positions * (16 * 27 + 24 * 16) + table["output_cost"] * positions * (16 + 24)
    by_hand_ns = per_mac["conv"] * conv + per_mac["depthwise"] * positions * 16 * 9 + per_mac["dense"] * 24 * 5
    assert footprint(network(), EXAMPLE, "cortex-m4")["latency_ms"] == pytest.approx(by_hand_ns / 1e6)


def test_the_planner_places_the_larger_first_and_of_equal_ones_the_later():
    # 48 first at 0; of the two of 32 the later at 48, alive with it; the earlier meets both: behind them.
    assert planned_bytes([32, 48, 32], [0, 0, 1], [1, 1, 1]) == 112
    # Nothing that lives apart takes room of its own.
    assert planned_bytes([32, 48, 32], [0, 1, 2], [0, 1, 2]) == 48
    # Sizes are rounded up to 16 bytes: 17 is 32.
    assert planned_bytes([17, 1], [0, 0], [0, 0]) == 48
    # MobileNetV1-0.25 at 96x96: two equal tensors beside the input, the later of them first, leave a gap of 9,216.
    assert planned_bytes([27648, 18432, 18432, 36864], [0, 0, 1, 2], [0, 1, 2, 3]) == 73728


@pytest.mark.slow
def test_file_and_arena_are_those_of_the_exported_file(tmp_path):
    from edgepress import export_model, profile, quantize_model

    model = network()
    quantized = quantize_model(model, EXAMPLE, calibration=[(torch.randn(4, 3, 16, 16),)])
    export_model(quantized, EXAMPLE, tmp_path / "net.tflite")
    predicted = footprint(model, EXAMPLE, "cortex-m4")
    measured = profile(tmp_path / "net.tflite", arena=True)
    assert predicted["file_bytes"] == pytest.approx(measured["file_bytes"], abs=400)
    if measured["arena_bytes"]["tflm"] is not None:
        assert abs(predicted["arena_bytes"] - measured["arena_bytes"]["tflm"]) <= 64
    estimate = estimate_latency(measured, device_class("cortex-m4"))
    assert estimate.latency_ms == pytest.approx(predicted["latency_ms"], rel=1e-6)
    assert estimate.energy_uj == pytest.approx(predicted["energy_uj"], rel=1e-6)
    runtime = device_class("cortex-m4").flash_runtime_bytes
    assert predicted["flash_bytes"] == predicted["file_bytes"] + runtime


def test_a_class_holds_what_it_has_figures_for():
    limits = held_limits("cortex-m4")
    assert {"arena_bytes", "flash_bytes", "latency_ms"} <= set(limits.budgets())
    assert limits.device == "cortex-m4"
    assert set(held_limits("dcase2023").budgets()) == {"macs", "weight_bytes"}
    with pytest.raises(UsageError, match="known are"):
        held_limits("cortex-m99")


def test_kinds_without_a_measurement_have_no_latency():
    attention = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True).eval()
    assert "latency_ms" not in footprint(attention, torch.zeros(1, 64, 16), "cortex-m4")
