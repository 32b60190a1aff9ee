"""Every listed coupling is really pruned: the removed network is the reference, its cost is the predicted one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree

from edgepress.compress.prune.coupling.channels import ChannelGraph, find_groups
from edgepress.compress.prune.model import prune_model
from edgepress.compress.prune.removal.proof import remove_with_proof
from edgepress.models.checkpoints.plan import apply_plan
from edgepress.models.cost.cost import cost_of
from tests.compress.prune.prune_block_cases import CASES, Case

#: Networks in which a removed channel leaves a trace by masking weights alone: a statistic over channels, or a
#: constant that a non-linearity makes out of zero. The reference of the proof knows better; this oracle does not.
STATISTICS = {
    "GroupNorm",
    "GroupNorm of many groups",
    "frequency-wise residual normalisation",
    "global response normalisation",
    "LayerNorm in a ConvNeXt block",
    "RMSNorm",
    "hand-written RMSNorm",
    "timm-style transformer",
    "weight_norm",
}


def half(graph: ChannelGraph, seed: int = 0) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    selection = []
    for group in graph.groups:
        kept = np.ones(group.size, bool)
        kept[generator.permutation(group.size)[: group.size // 2]] = False
        selection.append(kept)
    return tuple(selection)


def outputs(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    with torch.no_grad():
        return pytree.tree_leaves(model(*(value.clone() for value in inputs)))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_half_of_every_group_is_removed(case: Case) -> None:
    torch.manual_seed(0)
    model = case.build()
    inputs = tuple(torch.randn(2, *shape) for shape in case.inputs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = find_groups(model, inputs)
    assert graph.frozen == ()
    selection = half(graph)
    smaller, plan, proof = remove_with_proof(model, graph, selection, inputs)

    assert proof.max_abs_diff <= 1e-4
    assert proof.runs == 2
    assert case.kind in ("", proof.kind)
    assert (type(smaller) is type(model)) == (proof.kind == "modules")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    state = smaller.state_dict()
    assert set(state) == set(before)
    for name in case.widths:
        assert state[name].shape[0] < before[name].shape[0], name

    predicted, counted = graph.cost(selection), cost_of(smaller, inputs)
    assert predicted.macs == counted.macs < graph.cost(graph.full()).macs
    assert predicted.params == counted.params
    assert predicted.weight_bytes == counted.weight_bytes
    assert predicted.peak_activation_bytes == counted.peak_activation_bytes

    # The plan alone rebuilds it, from JSON and a fresh network; a batch of another size runs.
    torch.manual_seed(1)
    again = apply_plan(case.build(), json.loads(json.dumps(plan)))
    again.load_state_dict(state)
    larger = tuple(torch.randn(3, *shape) for shape in case.inputs)
    for left, right in zip(outputs(again.eval(), larger), outputs(smaller.eval(), larger), strict=True):
        assert left.shape[0] == 3
        torch.testing.assert_close(left, right)

    # An oracle that knows nothing of labels after the masks: multiply the dense weights with them and run it.
    if case.name not in STATISTICS:
        masks = graph.parameter_masks(selection)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in masks:
                    parameter.mul_(masks[name])
        for left, right in zip(outputs(model.eval(), inputs), outputs(smaller, inputs), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "zero-padded shortcut", "hand-written attention"])
def test_the_removed_network_trains(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    torch.manual_seed(0)
    model = case.build().train()
    inputs = tuple(torch.randn(4, *shape) for shape in case.inputs)
    graph = find_groups(model, inputs)
    smaller, _, _ = remove_with_proof(model, graph, half(graph), inputs)
    assert smaller.training
    optimizer = torch.optim.SGD(smaller.parameters(), 0.05)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(smaller(*inputs), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_a_rebuilt_network_keeps_its_modes() -> None:
    """Dropout and batch statistics of the fallback follow train() and eval()."""
    from torch import nn

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Dropout(0.5)
            self.fc = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.drop(torch.relu(self.norm(self.conv(x)))).reshape(x.shape[0], 16, 64)
            return self.fc(y.mean(2))

    model, x = Written(), torch.randn(4, 3, 8, 8)
    graph = find_groups(model, x)
    smaller, plan, _ = remove_with_proof(model, graph, half(graph), x)
    assert plan["kind"] == "graph"
    assert smaller.training
    mean = smaller.state_dict()["norm.running_mean"].clone()
    assert not torch.equal(smaller(x), smaller(x))
    assert not torch.equal(mean, smaller.state_dict()["norm.running_mean"])
    smaller.eval()
    assert torch.equal(smaller(x), smaller(x))
    assert smaller(torch.randn(7, 3, 8, 8)).shape == (7, 5)


@pytest.mark.parametrize("wrong", ["other columns", "a shape"])
def test_a_wrong_removal_is_an_error_that_names_the_group(monkeypatch, wrong: str) -> None:
    """The plan is falsified: `last` keeps other columns than those of the channels that `middle` keeps, or too many."""
    from collections import OrderedDict

    from torch import nn

    from edgepress.compress.prune.removal import proof
    from edgepress.models.errors import ProofError

    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 8, 3), act=nn.ReLU(), middle=nn.Conv2d(8, 8, 3), act2=nn.ReLU(), last=nn.Conv2d(8, 4, 3)
        )
    )
    x = torch.randn(1, 3, 12, 12)
    graph = find_groups(model, x)
    right = proof.make_plan

    def falsified(*arguments):
        plan = right(*arguments)
        columns = plan["tensors"].get("last.weight", {}).get("1")
        if columns is not None:
            plan["tensors"]["last.weight"]["1"] = [(column + 1) % 8 for column in columns] + [0] * (wrong == "a shape")
        return plan

    assert remove_with_proof(model, graph, half(graph), x)[2].max_abs_diff <= 1e-4
    monkeypatch.setattr(proof, "make_plan", falsified)
    with pytest.raises(ProofError, match=r"is not its reference: group middle;.*Nothing was removed") as caught:
        remove_with_proof(model, graph, half(graph), x)
    assert caught.value.exit_code == 1
    assert caught.value.layers == ("middle.weight",)
    assert ("outputs differ by" in str(caught.value)) == (wrong == "other columns")
    # What breaks the proof is kept whole, where the budget can do without it.
    for importance in ("l2", tuple(np.arange(group.size, dtype=float) + 1 for group in graph.groups)):
        pruned = prune_model(model, x, macs="40%", importance=importance)
        assert pruned.model.first.out_channels < 8
        assert pruned.model.middle.out_channels == 8
        assert [entry.name for entry in pruned.frozen if "proof fails" in entry.reason] == ["middle.weight"]
        assert any(note.startswith("kept whole: middle.weight") for note in pruned.notes)
    with pytest.raises(ProofError, match=r"group middle; .* with middle.weight frozen, .*"):
        prune_model(model, x, macs="10%")


def test_roundings_that_a_network_amplifies_are_no_wrong_removal() -> None:
    """Twenty-two steps y -> 4 y (1 - y) make 4 million of a difference: sums of fewer terms end beyond the tolerance in
    single precision, and in double precision they do not.
    """
    from torch import nn

    from edgepress.compress.prune.removal import proof

    class Amplifying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Conv2d(3, 96, 3), nn.Conv2d(96, 96, 3), nn.Conv2d(96, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.sigmoid(self.middle(torch.relu(self.first(x))))
            for _ in range(22):
                y = 4 * y * (1 - y)
            return self.last(y)

    torch.manual_seed(0)
    model, x = Amplifying().eval(), torch.randn(1, 3, 12, 12)
    graph = find_groups(model, x)
    selection = half(graph)
    prover = proof.Prover(model, graph, x)
    plan = proof.make_plan(model, graph, selection, "modules", prover.traces)
    smaller = proof.cut(model, graph, selection, plan, prover.traces).requires_grad_(False)
    (wanted,) = prover.expected(selection)[0]
    assert float((smaller(*prover.inputs) - wanted).abs().max()) > proof.TOLERANCE
    assert remove_with_proof(model, graph, selection, x)[2].max_abs_diff < 1e-6


def test_spectral_norm_is_pruned_or_says_why_not() -> None:
    """It is not on the list of what must be pruned; it must be right."""
    from torch import nn

    model, x = (
        nn.Sequential(
            nn.Conv2d(3, 16, 3),
            nn.ReLU(),
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 16, 3)),
            nn.ReLU(),
            nn.Conv2d(16, 4, 3),
        ),
        torch.randn(2, 3, 12, 12),
    )
    graph = find_groups(model, x)
    smaller, _, proof = remove_with_proof(model, graph, half(graph), x)
    assert proof.max_abs_diff <= 1e-4
    removed = any(value.shape != smaller.state_dict()[name].shape for name, value in model.state_dict().items())
    assert removed or graph.frozen
    assert all(frozen.reason and frozen.operator for frozen in graph.frozen)
