"""Programs of torch.export: whole operators, no regions, shapes of recurrent layers as torch itself computes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgepress.models.cost.graph import trace
from edgepress.models.cost.program import export_program


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, "projected"])
def test_shapes_of_recurrent_layers(kind: Any, bidirectional: bool, batch_first: bool) -> None:
    options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first}
    made = nn.LSTM(5, 6, proj_size=3, **options) if kind == "projected" else kind(5, 6, **options)
    x = torch.randn(2, 4, 5)
    (node,) = (node for node in trace(made, x).nodes if node.op in ("lstm", "gru", "rnn_tanh"))
    output, states = made(x)
    states = states if isinstance(states, tuple) else (states,)
    assert node.shapes == (tuple(output.shape), *(tuple(state.shape) for state in states))


class Regions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            y = self.a(x)
            with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
                z = self.b(y)
            return z, y


def test_regions_are_in_line() -> None:
    model, x = Regions(), torch.randn(2, 3)
    program = export_program(model, (x,))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names == ["aten.linear.default"] * 2
    assert [node.module for node in trace(model, x).nodes if node.kind == "call"] == ["a", "b"]
    found = torch.fx.GraphModule(program.graph_module, program.graph)(
        model.a.weight, model.a.bias, model.b.weight, model.b.bias, x
    )
    y = x @ model.a.weight.T + model.a.bias
    torch.testing.assert_close(found[1], y)
    torch.testing.assert_close(found[0], y @ model.b.weight.T + model.b.bias)  # float32, not bfloat16


def test_modes() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> Any:
            x = self.norm(x)
            return (x, self.head(x)) if self.training else x

    model = Head().eval()
    batch_norms = {}
    for mode, outputs in (("evaluation", 1), ("heads", 2), ("training", 2)):
        graph = trace(model, torch.randn(2, 3), mode)
        assert len(graph.outputs) == outputs
        batch_norms[mode] = next(node for node in graph.nodes if node.op == "batch_norm").arguments["training"]
    assert batch_norms == {"evaluation": False, "heads": False, "training": True}
    assert not model.training
