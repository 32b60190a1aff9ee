"""Importance by hand, and Algorithm 1 against NaN propagation."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.benchmarks.experiments.peers.networks import randomised
from edgepress.compress.prune.budget.active import active_figures
from edgepress.compress.prune.budget.importance import KINDS, importance
from edgepress.compress.prune.budget.project import projection
from edgepress.compress.prune.budget.threshold import threshold_rank
from edgepress.compress.prune.coupling.channels import ChannelGraph, find_groups
from edgepress.compress.prune.removal.proof import remove
from edgepress.compress.recipes.recipe import PruneSettings
from edgepress.models.checkpoints.registry import build
from edgepress.models.cost.cost import cost_of
from edgepress.models.errors import UsageError
from edgepress.models.limits import Limits


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, ChannelGraph]:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 2),
    ).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -2.0, 3.0]).reshape(3, 1, 1, 1))
        model[1].weight.copy_(torch.tensor([4.0, 1.0, -1.0]))
        model[1].running_var.fill_(1 - 1e-5)
        model[5].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 1.0]]))
    return model, find_groups(model, torch.randn(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("l1", [4, 2, 3]),
        ("l2", [16, 4, 9]),
        ("bn", [4, 1, 1]),
        ("lamp", [1, 4 / 29, 9 / 25]),  # energies 16, 4, 9, relative to all that are at least as large
        ("fpgm", [4 + 2 + 4 + 3, 6 + 1, 7 + 1]),  # filters 4, -2, -3
    ],
)
def test_scores_by_hand(small, kind: str, expected: list[float]) -> None:
    model, graph = small
    wanted = [6 + 7, 6 + 1, 7 + 1] if kind == "fpgm" else expected
    (scores,) = importance(model, graph, kind, normalize="none")
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-6)


def test_taylor_is_the_squared_product_with_the_gradient(small) -> None:
    model, graph = small

    def loss(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return network(batch)[:, 0].sum()

    x = torch.ones(1, 1, 4, 4)
    # d loss / d w_c = gamma_c * v_c where ReLU is open: channel 0 only (4 * 1 * 1); the others are negative.
    (scores,) = importance(model, graph, "taylor", normalize="none", batches=[x, x], loss=loss)
    np.testing.assert_allclose(scores, [(1 * 4.0) ** 2, 0, 0], atol=1e-6)
    assert model[0].weight.grad is None
    with pytest.raises(UsageError, match="needs batches and loss"):
        importance(model, graph, "taylor")


def test_normalizers_and_names(small) -> None:
    model, graph = small
    assert importance(model, graph, "l2")[0].mean() == pytest.approx(1)
    np.testing.assert_allclose(importance(model, graph, "l2", normalize="size")[0], [16, 4, 9], rtol=1e-4)
    assert not np.array_equal(
        importance(model, graph, "random", seed=0)[0], importance(model, graph, "random", seed=1)[0]
    )
    with pytest.raises(UsageError, match=r"importance = 'l3'.*known are l1, l2"):
        importance(model, graph, "l3")
    choices = get_args(PruneSettings.model_fields["importance"].annotation)  # or None
    assert set(KINDS) == {name for choice in choices for name in get_args(choice)}


def test_scaling_a_filter_against_its_normalisation_changes_nothing() -> None:
    """Folded scores are those of the function: conv * 2 with variance * 4 is the same network."""
    model = randomised(build("resnet8"))
    x = torch.randn(1, 3, 32, 32)
    graph = find_groups(model, x)
    before = importance(model, graph, "l2")
    convolution, norm = model.stem[0], model.stem[1]
    with torch.no_grad():
        convolution.weight.mul_(2)
        norm.running_mean.mul_(2)
        norm.running_var.add_(norm.eps).mul_(4).sub_(norm.eps)
    for left, right in zip(before, importance(model, graph, "l2"), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)


def test_the_rank_is_the_smallest_feasible_one() -> None:
    norms = np.array([1.0, 2.0, 2.0, 3.0, 5.0])
    for limit in range(6):
        rank = threshold_rank(norms, lambda c, limit=limit: int((norms >= c).sum()) <= limit)
        feasible = [r for r in range(5) if (norms >= norms[r]).sum() <= limit]
        assert rank == (feasible[0] if feasible else 5)


@pytest.mark.parametrize("name", ["resnet8", "ds_cnn", "cp_resnet"])
def test_nan_propagation_agrees_with_the_cost_formula(name: str) -> None:
    """The report's way of counting active paths, forward and backward, gives the fast formula's figures."""
    from edgepress.models.checkpoints.registry import zoo

    model = randomised(build(name))
    inputs = tuple(torch.randn(1, *shape) for shape in zoo()[name].input_shapes)
    graph = find_groups(model, inputs, rule="core")
    dense = graph.cost(graph.full())
    scores = importance(model, graph)
    for share in (0.6, 0.2):
        result = projection(graph, scores, Limits(macs=int(share * dense.macs), rule="core"), "threshold")
        macs, weights = active_figures(model, graph, result.selection, inputs)
        assert macs == result.figures.macs
        smaller, _ = remove(model, graph, result.selection, inputs)
        assert weights == sum(m.weight.numel() for m in smaller.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
        assert cost_of(smaller, inputs, "core").macs == macs


def test_nan_propagation_sees_dead_ends() -> None:
    """A masked layer takes its producer's filters with it, which the forward pass alone overlooks."""
    model = randomised(
        nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    )
    x = torch.randn(1, 1, 2, 2)
    graph = find_groups(model, x, rule="core")
    selection = list(graph.full())
    selection[1] = np.zeros(6, bool)
    assert active_figures(model, graph, tuple(selection), x) == (0, 0)
