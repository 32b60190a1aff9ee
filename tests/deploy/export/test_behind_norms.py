"""Norms give 16 bits; what stands behind one and has 8 bits alone on some runtime reads 8. A long softmax needs 16."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from edgepress.compress.quantize import quantize_model
from edgepress.deploy.export.export import export_model
from edgepress.deploy.firmware.operators.lower import lower
from edgepress.deploy.tflite.reader import read_tflite

pytestmark = pytest.mark.skipif(find_spec("litert_torch") is None, reason="needs litert-torch")

BEHIND: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "RESIZE_BILINEAR": lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    "REDUCE_MAX": lambda x: x.amax((2, 3), keepdim=True),
    "REDUCE_MIN": lambda x: x.amin(1, keepdim=True),
    "GATHER_ND": lambda x: x[:, torch.tensor([3, 1, 2, 0, 7])],
    "MIRROR_PAD": lambda x: nn.functional.pad(x, (1, 2, 1, 0), mode="reflect"),
}


class Normed(nn.Module):
    def __init__(self, behind: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.stem, self.norm, self.behind = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.GroupNorm(8, 16), behind
        self.head = nn.Conv2d(behind(torch.zeros(1, 16, 16, 16)).shape[1], 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.behind(self.norm(self.stem(x))))


def exported(behind: Callable[[torch.Tensor], torch.Tensor], folder):
    torch.manual_seed(0)
    net, x = Normed(behind).eval(), torch.randn(8, 3, 16, 16)
    quantized = quantize_model(net, x[:1], [x])
    return export_model(quantized, x[:1], folder / "net.tflite", samples=x)


@pytest.mark.parametrize("name", BEHIND)
def test_operators_of_8_bits_read_8(name, tmp_path):
    made = exported(BEHIND[name], tmp_path)
    file = read_tflite(made.path)
    [operator] = [operator for operator in file.operators if operator.code == name]
    assert {file.tensors[index].dtype for index in (operator.inputs[0], operator.outputs[0])} == {"int8"}
    assert made.manifest["float_islands"] == []
    lower(made.path)  # and it becomes C
    runtimes = made.manifest["parity"]["runtimes"]
    assert all(figures.get("skipped") is None and figures["max_lsb"] <= 4 for figures in runtimes.values())


@pytest.mark.skipif(find_spec("tflite_micro") is None or shutil.which("cc") is None, reason="needs TFLite Micro and cc")
def test_nearest_neighbours_keep_16_bits_in_c(tmp_path):
    from tests.deploy.firmware.test_firmware_operators import differences

    made = exported(lambda x: nn.functional.interpolate(x, scale_factor=2), tmp_path)
    file = read_tflite(made.path)
    [resize] = [operator for operator in file.operators if operator.code == "RESIZE_NEAREST_NEIGHBOR"]
    assert file.tensors[resize.inputs[0]].dtype == "int16"
    assert differences(made.path.read_bytes(), tmp_path) == 0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_thresholds_behind_norms_compare_real_values(sign, tmp_path):
    """LiteRT compares int16 of two scales as if they had one: half of the image was halved that should not be."""
    made = exported(lambda x: torch.where(sign * x > 0.1, x, x * 0.5), tmp_path)
    assert all(figures["max_lsb"] <= 3 for figures in made.manifest["parity"]["runtimes"].values())


class Attention(nn.Module):
    """Of 520 places, all alike to each: exponentials that sum up to more than 512."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv1d(8, 48, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.project(x).transpose(1, 2).split(16, 2)
        return nn.functional.scaled_dot_product_attention(0.01 * query, key, value)


def test_a_softmax_over_many_values_has_16_bits_and_aborts_nothing(tmp_path):
    torch.manual_seed(0)
    net, x = Attention().eval(), torch.randn(8, 8, 520)
    quantized = quantize_model(net, x[:1], [x])
    made = export_model(quantized, x[:1], tmp_path / "net.tflite", samples=x)
    file = read_tflite(made.path)
    [softmax] = [operator for operator in file.operators if operator.code == "SOFTMAX"]
    assert file.tensors[softmax.outputs[0]].dtype == "int16"
    assert [figures.get("skipped") for figures in made.manifest["parity"]["runtimes"].values()] == [None] * 3
    lower(made.path)
    with torch.no_grad():  # means over all places, which 8 bits (a step is 1/256, each weight 1/520) give as 0 or twice
        expected = net(x)
        assert float((quantized.model(x) - expected).square().mean()) < 0.1 * float(expected.square().mean())
