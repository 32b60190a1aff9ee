"""The memory layout of a training: channels last, but where a kernel of the processor would break memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from edgepress.compress.quantize import quantize_model
from edgepress.compress.training.machine import layout_of

ENDANGERED = nn.Conv2d(5, 6, 1, 2)


@pytest.mark.parametrize(
    ("layer", "endangered"),
    [
        (ENDANGERED, True),
        (nn.Conv2d(16, 32, 1, (1, 2), groups=4), True),
        (nn.Conv2d(8, 6, 1, 2), False),
        (nn.Conv2d(5, 6, 1), False),
        (nn.Conv2d(5, 6, 3, 2), False),
        (nn.Linear(5, 6), False),
    ],
)
def test_channels_come_first_where_the_kernel_for_avx2_is_wrong(
    monkeypatch, layer: nn.Module, endangered: bool
) -> None:
    network = nn.Sequential(nn.ReLU(), layer)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert layout_of(network) is (torch.contiguous_format if endangered else torch.channels_last)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert layout_of(network) is torch.channels_last


def test_layers_of_a_quantized_graph_are_seen(monkeypatch) -> None:
    x = torch.randn(4, 5, 8, 8)
    quantized = quantize_model(nn.Sequential(ENDANGERED, nn.ReLU()).eval(), x[:1], [x])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert layout_of(quantized.model) is torch.contiguous_format


def test_training_such_a_layer_keeps_the_process_alive() -> None:
    """In a process of its own, which a broken heap would end."""
    code = """if True:
        import torch
        from torch import nn
        from edgepress.compress.training.machine import channels_last, layout_of
        network = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 5, 1, 2))
        channels_last(network)
        for _ in range(40):
            x = torch.randn(32, 1, 8, 8).contiguous(memory_format=layout_of(network))
            network(x).sum().backward()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
