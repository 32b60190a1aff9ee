"""Detours that the conversion leaves in a float TFLite file, and what is left of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgepress.deploy.tflite.objects import operator_name, read_objects

pytest.importorskip("litert_torch")


class Padded(nn.Module):
    """A padded convolution beside a shortcut that reads the same image: what makes LiteRT-Torch transpose."""

    def __init__(
        self,
        padding: tuple[int, int, int, int],
        kernel: int = 3,
        stride: int = 2,
        dilation: int = 1,
        depthwise: bool = False,
    ):
        super().__init__()
        self.padding = padding
        self.before = nn.Conv2d(3, 4, 1)
        self.body = nn.Conv2d(4, 4, kernel, stride, dilation=dilation, groups=4 if depthwise else 1)
        self.shortcut = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.before(x)
        padded = functional.pad(x, self.padding)
        return self.body(padded).mean((2, 3)), self.shortcut(x).mean((2, 3))


@pytest.mark.parametrize(
    ("size", "settings", "pads"),
    [
        # SAME of 8, kernel 3, stride 2 pads (4 - 1) 2 + 3 - 8 = 1, behind; of 9: (5 - 1) 2 + 3 - 9 = 2.
        (8, {"padding": (0, 1, 0, 1)}, 0),
        (8, {"padding": (0, 1, 0, 1), "depthwise": True}, 0),
        (9, {"padding": (1, 1, 1, 1)}, 0),
        # Dilation 2 makes the kernel reach over 5: (8 - 1) 1 + 5 - 8 = 4.
        (8, {"padding": (2, 2, 2, 2), "stride": 1, "dilation": 2}, 0),
        # What SAME does not mean stays, without a transpose.
        (8, {"padding": (1, 0, 1, 0)}, 1),
        (8, {"padding": (1, 1, 1, 1)}, 1),
        (8, {"padding": (0, 2, 0, 1), "depthwise": True}, 1),
        (9, {"padding": (1, 1, 0, 2)}, 1),
    ],
)
def test_paddings_and_transposes(size: int, settings: dict, pads: int) -> None:
    from edgepress.deploy.export.to_tflite import convert_float, run_all

    torch.manual_seed(0)
    model, x = Padded(**settings).eval(), torch.randn(1, 3, size, size)
    data = convert_float(model, (x,))[0]
    objects = read_objects(data)
    graph = objects.subgraphs[0]
    kinds = Counter(operator_name(objects, operator) for operator in graph.operators)
    assert kinds["TRANSPOSE"] == 0
    assert kinds["PAD"] + kinds["PADV2"] == pads
    values = dict(run_all(data, [x.numpy()]))
    for index, expected in zip(graph.outputs, model(x), strict=True):
        np.testing.assert_allclose(values[int(index)], expected.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_nothing_unread_is_left() -> None:
    """Of ResNet-8, whose blocks that halve the image came with three transposes each."""
    from edgepress.deploy.export.to_tflite import convert_float
    from edgepress.models.checkpoints.registry import build

    objects = read_objects(convert_float(build("resnet8").eval(), (torch.randn(1, 3, 32, 32),))[0])
    graph = objects.subgraphs[0]
    kinds = Counter(operator_name(objects, operator) for operator in graph.operators)
    assert kinds == {"CONV_2D": 9, "ADD": 3, "MEAN": 1, "FULLY_CONNECTED": 1}
    read = {int(index) for operator in graph.operators for index in (*operator.inputs, *operator.outputs)}
    assert read == set(range(len(graph.tensors)))
    assert len(objects.operatorCodes) == 4


def test_a_transpose_whose_result_is_an_output_stays() -> None:
    from edgepress.deploy.export.to_tflite import convert_float, run_all

    class Turned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 1).relu().permute(0, 2, 1)[:, :2].permute(0, 2, 1)

    x = torch.randn(1, 3, 5)
    data = convert_float(Turned(), (x,))[0]
    output = int(read_objects(data).subgraphs[0].outputs[0])
    np.testing.assert_array_equal(dict(run_all(data, [x.numpy()]))[output], Turned()(x).numpy())


@pytest.mark.parametrize(
    ("name", "forward", "transposes"),
    [
        ("square", lambda x, c: (y := x.permute(0, 2, 1), (y * y).mean(2))[1], 0),
        ("chain", lambda x, c: (y := x.permute(0, 2, 1), (torch.relu(y * y + 2) - y).sum(1))[1], 0),
        ("square of a chain", lambda x, c: (y := x.permute(0, 2, 1) + 1, (y * y).mean(2))[1], 0),
        ("constant", lambda x, c: (x.permute(0, 2, 1) * c).amax(1), 0),
        ("back again", lambda x, c: torch.tanh(x.permute(0, 2, 1) * 2 + c).permute(0, 2, 1) + x, 0),
        # A vector belongs to the last axis of the layout, and what is read elsewhere is needed as it is.
        ("vector", lambda x, c: (x.permute(0, 2, 1) * c[0, 0]).mean(1), 1),
        ("two layouts", lambda x, c: (x[:, :, :3].permute(0, 2, 1) * x[:, :, :3]).mean(1), 1),
        ("read twice", lambda x, c: (y := torch.tanh(x.permute(0, 2, 1)), (y.mean(1), y.reshape(1, 15)))[1], 1),
    ],
)
def test_transposes_before_functions_of_elements(name: str, forward: Any, transposes: int) -> None:
    from edgepress.deploy.export.to_tflite import convert_float, run_all

    class Turned(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return forward(x, torch.arange(15.0).reshape(1, 5, 3) / 7)

    x = torch.randn(1, 3, 5)
    data = convert_float(Turned(), (x,))[0]
    objects = read_objects(data)
    kinds = Counter(operator_name(objects, operator) for operator in objects.subgraphs[0].operators)
    assert kinds["TRANSPOSE"] == transposes
    values, expected = dict(run_all(data, [x.numpy()])), Turned()(x)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for index, value in zip(objects.subgraphs[0].outputs, expected, strict=True):
        np.testing.assert_allclose(values[int(index)], value.numpy(), rtol=1e-5, atol=1e-6)
