"""The budget of our firmware's arena is the arena of the firmware that comes out, for every kind of kernels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgepress.benchmarks.experiments.budgets.instructions import lowered
from edgepress.compress.prune import prune_model
from edgepress.deploy.firmware.boards import BOARDS
from edgepress.models.cost.graph import trace_one_sample
from edgepress.models.devices.classes import device_class
from edgepress.models.errors import UsageError
from edgepress.models.footprint.cores import CORES, kernels_of
from edgepress.models.footprint.table import figures_of, footprint

KERNELS = {"cortex-m0plus": "tiled", "cortex-m4": "dsp", "cortex-m55": "mve", "esp32-c3": "tiled"}
SHAPE = (3, 24, 20)


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def network(width: int = 22) -> nn.Module:
    """A strided convolution whose padding is neither SAME nor VALID, behind a fused ReLU, and the rest."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, 1, groups=width),
        nn.ReLU(),
        nn.Conv2d(width, 26, 1),
        nn.ReLU(),
        Residual(26),
        nn.ZeroPad2d((1, 0, 1, 0)),
        nn.Conv2d(26, 30, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(30, 5),
    ).eval()


def test_the_figure_is_the_arena_of_the_firmware():
    model = network()
    _, made = lowered(model, SHAPE)
    graph = trace_one_sample(model, torch.zeros(1, *SHAPE))
    for device, kernels in KERNELS.items():
        (figure,) = figures_of(graph, device, ("firmware_arena_bytes",))
        assert figure.now() == made.layouts[kernels].arena_bytes, device


def test_a_budget_of_it_is_held_and_used():
    model, example = network(), torch.zeros(1, *SHAPE)
    dense = footprint(model, example, "cortex-m4")["firmware_arena_bytes"]
    pruned = prune_model(model, example, device="cortex-m4", firmware_arena_bytes="60%")
    found = pruned.on_device["firmware_arena_bytes"]
    assert found == footprint(pruned.model, example, "cortex-m4")["firmware_arena_bytes"]
    assert found <= 0.6 * dense
    assert found >= 0.99 * 0.6 * dense or any("and maximal" in note for note in pruned.notes)


@pytest.mark.parametrize("name", CORES)
def test_kernels_of_a_class_are_those_of_its_emulated_core(name: str):
    assert kernels_of(device_class(name), "firmware_arena_bytes") == BOARDS[CORES[name]].kernels


def test_a_class_without_our_firmware_says_so():
    with pytest.raises(UsageError, match="no microcontroller"):
        kernels_of(device_class("raspberry-pi-4"), "firmware_arena_bytes")
