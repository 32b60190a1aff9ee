# SPDX-License-Identifier: Apache-2.0
"""What happens behind every epoch: the state is saved, a person is told."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Callback, Checkpoint

from edgepress.compress.training.loop import TrainingLoop
from edgepress.compress.training.state import LAST
from edgepress.models.atomic import write_text


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

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and sys.stderr.isatty() and self._bar is None:
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
        text = (
            f"epoch {record['epoch']}/{self._epochs}: loss {record['train_loss']:.3f}, "
            f"validation accuracy {100 * record['validation_accuracy']:.1f} %"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif time.monotonic() - self._last > self._seconds or record["epoch"] == self._epochs:
            self._last = time.monotonic()
            print(f"  {self._name}: {text}", file=sys.stderr, flush=True)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
