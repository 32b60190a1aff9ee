"""The budget of our firmware's flash is the flash of the program that is linked, on every core."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgepress.benchmarks.experiments.budgets.flash import SHAPE, bytes_of, fitted, networks, stored_in
from edgepress.benchmarks.experiments.budgets.instructions import ZOO, lowered
from edgepress.compress.prune import prune_model
from edgepress.deploy.firmware.boards import missing_tools
from edgepress.deploy.firmware.emulated import EmulatedCore
from edgepress.models.checkpoints.registry import build
from edgepress.models.devices.classes import device_class
from edgepress.models.errors import UsageError
from edgepress.models.footprint.cores import CORES, costs_of
from edgepress.models.footprint.firmware_flash import code_table
from edgepress.models.footprint.instructions import instruction_table
from edgepress.models.footprint.table import footprint


@pytest.mark.parametrize("name", ["conv-1", "grouped-2", "depthwise-1", "plain-1", "dense-2", "add-1", "separable"])
def test_constants_lie_as_the_generator_packs_them(name: str):
    model = networks()[name]
    _, made = lowered(model, SHAPE)
    assert bytes_of(stored_in(model, SHAPE)) == made.network.constant_bytes


def test_odd_channels_and_tails_are_packed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, (3, 5)), nn.ReLU()).eval()
    # 27 products are 7 rounds of four, and one more round so that sixteens are whole; 5 channels are 3 pairs; then 75
    # products are 19 rounds and 7 channels 4 pairs. A bias and a multiplier for each channel of the pairs.
    first, second = 3 * 7 * 8 + 8 + 6 * 8, 4 * 19 * 8 + 8 + 8 * 8
    assert bytes_of(stored_in(model, SHAPE)) == first + second
    assert lowered(model, SHAPE)[1].network.constant_bytes == first + second


def test_a_kernel_is_paid_once_and_a_layer_each_time():
    rows: list[dict[str, Any]] = [
        {"kinds": kinds, "constant_bytes": 100, "flash_bytes": 100 + 3000 + once + 90 * kinds.count("conv")}
        for kinds, once in (([], 0), (["conv"], 700), (["conv"] * 2, 700), (["conv"] * 5, 700))
    ]
    assert fitted(rows)["program"] == 3000
    assert fitted(rows)["kinds"]["conv"] == {"kernel": 700, "layer": 90}


@pytest.mark.parametrize("table", [instruction_table, code_table])
def test_every_class_with_a_core_has_costs(table: Any):
    for name in CORES:
        assert costs_of(device_class(name), "instructions", table()["cores"])["worst_error"] < 0.02
    with pytest.raises(UsageError, match=r"'esp32' was not counted; known are the classes cortex-m0plus, .*esp32-c3"):
        costs_of(device_class("esp32"), "instructions", table()["cores"])


def test_a_budget_of_it_is_held_and_used():
    model, example = build("ds_cnn").eval(), torch.zeros(1, 1, 49, 10)
    for device in ("cortex-m7", "esp32-c3"):
        dense = footprint(model, example, device)["firmware_flash_bytes"]
        pruned = prune_model(model, example, device=device, firmware_flash_bytes="60%")
        found = pruned.on_device["firmware_flash_bytes"]
        assert found == footprint(pruned.model, example, device)["firmware_flash_bytes"]
        assert 0.99 * 0.6 * dense <= found <= 0.6 * dense


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "cortex-m7", "cortex-m55", "riscv32"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_figure_is_the_flash_of_the_linked_program(number: int, core: str):
    if reason := missing_tools(core):
        pytest.skip(reason)
    name, arguments, shape = ZOO[number]
    torch.manual_seed(number)
    example = torch.zeros(1, *shape)
    model = prune_model(build(name, **arguments).eval(), example, "45%").model.eval()
    device = next(device for device, of in CORES.items() if of == core)
    with EmulatedCore(lowered(model, shape)[1], core) as linked:
        assert footprint(model, example, device)["firmware_flash_bytes"] == pytest.approx(linked.sizes.flash, rel=0.01)
