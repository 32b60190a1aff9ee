"""Seeds joined: spread, paired differences, the table."""

from __future__ import annotations

import numpy as np

from edgepress.benchmarks.report.summary import _difference, _record, _spread, as_markdown


def test_spread_is_mean_smallest_and_largest():
    assert _spread([0.7, 0.8, 0.75]) == {"mean": 0.75, "min": 0.7, "max": 0.8, "seeds": 3}
    assert _spread([]) is None


def test_only_devices_that_every_seed_has_are_joined():
    def record(accuracy: float, devices: list[str]) -> dict:
        return {
            "accuracy": accuracy,
            "log_loss": 1.0,
            "seen_devices": {"accuracy": accuracy},
            "unseen_devices": None,
            "by_recording_device": {device: {"accuracy": accuracy} for device in devices},
        }

    joined = _record([record(0.5, ["a", "b"]), record(0.7, ["a"])])
    assert joined is not None
    assert list(joined["by_recording_device"]) == ["a"]
    assert joined["by_recording_device"]["a"]["mean"] == 0.6
    assert joined["unseen_devices"] is None


def test_the_interval_draws_recordings_not_clips():
    # Two recordings of 50 clips: one always better, one never. Clips as units would make the interval far narrower.
    a = np.zeros((3, 100), bool)
    a[:, :50] = True
    b = np.zeros((3, 100), bool)
    found = _difference(a, b, ["x"] * 50 + ["y"] * 50)
    assert found["difference"] == 0.5
    assert found["interval"] == [0.0, 1.0]


def test_the_table_has_a_row_for_each_network():
    spread = _spread([0.7, 0.8])
    row = {
        "name": "dense",
        "macs": _spread([38e6]),
        "params": _spread([187146]),
        "weight_bytes": None,
        "file_bytes": None,
        "arena_bytes": None,
        "fp32": {"accuracy": spread, "log_loss": spread, "seen_devices": spread, "unseen_devices": None},
        "int8": {"tflm": {"accuracy": spread}},
        "minus_dense": None,
        "int8_minus_fp32": {"difference": -0.002, "interval": [-0.01, 0.006]},
    }
    lines = as_markdown({"networks": [row]}).splitlines()
    assert len(lines) == 3
    assert lines[2] == (
        "| dense | 38.00 | 187,146 | - | - | 75.0 (70.0–80.0) | 0.750 | 75.0 (70.0–80.0) | - | 75.0 (70.0–80.0) | - "
        "| -0.2 [-1.0, +0.6] |"
    )
