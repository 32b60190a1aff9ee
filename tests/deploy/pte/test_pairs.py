"""Our integers as quantization pairs in a graph: the same values to the bit, in the form that XNNPACK melts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.scheme import Integers
from edgepress.deploy.pte.pairs import with_pairs
from edgepress.deploy.pte.scales import border_of, constant_methods
from tests.compress.quantize.quantized_networks import Residual, trained_like

PAIRS = torch.ops.quantized_decomposed


class Mixed(nn.Module):
    """What is not convolution: functions of one variable, a product with constants, splits, average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.slopes = nn.PReLU(4)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)
        self.register_buffer("weights", torch.linspace(-1, 1, 4).reshape(1, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = nn.functional.hardswish(self.stem(x)).chunk(2, dim=1)
        y = torch.cat([self.slopes(a) * 0.5, torch.sigmoid(b)], dim=1)
        y = nn.functional.avg_pool2d(self.up(y), 2) * self.weights + nn.functional.relu6(a)
        return self.head(y.mean((2, 3))), nn.functional.gelu(y)


def quantized_of(make, shape):
    x = torch.randn(20, *shape, generator=torch.Generator().manual_seed(1))
    return quantize_model(trained_like(make), x[:1], [x[:8], x[8:16]]), x[16:]


def test_pairs_give_the_values_of_fake_quantization_to_the_bit() -> None:
    quantized, x = quantized_of(Residual, (2, 40, 32))
    paired = with_pairs(quantized)
    with torch.no_grad():
        assert torch.equal(paired.module(x), quantized.model(x))
    assert paired.islands == []
    stored = dict(paired.module.named_buffers())
    kinds = {name: stored[name].dtype for name in stored if name.endswith("weight")}
    assert kinds
    assert set(kinds.values()) == {torch.int8}
    targets = [node.target for node in paired.module.graph.nodes]
    assert torch.ops.aten.relu.default not in targets  # saturation does its work
    # Each integer value is written once; of the two borders the integers are known.
    assert targets.count(PAIRS.quantize_per_tensor.default) == len(paired.ranges)
    ours = {(e["scale"], e["zero_point"]) for e in paired.ranges.values()}
    assert ours == {(float(i.scale), i.zero_point) for i in quantized.integers().values()}
    assert [paired.inputs[0], paired.outputs[0]] == [quantized.integers()["x"], quantized.output_integers()[0]]


def test_other_operators_stay_within_the_parity_of_runtimes() -> None:
    quantized, x = quantized_of(Mixed, (2, 8, 8))
    paired = with_pairs(quantized)
    with torch.no_grad():
        wanted, made = quantized.model(x), paired.module(x)
    for a, b, integers in zip(wanted, made, paired.outputs, strict=True):
        assert integers is not None
        # An average of a half goes away from zero in fake quantization and to the even integer here: a step, which the
        # operators behind it scale. The limit is that of parity.
        assert float((a - b).abs().max()) <= 3.001 * float(integers.scale)
    reals = [n for n in paired.module.graph.nodes if n.target is PAIRS.dequantize_per_tensor.default]
    assert {len(node.users) for node in reals} == {1}
    # A ReLU6 whose range ends above 6 stays, as does what is no convolution.
    functions = {str(node.target) for node in paired.module.graph.nodes if node.op == "call_function"}
    assert {"aten.hardswish.default", "aten.prelu.default", "aten.gelu.default"} <= functions


def test_layers_in_float_keep_float_weights() -> None:
    x = torch.randn(8, 2, 40, 32, generator=torch.Generator().manual_seed(1))
    net = trained_like(Residual)
    quantized = quantize_model(net, x[:1], [x], exceptions={"head": "float"})
    paired = with_pairs(quantized)
    assert len(paired.islands) == 1
    assert "head" in paired.islands[0]
    linear = next(node for node in paired.module.graph.nodes if node.target is torch.ops.aten.linear.default)
    assert linear.args[1].op == "get_attr"
    assert paired.outputs == [None]
    with torch.no_grad():
        assert torch.equal(paired.module(x), quantized.model(x))


def test_the_parts_of_a_norm_have_sixteen_bits_and_stay_in_float() -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    quantized = quantize_model(trained_like(lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8))), x[:1], [x])
    paired = with_pairs(quantized)
    dtypes = {n.args[-1] for n in paired.module.graph.nodes if n.target is PAIRS.quantize_per_tensor.default}
    assert dtypes == {torch.int8}
    assert any("1/" in island for island in paired.islands)
    assert paired.outputs[0] is not None
    with torch.no_grad():
        step = float(paired.outputs[0].scale)
        assert float((paired.module(x) - quantized.model(x)).abs().max()) <= 1.001 * step


def test_the_network_is_left_as_it_was() -> None:
    quantized, x = quantized_of(Residual, (2, 40, 32))
    before = quantized.model(x)
    with_pairs(quantized)
    assert torch.equal(quantized.model(x), before)


def test_borders_come_back_as_they_were_told() -> None:
    told = constant_methods([Integers(np.float32(0.1), -3), None], [Integers(np.float32(0.25), 7)])
    assert sorted(told) == [
        "forward_input0_scale",
        "forward_input0_zp",
        "forward_output0_scale",
        "forward_output0_zp",
    ]
    assert border_of("input", 0, list(told), told.__getitem__) == (float(np.float32(0.1)), -3)
    assert border_of("input", 1, list(told), told.__getitem__) is None
    assert border_of("output", 0, list(told), told.__getitem__) == (0.25, 7)
    with pytest.raises(KeyError):
        border_of("output", 0, list(told), {}.__getitem__)


def test_sixteen_bits_keep_their_limits_in_float() -> None:
    """Rows twenty times as even as those of the calibration: 1 / deviation is beyond its integers."""
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    net = trained_like(lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.LayerNorm(8)))
    quantized = quantize_model(net, x[:1], [x], bias_correction=False)
    with torch.no_grad():
        paired = with_pairs(quantized)
        even = x / 20
        difference = (paired.module(even) - quantized.model(even)).abs().max()
        assert paired.outputs[0] is not None
        assert float(difference) <= 1.001 * float(paired.outputs[0].scale)
    root = next(node for node in paired.module.graph.nodes if node.target is torch.ops.aten.rsqrt.default)
    (limit,) = root.users
    assert limit.target is torch.ops.aten.clamp.default
    integers = next(i for name, i in quantized.integers().items() if name == root.name)
    assert limit.args[1:] == pytest.approx((-32768 * float(integers.scale), 32767 * float(integers.scale)), rel=1e-6)
    # Without the limits the same rows are far away.
    for node in [n for n in paired.module.graph.nodes if n.target is torch.ops.aten.clamp.default]:
        node.replace_all_uses_with(node.args[0])
    paired.module.recompile()
    with torch.no_grad():
        assert float((paired.module(even) - quantized.model(even)).abs().max()) > 20 * float(paired.outputs[0].scale)
