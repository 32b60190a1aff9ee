"""Tracing: what is recorded, and that the model stays as it was."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from edgepress.models.cost.graph import Ref, trace, trace_one_sample
from edgepress.models.errors import UsageError


class Tied(nn.Module):
    """Two layers with one weight, a normalisation, and a constant made in the forward."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.second(torch.relu_(self.first(x)))) + torch.tensor([2.0])


def test_nodes_have_names_shapes_parameters_and_modules():
    graph = trace(Tied(), torch.zeros(2, 4))
    calls = [node for node in graph.nodes if node.kind == "call"]
    assert [node.op for node in calls][:4] == ["linear", "relu", "linear", "batch_norm"]
    assert [node.module for node in calls][:4] == ["first", "", "second", "norm"]
    assert calls[0].module_class == "Linear"
    assert calls[0].arguments["input"] == Ref("x")
    assert calls[0].shape == (2, 4)
    assert calls[1].overload == "aten.relu_.default"
    # The tied weight has one name.
    assert graph.by_name[calls[2].arguments["weight"].name].source == "first.weight"
    assert graph.origins(calls[2].arguments["weight"].name) == ("first.weight",)
    assert set(graph.parameter_shapes) == {"first.weight", "first.bias", "second.bias", "norm.weight", "norm.bias"}
    assert graph.users["x"] == (calls[0].name,)
    assert graph.outputs == (calls[-1].name,)
    assert "x" not in graph.constant
    assert calls[0].arguments["weight"].name in graph.constant


def test_the_model_stays_as_it_was():
    model = Tied().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trace(model, torch.zeros(2, 4))
    assert model.training
    assert model.norm.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_that_cannot_be_copied_is_traced_and_restored():
    model = Tied().train()
    model.lock = threading.Lock()  # deepcopy refuses it
    model.norm.eval()
    assert trace(model, torch.zeros(2, 4)).outputs
    assert model.training
    assert not model.norm.training


def test_what_cannot_be_traced_is_one_sentence():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UsageError, match=r"torch\.export cannot trace Branches with inputs \[\(1, 4\)\]") as caught:
        trace(Branches(), torch.zeros(1, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inputs", [(), [1, 2], "x", None])
def test_inputs_must_be_tensors(inputs):
    with pytest.raises(UsageError, match="example_inputs must be a tensor or a tuple of tensors"):
        trace(Tied(), inputs)


def test_the_batch_is_cut_to_one():
    graph = trace_one_sample(nn.Conv2d(3, 4, 3), torch.zeros(8, 3, 6, 6))
    assert graph.by_name[graph.outputs[0]].shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("model", "shape"), [(nn.LSTM(4, 5), (7, 1, 4)), (nn.GRU(4, 5), (7, 4)), (nn.MultiheadAttention(4, 2), (7, 1, 4))]
)
def test_time_is_not_cut(model, shape):
    class OneInput(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = model

        def forward(self, x):
            return self.layer(x, x, x)[0] if isinstance(model, nn.MultiheadAttention) else self.layer(x)[0]

    graph = trace_one_sample(OneInput(), torch.zeros(shape))
    assert graph.by_name[graph.outputs[0]].shape[0] == 7


def test_a_batch_before_recurrent_layers_is_cut():
    class Permuted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LSTM(4, 5)

        def forward(self, x):  # (N, T, C) -> (T, N, C)
            return self.layer(x.permute(1, 0, 2))[0]

    graph = trace_one_sample(Permuted(), torch.zeros(3, 7, 4))
    assert graph.by_name[graph.outputs[0]].shape == (7, 1, 5)


def test_an_unbatched_input_is_traced_as_given():
    graph = trace_one_sample(nn.Conv2d(3, 4, 3), torch.zeros(3, 6, 6))
    assert graph.by_name[graph.outputs[0]].shape == (4, 4, 4)
