"""Budgets: exact, never exceeded, nearly used up or maximal; infeasible ones say what can be reached."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.benchmarks.experiments.peers.networks import deep_residual, mobilenet_v2_like, randomised, resnet50_like
from edgepress.compress.prune.budget.choice import choices
from edgepress.compress.prune.budget.importance import importance
from edgepress.compress.prune.budget.project import FLOORS, projection
from edgepress.compress.prune.coupling.channels import ChannelGraph, find_groups
from edgepress.compress.prune.model import prune_model
from edgepress.models.checkpoints.registry import build
from edgepress.models.cost.cost import cost_of
from edgepress.models.errors import InfeasibleBudget, UsageError
from edgepress.models.limits import Limits
from tests.compress.prune.prune_block_cases import CASES

X = torch.randn(1, 3, 32, 32)
#: Projections that use the budget up; "algorithm-1" has tests of its own.
FILLING = ("threshold", "knapsack")


@pytest.fixture(scope="module")
def resnet8() -> tuple[nn.Module, ChannelGraph, tuple[np.ndarray, ...]]:
    model = randomised(build("resnet8"))
    graph = find_groups(model, X)
    return model, graph, importance(model, graph)


def holds(graph: ChannelGraph, selection: tuple[np.ndarray, ...], budgets: dict[str, float]) -> bool:
    return all(graph.cost(selection).get(metric) <= limit for metric, limit in budgets.items())


def check_maximal(graph: ChannelGraph, selection: tuple[np.ndarray, ...], budgets: dict[str, float]) -> None:
    """No unit of any group can be given back."""
    for number, kept in enumerate(selection):
        for unit in np.flatnonzero(~kept)[:1]:
            more = [mask.copy() for mask in selection]
            more[number][unit] = True
            assert not holds(graph, tuple(more), budgets), graph.groups[number].name


@pytest.mark.parametrize("share", [0.7, 0.5, 0.25, 0.12])
@pytest.mark.parametrize(
    "metrics",
    [
        ("macs",),
        ("params",),
        ("weight_bytes",),
        ("peak_activation_bytes",),
        ("macs", "params"),
        ("macs", "weight_bytes", "peak_activation_bytes"),
    ],
    ids=" and ".join,
)
def test_budgets_are_met_and_used_up(resnet8, share: float, metrics: tuple[str, ...]) -> None:
    _, graph, scores = resnet8
    dense = graph.cost(graph.full())
    budgets = {metric: int(dense.get(metric) * share) for metric in metrics}
    retained = {}
    for method in FILLING:
        result = projection(graph, scores, Limits(**budgets), method, floor=0)
        assert holds(graph, result.selection, budgets)
        assert result.figures == graph.cost(result.selection)
        check_maximal(graph, result.selection, budgets)
        nearest = max(result.figures.get(metric) / limit for metric, limit in budgets.items())
        if nearest < 0.99:
            assert "peak_activation_bytes" in metrics
            assert any("and maximal: no group can have its next width" in note for note in result.notes)
        retained[method] = result.retained
        assert result.retained == pytest.approx(
            sum(s[k].sum() for s, k in zip(scores, result.selection, strict=True)) / sum(s.sum() for s in scores)
        )
    assert retained["knapsack"] >= retained["threshold"]


@pytest.mark.parametrize("name", ["ds_cnn", "mobilenet", "cp_resnet", "cp_mobile"])
def test_the_zoo_ends_within_one_percent(name: str) -> None:
    from edgepress.models.checkpoints.registry import zoo

    model = randomised(build(name))
    graph = find_groups(model, tuple(torch.randn(1, *shape) for shape in zoo()[name].input_shapes))
    scores, dense = importance(model, graph), graph.cost(graph.full())
    for share in (0.7, 0.5, 0.25, 0.12):
        for metrics in (("macs",), ("macs", "params")):
            budgets = {metric: int(dense.get(metric) * share) for metric in metrics}
            for method in FILLING:
                figures = projection(graph, scores, Limits(**budgets), method).figures
                assert 0.99 <= max(figures.get(metric) / limit for metric, limit in budgets.items()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("build_network", [resnet50_like, mobilenet_v2_like])
def test_large_networks_end_within_one_percent(build_network) -> None:
    model = randomised(build_network())
    graph = find_groups(model, torch.randn(1, 3, 224, 224))
    scores, dense = importance(model, graph), graph.cost(graph.full())
    for share in (0.7, 0.5, 0.25, 0.12):
        for metrics in (("macs",), ("macs", "params")):
            budgets = {metric: int(dense.get(metric) * share) for metric in metrics}
            for method in FILLING:
                figures = projection(graph, scores, Limits(**budgets), method).figures
                assert 0.99 <= max(figures.get(metric) / limit for metric, limit in budgets.items()) <= 1


@pytest.mark.parametrize("rule", ["core", "dcase", "torchinfo", "vela", "st", "nessi-tflite", "nessi-torch"])
def test_the_count_is_exact_under_every_rule(rule: str) -> None:
    model = randomised(build("resnet8"))
    before = cost_of(model, X, rule)
    pruned = prune_model(model, X, macs="40%", rule=rule)
    assert pruned.before == before
    assert pruned.after == cost_of(pruned.model, X, rule)
    assert pruned.graph.cost(pruned.selection).macs == pruned.after.macs <= 0.4 * before.macs
    assert pruned.after.macs >= 0.99 * 0.4 * before.macs


def test_quantities_may_be_text(resnet8) -> None:
    model = resnet8[0]
    assert prune_model(model, X, macs="3M").after.macs <= 3_000_000
    assert prune_model(model, X, weight_bytes="30 kB", macs=6e6).after.weight_bytes <= 30_000
    with pytest.raises(UsageError, match="weight_bytes = '30' has no unit"):
        prune_model(model, X, weight_bytes="30")
    with pytest.raises(UsageError, match="needs a budget"):
        prune_model(model, X)
    with pytest.raises(UsageError, match="macs = -1 must be"):
        prune_model(model, X, macs=-1)


def test_a_budget_above_the_cost_changes_nothing(resnet8) -> None:
    model = resnet8[0]
    pruned = prune_model(model, X, macs=10**9)
    assert pruned.plan["tensors"] == {}
    assert pruned.before.macs == pruned.after.macs
    assert any("within the budget already" in note for note in pruned.notes)
    assert pruned.model is not model
    torch.testing.assert_close(pruned.model(X), model(X))


def test_an_infeasible_budget_says_what_binds(resnet8) -> None:
    model, graph, scores = resnet8
    smallest = graph.formula.figures(np.ones(len(graph.groups), np.int64))
    with pytest.raises(InfeasibleBudget, match=f"{smallest.macs:,}.*what binds: .*raise the budget") as caught:
        prune_model(model, X, macs=smallest.macs - 1)
    assert "macs = " in str(caught.value)
    exact = projection(graph, scores, Limits(macs=smallest.macs), "knapsack")
    assert exact.figures.macs == smallest.macs
    assert "lowered to" in exact.notes[0]


def test_floor_holds_unless_the_budget_needs_less(resnet8) -> None:
    _, graph, scores = resnet8
    dense = graph.cost(graph.full())
    for method, floor in (("knapsack", None), ("knapsack", 0.25), ("threshold", 0.25), ("threshold", None)):
        kept = projection(graph, scores, Limits(macs=int(0.3 * dense.macs)), method, floor=floor).selection
        assert all(mask.sum() >= (floor or FLOORS[method]) * len(mask) for mask in kept)
    result = projection(graph, scores, Limits(macs=int(0.04 * dense.macs)), "knapsack")
    assert result.floor < 0.25
    assert any("lowered" in note for note in result.notes)


@pytest.mark.parametrize("divisor", [4, 8])
def test_divisor_and_smallest_width(resnet8, divisor: int) -> None:
    model = resnet8[0]
    pruned = prune_model(model, X, macs="45%", divisor=divisor, min_channels=8)
    widths = [module.out_channels for module in pruned.model.modules() if isinstance(module, nn.Conv2d)]
    assert all(width % divisor == 0 and width >= 8 for width in widths)
    check = {"macs": int(0.45 * pruned.before.macs)}
    assert pruned.after.macs <= check["macs"]
    choice = choices(pruned.graph, [np.ones(g.size) for g in pruned.graph.groups], divisor, 8, 0.0)
    assert all(allowed[-1] for allowed in choice.allowed)
    with pytest.raises(UsageError, match="divisor = 0 must be"):
        prune_model(model, X, macs="50%", divisor=0)


def test_protect_keeps_outputs_and_freeze_keeps_shapes(resnet8) -> None:
    model = resnet8[0]
    name = next(
        name for name, module in model.named_modules() if name.startswith("blocks.1") and isinstance(module, nn.Conv2d)
    )
    before = model.state_dict()[f"{name}.weight"].shape
    frozen = prune_model(model, X, macs="50%", freeze=(name,)).model.state_dict()[f"{name}.weight"].shape
    assert frozen == before
    shape = prune_model(model, X, macs="30%", protect=(name,)).model.state_dict()[f"{name}.weight"].shape
    assert shape[0] == before[0]
    assert shape[1] < before[1]
    with pytest.raises(UsageError, match=r"protect names 'blocks.9'.*freeze names 'blokcs.1'.*did you mean.*known are"):
        prune_model(model, X, macs="50%", protect=("blocks.9",), freeze=("blokcs.1",))


def test_a_protected_head_does_not_block_what_feeds_it() -> None:
    head = nn.Sequential(nn.Linear(16, 12), nn.ReLU())
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), head, nn.Linear(12, 4))
    x = torch.randn(1, 6)
    protected = find_groups(model, x, protect=("2",))
    assert [group.name for group in protected.groups] == ["0"]  # the 12 outputs of the head stay, its 16 inputs do not
    assert find_groups(model, x, freeze=("2",)).groups == ()
    assert [group.name for group in find_groups(model, x, protect="2.0.weight").groups] == ["0"]


def test_the_output_width_is_never_touched(resnet8) -> None:
    pruned = prune_model(resnet8[0], X, params="20%")
    assert pruned.model(torch.randn(5, 3, 32, 32)).shape == (5, 10)


def test_zero_weights_are_no_obstacle() -> None:
    """All scores zero: the budget is met all the same."""
    model = build("resnet8")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    pruned = prune_model(model, X, macs="30%")
    assert 0.98 <= pruned.after.macs / (0.3 * pruned.before.macs) <= 1


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16", "fp16", "fp32"])
def test_bytes_follow_the_scheme(scheme: str) -> None:
    model = randomised(build("resnet8"))
    pruned = prune_model(model, X, weight_bytes="50%", peak_activation_bytes="80%", scheme=scheme)
    assert pruned.after.weight_bytes <= 0.5 * pruned.before.weight_bytes
    assert pruned.after.peak_activation_bytes <= 0.8 * pruned.before.peak_activation_bytes
    assert pruned.after == cost_of(pruned.model, X, scheme=scheme)


def test_an_unknown_operator_freezes_and_says_so() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3), nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.cat([self.a(x).mean((2, 3)).sort(1).values, self.b(x).mean((2, 3))], 1))

    pruned = prune_model(Sorted(), X, params="70%")
    (frozen,) = pruned.frozen
    assert (frozen.name, frozen.operator) == ("a.weight", "sort")
    assert "not known" in frozen.reason
    assert pruned.model.a.out_channels == 16
    assert pruned.model.b.out_channels < 16
    only = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(InfeasibleBudget, match="nothing in this network can be pruned"):
        prune_model(only, torch.randn(1, 4), macs=1)


@pytest.mark.slow
def test_work_grows_with_the_network_and_no_faster() -> None:
    """Groups and projection of 200 layers take less than 5 times the calls of 50 (counted: load does not matter)."""
    import cProfile
    import pstats

    from edgepress.compress.prune.coupling.channels import assemble
    from edgepress.compress.prune.coupling.fixed import Fixed
    from edgepress.compress.prune.coupling.propagate import propagate
    from edgepress.models.cost.graph import trace_one_sample

    calls = []
    for layers in (8, 50, 200):  # the first takes what is imported and compiled once
        model = randomised(deep_residual(layers))
        traced = trace_one_sample(model, torch.randn(1, 3, 16, 16))
        with cProfile.Profile() as profiler:
            graph = assemble(model, traced, propagate(traced, Fixed()), "dcase", "w8a8")
            dense = graph.cost(graph.full())
            projection(graph, importance(model, graph), Limits(macs=dense.macs // 2))
        calls.append(pstats.Stats(profiler).total_calls)
    assert calls[2] < 5 * calls[1]


@pytest.mark.parametrize("name", ["nested concat", "grouped convolution", "LSTM", "MobileNetV2 block", "split"])
def test_small_networks_meet_several_budgets(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    model = randomised(case.build())
    inputs = tuple(torch.randn(1, *shape) for shape in case.inputs)
    graph = find_groups(model, inputs)
    scores, dense = importance(model, graph), graph.cost(graph.full())
    for share in (0.8, 0.6, 0.4):
        budgets = {"macs": int(dense.macs * share), "params": int(dense.params * share)}
        result = projection(graph, scores, Limits(**budgets))
        assert holds(graph, result.selection, budgets)
        check_maximal(graph, result.selection, budgets)
