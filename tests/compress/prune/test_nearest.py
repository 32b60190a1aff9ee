"""Distances by hand, and the nearest network within a budget against the best of all selections."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.prune.budget.distance import (
    fisher_squares,
    removed_distance,
    squares_of,
    unit_distances,
)
from edgepress.compress.prune.budget.importance import importance
from edgepress.compress.prune.budget.nearest import nearest
from edgepress.compress.prune.coupling.channels import ChannelGraph, find_groups
from edgepress.compress.prune.model import prune_model
from edgepress.compress.prune.schedules.admm import Admm
from edgepress.models.limits import Limits


def chain(seed: int) -> nn.Module:
    """Three groups of 5, 5 and 4 units of very different sizes."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            sizes = torch.exp(0.5 * torch.randn(parameter.shape[0]))
            parameter.mul_(sizes.reshape(-1, *[1] * (parameter.ndim - 1)))
    return model.eval()


def least_distance(graph: ChannelGraph, squares: dict[str, np.ndarray], macs: int) -> float:
    """Over every selection within the budget."""
    subsets = [
        [np.array(bits, bool) for bits in itertools.product((0, 1), repeat=group.size) if any(bits)]
        for group in graph.groups
    ]
    return min(
        removed_distance(graph, squares, selection)
        for selection in itertools.product(*subsets)
        if graph.cost(selection).macs <= macs
    )


def test_distances_by_hand() -> None:
    """a: 1 -> 2 by (1, 2), b: 2 -> 2 by ((3, 4), (5, 6)), c reads b by (7, 8); no biases."""
    model = nn.Sequential(*(nn.Linear(i, o, bias=False) for i, o in ((1, 2), (2, 2), (2, 1))))
    with torch.no_grad():
        for layer, values in zip(model, ([[1.0], [2.0]], [[3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]]), strict=True):
            layer.weight.copy_(torch.tensor(values))
    graph = find_groups(model, torch.zeros(1, 1))
    squares = squares_of(model)
    first, second = unit_distances(graph, squares)
    np.testing.assert_allclose(first, [1 + 9 + 25, 4 + 16 + 36])
    np.testing.assert_allclose(second, [9 + 16 + 49, 25 + 36 + 64])
    np.testing.assert_allclose(importance(model, graph, "distance")[1], [74, 125])
    selection = (np.array([False, True]), np.array([True, False]))
    # Gone: a 1; b 3 and 5 (first input), 5 and 6 (second output), the 5 once; c 8.
    assert removed_distance(graph, squares, selection) == pytest.approx(1 + 9 + 25 + 36 + 64)
    first, second = unit_distances(graph, squares, selection)
    np.testing.assert_allclose(first, [1 + 9, 4 + 16])  # of b only the kept output counts
    np.testing.assert_allclose(second, [16 + 49, 36 + 64])  # and only the kept input


@pytest.mark.parametrize("share", [0.5, 0.25])
@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_network_is_within_two_percent_of_the_best(seed: int, share: float) -> None:
    model = chain(seed)
    graph = find_groups(model, torch.zeros(1, 2, 4, 4))
    squares = squares_of(model)
    limits = Limits(macs=int(share * graph.cost(graph.full()).macs))
    best = least_distance(graph, squares, limits.macs)
    for method in ("threshold", "knapsack"):
        found = nearest(graph, squares, limits, method, floor=0.0)
        assert found.figures == graph.cost(found.selection)
        assert found.figures.macs <= limits.macs
        assert removed_distance(graph, squares, found.selection) <= 1.02 * best


@pytest.mark.parametrize("seed", range(3))
def test_admm_projects_a_quadratic_onto_the_best_set(seed: int) -> None:
    """L(W) = ||W - W*||^2 / 2: what the first Z-step removes costs at most 1.02 times the least that fits."""
    model = chain(10 + seed)
    graph = find_groups(model, torch.zeros(1, 2, 4, 4))
    limits = Limits(macs=graph.cost(graph.full()).macs // 2)
    admm = Admm(graph, limits, floor=0.0)
    admm.start(model, 1)
    z = admm.state_dict()["z"]
    loss = sum(float(((w.detach() - z[name]).double() ** 2).sum()) for name, w in model.named_parameters() if name in z)
    assert loss <= 1.02 * least_distance(graph, squares_of(model), limits.macs)
    assert all(map(np.array_equal, admm.selection(), nearest(graph, squares_of(model), limits, floor=0.0).selection))


def test_fisher_squares_estimate_the_diagonal() -> None:
    """One weight vector w, two classes with scores (w x, 0): F = x^2 / 4 E[p (1 - p)] at temperature 2, by hand."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        model[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    graph = find_groups(model, torch.zeros(1, 1))
    found = fisher_squares(model, graph, [torch.ones(16, 1) for _ in range(2000)])
    p = 1 / (1 + np.exp(-0.5))
    np.testing.assert_allclose(found["0.weight"], [[0.25 * p * (1 - p)], [0.0]], rtol=0.1)
    np.testing.assert_allclose(found["1.weight"], [[0.25 * p * (1 - p), 0.0], [0.0, 0.0]], rtol=0.1)


def test_prune_model_by_distance() -> None:
    model, x = chain(0), torch.randn(2, 2, 4, 4)
    for importance_kind, batches in (("distance", None), ("fisher-distance", [x])):
        pruned = prune_model(model, x, macs="50%", importance=importance_kind, batches=batches)
        assert pruned.proof.max_abs_diff <= 1e-4
        assert pruned.after.macs <= 0.5 * pruned.before.macs
