"""What TFLite Micro's kernels take at most: transposes of many axes, concatenations of many tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgepress.deploy.tflite.micro_limits import HIGHEST_RANK, MOST_JOINED, merged


@st.composite
def transposes(draw):
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=7))
    return shape, draw(st.permutations(range(len(shape))))


@given(transposes())
def test_the_same_elements_at_the_same_places(case):
    shape, order = case
    values = np.arange(np.prod(shape)).reshape(shape)
    few_shape, few = merged(shape, order)
    assert len(few) <= sum(size > 1 for size in shape)
    assert (values.reshape(few_shape).transpose(few).ravel() == values.transpose(order).ravel()).all()


@pytest.mark.parametrize(
    ("shape", "order", "few_shape", "few"),
    [
        ((1, 4, 7, 4, 7, 32), (0, 1, 3, 2, 4, 5), [4, 7, 4, 224], [0, 2, 1, 3]),  # windows of an image
        ((2, 3, 4), (0, 1, 2), [24], [0]),
        ((2, 1, 3), (2, 1, 0), [2, 3], [1, 0]),
        ((2, 1, 3), (1, 0, 2), [6], [0]),
        ((1, 1), (1, 0), [], []),
    ],
)
def test_as_few_axes_as_possible(shape, order, few_shape, few):
    assert merged(shape, order) == (few_shape, few)


class Windows(nn.Module):
    """Windows of 2 x 2 of an image [N, C, H, W] and back; between reshapes, and where others read the six axes."""

    def __init__(self, plain: bool):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.dense, self.plain = nn.Conv2d(3, 4, 1), nn.Linear(16, 16), plain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        cut = x.reshape(n, h // 2, 2, w // 2, 2, c)
        if not self.plain:
            cut = torch.tanh(cut)
        turned = cut.permute(0, 1, 3, 2, 4, 5)
        if not self.plain:
            turned = torch.sigmoid(turned)
        y = self.dense(turned.reshape(n, h // 2, w // 2, 4 * c))
        return y.reshape(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [True, False])
def test_windows_run_on_tflite_micro(plain: bool, tmp_path: Path):
    pytest.importorskip("litert_torch")
    pytest.importorskip("tflite_micro")
    from edgepress.compress.quantize import quantize_model
    from edgepress.deploy.export.export import export_model
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.tflite.objects import constant, operator_name, read_objects

    net, x = Windows(plain).eval(), torch.randn(8, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    made = export_model(quantize_model(net, x[:1], [x]), x[:1], tmp_path / "net.tflite", samples=x)
    assert made.manifest["float_islands"] == []
    model = read_objects(made.path.read_bytes())
    kinds = [operator_name(model, one) for one in model.subgraphs[0].operators]
    orders = [
        constant(model, model.subgraphs[0].tensors[int(one.inputs[1])])
        for one, kind in zip(model.subgraphs[0].operators, kinds, strict=True)
        if kind == "TRANSPOSE"
    ]
    assert [list(order) for order in orders if order is not None].count([0, 2, 1, 3]) == 2
    assert max(order.size for order in orders if order is not None) <= HIGHEST_RANK
    with torch.no_grad():
        expected = net(x).numpy()
    for runtime in ("tflm", "litert"):
        with open_session(made.path, runtime=runtime) as session:
            assert np.abs(session.run(x.numpy()) - expected).max() < 0.05 * np.abs(expected).max()


class Joined(nn.Module):
    """So many factors of one image behind each other."""

    def __init__(self, count: int):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.count = nn.Conv2d(3, 4, 1), count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(x))
        return torch.cat([y * (1 + number / 100) for number in range(self.count)], 1)


@pytest.mark.slow
@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("count", [11, 101])
def test_many_tensors_are_joined_in_parts(count: int, integers: bool, tmp_path: Path):
    pytest.importorskip("litert_torch")
    pytest.importorskip("tflite_micro")
    from edgepress.compress.quantize import quantize_model
    from edgepress.deploy.export.export import export_model
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.tflite.objects import operator_name, read_objects

    net, x = Joined(count).eval(), torch.randn(8, 3, 2, 3, generator=torch.Generator().manual_seed(1))
    network = quantize_model(net, x[:1], [x]) if integers else net
    made = export_model(network, x[:1], tmp_path / "net.tflite", samples=x)
    model = read_objects(made.path.read_bytes())
    joins = [one for one in model.subgraphs[0].operators if operator_name(model, one) == "CONCATENATION"]
    assert max(len(one.inputs) for one in joins) <= MOST_JOINED
    # 11 are 10 and one, joined; 101 are ten tens and one, then the ten tens and the one, and these two.
    assert len(joins) == {11: 2, 101: 12}[count]
    for runtime in ("tflm", "litert"):
        with open_session(made.path, runtime=runtime) as session, torch.no_grad():
            wanted = net(x).numpy()
            assert np.abs(session.run(x.numpy()) - wanted).max() < (0.02 if integers else 1e-5) * np.abs(wanted).max()
