"""Amounts of kernels by hand, and a predicted network against its count on the emulated core."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgepress.models.errors import UsageError
from edgepress.models.footprint.cores import CORES
from edgepress.models.footprint.instructions import instruction_table
from edgepress.models.footprint.kernel_amounts import Window, conv_tiles, conv_vectors, depthwise_planes, pool
from edgepress.models.footprint.table import figures_of, footprint

#: 3x3, padded, over 4x4: 16 positions, five tiles of three and one that is alone; 2x2 windows lie inside,
#: and 2x2 more are cut at the top or the bottom only.
SQUARE = Window((3, 3), (1, 1), (1, 1), (1, 1), (4, 4), (4, 4))


def some(found: dict[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in found.items() if amount}


def test_tiles_of_a_convolution():
    # 8 x 9 = 72 products are 18 rounds of four; 5 channels are 3 pairs, the last of them half empty.
    assert some(conv_tiles(SQUARE, 8, 5, 1)) == {
        "rounds": 5 * 3 * 18,
        "pairs": 5 * 3,
        "odd channels": 5,
        "tiles": 5,
        "single: rounds": 3 * 18,
        "single: pairs": 3,
        "single: odd channels": 1,
        "positions": 16,
        "rounds inside: rows": 4 * 3,
        "rounds inside: rounds": 4 * 18,
        "rounds edge: rows": 4 * 3,
        "rounds edge: rounds": 4 * 18,
        "rounds border: columns": 8 * 9,
        "rounds border: rounds": 8 * 18,
        "layer": 1,
    }


def test_a_channel_more_than_a_pair_and_a_round_costs_a_whole_one():
    even, odd = (conv_tiles(SQUARE, 8, channels, 1) for channels in (4, 5))
    assert odd["pairs"] == conv_tiles(SQUARE, 8, 6, 1)["pairs"] > even["pairs"]
    assert conv_tiles(SQUARE, 9, 4, 1)["rounds"] == 5 * 2 * 21  # 81 products


def test_a_convolution_in_place_gathers_nothing():
    point = Window((1, 1), (1, 1), (1, 1), (0, 0), (3, 4), (3, 4))
    found = some(conv_tiles(point, 12, 4, 1))
    assert found["spread rounds"] == 12 * 3
    assert not [name for name in found if "inside" in name or "border" in name or "edge" in name]
    # 13 values are no whole rounds: lines of 16 are made.
    assert conv_tiles(point, 13, 4, 1)["inside: odd"] == 12


def test_vectors_of_a_convolution():
    found = conv_vectors(SQUARE, 8, 5, 1)
    assert (found["rounds"], found["pairs"], found["fours"]) == (5 * 3 * 5, 5 * 3, 5 * 2)  # 72 products: 5 vectors
    assert found["single: rounds"] == 3 * 5


def test_planes_of_a_depthwise_convolution():
    found = some(depthwise_planes(SQUARE, 6))
    # One band; a row of 4 outputs is two pairs; of 4 + 4 - 1 columns 4 are copied.
    assert found["3x3: pairs"] == 6 * 4 * 2
    assert found["copied words"] == 6 * 4
    assert found["planes"] == (3 + 4) * (4 + 2)


def test_windows_of_a_pooling():
    halves = Window((2, 2), (1, 1), (1, 1), (0, 0), (4, 4), (2, 2))
    found = pool(halves, 6)
    assert (found["window of fours"], found["channels"], found["window of sixteens"]) == (4 * 2 * 4, 4 * 6, 4 * 4)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 13, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(13, 13, 3, padding=1, groups=13),
        nn.ReLU(),
        nn.Conv2d(13, 22, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(22, 9, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9, 5),
    ).eval()


@pytest.mark.parametrize(
    ("one", "other"), [("cortex-m4", "cortex-m7"), ("esp32-c3", "risc-v"), ("cortex-m55", "cortex-m85")]
)
def test_classes_whose_cores_run_the_same_kernels_have_one_count(one: str, other: str):
    model, example = network(), torch.zeros(1, 3, 12, 12)
    counts = [footprint(model, example, device)["instructions"] for device in (one, other)]
    assert counts[0] == counts[1] > 0


def test_a_core_that_was_not_counted_is_refused():
    from edgepress.models.cost.graph import trace_one_sample

    with pytest.raises(UsageError, match=r"was not counted; known are .*cortex-m4"):
        figures_of(trace_one_sample(network(), torch.zeros(1, 3, 12, 12)), "esp32", ["instructions"])


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55", "esp32-c3"])
def test_a_small_network_is_predicted(device: str):
    from edgepress.benchmarks.experiments.budgets.instructions import counted, lowered
    from edgepress.deploy.firmware.boards import missing_tools

    core = CORES[device]
    if reason := missing_tools(core):
        pytest.skip(reason)
    model = network()
    layers, made = lowered(model, (3, 12, 12))
    row = counted(made, layers, core)
    predicted = footprint(model, torch.zeros(1, 3, 12, 12), device)["instructions"]
    # The table was judged on networks of a million instructions and more; this one has a few hundred thousand.
    assert predicted == pytest.approx(row["total"], rel=0.05)
    assert instruction_table()["cores"][core]["worst_error"] < 0.05
