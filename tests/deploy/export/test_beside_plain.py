"""Beside LiteRT-Torch with ai-edge-quantizer: never more float operators, never more bytes, never much noisier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgepress.compress.quantize import quantize_model
from edgepress.deploy.artifact import write_manifest
from edgepress.deploy.export.export import export_model
from edgepress.deploy.export.to_tflite import convert_float, silenced
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.tflite.reader import read_tflite
from tests.compress.quantize.operator_networks import Network

pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_quantizer")
pytestmark = pytest.mark.slow


def _squeezed(s: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.hardswish(s.a(x))
    y = F.hardswish(s.b(y))
    y = y * F.hardsigmoid(s.up(F.relu(s.down(y.mean((2, 3), keepdim=True)))))
    return s.head(s.c(y).mean((2, 3)))


def _ghost(s: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(s.a(x))
    z = torch.cat([y, F.relu(s.b(y))], 1)[:, :20]
    z[:, :3] += x
    return s.head(z.mean((2, 3)))


def _next(s: Any, x: torch.Tensor) -> torch.Tensor:
    y = s.a(x)
    z = s.norm(s.b(y).permute(0, 2, 3, 1))
    y = y + s.down(F.gelu(s.up(z))).permute(0, 3, 1, 2)
    return s.head(y.mean((2, 3)))


def _denoised(s: Any, x: torch.Tensor) -> torch.Tensor:
    down = F.relu(s.a(x))
    return s.c(torch.cat([F.relu(s.up(F.relu(s.b(down)))), down], 1))


IMAGE = (1, 3, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "squeeze_excite": (
        lambda: Network(
            _squeezed,
            a=nn.Conv2d(3, 16, 3, 2, 1),
            b=nn.Conv2d(16, 16, 3, padding=1, groups=16),
            down=nn.Conv2d(16, 8, 1),
            up=nn.Conv2d(8, 16, 1),
            c=nn.Conv2d(16, 24, 1),
            head=nn.Linear(24, 5),
        ),
        IMAGE,
    ),
    "prelu": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.PReLU(16), nn.Conv2d(16, 24, 3, 2), nn.PReLU(), nn.Flatten(), nn.Linear(864, 5)
        ),
        IMAGE,
    ),
    "elu_mish": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ELU(), nn.Conv2d(16, 24, 3, 2), nn.Mish(), nn.Conv2d(24, 4, 1)),
        IMAGE,
    ),
    "ghost": (
        lambda: Network(
            _ghost,
            a=nn.Conv2d(3, 12, 3, padding=1),
            b=nn.Conv2d(12, 12, 3, padding=1, groups=12),
            head=nn.Linear(20, 5),
        ),
        IMAGE,
    ),
    "next": (
        lambda: Network(
            _next,
            a=nn.Conv2d(3, 16, 4, 4),
            b=nn.Conv2d(16, 16, 3, padding=1, groups=16),
            norm=nn.LayerNorm(16),
            up=nn.Linear(16, 64),
            down=nn.Linear(64, 16),
            head=nn.Linear(16, 5),
        ),
        IMAGE,
    ),
    "transposed": (
        lambda: Network(
            _denoised,
            a=nn.Conv2d(3, 8, 3, padding=1),
            b=nn.Conv2d(8, 16, 3, 2, 1),
            up=nn.ConvTranspose2d(16, 8, 2, 2),
            c=nn.Conv2d(16, 3, 1),
        ),
        IMAGE,
    ),
    "log_softmax": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 48, 3), nn.ReLU(), nn.Conv2d(48, 9, 3), nn.LogSoftmax(1)
        ),
        IMAGE,
    ),
    "group_norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 8, 3)),
        IMAGE,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_never_worse_than_the_plain_path(name: str, tmp_path: Path):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    network = build().eval()
    batches = [torch.randn(8, *shape[1:]) for _ in range(4)]
    inputs = torch.randn(32, *shape[1:])
    with torch.no_grad():
        wanted = network(inputs).numpy()
    plain = tmp_path / "plain.tflite"
    _plain(network, batches, plain)
    ours = tmp_path / "ours.tflite"
    export_model(quantize_model(network, batches[0][:1], batches), batches[0][:1], ours, verify=False)
    assert _float_operators(ours) <= _float_operators(plain)
    assert ours.stat().st_size <= plain.stat().st_size
    assert _decibels(ours, inputs, wanted) >= _decibels(plain, inputs, wanted) - 1.0


def _plain(network: nn.Module, batches: list[torch.Tensor], path: Path) -> None:
    """The float file, quantized by ai-edge-quantizer's recipe with its own calibration."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    data, layouts = convert_float(network, (batches[0][:1],))
    path.write_bytes(data)
    signature, names = next(iter(Interpreter(model_content=data).get_signature_list().items()))
    samples = [x[i : i + 1].numpy() for x in batches for i in range(len(x))]
    fed = [{names["inputs"][0]: x.transpose(0, 2, 3, 1).copy() if x.ndim == 4 else x} for x in samples]
    with silenced():
        maker = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        made = maker.quantize(maker.calibrate({signature: fed})).quantized_model
    assert made is not None
    path.write_bytes(made)
    write_manifest(path, {"format": "tflite", "scheme": "w8a8", "layouts": layouts})


def _float_operators(path: Path) -> int:
    graph = read_tflite(path).subgraphs[0]
    return sum(
        operator.code not in ("QUANTIZE", "DEQUANTIZE")
        and any(graph.tensors[i].dtype == "float32" for i in operator.outputs)
        for operator in graph.operators
    )


def _decibels(path: Path, inputs: torch.Tensor, wanted: np.ndarray) -> float:
    """Signal to noise against float, on LiteRT."""
    with open_session(path, "litert", isolate=True) as session:
        given = np.asarray(session.run(inputs.numpy()))
    return float(10 * np.log10(np.square(wanted).sum() / np.square(given.reshape(wanted.shape) - wanted).sum()))
