"""Plans: plain JSON, checked before anything is cut."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from edgepress.models.checkpoints.plan import apply_plan, empty_plan
from edgepress.models.errors import UsageError


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))


def plan() -> dict[str, Any]:
    kept = [0, 2, 5]
    tensors = {
        "0.weight": {"0": kept},
        "0.bias": {"0": kept},
        "3.weight": {"1": kept},
        **{f"1.{name}": {"0": kept} for name in ("weight", "bias", "running_mean", "running_var")},
    }
    return {
        **empty_plan(),
        "tensors": tensors,
        "attributes": {"0": {"out_channels": 3}, "1": {"num_features": 3}, "3": {"in_channels": 3}},
    }


def test_a_plan_cuts_a_copy() -> None:
    model = network().eval()
    smaller = apply_plan(model, json.loads(json.dumps(plan())))
    assert model[0].weight.shape == (8, 3, 3, 3)
    assert smaller[0].weight.shape == (3, 3, 3, 3)
    assert (smaller[0].out_channels, smaller[1].num_features, smaller[3].in_channels) == (3, 3, 3)
    torch.testing.assert_close(smaller[3].weight, model[3].weight[:, [0, 2, 5]])
    with torch.no_grad():  # channels whose normalisation gives zero
        for name in ("weight", "bias"):
            getattr(model[1], name)[[1, 3, 4, 6, 7]] = 0
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(smaller(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_empty_plan_copies() -> None:
    model = network()
    same = apply_plan(model, empty_plan())
    assert same is not model
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))


def test_tied_and_frozen_parameters_stay_so() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)}).requires_grad_(False)
    model["b"].weight = model["a"].weight
    smaller = apply_plan(model, {**empty_plan(), "tensors": {"a.weight": {"0": [1, 3]}}})
    assert smaller["a"].weight is smaller["b"].weight
    assert smaller["a"].weight.shape == (2, 4)
    assert not smaller["a"].weight.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"kind": "pickle"}, "no pruning plan"),
        ({"tensors": []}, "tensors must be"),
        ({"tensors": {"0.weight": {"0": [0, 0]}}}, "different indices"),
        ({"tensors": {"0.weight": {"0": []}}}, "different indices"),
        ({"tensors": {"0.weight": {"0": [8]}}}, r"index 8 of axis 0 of '0.weight'"),
        ({"tensors": {"0.weight": {"7": [0]}}}, "axis 7"),
        ({"tensors": {"9.weight": {"0": [0]}}}, "does not have; it was made for another network"),
        ({"attributes": {"9": {"groups": 1}}}, "module '9'"),
        ({"attributes": {"2": {"groups": 1}}}, "a ReLU, which has no such size"),
        ({"attributes": {"0": {"forward": 1}}}, "a Conv2d, which has no such size"),
        ({"attributes": {"0": {"_modules": 1}}}, "it sets '_modules'"),
        ({"factors": [{"tensor": "0.weight", "rows": [0], "factor": -1.0}]}, "factors has"),
        ({"factors": [{"tensor": "9.weight", "rows": [0], "factor": 0.5}]}, "multiplies rows of '9.weight'"),
        ({"attributes": {"0": {"groups": "1"}}}, "to '1'"),
        ({"kind": "graph"}, "graph must be a JSON object"),
        ({"kind": "graph", "graph": {"inputs": [[[1, 3, 9, 9], "float32"]], "calls": {"99": {"op": "x"}}}}, "call 99"),
        ({"kind": "graph", "graph": {"inputs": [[["a"], "float32"]]}}, "graph.inputs must list"),
    ],
)
def test_a_damaged_plan_is_refused(change: dict[str, Any], message: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match=message):
        apply_plan(model, {**plan(), **change})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
