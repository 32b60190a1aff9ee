"""Gradual pruning: the path of the budget, and masks that hold."""

from __future__ import annotations

import pytest
import torch

from edgepress.compress.prune.coupling.channels import find_groups
from edgepress.compress.prune.schedules.gradual import Gradual
from edgepress.models.cost.cost import cost_of
from edgepress.models.errors import UsageError
from edgepress.models.limits import Limits
from tests.compress.train_cases import small_net

EXAMPLE = (torch.zeros(1, 1, 12, 8),)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return small_net().eval()


def test_the_budget_falls_geometrically_from_the_dense_cost(network):
    dense = cost_of(network, EXAMPLE).macs
    gradual = Gradual(find_groups(network, EXAMPLE), Limits(macs=dense // 4, params=10**9))
    assert gradual.limits_at(0.5).macs == pytest.approx(dense / 2, rel=0.01)
    assert gradual.limits_at(1.0).macs == dense // 4
    assert gradual.limits_at(0.5).params == 10**9  # binds nothing, so that it stays as it is


def test_removed_channels_stay_at_zero_and_only_become_more(network):
    dense = cost_of(network, EXAMPLE).macs
    gradual = Gradual(find_groups(network, EXAMPLE), Limits(macs=dense // 4), updates=3)
    gradual.start(network, 8)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    removed = [0]
    for _ in range(8):
        optimizer.zero_grad()
        network(torch.randn(4, 1, 12, 8)).square().mean().backward()
        optimizer.step()
        gradual.after_step()
        removed.append(int((network.body[0].weight == 0).sum()))
    assert removed == sorted(removed)
    assert removed[-1] > removed[2] > 0
    assert gradual.figures() == {"pruned_share": 1.0}
    assert gradual.penalty() is None


def test_state_goes_on_where_it_was(network):
    limits = Limits(macs=cost_of(network, EXAMPLE).macs // 2)
    first = Gradual(find_groups(network, EXAMPLE), limits, updates=2)
    first.start(network, 6)
    for _ in range(3):
        first.after_step()
    second = Gradual(find_groups(network, EXAMPLE), limits, updates=2)
    second.start(network, 6)
    second.load_state_dict(first.state_dict())
    assert second.figures() == first.figures()
    assert second.state_dict()["masks"].keys() == first.state_dict()["masks"].keys()


def test_no_updates_are_refused(network):
    with pytest.raises(UsageError, match="updates = 0"):
        Gradual(find_groups(network, EXAMPLE), Limits(macs=1000), updates=0)
