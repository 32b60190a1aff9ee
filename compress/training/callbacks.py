# SPDX-License-Identifier: Apache-2.0
"""What happens behind every epoch: the state is saved, a person is told, figures go to loggers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Callback, Checkpoint

from edgepress.compress.training.loop import TrainingLoop
from edgepress.compress.training.state import LAST
from edgepress.models.atomic import write_text
from edgepress.models.errors import RuntimeFailure, UsageError, did_you_mean
from edgepress.models.tasks.kinds.table import metric_text
from edgepress.models.terminal.progress import time_left
from edgepress.models.terminal.words import say, verbosity


def _tensorboard(folder: Path, name: str) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(str(folder), name="tensorboard", version="", default_hp_metric=False)


def _csv(folder: Path, name: str) -> Any:
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(str(folder), name="csv", version="")


def _mlflow(folder: Path, name: str) -> Any:
    """Into a database in the folder, or where MLFLOW_TRACKING_URI says."""
    from lightning.pytorch.loggers import MLFlowLogger

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    return MLFlowLogger(experiment_name="edgepress", run_name=name, tracking_uri=uri)


def _wandb(folder: Path, name: str) -> Any:
    """Offline, in the folder (`wandb sync` sends it), unless WANDB_MODE=online says that it may be sent at once."""
    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE", "offline") != "online"
    return WandbLogger(project="edgepress", name=name, save_dir=str(folder), offline=offline)


#: Name -> (what makes it of a folder and a name, the package that it needs).
LOGGERS = {
    "tensorboard": (_tensorboard, "tensorboard"),
    "csv": (_csv, ""),
    "mlflow": (_mlflow, "mlflow"),
    "wandb": (_wandb, "wandb"),
}


def loggers_for(names: Sequence[str], folder: Path, name: str) -> list[Any]:
    """Lightning's loggers; TensorBoard, which nobody asked for by name, is left out where it is not installed.

    Raises:
        UsageError: no such logger.
        RuntimeFailure: its package is not installed.
    """
    made = []
    for one in names:
        if one == "none":
            continue
        if one not in LOGGERS:
            raise UsageError(
                f"--logger {one!r} is unknown: allowed are {', '.join(LOGGERS)}, none{did_you_mean(one, LOGGERS)}"
            )
        make, package = LOGGERS[one]
        try:
            made.append(make(folder, name))
        except ModuleNotFoundError as error:
            if one != "tensorboard":
                raise RuntimeFailure(
                    f"--logger {one} needs the package {package} ({error}): pip install {package}"
                ) from error
    return made


class SaveEveryEpoch(Checkpoint):
    """Write the state of the whole training, and its history as CSV, behind every epoch."""

    def __init__(self, folder: Path):
        self._folder = folder

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.save_checkpoint(self._folder / LAST)
        if trainer.is_global_zero and isinstance(pl_module, TrainingLoop):
            names = list(dict.fromkeys(name for record in pl_module.history for name in record))
            rows = [",".join(str(record.get(name, "")) for name in names) for record in pl_module.history]
            write_text(self._folder / "history.csv", "\n".join([",".join(names), *rows]) + "\n")


class ProgressLine(Callback):
    """Progress on stderr: a bar on a terminal, otherwise a line at most every few seconds."""

    def __init__(self, name: str, epochs: int, seconds: float = 10.0):
        self._name, self._epochs, self._seconds = name, epochs, seconds
        self._last, self._bar = 0.0, None  # type: ignore[var-annotated]
        self._begin, self._first = time.monotonic(), 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._begin, self._first = time.monotonic(), trainer.current_epoch
        if trainer.is_global_zero and sys.stderr.isatty() and self._bar is None and verbosity() != "quiet":
            from tqdm import tqdm

            self._bar: Any = tqdm(
                total=self._epochs * int(trainer.num_training_batches),
                desc=self._name,
                unit="step",
                initial=trainer.global_step,
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
            )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.update(1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, TrainingLoop):
            return
        record = pl_module.history[-1]
        metric = pl_module.kind.primary.name
        text = f"epoch {record['epoch']}/{self._epochs}: loss {record['train_loss']:.3f}, "
        if (value := record[f"validation_{metric}"]) is not None:
            text += f"validation {metric.replace('_', ' ')} {metric_text(metric, value)}"
        else:
            text += f"validation loss {record['validation_loss']:.4g}"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif time.monotonic() - self._last > self._seconds or record["epoch"] == self._epochs:
            self._last = time.monotonic()
            done, epochs = int(record["epoch"]) - self._first, self._epochs - self._first
            left = time_left(done, epochs, self._last - self._begin) if done < epochs else ""
            say(f"  {self._name}: {text}" + (f", {left}" if left else ""))

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
