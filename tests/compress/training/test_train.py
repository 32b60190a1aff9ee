"""The training loop: exact resume, the choice of the epoch, inputs that are gathered, rates."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgepress.compress.recipes.sections import Augment, Distill, TrainSettings
from edgepress.compress.training.batches import BatchOrder, batches
from edgepress.compress.training.callbacks import SaveEveryEpoch
from edgepress.compress.training.evaluate import evaluate_model, logits_of
from edgepress.compress.training.loop import rate_at
from edgepress.compress.training.train import train
from edgepress.models.errors import RuntimeFailure, UsageError
from tests.compress.train_cases import small_net, small_task

FAST = TrainSettings(epochs=4, batch_size=16, learning_rate=5e-3, precision="32-true")


@pytest.fixture
def task(tmp_path):
    torch.set_num_threads(1)
    return small_task(tmp_path)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return small_net()


class Killed(Exception):
    pass


def killed_after(monkeypatch, epoch):
    """From now on a training dies behind the given epoch, once its state is written."""
    save = SaveEveryEpoch.on_train_epoch_end

    def die(self, trainer, module):
        save(self, trainer, module)
        if trainer.current_epoch + 1 == epoch:
            raise Killed

    monkeypatch.setattr(SaveEveryEpoch, "on_train_epoch_end", die)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_killed_training_ends_with_the_same_bits(task, network, tmp_path, monkeypatch):
    settings = FAST.model_copy(update={"augment": Augment(mixup_alpha=0.3, roll_frames=2), "average": 0.9})
    whole = train(network, task, settings, run=tmp_path / "whole", seed=3)
    with monkeypatch.context() as patched:
        killed_after(patched, 2)
        with pytest.raises(Killed):
            train(network, task, settings, run=tmp_path / "killed", seed=3)
    resumed = train(network, task, settings, run=tmp_path / "killed", seed=3)
    assert same_weights(whole.model, resumed.model)
    assert [record["epoch"] for record in resumed.history] == [1, 2, 3, 4]
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_training_learns_and_leaves_the_given_network_alone(task, network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = train(network, task, FAST.model_copy(update={"epochs": 8}))
    assert evaluate_model(result.model, task, "test")["accuracy"] > 0.8
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not result.model.training


def test_the_epoch_is_the_best_on_validation(task, network, tmp_path):
    result = train(network, task, FAST, run=tmp_path / "run")
    best = max(result.history, key=lambda record: (record["validation_accuracy"], -record["validation_loss"]))
    assert result.best_epoch == best["epoch"]
    assert evaluate_model(result.model, task, "validation")["accuracy"] == pytest.approx(best["validation_accuracy"])
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").read_text().splitlines()))
    assert [float(row["validation_loss"]) for row in rows] == [r["validation_loss"] for r in result.history]
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents*"))


def test_a_folder_of_another_training_is_refused(task, network, tmp_path):
    short = FAST.model_copy(update={"epochs": 1})
    train(network, task, short, run=tmp_path / "run")
    with pytest.raises(UsageError, match="holds a training with other inputs"):
        train(network, task, short, run=tmp_path / "run", seed=1)
    assert train(network, task, short, run=tmp_path / "run", seed=1, resume=False).best_epoch == 1


def test_a_damaged_state_is_named(task, network, tmp_path):
    short = FAST.model_copy(update={"epochs": 1})
    train(network, task, short, run=tmp_path / "run")
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"last\.ckpt is damaged"):
        train(network, task, short, run=tmp_path / "run")


def test_no_epochs_give_the_network_back(task, network):
    result = train(network, task, FAST.model_copy(update={"epochs": 0}))
    assert same_weights(result.model, network)
    assert (result.best_epoch, result.history) == (0, [])


def test_a_diverged_training_says_what_to_change(task, network):
    with pytest.raises(RuntimeFailure, match=r"diverged in epoch 1.*learning_rate = 1e\+30"):
        train(network, task, FAST.model_copy(update={"learning_rate": 1e30, "optimizer": "sgd", "ramp_up": 0.0}))


@pytest.mark.parametrize("logits", ["online", "cached"])
def test_a_student_follows_its_teacher(task, network, logits):
    teacher = train(network, task, FAST.model_copy(update={"epochs": 6})).model
    torch.manual_seed(5)
    student = small_net(4)
    distill = Distill(weight=1.0, temperature=1.0, logits=logits)
    result = train(student, task, FAST.model_copy(update={"epochs": 6}), teacher=teacher, distill=distill)

    def gap(model):
        return np.abs(logits_of(model, task.features("test")) - logits_of(teacher, task.features("test"))).mean()

    assert gap(result.model) < gap(student.eval())


@given(count=st.integers(2, 300), batch=st.integers(1, 64), ranks=st.integers(1, 4), epoch=st.integers(0, 5))
def test_ranks_share_every_batch_and_each_clip_comes_at_most_once(count, batch, ranks, epoch):
    orders = [BatchOrder(count, batch, 7, shuffle=True, rank=rank, ranks=ranks) for rank in range(ranks)]
    for order in orders:
        order.set_epoch(epoch)
    shares = [list(order) for order in orders]
    assert {len(share) for share in shares} == {count // min(batch, count)}
    seen = np.concatenate([part for share in shares for part in share])
    assert len(set(seen.tolist())) == len(seen) == len(shares[0]) * min(batch, count)


def test_validation_sees_every_clip_once_in_order():
    loader = batches((np.arange(10),), 4)
    assert torch.cat([rows for rows, _ in loader]).tolist() == list(range(10))


def test_order_follows_from_seed_and_epoch():
    first, second = (BatchOrder(50, 8, 1, shuffle=True) for _ in range(2))
    first.set_epoch(3)
    second.set_epoch(3)
    assert [part.tolist() for part in first] == [part.tolist() for part in second]
    second.set_epoch(4)
    assert [part.tolist() for part in first] != [part.tolist() for part in second]


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0.0, np.exp(-5)), (0.05, np.exp(-1.25)), (0.1, 1.0), (0.3, 1.0), (0.55, 0.505), (0.8, 0.01), (1.0, 0.01)],
)
def test_the_rate_ramps_up_stays_and_falls(progress, rate):
    settings = TrainSettings(ramp_up=0.1, decay_from=0.3, decay_to=0.8, last_rate=0.01)
    assert rate_at(progress, settings) == pytest.approx(rate)
