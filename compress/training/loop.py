"""The Lightning module and callbacks behind `training.train`: one loop for everything that trains."""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor, nn

from edgepress.compress.quantize.qat import parameter_groups
from edgepress.compress.recipes.recipe import Distill, TrainSettings
from edgepress.compress.training.average import WeightAverage
from edgepress.compress.training.batches import seed_of
from edgepress.compress.training.contrastive import contrastive_of, inverse_contrastive, regularized
from edgepress.compress.training.distill import distillation_loss, mixed_logits
from edgepress.models.atomic import write_bytes, write_text
from edgepress.models.errors import RuntimeFailure, UsageError

#: Under which key of a Lightning checkpoint our own state lies.
STATE = "edgepress"
#: The file of a training state in its folder.
LAST = "last.ckpt"


class Shaping(Protocol):
    """What is done to weights while they train: ADMM's penalty, gradual masks.

    The loop calls it; who trains on their own calls the same four in their loop: `start` once, `loss + penalty()`,
    `after_step()` behind every optimizer step.
    """

    def start(self, model: nn.Module, steps: int) -> None:
        """Take hold of the model's parameters, on the device where they are; `steps` optimizer steps will follow."""

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss of every batch."""

    def after_step(self) -> None:
        """Called behind every optimizer step."""

    def figures(self) -> dict[str, float]:
        """Numbers to log at the end of an epoch."""
        ...

    def finished(self) -> bool:
        """Whether the stopping rule holds; asked at the end of an epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; called after `start`."""


def rate_at(progress: float, settings: TrainSettings) -> float:
    """The learning rate as a share of its peak, at `progress` (0 to 1) of all steps.

    Exponential ramp exp(-5 (1 - t)^2), flat, linear decay, flat at `last_rate`: the schedule of the CP-JKU submission
    to DCASE 2022 with its epochs as shares of the whole.
    """
    if progress < settings.ramp_up:
        return math.exp(-5 * (1 - progress / settings.ramp_up) ** 2)
    if progress < settings.decay_from or settings.decay_from >= 1:
        return 1.0
    if progress >= settings.decay_to:
        return settings.last_rate
    fallen = (progress - settings.decay_from) / (settings.decay_to - settings.decay_from)
    return 1 - fallen * (1 - settings.last_rate)


class TrainingLoop(lightning.LightningModule):
    """Loss, optimizer, validation and state of one training.

    Args:
        network: [B, *input] -> logits [B, K]; trained in place.
        settings: epochs, rates, losses.
        loaders: called with (rank, ranks), gives the training and the validation loader: inputs, labels, indices.
        augment: (inputs, labels, indices) -> (inputs, partner [B] or None, share [B] or None); None: no augmentation.
        steps: optimizer steps of the whole training.
        seed: of everything random; with the epoch it seeds each epoch anew, so that a resumed run repeats it.
        distill: how to follow the teacher; None: not at all.
        teacher: a network in evaluation mode, or cached logits [N, K] by index of the training split.
        shaping: see `Shaping`.
        devices: [N] integers, the recording device of every training clip, where `settings.contrastive` is given.
        watch: called with each epoch's record; what it raises ends the training.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainSettings,
        loaders: Callable[[int, int], tuple[Any, Any]],
        augment: Callable[..., Any] | None,
        steps: int,
        seed: int,
        distill: Distill | None = None,
        teacher: nn.Module | Tensor | None = None,
        shaping: Shaping | None = None,
        devices: Tensor | None = None,
        watch: Callable[[dict[str, float]], None] | None = None,
    ):
        super().__init__()
        self.network = network
        self._settings, self._loaders, self._augment, self._seed = settings, loaders, augment, seed
        self._steps, self._distill, self._shaping = steps, distill if teacher is not None else None, shaping
        # In a tuple, so that the teacher is no submodule: it is neither trained nor saved with the student.
        self._teacher = (teacher,)
        self._whole_batch = len(next(iter(loaders(0, 1)[0].sampler)))
        self._contrastive = contrastive_of(settings, network, devices)
        self._devices, self._watch = devices, watch
        self._contrastive_sums: dict[str, tuple[Tensor, int]] = {}
        self._restored: dict[str, Any] | None = None
        self._average: WeightAverage | None = None
        self._began, self._loss_sum, self._loss_count = 0.0, torch.zeros(()), 0
        self._validation: list[tuple[float, int, int]] = []
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}

    def configure_optimizers(self) -> Any:
        settings = self._settings
        trained = parameter_groups(self.network, settings.learning_rate)
        if settings.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                trained, settings.learning_rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
            )
        else:
            kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
            optimizer = kind(
                trained,
                settings.learning_rate,
                settings.betas,
                settings.epsilon,
                weight_decay=settings.weight_decay,
                fused=True,
            )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_at(step / max(1, self._steps), settings)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def setup(self, stage: str) -> None:
        ranks, batch = self.trainer.world_size, self._whole_batch
        if ranks > 1:
            from edgepress.compress.training.ranks import share_over_ranks

            if batch < ranks:
                raise UsageError(f"batch_size = {batch} must be at least the number of devices, {ranks}")
            share_over_ranks(self.network, batch)

    def train_dataloader(self) -> Any:
        # Augmentation mixes clips of one batch: then every rank draws for all of it and keeps its rows.
        whole = self._augment is not None
        return self._loaders(*(0, 1) if whole else (self.trainer.global_rank, self.trainer.world_size))[0]

    def val_dataloader(self) -> Any:
        # Every rank sees the whole validation split, so that all choose the same epoch.
        return self._loaders(0, 1)[1]

    def on_train_start(self) -> None:
        teacher = self._teacher[0]
        if teacher is not None:
            self._teacher = (teacher.to(self.device),)
        if self._settings.average:
            self._average = WeightAverage(self.network, self._settings.average)
        if self._shaping is not None:
            self._shaping.start(self.network, self._steps)
        if self._restored is not None:
            for part, name in ((self._average, "average"), (self._shaping, "shaping")):
                if part is not None:
                    part.load_state_dict(_moved(self._restored[name], self.device))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Not in on_train_epoch_start: Lightning leaves that out in the first epoch of a resumed training.
        if batch_idx > 0:
            return
        # Equal on all ranks: what is drawn must not depend on how many there are.
        torch.manual_seed(seed_of(self._seed, self.current_epoch, 0))
        self._began, self._loss_sum, self._loss_count = time.perf_counter(), torch.zeros((), device=self.device), 0
        self._contrastive_sums.clear()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels, indices = batch
        other = other_indices = share = None
        rank, ranks = self.global_rank, self.trainer.world_size
        scale = ranks * len(inputs) / self._whole_batch if ranks > 1 else 1.0
        if self._augment is not None:
            with torch.autocast(self.device.type, enabled=False), torch.no_grad():
                inputs, partner, share = self._augment(inputs, labels, indices)
            if partner is not None and share is not None:
                other, other_indices = labels[partner][rank::ranks], indices[partner][rank::ranks]
                share = share[rank::ranks]
            scale = ranks * len(inputs[rank::ranks]) / len(inputs)
            inputs, labels, indices = inputs[rank::ranks], labels[rank::ranks], indices[rank::ranks]
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self._contrastive is None:
            logits, latent = self.network(inputs).float(), None
        else:
            logits, latent = self.network.forward_with_latent(inputs)  # type: ignore[operator]
            logits = logits.float()
        loss = self._hard_loss(logits, labels, other, share)
        if self._distill is not None:
            guide = self._teacher_logits(inputs, indices, other_indices, share)
            loss = distillation_loss(loss, logits, guide, self._distill)
        if latent is not None:
            loss = self._with_contrastive(loss, latent, indices)
        # Ranks whose share of the batch is larger count for more; what is averaged is then the mean over the batch.
        loss = loss * scale if scale != 1 else loss
        self._loss_sum += loss.detach()
        self._loss_count += 1
        penalty = self._shaping.penalty() if self._shaping is not None else None
        return loss if penalty is None else loss + penalty

    def _hard_loss(self, logits: Tensor, labels: Tensor, other: Tensor | None, share: Tensor | None) -> Tensor:
        smoothing = self._settings.label_smoothing
        if other is None or share is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        both = [
            F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing) for target in (labels, other)
        ]
        return (share * both[0] + (1 - share) * both[1]).mean()

    def _with_contrastive(self, loss: Tensor, latent: Tensor, indices: Tensor) -> Tensor:
        """Equation 2 of the report; its terms are summed up for the epoch's record."""
        assert self._contrastive is not None
        assert self._devices is not None
        self._devices = self._devices.to(latent.device)
        found = inverse_contrastive(latent, self._devices[indices], self._contrastive)
        for name, value in found.terms.items():
            total, count = self._contrastive_sums.get(name, (0.0, 0))
            self._contrastive_sums[name] = (total + value, count + 1)
        return regularized(loss, found, self._contrastive)

    @torch.no_grad()
    def _teacher_logits(self, inputs: Tensor, indices: Tensor, other: Tensor | None, share: Tensor | None) -> Tensor:
        teacher = self._teacher[0]
        if isinstance(teacher, nn.Module):
            return teacher(inputs)
        assert teacher is not None
        logits = teacher[indices]
        return logits if other is None or share is None else mixed_logits(logits, teacher[other], share)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._shaping is not None:
            self._shaping.after_step()
        if self._average is not None:
            self._average.update()

    def on_validation_start(self) -> None:
        if self._average is not None:
            self._average.swap_in()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, labels, _ = batch
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits = self.network(inputs).float()
        self._validation.append(
            (
                float(F.cross_entropy(logits, labels, reduction="sum")),
                int((logits.argmax(1) == labels).sum()),
                len(labels),
            )
        )

    def on_validation_epoch_end(self) -> None:
        # The last thing in an epoch, before the callbacks that report and save it.
        self._agree()
        loss = float(self._loss_sum) / max(1, self._loss_count)
        if not math.isfinite(loss):
            raise RuntimeFailure(
                f"the training diverged in epoch {self.current_epoch + 1}: its loss is {loss}; lower "
                f'learning_rate = {self._settings.learning_rate}, or set precision = "32-true"'
            )
        total = max(1, sum(part[2] for part in self._validation))
        record = {
            "epoch": self.current_epoch + 1,
            "train_loss": loss,
            "validation_loss": sum(part[0] for part in self._validation) / total,
            "validation_accuracy": sum(part[1] for part in self._validation) / total,
            "learning_rate": self.optimizers().param_groups[0]["lr"],  # type: ignore[union-attr]
            "seconds": round(time.perf_counter() - self._began, 3),
            **{name: float(total) / count for name, (total, count) in self._contrastive_sums.items()},
            **(self._shaping.figures() if self._shaping is not None else {}),
        }
        self._validation.clear()
        self.history.append(record)
        if self.logger is not None:
            self.logger.log_metrics({k: v for k, v in record.items() if k != "epoch"}, step=self.current_epoch)
        score = {
            "accuracy": (record["validation_accuracy"], -record["validation_loss"]),
            "log_loss": (-record["validation_loss"],),
            "last": (float(self.current_epoch),),
        }[self._settings.select]
        if not self.best or score > tuple(self.best["score"]):
            self.best = {
                "epoch": self.current_epoch + 1,
                "score": list(score),
                "state": {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()},
            }
        if self._average is not None:
            self._average.swap_out()
        if self._shaping is not None and self._shaping.finished():
            self.trainer.should_stop = True
        if self._watch is not None:
            self._watch(record)

    def _agree(self) -> None:
        """On several ranks: one training loss for all, and proof that weights and shaping are the same on each."""
        if self.trainer.world_size == 1:
            return
        from edgepress.compress.training.ranks import check_agreement, flat

        torch.distributed.all_reduce(self._loss_sum)
        self._loss_sum /= self.trainer.world_size
        check_agreement(self.network.state_dict().items(), "the weights")
        if self._shaping is not None:
            check_agreement(flat(self._shaping.state_dict()), "the states of pruning")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        done = bool(self.trainer.should_stop or self.current_epoch + 1 >= self._settings.epochs)
        checkpoint[STATE] = {
            "history": self.history,
            "best": self.best,
            "done": done,
            "shaping": self._shaping.state_dict() if self._shaping is not None else None,
            "average": self._average.state_dict() if self._average is not None else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint[STATE]
        self._restored, self.history, self.best = state, list(state["history"]), state["best"]


def _moved(state: Any, device: torch.device) -> Any:
    if isinstance(state, dict):
        return {name: _moved(value, device) for name, value in state.items()}
    return state.to(device) if isinstance(state, Tensor) else state


class AtomicCheckpoints(CheckpointIO):
    """Lightning's checkpoints, written whole or not at all, and read without unpickling objects."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        # Also called for the weights that a spawned process hands back, which are no training state.
        return (
            read_state(Path(path))
            if Path(path).name == LAST
            else torch.load(path, map_location="cpu", weights_only=True)
        )

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint of ours: tensors and plain values only.

    Raises:
        UsageError: damaged, or it holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state[STATE]["history"], list):
            raise TypeError("history")
        return state
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UsageError(
            f"{path} is damaged or not a training state of edgepress; remove it to train from the beginning"
        ) from error


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
