"""Constants of a file that are no weights, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgepress import build, cost_of


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        # SAME at stride 1 is what padding=1 says: no operator of its own.
        ([nn.Conv2d(1, 2, 3, padding=1)], 0),
        # SAME at stride 2 would add one row behind alone; padding=1 adds one before: a PAD with int32 [4, 2].
        ([nn.Conv2d(1, 2, 3, stride=2, padding=1)], 32),
        ([nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(1, 2, 3)], 36),
        # The two axes of a MEAN, and the shape of the view behind it, where that is written.
        ([nn.AdaptiveAvgPool2d(1)], 8),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)], 8 + 16),
        ([nn.GELU()], 256),
    ],
)
def test_by_hand(layers, expected):
    assert cost_of(nn.Sequential(*layers).eval(), torch.randn(1, 1, 8, 8)).constant_bytes == expected


def test_published_networks_need_what_their_files_hold():
    """Measured in exported files: 40 bytes (a PAD, a MEAN) and 168 (five PADs, a MEAN)."""
    for name, shape, held in (("cp_resnet", (1, 1, 256, 44), 40), ("cp_mobile", (1, 1, 256, 64), 168)):
        at_most = cost_of(build(name).eval(), torch.randn(shape)).constant_bytes
        assert held <= at_most <= held + 150, name
