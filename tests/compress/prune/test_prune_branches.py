"""Whole residual branches: which there are, by hand, and that they go in every projection, proven and trainable."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgepress.benchmarks.experiments.peers.networks import randomised
from edgepress.compress.prune.coupling.channels import ChannelGraph, find_groups
from edgepress.compress.prune.model import prune_model, take_out
from edgepress.compress.prune.removal.branches import find_branches
from edgepress.compress.prune.schedules.gradual import Gradual
from edgepress.models.checkpoints.branches import Constant
from edgepress.models.checkpoints.plan import apply_plan, chain_plans, check_plan
from edgepress.models.checkpoints.registry import build, zoo
from edgepress.models.cost.cost import cost_of
from edgepress.models.errors import ProofError, UsageError
from edgepress.models.limits import Limits

X = torch.randn(1, 3, 8, 8)
#: Just enough for the stem, 8 x 27 products at 64 positions, and the head, 8 x 4, by the rule core.
TRUNK_MACS = 13_900


class Residual(nn.Module):
    """As torchvision writes it: in-place activations, normalisations behind both convolutions, an addition."""

    def __init__(self, tail: str = "added"):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.tail, self.fc = nn.ReLU(inplace=True), tail, nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.tail == "added":
            x = x + branch
        elif self.tail == "added in place":
            x += branch
        elif self.tail == "into the branch":
            branch += x
            x = branch
        elif self.tail == "multiplied":
            x = x * torch.sigmoid(branch)
        elif self.tail == "alone":
            x = branch
        return self.fc(F.relu(x).mean((2, 3)))


def inner(graph: ChannelGraph) -> int:
    return next(number for number, group in enumerate(graph.groups) if group.name == "conv1")


@pytest.mark.parametrize(
    ("tail", "may_go"),
    [("added", True), ("added in place", True), ("into the branch", False), ("multiplied", False), ("alone", False)],
)
def test_a_branch_is_what_only_adds_to_a_stream(tail: str, may_go: bool) -> None:
    graph = find_groups(randomised(Residual(tail)), X)
    assert set(find_branches(graph)) == ({inner(graph)} if may_go else set())
    if may_go:
        branch = find_branches(graph)[inner(graph)]
        assert branch.nothing == ("conv1",)
        assert branch.inner == ("bn1",)
        assert branch.ends == (("conv2", "bn2"),)


@pytest.mark.parametrize(
    ("name", "branches"), [("resnet8", 3), ("cp_resnet", 6), ("cp_mobile", 4), ("ds_cnn", 0), ("mobilenet", 0)]
)
def test_the_branches_of_the_zoo(name: str, branches: int) -> None:
    graph = find_groups(build(name), tuple(torch.zeros(1, *shape) for shape in zoo()[name].input_shapes))
    assert len(find_branches(graph)) == branches


def without_inner(graph: ChannelGraph) -> tuple[np.ndarray, ...]:
    """Scores by which the inner channels go first."""
    return tuple(
        np.full(group.size, 1e-9 if number == inner(graph) else 1.0)
        + 1e-3 * np.arange(group.size) * (number != inner(graph))
        for number, group in enumerate(graph.groups)
    )


@pytest.mark.parametrize("projection", ["threshold", "knapsack", "algorithm-1"])
def test_a_branch_goes_as_a_whole_and_leaves_its_constant(projection: str) -> None:
    torch.manual_seed(0)
    model = randomised(Residual())
    graph = find_groups(model, X)
    pruned = prune_model(
        model, X, TRUNK_MACS, importance=without_inner(graph), projection=projection, min_channels=0, rule="core"
    )
    assert not pruned.selection[inner(graph)].any()
    assert pruned.proof.max_abs_diff <= 1e-5
    assert pruned.after.macs == 8 * 27 * 64 + 8 * 4
    constant = pruned.model.conv2
    assert isinstance(constant, Constant)
    assert isinstance(pruned.model.bn2, nn.Identity)
    norm = model.bn2
    value = norm.bias - norm.weight * norm.running_mean / torch.sqrt(norm.running_var + norm.eps)
    torch.testing.assert_close(constant.value.detach().flatten(), value.detach())
    by_hand = F.relu(pruned.model.stem(X) + constant.value).mean((2, 3))
    torch.testing.assert_close(pruned.model(X), pruned.model.fc(by_hand))


def test_its_plan_is_json_and_makes_the_network_again() -> None:
    torch.manual_seed(0)
    model = randomised(Residual())
    graph = find_groups(model, X)
    pruned = prune_model(model, X, TRUNK_MACS, importance=without_inner(graph), min_channels=0, rule="core")
    plan = json.loads(json.dumps(pruned.plan))
    again = apply_plan(model, plan)
    torch.testing.assert_close(again.eval()(X), pruned.model.eval()(X))
    again.load_state_dict(pruned.model.state_dict())
    before = [parameter.clone() for parameter in pruned.model.parameters()]
    pruned.model.train()(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert pruned.model.conv2.value.grad.abs().sum() > 0
    assert len(before) == 2 + 1 + 2  # stem, constant, head
    assert cost_of(again, X, "core") == pruned.after
    with pytest.raises(UsageError, match="lost whole branches"):
        chain_plans(plan, plan)
    with pytest.raises(UsageError, match="branches must map"):
        check_plan({**plan, "branches": {"conv2": {"kind": "exec"}}})
    with pytest.raises(UsageError, match="replaces module 'other'"):
        apply_plan(model, {**plan, "branches": {"other": {"kind": "identity"}}})


def test_unasked_a_branch_keeps_a_channel() -> None:
    model = randomised(Residual())
    graph = find_groups(model, X)
    for minimum in (1, 0):
        pruned = prune_model(
            model, X, TRUNK_MACS, importance=without_inner(graph), min_channels=minimum, rule="core", floor=0.0
        )
        assert pruned.selection[inner(graph)].any() == bool(minimum)


@pytest.mark.parametrize("name", ["resnet8", "cp_resnet", "cp_mobile"])
def test_branches_of_published_networks_go_and_what_is_left_trains(name: str) -> None:
    torch.manual_seed(0)
    model = randomised(build(name))
    inputs = tuple(torch.randn(1, *shape) for shape in zoo()[name].input_shapes)
    graph = find_groups(model, inputs)
    gone = sorted(find_branches(graph))[:2]
    selection = tuple(
        (np.arange(group.size) % 2 == 0) & (number not in gone) for number, group in enumerate(graph.groups)
    )
    pruned = take_out(model, inputs, graph, selection, Limits())
    assert pruned.proof.max_abs_diff <= 1e-5
    assert 0.95 * graph.cost(selection).macs < pruned.after.macs <= graph.cost(selection).macs
    pruned.model.train()(*(torch.randn(2, *value.shape[1:]) for value in inputs)).sum().backward()
    assert len(find_groups(pruned.model, inputs).groups) >= len(graph.groups) - 2 - 1


def test_gradual_pruning_may_end_without_a_branch() -> None:
    torch.manual_seed(0)
    model = randomised(Residual())
    with torch.no_grad():
        model.conv1.weight.mul_(1e-3)
    graph = find_groups(model, X, rule="core")
    # The small weights of the branch stay small beside those of the stem.
    unscaled = {"normalize": "none"}
    limits = Limits(macs=TRUNK_MACS, rule="core")
    gradual = Gradual(graph, limits, updates=1, min_channels=0, scoring=unscaled)
    gradual.start(model, 2)
    gradual.after_step()
    gradual.after_step()
    assert not gradual.selection()[inner(graph)].any()
    assert not model.conv1.weight.any()


def test_a_layer_of_the_trunk_must_keep_a_channel() -> None:
    from edgepress.compress.prune.removal.proof import remove

    model = randomised(Residual("alone"))
    graph = find_groups(model, X)
    selection = list(graph.full())
    selection[inner(graph)] = np.zeros(6, bool)
    with pytest.raises((ProofError, UsageError), match="conv1"):
        remove(model, graph, tuple(selection), X)
