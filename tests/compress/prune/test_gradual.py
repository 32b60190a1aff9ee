"""Gradual pruning: the path of the budget, and masks that hold."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.prune.coupling.channels import find_groups
from edgepress.compress.prune.schedules.gradual import Gradual
from edgepress.compress.prune.schedules.trainers import (
    below_the_budget,
    data_scoring,
    importance_for,
    prune_and_train,
    remove_once,
)
from edgepress.compress.recipes.recipe import PruneSettings, TrainSettings
from edgepress.models.cost.cost import cost_of
from edgepress.models.errors import UsageError
from edgepress.models.limits import Limits
from tests.compress.train_cases import small_net, small_task

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


def test_shaping_that_ends_below_its_budget_says_so(network):
    graph = find_groups(network, EXAMPLE)
    whole = tuple(np.ones(group.size, bool) for group in graph.groups)
    dense = cost_of(network, EXAMPLE).macs
    assert below_the_budget(graph, whole, Limits(macs=dense)) == ()
    assert below_the_budget(graph, whole, Limits(macs=2 * dense, params=graph.cost(whole).get("params"))) == ()
    [said] = below_the_budget(graph, whole, Limits(macs=2 * dense, params=10**9))
    assert said.startswith("macs is at 50.00 % of its limit: ")


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
    assert second.selection() is first.selection() is None  # one update of two: not there yet
    for _ in range(3):
        first.after_step()
        second.after_step()
    assert all(map(np.array_equal, first.selection(), second.selection()))


def test_what_is_left_is_what_training_has_lived_with(network):
    """Weights that change after the last update do not change the choice, and no removed unit comes back."""
    graph = find_groups(network, EXAMPLE)
    limits = Limits(macs=cost_of(network, EXAMPLE).macs // 3)
    gradual = Gradual(graph, limits, updates=4)
    gradual.start(network, 5)
    kept = [graph.full()]
    for _ in range(4):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn_like(parameter))
        gradual.after_step()
        kept.append(tuple(mask.copy() for mask in gradual._kept))
    for before, after in pairwise(kept):
        assert all((wide | ~narrow).all() for wide, narrow in zip(before, after, strict=True))
    assert graph.cost(gradual.selection()).macs <= limits.macs
    masks = graph.parameter_masks(gradual.selection())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    gradual.after_step()
    weight = network.body[0].weight.detach()
    assert torch.equal(weight != 0, masks["body.0.weight"].expand_as(weight) != 0)


def test_filters_under_weight_norm_go_without_a_division_by_nothing():
    """What is removed has no magnitude; its direction of zeros would have no length to be divided by."""
    weight_norm = nn.utils.parametrizations.weight_norm
    network = nn.Sequential(weight_norm(nn.Conv2d(1, 8, 3)), nn.ReLU(), weight_norm(nn.Conv2d(8, 8, 3)), nn.ReLU())
    network.append(nn.Conv2d(8, 2, 1))
    graph = find_groups(network, EXAMPLE)
    gradual = Gradual(graph, Limits(macs=cost_of(network, EXAMPLE).macs // 3), updates=1)
    gradual.start(network, 2)
    gradual.after_step()
    removed = ~gradual.selection()[0]
    assert removed.any()
    masks = graph.parameter_masks(gradual.selection())
    assert "0.parametrizations.weight.original0" in masks
    assert "0.parametrizations.weight.original1" not in masks, "its only other axis, the input, is whole"
    assert masks["2.parametrizations.weight.original1"].shape == (1, 8, 1, 1), "inputs go, filters have their g"
    weight = network[0].weight.detach()
    assert torch.equal(weight.abs().sum((1, 2, 3)) == 0, torch.from_numpy(removed))
    network(torch.randn(2, 1, 12, 8)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_gradual_pruning_removes_the_masks_of_its_training(network, tmp_path, monkeypatch):
    """The averaged network is not scored anew: what goes is what was masked."""
    seen = []
    selection = Gradual.selection

    def remembered(self):
        seen.append(selection(self))
        return seen[-1]

    monkeypatch.setattr(Gradual, "selection", remembered)
    training = TrainSettings(epochs=4, batch_size=16, average=0.9, precision="32-true")
    settings = PruneSettings(updates=3, importance="fisher", train=training)
    half = Limits(macs=cost_of(network, EXAMPLE).macs // 2)
    result = prune_and_train(network, EXAMPLE, small_task(tmp_path), half, settings)
    assert all(map(np.array_equal, seen[-1], result.pruned.selection))


@pytest.mark.parametrize(
    ("asked", "kind", "expected"),
    [
        (None, "classification", "fisher"),
        (None, "regression", "l2"),
        (None, None, "l2"),
        ("bn", "classification", "bn"),
        ("fisher", "regression", "fisher"),
    ],
)
def test_what_a_channel_is_worth_unasked(network, tmp_path, asked, kind, expected):
    """fisher draws labels from class scores: it is the default where there are such, and data."""
    task = None if kind is None else small_task(tmp_path)
    if kind == "regression":
        splits = {
            name: dataclasses.replace(split, labels=np.eye(3, dtype=np.float32)[split.labels])
            for name, split in task.splits.items()
        }
        task = dataclasses.replace(task, kind=kind, splits=splits)
    settings = PruneSettings(importance=asked, clips=20)
    assert importance_for(settings, task) == expected
    half = Limits(macs=cost_of(network, EXAMPLE).macs // 2)
    chosen = {
        name: remove_once(network, EXAMPLE, half, settings.model_copy(update={"importance": name}), task).selection
        for name in {asked, expected, "random"}
    }
    assert all(map(np.array_equal, chosen[asked], chosen[expected]))
    assert not all(map(np.array_equal, chosen[asked], chosen["random"]))


def test_importances_of_data_look_at_so_many_clips(tmp_path):
    batches = data_scoring("fisher", small_task(tmp_path), 20)["batches"]
    assert [len(batch) for batch in batches] == [20]


def test_no_updates_are_refused(network):
    with pytest.raises(UsageError, match="updates = 0"):
        Gradual(find_groups(network, EXAMPLE), Limits(macs=1000), updates=0)
