"""A network that was pruned to exactly the memory of a challenge passes the challenge's gate."""

from __future__ import annotations

import pytest
import torch

from edgepress import build, cost_of, export_model, prune_model, quantize_model
from edgepress.benchmarks.gate.gate import evaluate_gate


@pytest.mark.slow
@pytest.mark.parametrize("device", ["dcase2022", "dcase2023"])
def test_pruned_to_the_memory_of_a_class(tmp_path, device):
    pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    model, x = build("cp_mobile").eval(), torch.randn(1, 1, 64, 48)
    pruned = prune_model(model, x, device=device)
    room = 128_000 - cost_of(model, x).constant_bytes
    assert 0.99 * room <= pruned.after.weight_bytes <= room
    quantized = quantize_model(pruned.model, x, calibration=[torch.randn(4, 1, 64, 48)])
    export_model(quantized, x, tmp_path / "m.tflite")
    verdict = evaluate_gate(tmp_path / "m.tflite", device=device)
    assert verdict["passed"], verdict["violations"]
    memory = next(c for c in verdict["checks"] if c["metric"] in ("params", "weights"))
    assert memory["value"] > pruned.after.weight_bytes, "its counter finds constants beside the weights"
