"""Profiles written by hand, for tests that need no file."""

from __future__ import annotations

from typing import Any


def small_profile(**changes: Any) -> dict[str, Any]:
    """A convolution of 1,000 MACs, a depthwise one of 500 and a dense layer of 100; 160 parameters."""
    layers = [
        {
            "name": "stem",
            "operator": "CONV_2D",
            "kind": "conv",
            "macs": {"core": 1000, "dcase": 1100},
            "params": 60,
            "weight_bytes": 90,
            "input_shape": [1, 8, 8, 1],
            "output_shape": [1, 4, 4, 4],
            "activation_bytes": 64,
            "live_bytes": 128,
        },
        {
            "name": "block/dw",
            "operator": "DEPTHWISE_CONV_2D",
            "kind": "depthwise",
            "macs": {"core": 500, "dcase": 520},
            "params": 40,
            "weight_bytes": 52,
            "input_shape": [1, 4, 4, 4],
            "output_shape": [1, 4, 4, 4],
            "activation_bytes": 64,
            "live_bytes": 128,
        },
        {
            "name": "head",
            "operator": "FULLY_CONNECTED",
            "kind": "dense",
            "macs": {"core": 100, "dcase": 102},
            "params": 60,
            "weight_bytes": 66,
            "input_shape": [1, 4],
            "output_shape": [1, 2],
            "activation_bytes": 2,
            "live_bytes": 6,
        },
    ]
    profile = {
        "schema": 1,
        "file": "m.tflite",
        "sha256": "ab" * 32,
        "macs": {"core": 1600, "dcase": 1722, "torchinfo": None, "nessi-tflite": 1650, "vela": 1610, "st": 1700},
        "params": 160,
        "weight_bytes": 208,
        "file_bytes": 1000,
        "peak_activation_bytes": 128,
        "arena_bytes": {"tflm": 2000},
        "layers": layers,
        "uncounted": [],
        "notes": {"torchinfo": "no batch normalisation"},
    }
    return {**profile, **changes}
