"""Algorithm 1 against a search of all thresholds of its own, and its active paths by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.benchmarks.experiments.peers.networks import randomised
from edgepress.compress.prune.budget.active import ActivePaths, active_figures
from edgepress.compress.prune.budget.importance import importance
from edgepress.compress.prune.budget.project import projection
from edgepress.compress.prune.coupling.channels import ChannelGraph, find_groups
from edgepress.compress.prune.model import prune_model
from edgepress.compress.prune.schedules.admm import Admm
from edgepress.models.checkpoints.registry import build, zoo
from edgepress.models.errors import UsageError
from edgepress.models.limits import Limits


def kept_above(scores: tuple[np.ndarray, ...], threshold: float) -> tuple[np.ndarray, ...]:
    """What is not below the threshold; of a group that is below it as a whole its best unit."""
    masks = []
    for score in scores:
        mask = score >= threshold
        if not mask.any():
            mask[np.argmax(score)] = True
        masks.append(mask)
    return tuple(masks)


def lowest_by_trying_all(graph: ChannelGraph, scores: tuple[np.ndarray, ...], limits: Limits) -> tuple[np.ndarray, ...]:
    """Every norm as threshold, from the lowest: the first that is within the budget."""
    for threshold in np.unique(np.concatenate(scores)):
        masks = kept_above(scores, threshold)
        cost = graph.cost(masks)
        if all(cost.get(metric) <= limit for metric, limit in limits.budgets().items()):
            return masks
    raise AssertionError("no threshold is within the budget")


@pytest.mark.parametrize("metric", ["macs", "params"])
@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        "ds_cnn",
        pytest.param("cp_resnet", marks=pytest.mark.slow),
        pytest.param("mobilenet", marks=pytest.mark.slow),
        pytest.param("cp_mobile", marks=pytest.mark.slow),
    ],
)
def test_the_sets_are_those_of_the_lowest_threshold_that_fits(name: str, metric: str) -> None:
    torch.manual_seed(0)
    model = randomised(build(name))
    inputs = tuple(torch.randn(1, *shape) for shape in zoo()[name].input_shapes)
    graph = find_groups(model, inputs)
    scores = importance(model, graph)
    dense = graph.cost(graph.full())
    for share in (0.8, 0.6, 0.45, 0.3, 0.2, 0.1):
        limits = Limits(**{metric: int(share * dense.get(metric))})
        found = projection(graph, scores, limits, "algorithm-1", model=model)
        expected = lowest_by_trying_all(graph, scores, limits)
        assert all(map(np.array_equal, found.selection, expected)), share
        filled = projection(graph, scores, limits, "threshold", floor=0.0).selection
        assert graph.cost(filled).get(metric) >= found.figures.get(metric)


def test_equal_norms_fall_together() -> None:
    """Units of norm 1, 1, 1, 2: three channels are too many, so that all of norm 1 go."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2, bias=False)
    )
    x = torch.zeros(1, 1, 2, 2)
    graph = find_groups(model, x, rule="core")
    scores = (np.array([1.0, 1.0, 2.0, 1.0]),)
    # A channel costs 4 positions and 2 products of the head.
    limits = Limits(macs=18, rule="core")
    assert projection(graph, scores, limits, "algorithm-1", model=model).selection[0].tolist() == [0, 0, 1, 0]
    assert projection(graph, scores, limits, "threshold", floor=0.0).selection[0].sum() == 3


class Branch(nn.Module):
    """A stream of 4 channels with a branch of 3, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((x + self.b(torch.relu(self.a(x)))).mean((2, 3)))


def test_active_paths_by_hand() -> None:
    """Without its inner channels the branch's second layer is a dead end, which the count of the rest shows."""
    torch.manual_seed(0)
    model, x = Branch().eval(), torch.zeros(1, 1, 2, 2)
    graph = find_groups(model, x, rule="core")
    number = {group.name: index for index, group in enumerate(graph.groups)}
    selection = list(graph.full())
    selection[number["stem"]] = np.array([True, True, False, True])
    selection[number["a"]] = np.zeros(3, bool)
    # 4 positions: the stem's 3 channels, nothing in the branch, and the head's 3 x 2.
    assert active_figures(model, graph, tuple(selection), x) == (4 * 3 + 6, 3 + 6)
    active = ActivePaths(model, graph).units(tuple(selection))
    assert active[number["stem"]].tolist() == [True, True, False, True]
    assert not active[number["a"]].any()
    # A stream that is gone takes the branch with it, though its own units are kept.
    selection[number["stem"]] = np.zeros(4, bool)
    selection[number["a"]] = np.ones(3, bool)
    assert not any(units.any() for units in ActivePaths(model, graph).units(tuple(selection)))


def test_it_can_be_asked_for_everywhere() -> None:
    torch.manual_seed(0)
    model, x = Branch().eval(), torch.zeros(1, 1, 2, 2)
    pruned = prune_model(model, x, macs="60%", projection="algorithm-1", importance="distance")
    assert pruned.after.macs <= 0.6 * pruned.before.macs
    admm = Admm(find_groups(model, x), Limits(macs=int(0.6 * pruned.before.macs)), projection="algorithm-1")
    admm.start(model, 4)
    assert all(map(np.array_equal, admm.selection(), pruned.selection))
    with pytest.raises(UsageError, match="give model"):
        projection(pruned.graph, [np.ones(g.size) for g in pruned.graph.groups], Limits(macs=50), "algorithm-1")


def test_a_network_that_stops_nan_is_refused() -> None:
    class Clean(Branch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.nan_to_num(x))

    with pytest.raises(UsageError, match="NaN, which does not pass through the units of stem"):
        prune_model(Clean(), torch.zeros(1, 1, 2, 2), macs="60%", projection="algorithm-1")
