"""Scores of data by hand, against per-sample gradients of weights, and on every network whose groups are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn

from edgepress.benchmarks.experiments.peers.networks import randomised
from edgepress.compress.prune.budget.gates import Gates
from edgepress.compress.prune.budget.importance import importance
from edgepress.compress.prune.coupling.channels import find_groups
from edgepress.compress.prune.model import prune_model
from edgepress.models.errors import UsageError
from tests.compress.prune.prune_block_cases import CASES
from tests.compress.prune.prune_cases import Lambda


def linear(weights: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weights[0]), len(weights), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
    return layer


def mean_of(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return pytree.tree_leaves(network(batch))[0].sum(1).mean()


def test_the_change_of_each_sample_is_squared_not_that_of_the_mean() -> None:
    """Units 2x and 3x, read with weights 5 and 7; the two samples cancel in the mean, not in the mean of squares."""
    model = nn.Sequential(linear([[2.0], [3.0]]), linear([[5.0, 7.0]]))
    graph = find_groups(model, torch.zeros(1, 1))
    x = torch.tensor([[1.0], [-1.0]])
    squares, samples = Gates(graph).squares(model, x, mean_of)
    assert samples == 2
    np.testing.assert_allclose(squares[0], [2 * 10**2, 2 * 21**2])
    (taylor,) = importance(model, graph, "taylor", normalize="none", batches=[x], loss=mean_of)
    np.testing.assert_allclose(taylor, [100, 441])


def test_all_readers_of_a_unit_add_up_before_the_square() -> None:
    """h = (x, x) is read by 3, 1 and by -3, 1: the first unit's readers cancel, the second's double."""
    model = Lambda(
        lambda m, x: m.left(h := m.a(x)) + m.right(h),
        a=linear([[1.0], [1.0]]),
        left=linear([[3.0, 1.0]]),
        right=linear([[-3.0, 1.0]]),
    )
    squares, _ = Gates(find_groups(model, torch.zeros(1, 1))).squares(model, torch.tensor([[2.0]]), mean_of)
    np.testing.assert_allclose(squares[0], [0, 4**2])


def test_a_stream_is_gated_in_front_of_each_reader_and_not_in_between() -> None:
    """y = h + V h with h = (x, 2x), read by (1, 1): the branch reads h, the head reads y, whose units are h's, too."""
    model = Lambda(
        lambda m, x: m.head((h := m.a(x)) + m.branch(h)),
        a=linear([[1.0], [2.0]]),
        branch=linear([[0.0, 1.0], [3.0, 0.0]]),
        head=linear([[1.0, 1.0]]),
    )
    squares, _ = Gates(find_groups(model, torch.zeros(1, 1))).squares(model, torch.tensor([[1.0]]), mean_of)
    # y = (1 + 2, 2 + 3). Head: y times 1. Branch: h_0 feeds y_1 by 3, h_1 feeds y_0 by 1.
    np.testing.assert_allclose(squares[0], [(3 + 1 * 3) ** 2, (5 + 2 * 1) ** 2])


def test_fisher_by_hand() -> None:
    """Two classes with scores (10, 0), read from units 2 and 3 by weights 2 and 2, at temperature 2.

    Of 40,000 equal samples a share of 1 / (1 + e^5) draws the second class. With p the probability of the first,
    d = -a w / 2 times (1 - p) for the first class and times -p for the other: E d^2 = (a w / 2)^2 p (1 - p).
    """
    model = nn.Sequential(linear([[2.0], [3.0]]), linear([[2.0, 2.0], [0.0, 0.0]]))
    graph = find_groups(model, torch.zeros(1, 1))
    x = torch.ones(40_000, 1)
    (scores,) = importance(model, graph, "fisher", normalize="none", batches=[x])
    p = 1 / (1 + np.exp(-5.0))
    np.testing.assert_allclose(scores, [2**2 * p * (1 - p), 3**2 * p * (1 - p)], rtol=0.2)
    np.testing.assert_allclose(scores[1] / scores[0], 9 / 4, rtol=1e-5)
    (normalised,) = importance(model, graph, "fisher", batches=[x])
    np.testing.assert_allclose(normalised, [8 / 13, 18 / 13], rtol=1e-5)


