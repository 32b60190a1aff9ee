"""The peak activation bytes that pruning budgets, against what TFLite Micro allocates for the exported network."""

from __future__ import annotations

import importlib.util

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.skipif(importlib.util.find_spec("tflite_micro") is None,
                                                   reason="TFLite Micro's package exists for 64-bit x86 Linux only")]


@pytest.mark.parametrize(("name", "shape"), [("resnet8", (3, 32, 32)), ("ds_cnn", (1, 49, 10)),
                                             ("mobilenet", (3, 96, 96))])
def test_the_budget_is_the_head_of_the_arena(tmp_path, name: str, shape: tuple[int, ...]) -> None:
    """The head is at least the peak; alignment to 16 bytes and scratch memory of kernels add a tenth at most."""
    from deploy.tflm_arena import measure_arena

    from benchmarks.peers.networks import randomised
    from compress import prune_model, quantize_model
    from deploy import export_model
    from models import build

    x = torch.randn(1, *shape)
    pruned = prune_model(randomised(build(name)), x, macs="60%", peak_activation_bytes="75%")
    assert pruned.after.peak_activation_bytes <= 0.75 * pruned.before.peak_activation_bytes
    quantized = quantize_model(pruned.model.eval(), x, calibration=[(torch.randn(8, *shape),)])
    export_model(quantized, x, tmp_path / "model.tflite", verify=False)
    head = measure_arena(tmp_path / "model.tflite").head
    assert pruned.after.peak_activation_bytes <= head <= 1.1 * pruned.after.peak_activation_bytes + 1024
