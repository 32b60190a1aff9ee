"""What the limits of a class leave for pruning."""

from __future__ import annotations

from edgepress.compress.pipeline.budget import limits_for
from edgepress.models.devices.classes import device_class

ENTRY = {"path": "dense", "rule": "dcase", "macs": 10_000_000, "constant_bytes": 40}


def test_a_challenge_that_counts_every_constant_leaves_room_for_them():
    assert limits_for(ENTRY, {"macs": "5M"}, "dcase2023").weight_bytes == 128_000 - 40
    assert limits_for({**ENTRY, "constant_bytes": None}, {"macs": "5M"}, "dcase2023").weight_bytes == 128_000
    # Its 128,000 parameters are bytes for the challenge's counter, whose biases take four.
    assert limits_for(ENTRY, {"macs": "5M"}, "dcase2022").weight_bytes == 128_000 - 40
    assert limits_for(ENTRY, {"macs": "5M", "weight_bytes": "64kB"}, "dcase2023").weight_bytes == 64_000


def test_a_machine_counts_weights_alone():
    m4 = device_class("cortex-m4").limits
    assert limits_for(ENTRY, {"macs": "5M"}, "cortex-m4").weight_bytes == m4.weight_bytes


def test_targets_of_a_class_without_its_limits():
    """--device names the core that instructions are counted on; --no-device-limits leaves the rest of it out."""
    limits = limits_for({**ENTRY, "instructions": 9e6}, {"instructions": "50%"}, "cortex-m4", targets_alone=True)
    assert limits.budgets() == {"instructions": 4.5e6}
    assert limits.device == "cortex-m4"
    held = limits_for({**ENTRY, "instructions": 9e6}, {"instructions": "50%"}, "cortex-m4").budgets()
    assert held["instructions"] == 4.5e6
    assert len(held) > 1