def test_several_outputs_add_their_likelihoods() -> None:
    """Two equal heads, each of two classes, with independent draws: twice the information of one."""
    single = Lambda(lambda m, x: m.one(m.a(x)), a=linear([[1.0], [1.0]]), one=linear([[1.0, 2.0], [0.0, 0.0]]))
    double = Lambda(
        lambda m, x: {"one": m.one(h := m.a(x)), "other": [m.other(h)]},
        a=linear([[1.0], [1.0]]),
        one=linear([[1.0, 2.0], [0.0, 0.0]]),
        other=linear([[1.0, 2.0], [0.0, 0.0]]),
    )
    x = torch.ones(40_000, 1)
    found = [
        importance(model, find_groups(model, x[:1]), "fisher", normalize="none", batches=[x])[0]
        for model in (single, double)
    ]
    np.testing.assert_allclose(found[1] / found[0], 2, rtol=0.05)


def wave(network: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    outputs = [value for value in pytree.tree_leaves(network(*batch)) if value.is_floating_point()]
    return sum(torch.sin(3 * value).flatten(1).sum(1).mean() for value in outputs)


#: Networks in which every reader of a unit is a weight of its own, so that weight times gradient says the same.
READ_BY_WEIGHTS = {
    "plain", "residual add with projection", "zero-padded shortcut", "nested concat", "concat then add", "chunk",
    "slice", "depthwise", "MobileNetV2 block", "grouped convolution", "channel shuffle", "pixel shuffle",
    "flatten to linear", "squeeze and excite, linear", "GroupNorm", "shared module used twice", "tied parameters",
    "siamese inputs", "functional weights", "MultiheadAttention", "dilated Conv1d with residual", "several outputs",
    "maxout", "GLU", "U-Net skip with upsampling", "frozen network", "Conv3d", "LayerNorm in a ConvNeXt block",
    "in-place operators",
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_network_is_scored(case) -> None:
    """Finite scores of every group; where weights alone read, equal to each sample's weights times gradients."""
    torch.manual_seed(0)
    model = randomised(case.build()).eval()
    inputs = tuple(torch.randn(2, *shape) for shape in case.inputs)
    graph = find_groups(model, inputs)
    found, samples = Gates(graph).squares(model, inputs, wave)
    assert samples == 2
    for group, scores in zip(graph.groups, found, strict=True):
        assert np.isfinite(scores).all(), group.name
        assert scores.any(), group.name
    if case.name not in READ_BY_WEIGHTS:
        return
    expected = [np.zeros(group.size) for group in graph.groups]
    named = dict(model.named_parameters())
    for sample in range(2):
        model.requires_grad_(True).zero_grad()
        wave(model, tuple(value[sample : sample + 1] for value in inputs)).backward()
        for group, total in zip(graph.groups, expected, strict=True):
            change = np.zeros(group.size)
            for number, member in enumerate(group.members):
                weight = named.get(member.tensor)
                if weight is not None and weight.ndim > 1 and number not in group.produced:
                    product = (weight * weight.grad).detach().double().numpy()
                    rows = np.moveaxis(product, member.axis, 0).reshape(product.shape[member.axis], -1)
                    change += rows.sum(1)[member.positions].sum(1)
            total += change**2
    for group, scores, wanted in zip(graph.groups, found, expected, strict=True):
        np.testing.assert_allclose(scores, wanted, rtol=1e-3, atol=1e-4 * wanted.max(), err_msg=group.name)


def test_prune_model_takes_fisher_with_batches() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4)))
    x = torch.randn(8, 3, 8, 8)
    pruned = prune_model(model, x[:1], macs="50%", importance="fisher", batches=[(x, torch.zeros(8))])
    assert pruned.after.macs <= 0.5 * pruned.before.macs
    (scores,) = importance(model, pruned.graph, "fisher", batches=[x])
    kept = pruned.selection[0]
    assert scores[kept].min() >= scores[~kept].max()
    with pytest.raises(UsageError, match='importance = "fisher" needs batches'):
        prune_model(model, x[:1], macs="50%", importance="fisher")
    with pytest.raises(UsageError, match="batches is empty"):
        prune_model(model, x[:1], macs="50%", importance="fisher", batches=[])
    with pytest.raises(UsageError, match=r"shapes \[\(3, 8, 8\)\]"):
        prune_model(model, x[:1], macs="50%", importance="fisher", batches=[torch.zeros(2, 3, 9, 9)])
