"""Figures of every epoch go to the loggers that were asked for."""

from __future__ import annotations

import csv
import sys
from importlib.util import find_spec

import pytest
import torch

from edgepress.compress.recipes.sections import TrainSettings
from edgepress.compress.training.callbacks import LOGGERS, loggers_for
from edgepress.compress.training.machine import Machine
from edgepress.compress.training.train import train
from edgepress.models.errors import RuntimeFailure, UsageError
from tests.compress.train_cases import small_net, small_task

FAST = TrainSettings(epochs=3, batch_size=16, learning_rate=5e-3, precision="32-true")


def test_an_epoch_is_a_row_of_every_logger(tmp_path):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    machine = Machine("cpu", 1, progress=False, loggers=("csv", "none"))
    trained = train(small_net(), small_task(tmp_path), FAST, run=tmp_path / "run", seed=3, machine=machine)
    (log,) = (tmp_path / "run").rglob("csv/**/metrics.csv")
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [0, 1, 2]
    assert [float(row["train_loss"]) for row in rows] == pytest.approx([e["train_loss"] for e in trained.history])
    assert not list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_unknown_and_missing_loggers_are_said(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"--logger 'wandbs' is unknown.*did you mean 'wandb'"):
        loggers_for(["wandbs"], tmp_path, "x")
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(RuntimeFailure, match=r"--logger wandb needs the package wandb.*pip install wandb"):
        loggers_for(["wandb"], tmp_path, "x")
    assert loggers_for(["none"], tmp_path, "x") == []


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_of_others_stays_on_this_machine(name, tmp_path, monkeypatch):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    (logger,) = loggers_for([name], tmp_path, "x")
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.finalize("success")
    assert any(path.is_file() for path in tmp_path.rglob("*"))
    assert name in LOGGERS
