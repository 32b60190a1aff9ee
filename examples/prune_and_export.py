# SPDX-License-Identifier: Apache-2.0
"""A network goes in, half as expensive and int8 it comes out as ONNX; the file is run and counted. A minute on a CPU.

python examples/prune_and_export.py
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgepress import export_model, open_session, profile, prune_model, quantize_model


class Block(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=2, padding=1),
        Block(24),
        Block(24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    ).eval()
    example = torch.zeros(1, 3, 32, 32)

    pruned = prune_model(model, example, macs="50%")
    assert pruned.after.macs <= pruned.before.macs / 2
    print(f"{pruned.before.macs:,} MACs became {pruned.after.macs:,}, proven to {pruned.proof.max_abs_diff:.0e}")

    pictures = torch.rand(64, 3, 32, 32)  # your data, as the network is fed in training
    quantized = quantize_model(pruned.model, example, calibration=pictures.split(16))
    export_model(quantized, example, "smaller.onnx", overwrite=True)

    outputs = open_session("smaller.onnx").run(pictures.numpy())
    with torch.no_grad():
        agree = np.mean(outputs.argmax(1) == pruned.model(pictures).argmax(1).numpy())
    print(f"int8 and float agree on {agree:.0%} of {len(pictures)} inputs")
    print(f"{profile('smaller.onnx')['file_bytes']:,} bytes")


if __name__ == "__main__":
    main()
