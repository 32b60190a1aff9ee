# SPDX-License-Identifier: Apache-2.0
"""The Lightning module behind `training.train`: one loop for everything that trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgepress.compress.quantize.qat import parameter_groups
from edgepress.compress.recipes.sections import Distill, TrainSettings
from edgepress.compress.training.batches import seed_of
from edgepress.compress.training.contrastive import ContrastiveTerm
from edgepress.compress.training.distill import distillation_loss, mixed_outputs
from edgepress.compress.training.machine import layout_of
from edgepress.compress.training.shaping import Shaping
from edgepress.compress.training.state import STATE
from edgepress.models.children import end_spawned_process_with_parent
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.tasks.kinds.kind import Kind
from edgepress.models.tasks.kinds.table import kind_of
from edgepress.models.user_code import call


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


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """a_t = d a_(t-1) + (1 - d) w_t with d = min(decay, (1 + t) / (10 + t)), t steps being in the average.

    A constant decay of 0.995 leaves a third of the first step in the average after 220 steps: a small set trained for
    few epochs would be kept half trained. As tf.train.ExponentialMovingAverage with `num_updates`.
    """

    def update(averaged: Any, current: Any, seen: Any) -> None:
        steps = int(seen)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, seen)

    return update


class TrainingLoop(lightning.LightningModule):
    """Loss, optimizer, validation and state of one training.

    Args:
        network: [B, *input] -> outputs [B, ...] as the kind of task wants them; trained in place.
        settings: epochs, rates, losses.
        loaders: called with (rank, ranks), gives the training and the validation loader: inputs, labels, indices.
        augment: (inputs, labels, indices) -> (inputs, partner [B] or None, share [B] or None); None: no augmentation.
        steps: optimizer steps of the whole training.
        seed: of everything random; with the epoch it seeds each epoch anew, so that a resumed run repeats it.
        distill: how to follow the teacher; None: not at all.
        teacher: a network in evaluation mode, or cached logits [N, K] by index of the training split.
        shaping: ADMM, gradual masks, the schedule of ranges.
        contrastive: the term of `settings.contrastive`, where that is given.
        watch: called with each epoch's record; what it raises ends the training.
        kind: of the task; None is classification.
        own_loss: (outputs, labels) -> [B] or a scalar, in place of the kind's.
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
        contrastive: ContrastiveTerm | None = None,
        watch: Callable[[dict[str, float]], None] | None = None,
        kind: Kind | None = None,
        own_loss: Callable[..., Tensor] | None = None,
    ):
        super().__init__()
        self.network, self._layout = network, layout_of(network)
        self._settings, self._loaders, self._augment, self._seed = settings, loaders, augment, seed
        self._steps, self._distill, self._shaping = steps, distill if teacher is not None else None, shaping
        # In a tuple, so that the teacher is no submodule: it is neither trained nor saved with the student.
        self._teacher = (teacher,)
        self._whole_batch = len(next(iter(loaders(0, 1)[0].sampler)))
        self._contrastive, self._watch = contrastive, watch
        self._restored: dict[str, Any] | None = None
        # In a tuple for the same reason.
        self._average: tuple[AveragedModel | None] = (None,)
        self._began, self._loss_sum, self._loss_count = 0.0, torch.zeros(()), 0
        self.kind, self._own_loss = kind or kind_of("classification"), own_loss
        self._validation: list[tuple[float, int, np.ndarray]] = []
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}

    def configure_optimizers(self) -> Any:
        settings = self._settings
        trained = parameter_groups(self.network, settings.learning_rate)
        if self._contrastive is not None and (head := list(self._contrastive.parameters())):
            trained.append({"params": head})
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

    def configure_callbacks(self) -> list[Any]:
        # The first hook of a rank, and the only one before it waits for the other ranks to join.
        end_spawned_process_with_parent()
        return []

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
            update = _moving_average(self._settings.average)
            self._average = (AveragedModel(self.network, multi_avg_fn=update, use_buffers=True).eval(),)
        if self._shaping is not None:
            self._shaping.start(self.network, self._steps)
        if self._restored is not None:
            for part, name in ((self._average[0], "average"), (self._shaping, "shaping")):
                if part is not None:
                    part.load_state_dict(_moved(self._restored[name], self.device))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Not in on_train_epoch_start: Lightning leaves that out in the first epoch of a resumed training.
        if batch_idx > 0:
            return
        # Equal on all ranks: what is drawn must not depend on how many there are.
        torch.manual_seed(seed_of(self._seed, self.current_epoch, 0))
        self._began, self._loss_sum, self._loss_count = time.perf_counter(), torch.zeros((), device=self.device), 0
        if self._contrastive is not None:
            self._contrastive.start_epoch()

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
            inputs = inputs.contiguous(memory_format=self._layout)
        if self._contrastive is None:
            logits, latent = _single_precision(self.network(inputs)), None
        else:
            logits, latent = self.network.forward_with_latent(inputs)  # type: ignore[operator]
            logits = logits.float()
        loss = self._hard_loss(logits, labels, inputs, other, share)
        if self._distill is not None:
            guide = self._teacher_logits(inputs, indices, other_indices, share)
            loss = distillation_loss(loss, logits, guide, self._distill, self.kind)
        if latent is not None and self._contrastive is not None:
            loss = self._contrastive.add(loss, latent, indices, self.global_step / max(1, self._steps))
        # Ranks whose share of the batch is larger count for more; what is averaged is then the mean over the batch.
        loss = loss * scale if scale != 1 else loss
        self._loss_sum += loss.detach()
        self._loss_count += 1
        penalty = self._shaping.penalty() if self._shaping is not None else None
        return loss if penalty is None else loss + penalty

    def _hard_loss(
        self, outputs: Any, labels: Tensor, inputs: Tensor, other: Tensor | None, share: Tensor | None
    ) -> Tensor:
        losses = self._losses(outputs, labels, inputs, self._settings.label_smoothing)
        if other is None or share is None:
            return losses.mean()
        of_other = self._losses(outputs, other, inputs, self._settings.label_smoothing)
        return (share * losses + (1 - share) * of_other).mean()

    def _losses(self, outputs: Any, labels: Tensor, inputs: Tensor, smoothing: float) -> Tensor:
        """[B], or a scalar of an own loss."""
        if self._own_loss is None:
            return self.kind.loss(outputs, labels, inputs, smoothing)
        return call("the loss", lambda: self._own_loss(outputs, labels))  # type: ignore[misc]

    @torch.no_grad()
    def _teacher_logits(self, inputs: Tensor, indices: Tensor, other: Tensor | None, share: Tensor | None) -> Tensor:
        teacher = self._teacher[0]
        if isinstance(teacher, nn.Module):
            return teacher(inputs)
        assert teacher is not None
        logits = teacher[indices]
        return logits if other is None or share is None else mixed_outputs(logits, teacher[other], share, self.kind)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._shaping is not None:
            self._shaping.after_step()
        if (average := self._average[0]) is not None:
            average.update_parameters(self.network)

    @property
    def _kept(self) -> nn.Module:
        """What is validated and kept: the moving average of weights and batch statistics, where there is one.

        Freq-MixStyle changes the statistics of whole batches, so that the running statistics of batch normalisation,
        and with them the accuracy, jump from epoch to epoch; their average does not. After Polyak and Juditsky,
        "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 1992.
        """
        average = self._average[0]
        return self.network if average is None else average.module

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, labels, _ = batch
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=self._layout)
        outputs = _single_precision(self._kept(inputs))
        loss = float(self._losses(outputs, labels, inputs, 0.0).mean()) * len(labels)
        made = [part.cpu().numpy() for part in outputs] if isinstance(outputs, tuple) else outputs.cpu().numpy()
        rows = self.kind.rows(self.kind.outputs_of(made), labels.cpu().numpy(), inputs.cpu().numpy())
        self._validation.append((loss, len(labels), rows))

    def on_validation_epoch_end(self) -> None:
        # The last thing in an epoch, before the callbacks that report and save it.
        self._agree()
        loss = float(self._loss_sum) / max(1, self._loss_count)
        if not math.isfinite(loss):
            raise RuntimeFailure(
                f"the training diverged in epoch {self.current_epoch + 1}: its loss is {loss}; lower "
                f'learning_rate = {self._settings.learning_rate}, or set precision = "32-true"'
            )
        total = max(1, sum(part[1] for part in self._validation))
        metric = self.kind.primary
        figure = self.kind.figures(np.concatenate([part[2] for part in self._validation]))[metric.name]
        record = {
            "epoch": self.current_epoch + 1,
            "train_loss": loss,
            "validation_loss": sum(part[0] for part in self._validation) / total,
            f"validation_{metric.name}": figure if math.isfinite(figure) else None,
            "learning_rate": self.optimizers().param_groups[0]["lr"],  # type: ignore[union-attr]
            "seconds": round(time.perf_counter() - self._began, 3),
            **(self._contrastive.figures() if self._contrastive is not None else {}),
            **(self._shaping.figures() if self._shaping is not None else {}),
        }
        self._validation.clear()
        self.history.append(record)
        shown = {k: v for k, v in record.items() if k != "epoch" and v is not None}
        for logger in self.loggers:
            logger.log_metrics(shown, step=self.current_epoch)
        # A figure that the validation split cannot give (all of it is normal, say) leaves the choice to the loss.
        rank = (figure if metric.higher else -figure) if math.isfinite(figure) else 0.0
        score = {
            "accuracy": (rank, -record["validation_loss"]),
            "log_loss": (-record["validation_loss"],),
            "last": (float(self.current_epoch),),
        }[self._settings.select]
        if not self.best or score > tuple(self.best["score"]):
            self.best = {
                "epoch": self.current_epoch + 1,
                "score": list(score),
                "state": {name: value.detach().cpu().clone() for name, value in self._kept.state_dict().items()},
            }
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
            "average": average.state_dict() if (average := self._average[0]) is not None else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint[STATE]
        self._restored, self.history, self.best = state, list(state["history"]), state["best"]


def _single_precision(outputs: Any) -> Any:
    return tuple(map(_single_precision, outputs)) if isinstance(outputs, (tuple, list)) else outputs.float()


def _moved(state: Any, device: torch.device) -> Any:
    if isinstance(state, dict):
        return {name: _moved(value, device) for name, value in state.items()}
    return state.to(device) if isinstance(state, Tensor) else state
