"""Liveness of activations, by hand."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgepress.models.checkpoints.registry import build
from edgepress.models.cost.activations import activation_plan
from edgepress.models.cost.graph import trace


def plan_of(model, *shape):
    return activation_plan(trace(model, torch.zeros(shape)))


class Residual(nn.Module):
    """x -> a (conv, folded norm, in-place ReLU) -> b -> a + b -> view -> dense."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.dense = nn.Linear(128, 10)

    def forward(self, x):
        a = F.relu(self.norm(self.a(x)), inplace=True)
        return self.dense(F.relu(a + self.b(a)).view(-1, 128))


def test_by_hand():
    plan = plan_of(Residual(), 1, 3, 4, 4)
    # x 48, a 128, b 128, sum 128, output 10: nothing for the norm, both ReLUs and the view.
    assert [tensor.shape for tensor in plan.tensors] == [
        (1, 3, 4, 4),
        (1, 8, 4, 4),
        (1, 8, 4, 4),
        (1, 8, 4, 4),
        (1, 10),
    ]
    assert plan.steps == ("conv2d", "conv2d_1", "add", "linear")
    assert plan.timeline().tolist() == [48 + 128, 256, 384, 138]
    assert plan.peak() == 384


def test_other_sizes_need_no_new_trace():
    plan = plan_of(Residual(), 1, 3, 4, 4)
    assert [tensor.node for tensor in plan.tensors] == [tensor.name for tensor in plan.tensors]
    sizes = plan.sizes.copy()
    sizes[1:4] //= 2
    assert plan.peak(sizes) == 192
    assert plan.peak(np.zeros_like(sizes)) == 0


def test_padding_that_tflite_has_no_name_for_is_a_tensor():
    class Strided(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, stride=2, padding=1)
            self.size = size

        def forward(self, x):
            return self.conv(x)

    # 8 wide: SAME would pad behind only. 9 wide: SAME pads one on each side, as torch does.
    even, odd = plan_of(Strided(8), 1, 1, 8, 8), plan_of(Strided(9), 1, 1, 9, 9)
    assert even.steps == ("conv2d.padded", "conv2d")
    assert [tensor.shape for tensor in even.tensors] == [(1, 1, 8, 8), (1, 1, 10, 10), (1, 2, 4, 4)]
    assert even.tensors[1].node == "x"
    assert even.timeline().tolist() == [164, 132]
    assert odd.steps == ("conv2d",)


def test_an_explicit_padding_that_is_same_is_free():
    class Same(nn.Module):
        def __init__(self, amounts):
            super().__init__()
            self.conv, self.amounts = nn.Conv2d(1, 2, 3, stride=2), amounts

        def forward(self, x):
            return self.conv(F.pad(x, self.amounts))

    assert plan_of(Same((0, 1, 0, 1)), 1, 1, 8, 8).peak() == 64 + 32
    assert plan_of(Same((1, 1, 1, 1)), 1, 1, 8, 8).peak() == 64 + 100


def test_a_tensor_lives_to_its_last_reader_and_outputs_to_the_end():
    class Early(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            first = self.layers[0](x)
            return first, self.layers[2](self.layers[1](first)) + x

    plan = plan_of(Early(), 1, 4)
    assert plan.timeline().tolist() == [8, 12, 16, 16]


def test_several_results_and_unread_ones():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)

        def forward(self, x):
            left, right = x.chunk(2, 1)
            return self.lstm(torch.cat((left, right), 2).repeat(1, 1, 2)[..., :4])[0]  # the last state is not read

    plan = plan_of(Split(), 1, 6, 4)
    assert [tensor.shape for tensor in plan.tensors] == [
        (1, 6, 4),
        (1, 3, 4),
        (1, 3, 4),
        (1, 3, 8),
        (1, 3, 16),
        (1, 3, 4),
        (1, 3, 6),
    ]
    assert plan.steps == ("chunk", "cat", "repeat", "slice_1", "lstm")
    assert plan.timeline().tolist() == [48, 48, 24 + 48, 48 + 12, 12 + 18]


def test_it_is_what_tflite_micro_allocates():
    # Measured on the exported int8 files with TFLite Micro; its planner leaves gaps in others (mobilenet 73,728).
    assert plan_of(build("cp_resnet"), 1, 1, 256, 44).peak() == 105_504
    assert plan_of(build("ds_cnn"), 1, 1, 49, 10).peak() == 16_000
    assert plan_of(build("resnet8"), 1, 3, 32, 32).peak() == 49_152
    assert plan_of(build("autoencoder"), 1, 640).peak() == 768


def test_a_network_without_operators():
    plan = plan_of(nn.Flatten(), 1, 2, 3)
    assert plan.peak() == 6
    assert plan.steps == ()
