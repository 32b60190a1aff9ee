"""The peak activation bytes that pruning budgets, against what TFLite Micro allocates for the exported network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tflite_micro") is None,
        reason="TFLite Micro's package exists for 64-bit x86 Linux only",
    ),
]


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet8", (3, 32, 32)), ("ds_cnn", (1, 49, 10)), ("mobilenet", (3, 96, 96))]
)
def test_the_budget_is_the_head_of_the_arena(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    """With the memory plan of `shrink_file`; TFLite Micro's own planner may leave holes, so that it needs more."""
    from edgepress.benchmarks.experiments.peers.networks import randomised
    from edgepress.compress.prune.model import prune_model
    from edgepress.compress.quantize.model import quantize_model
    from edgepress.deploy.export.export import export_model
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.verify.shrink import shrink_file
    from edgepress.models.checkpoints.registry import build

    torch.manual_seed(0)
    x = torch.randn(1, *shape)
    pruned = prune_model(randomised(build(name)), x, macs="60%", peak_activation_bytes="75%")
    peak = pruned.after.peak_activation_bytes
    assert peak <= 0.75 * pruned.before.peak_activation_bytes
    quantized = quantize_model(pruned.model.eval(), x, calibration=[(torch.randn(8, *shape),)])
    exported, planned = tmp_path / "model.tflite", tmp_path / "planned.tflite"
    export_model(quantized, x, exported, verify=False)
    shrink_file(exported, planned)
    heads = []
    for path in (exported, planned):
        with open_session(path, "tflm") as session:
            heads.append(session.arena_bytes()["head"])
    assert peak <= heads[1] <= heads[0]
    assert heads[1] <= peak + 4 * 15  # each of the tensors alive at once begins at a multiple of 16 bytes
