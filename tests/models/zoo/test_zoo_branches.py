"""CP-Mobile with parallel branches in training: merged, it is a CP-Mobile that computes the same."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from edgepress import build, cost_of, prune_model
from edgepress.models.checkpoints.plan import apply_plan, chain_plans
from edgepress.models.checkpoints.reparameterize import reparameterized
from edgepress.models.zoo.branches import BranchedDepthwise

X = torch.randn(2, 1, 64, 33, generator=torch.Generator().manual_seed(1))
SMALL = {"base_channels": 8, "n_blocks": [2, 1]}


def trained(**arguments) -> torch.nn.Module:
    """With statistics and scales that are not 0 and 1."""
    torch.manual_seed(0)
    model = build("cp_mobile", **SMALL, **arguments).train()
    model(torch.randn(8, 1, 64, 33))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 2)])
def test_one_depthwise_convolution_by_its_branches(stride):
    module = BranchedDepthwise(3, stride).double()
    for branch in module.branches:
        norm = branch[1]
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    assert len(module.branches) == (5 if stride == (1, 1) else 4)
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    expected = 0
    for convolution, norm in module.branches:
        y = x
        if isinstance(convolution, torch.nn.Conv2d):
            rows, columns = convolution.kernel_size
            y = functional.conv2d(x, convolution.weight, None, stride, (rows // 2, columns // 2), groups=3)
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
        expected = expected + (y - norm.running_mean[:, None, None]) * scale + norm.bias[:, None, None]
    module.eval()
    torch.testing.assert_close(module(x), expected)
    with torch.no_grad():
        module.reparameterize()
        module.reparameterize()
    torch.testing.assert_close(module(x), expected)
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {
        "merged.weight": (3, 1, 3, 3),
        "merged.bias": (3,),
    }


def test_the_merged_network_is_a_cp_mobile():
    model = trained(branches=True)
    merged = reparameterized(model)
    torch.testing.assert_close(merged(X), model(X), rtol=1e-4, atol=1e-5)
    plain = cost_of(build("cp_mobile", **SMALL).eval(), X[:1])
    found = cost_of(merged, X[:1])
    assert (found.macs, found.params) == (plain.macs, plain.params)
    assert cost_of(model, X[:1]).params > plain.params


def test_merging_and_pruning_go_into_one_plan():
    model = trained(branches=True)
    merged = reparameterized(model)
    pruned = prune_model(merged, X[:1], macs="70%", importance="l2")
    plan = chain_plans(
        {"schema": 1, "kind": "modules", "tensors": {}, "attributes": {}, "reparameterized": True}, pruned.plan
    )
    again = apply_plan(build("cp_mobile", **SMALL, branches=True), plan)
    again.load_state_dict(pruned.model.state_dict())
    torch.testing.assert_close(again.eval()(X), pruned.model.eval()(X))
    twice = prune_model(pruned.model, X[:1], macs="80%", importance="l2")
    third = apply_plan(build("cp_mobile", **SMALL, branches=True), chain_plans(plan, twice.plan))
    third.load_state_dict(twice.model.state_dict())
    torch.testing.assert_close(third.eval()(X), twice.model.eval()(X))
