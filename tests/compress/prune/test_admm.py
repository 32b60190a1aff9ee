"""ADMM: its three steps, its state, and the way through the training loop."""

from __future__ import annotations

import copy

import pytest
import torch

from edgepress.compress.prune.budget.distance import squares_of
from edgepress.compress.prune.budget.nearest import nearest
from edgepress.compress.prune.coupling.channels import find_groups
from edgepress.compress.prune.schedules.admm import Admm
from edgepress.compress.prune.schedules.trainers import prune_and_train, split_epochs, uniform_selection
from edgepress.compress.recipes.recipe import PruneSettings, TrainSettings
from edgepress.compress.training.callbacks import SaveEveryEpoch
from edgepress.models.cost.cost import cost_of
from edgepress.models.errors import InfeasibleBudget, UsageError
from edgepress.models.limits import Limits
from tests.compress.train_cases import small_net, small_task

EXAMPLE = (torch.zeros(1, 1, 12, 8),)


@pytest.fixture
def network():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return small_net().eval()


@pytest.fixture
def half(network):
    return Limits(macs=cost_of(network, EXAMPLE).macs // 2)


def admm_of(network, limits, **options):
    return Admm(find_groups(network, EXAMPLE), limits, **options)


def test_at_the_start_z_is_the_projection_and_u_is_zero(network, half):
    admm = admm_of(network, half, rho_start=0.5, rho_end=0.5, w_step="gradient")
    admm.start(network, 10)
    graph = find_groups(network, EXAMPLE)
    masks = graph.parameter_masks(nearest(graph, squares_of(network), half).selection)
    state = admm.state_dict()
    for name, weight in network.named_parameters():
        if name in state["z"]:
            torch.testing.assert_close(state["z"][name], weight.detach() * masks.get(name, torch.ones(())))
            assert not state["u"][name].any()
    weights = dict(network.named_parameters())
    distance = sum(float(((weights[name].detach() - z) ** 2).sum()) for name, z in state["z"].items())
    assert admm.penalty().item() == pytest.approx(0.5 / 2 * distance, rel=1e-5)


def test_the_gradient_of_the_penalty_is_rho_times_the_distance(network, half):
    admm = admm_of(network, half, rho_start=0.25, w_step="gradient")
    admm.start(network, 10)
    admm.penalty().backward()
    z = admm.state_dict()["z"]
    weight = network.body[0].weight
    torch.testing.assert_close(weight.grad, 0.25 * (weight.detach() - z["body.0.weight"]))


def test_an_update_is_the_projection_the_ascent_and_a_larger_rho(network, half):
    admm = admm_of(network, half, rho_start=0.1, rho_end=0.4, updates=3, w_step="gradient")
    admm.start(network, 3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.01)
    expected = copy.deepcopy(network)
    graph = find_groups(network, EXAMPLE)
    masks = graph.parameter_masks(nearest(graph, squares_of(expected), half).selection)
    admm.after_step()
    state = admm.state_dict()
    weight = network.body[0].weight.detach()
    torch.testing.assert_close(state["z"]["body.0.weight"], weight * masks["body.0.weight"])
    # U = W - Z, shrunk by the factor by which rho grew (sqrt(0.4 / 0.1) = 2).
    torch.testing.assert_close(state["u"]["body.0.weight"], (weight - state["z"]["body.0.weight"]) / 2)
    assert state["rho"] == pytest.approx(0.2)
    assert set(admm.figures()) == {"rho", "primal_residual", "dual_residual"}


def test_weights_inside_the_budget_are_a_fixed_point(network):
    limits = Limits(macs=cost_of(network, EXAMPLE).macs)
    admm = admm_of(network, limits, rho_start=0.3, rho_end=0.3, updates=2, tolerance=1e-6)
    admm.start(network, 2)
    weight = network.body[0].weight.detach().clone()
    assert not admm.finished()
    admm.after_step()
    admm.after_step()
    assert admm.finished()
    assert admm.figures()["primal_residual"] == 0
    torch.testing.assert_close(network.body[0].weight.detach(), weight)


def test_the_proximal_step_is_the_minimum_of_penalty_and_distance(network, half):
    admm = admm_of(network, half, rho_start=0.25, updates=1)
    admm.start(network, 10)
    before = network.body[0].weight.detach().clone()
    z = admm.state_dict()["z"]["body.0.weight"]
    assert admm.penalty() is None
    admm.after_step()
    # argmin over W of rho/2 |W - Z|^2 + 1/2 |W - before|^2 with U = 0
    torch.testing.assert_close(network.body[0].weight.detach(), (before + 0.25 * z) / 1.25)


@pytest.mark.parametrize(("w_step", "rho"), [("gradient", 1.0), ("proximal", 0.05)])
def test_in_a_loop_of_ones_own_the_removed_channels_fade(network, half, w_step, rho):
    admm = admm_of(network, half, rho_start=rho, rho_end=10 * rho, updates=20, w_step=w_step)
    admm.start(network, 100)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    before = None
    for _ in range(100):
        optimizer.zero_grad()
        penalty = admm.penalty()
        if penalty is not None:
            penalty.backward()
        optimizer.step()
        admm.after_step()
        before = before if before is not None else admm.figures().get("primal_residual")
    assert admm.figures()["primal_residual"] < 0.1 * before


def test_state_goes_on_where_it_was(network, half):
    twin = copy.deepcopy(network)
    one, two = admm_of(network, half, updates=4), admm_of(twin, half, updates=4)
    one.start(network, 4)
    one.after_step()
    twin.load_state_dict(network.state_dict())  # as a training state does
    two.start(twin, 4)
    two.load_state_dict(one.state_dict())
    one.after_step()
    two.after_step()
    assert all(torch.equal(one.state_dict()["u"][n], two.state_dict()["u"][n]) for n in one.state_dict()["u"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho_start": 0.0}, "rho_start = 0.0"),
        ({"rho_start": 1.0, "rho_end": 0.5}, "rho_end = 0.5"),
        ({"updates": 0}, "updates = 0"),
        ({"w_step": "newton"}, "w_step = 'newton'"),
    ],
)
def test_impossible_schedules_are_refused(network, half, options, message):
    with pytest.raises(UsageError, match=message):
        admm_of(network, half, **options)


@pytest.mark.parametrize(
    ("method", "epochs", "share", "before"),
    [
        ("admm", 10, 0.4, 4),
        ("gradual", 10, 0.5, 5),
        ("one-shot", 10, 0.4, 0),
        ("from-scratch", 10, 0.4, 0),
        ("admm", 1, 0.4, 0),
        ("admm", 2, 1.0, 1),
        ("admm", 10, 0.0, 0),
    ],
)
def test_every_method_has_the_same_budget_of_epochs(method, epochs, share, before):
    settings = PruneSettings(method=method, shaping_share=share, train=TrainSettings(epochs=epochs))
    assert split_epochs(settings) == before


@pytest.mark.parametrize("method", ["admm", "gradual", "one-shot", "from-scratch"])
def test_all_methods_end_within_the_budget_and_with_all_epochs(network, half, tmp_path, method):
    task = small_task(tmp_path)
    training = TrainSettings(epochs=3, batch_size=16, precision="32-true")
    settings = PruneSettings(method=method, updates=4, train=training)
    result = prune_and_train(network, EXAMPLE, task, half, settings, fresh=small_net, run=tmp_path / "run")
    after = cost_of(result.model, EXAMPLE)
    assert 0.9 * half.macs < after.macs <= half.macs
    assert len(result.history) == 3
    assert result.pruned.proof.max_abs_diff < 1e-4
    assert result.model(torch.zeros(5, 1, 12, 8)).shape == (5, 3)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "epoch",
    [
        pytest.param(1, marks=pytest.mark.slow),
        2,
        pytest.param(3, marks=pytest.mark.slow),
        pytest.param(4, marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_pruning_ends_with_the_same_bits(network, half, tmp_path, monkeypatch, epoch):
    task = small_task(tmp_path)
    settings = PruneSettings(
        updates=4, shaping_share=0.5, train=TrainSettings(epochs=4, batch_size=16, precision="32-true")
    )
    arguments = (network, EXAMPLE, task, half, settings)
    whole = prune_and_train(*arguments, run=tmp_path / "whole")
    save, count = SaveEveryEpoch.on_train_epoch_end, []

    def die(self, trainer, module):
        save(self, trainer, module)
        count.append(1)
        if len(count) == epoch:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(SaveEveryEpoch, "on_train_epoch_end", die)
        with pytest.raises(Killed):
            prune_and_train(*arguments, run=tmp_path / "killed")
    resumed = prune_and_train(*arguments, run=tmp_path / "killed")
    assert len(resumed.history) == 4
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    )


def test_the_uniform_selection_keeps_one_share_everywhere_and_cannot_grow(network, half):
    graph = find_groups(network, EXAMPLE)
    selection = uniform_selection(graph, half)
    shares = [kept.mean() for kept in selection]
    assert max(shares) - min(shares) <= 1 / min(group.size for group in graph.groups) + 1e-9
    assert graph.cost(selection).macs <= half.macs
    for index, kept in enumerate(selection):
        wider = tuple(np_grown(k) if i == index else k for i, k in enumerate(selection))
        if not kept.all():
            assert graph.cost(wider).macs > half.macs


def np_grown(kept):
    grown = kept.copy()
    grown[kept.sum()] = True
    return grown


def test_an_impossible_budget_is_said_by_every_method(network, tmp_path):
    with pytest.raises(InfeasibleBudget):
        uniform_selection(find_groups(network, EXAMPLE), Limits(macs=10))
