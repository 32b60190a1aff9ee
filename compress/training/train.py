# SPDX-License-Identifier: Apache-2.0
"""Training: one Lightning loop for dense networks, students, ADMM, fine-tuning and quantization-aware training."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from edgepress.compress.recipes.recipe import Distill, TrainSettings
from edgepress.compress.training.batches import Strata, batches, named, opened, seed_of
from edgepress.compress.training.evaluate import logits_of
from edgepress.compress.training.machine import AUTO, Machine, channels_last, precision_for, strategy_for
from edgepress.models.atomic import write_text
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import read_json
from edgepress.models.run_directory import follows, launched
from edgepress.models.tasks.kinds.table import kind_of
from edgepress.models.user_code import find_object

if TYPE_CHECKING:
    from edgepress.compress.training.shaping import Shaping
    from edgepress.models.tasks import Task


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        model: the network with the weights of the chosen epoch, in evaluation mode on the CPU.
        history: one record per epoch: losses, validation accuracy, rate, seconds, residuals.
        best_epoch: the chosen one, from 1; 0 where nothing was trained.
        seconds: the sum over all epochs, those before a resume included.
        shaping: the final state of the shaping, where there was one.
    """

    model: nn.Module
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    shaping: dict[str, Any] | None = field(default=None, repr=False)


def train(
    model: nn.Module,
    task: Task,
    settings: TrainSettings,
    *,
    teacher: nn.Module | np.ndarray | None = None,
    distill: Distill | None = None,
    penalty: Shaping | None = None,
    run: Path | None = None,
    resume: bool = True,
    seed: int = 0,
    machine: Machine = AUTO,
    name: str = "train",
    watch: Callable[[dict[str, float]], None] | None = None,
) -> TrainResult:
    """Train a copy of `model` on the task's training split; the epoch is chosen on its validation split.

    Args:
        model: [B, *task.input_shape] -> outputs as the task's kind wants them; it is left untouched.
        task: see models/tasks.
        settings: epochs, rates, augmentation, precision.
        teacher: a network on the same inputs to distil from, or its outputs [N, ...] of the training split; used where
            `distill` is given.
        distill: the form of the distillation loss.
        penalty: ADMM or gradual masks, see `edgepress.compress.training.shaping.Shaping`.
        run: folder of logs and of the training state; a training with the same inputs found there goes on from its
            last finished epoch (bit-equal on one CPU thread). None: nothing is kept.
        resume: False starts anew.
        seed: of order, augmentation and dropout.
        machine: devices, see `Machine`.
        name: for progress lines.
        watch: called with the record of each epoch, in the process that trains; what it raises ends the training.

    Raises:
        UsageError: the folder holds another training, or a damaged one; or the contrastive term lacks what it needs.
        RuntimeFailure: the loss is no longer finite.
    """
    model = copy.deepcopy(model).float()
    if settings.epochs == 0:
        return TrainResult(model.eval(), [], 0, 0.0, None)
    # Also where nothing is left to train: the layout decides in which order sums are taken, and so the last digits.
    channels_last(model)
    with _folder(run) as folder:
        key = _fingerprint(model, task, settings, distill if teacher is not None else None, teacher, penalty, seed)
        if not follows():
            _claim(folder, key, resume)
        last = folder / "last.ckpt"
        state = _finished(last)
        if state is None:
            _fit(model, task, settings, teacher, distill, penalty, folder, seed, machine, name, watch)
            state = _finished(last)
            assert state is not None, "the training ended without its last state"
            if launched():
                # The leader drops the state as soon as it has a checkpoint: not before every rank has read it.
                torch.distributed.barrier()
        model.load_state_dict(state["best"]["state"])
        return TrainResult(
            model.cpu().eval(),
            state["history"],
            state["best"]["epoch"],
            sum(record["seconds"] for record in state["history"]),
            state["shaping"],
        )


def _fit(
    model: nn.Module,
    task: Task,
    settings: TrainSettings,
    teacher: nn.Module | np.ndarray | None,
    distill: Distill | None,
    penalty: Shaping | None,
    folder: Path,
    seed: int,
    machine: Machine,
    name: str,
    watch: Callable[[dict[str, float]], None] | None,
) -> None:
    import lightning.pytorch as lightning

    from edgepress.compress.training.callbacks import ProgressLine, SaveEveryEpoch, loggers_for
    from edgepress.compress.training.distill import teacher_of
    from edgepress.compress.training.loop import TrainingLoop
    from edgepress.compress.training.state import AtomicCheckpoints

    splits = {split: task.split(split) for split in ("train", "validation")}
    labels = {split: found.labels for split, found in splits.items()}
    for split, found in labels.items():
        if len(found) < 2:
            raise UsageError(
                f"the task {task.name!r} has {len(found)} clips in its {split} split: at least 2 are needed to train"
            )
    augment, waveforms = None, False
    if settings.augment != type(settings.augment)():
        from edgepress.compress.training.augment import make_augmentation

        augment = make_augmentation(settings.augment, task)
        waveforms = settings.augment.on_waveforms
    inputs = task.waveforms("train") if waveforms else task.features("train")
    validation = task.features("validation")
    guide: nn.Module | Tensor | None = None
    if isinstance(teacher, np.ndarray) and distill is not None:
        guide = torch.from_numpy(np.array(teacher, np.float32))
        wanted = (len(labels["train"]), *(task.output_shape or guide.shape[1:]))
        if guide.shape != wanted:
            raise UsageError(
                f"the teacher's logits {tuple(guide.shape)} must be {wanted}, of the {wanted[0]} clips to train on and "
                f"the outputs of {task.name}"
            )
    elif teacher is not None and not isinstance(teacher, np.ndarray) and distill is not None:
        guide = teacher_of(copy.deepcopy(teacher))
        if distill.logits == "cached":
            guide = torch.from_numpy(logits_of(guide, task.features("train")))
    term, strata = None, None
    if (section := settings.contrastive) is not None:
        from edgepress.compress.training.contrastive import ContrastiveTerm, values_of

        values, names = values_of(section, splits["train"])
        term = ContrastiveTerm(section, model, values, torch.from_numpy(np.array(validation[:1])), seed)
        strata = Strata(names, section.balance) if names is not None else None

    loaders = _Loaders((inputs, labels["train"]), (validation, labels["validation"]), settings.batch_size, seed, strata)
    steps = settings.epochs * len(loaders(0, 1)[0].sampler)  # type: ignore[arg-type]
    own_loss = find_object(settings.loss) if settings.loss is not None else task.loss
    model.train()  # Lightning keeps the mode that a module comes in
    loop = TrainingLoop(
        model,
        settings,
        loaders,
        augment,
        steps,
        seed,
        distill,
        guide,
        penalty,
        term,
        watch,
        kind_of(task.kind),
        own_loss,
    )
    callbacks: list[Any] = [SaveEveryEpoch(folder)]
    if machine.progress:
        callbacks.append(ProgressLine(name, settings.epochs))
    with _quiet():
        trainer = lightning.Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.nodes,
            strategy=strategy_for(machine),
            precision=precision_for(settings, machine),  # type: ignore[arg-type]
            max_epochs=settings.epochs,
            callbacks=callbacks,
            plugins=[AtomicCheckpoints()],
            logger=loggers_for(machine.loggers, folder, name),
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=str(folder),
            log_every_n_steps=steps // settings.epochs,
        )
        last = folder / "last.ckpt"
        torch.manual_seed(seed_of(seed, 0))
        try:
            trainer.fit(loop, ckpt_path=str(last) if last.exists() else None, weights_only=True)
        except SystemExit:
            # Lightning turns Ctrl-C into an exit with code 1; to us it is an interrupt like any other.
            if trainer.interrupted:
                raise KeyboardInterrupt from None
            raise
    if trainer.interrupted:
        raise KeyboardInterrupt


@dataclass(frozen=True)
class _Loaders:
    """The loaders of a rank; a class, since it travels to the processes of several devices."""

    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    batch_size: int
    seed: int
    strata: Strata | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapped file travels as its name: to pickle it would read all of it into every process.
        return _loaders_again, (
            *([named(array) for array in pair] for pair in (self.training, self.validation)),
            self.batch_size,
            self.seed,
            self.strata,
        )

    def __call__(self, rank: int, ranks: int) -> tuple[Any, Any]:
        pin = torch.cuda.is_available()
        return (
            batches(
                self.training,
                self.batch_size,
                seed=self.seed,
                shuffle=True,
                rank=rank,
                ranks=ranks,
                pin_memory=pin,
                strata=self.strata,
            ),
            batches(self.validation, 256, pin_memory=pin),
        )


def _loaders_again(
    training: list[Any], validation: list[Any], batch_size: int, seed: int, strata: Strata | None
) -> _Loaders:
    both = [tuple(opened(array) for array in pair) for pair in (training, validation)]
    return _Loaders(both[0], both[1], batch_size, seed, strata)  # type: ignore[arg-type]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners and its advice on loader processes, which do not apply to whole-batch gathers."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*is not allowlisted.*|.*LeafSpec.*|.*isinstance.treespec.*")
            warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*optimizer.step.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _folder(run: Path | None) -> Iterator[Path]:
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
        yield run
    else:
        with tempfile.TemporaryDirectory(prefix="edgepress-train-") as folder:
            yield Path(folder)


def _claim(folder: Path, key: str, resume: bool) -> None:
    """Note what is trained here, so that a state is never taken for that of another training."""
    note = folder / "training.json"
    if note.exists() and resume:
        try:
            found = read_json(note)["key"]
        except (UsageError, KeyError, TypeError):
            found = None
        if found == key:
            return
        raise UsageError(
            f"{folder} holds a training with other inputs (settings, data, seed or network); choose "
            "another folder, or remove it"
        )
    for old in ("last.ckpt", "history.csv"):
        (folder / old).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    write_text(note, json.dumps({"key": key, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}) + "\n")


def _finished(last: Path) -> dict[str, Any] | None:
    from edgepress.compress.training.state import STATE, read_state

    if not last.exists():
        return None
    state = read_state(last)[STATE]
    return state if state["done"] else None


def _fingerprint(
    model: nn.Module,
    task: Task,
    settings: TrainSettings,
    distill: Distill | None,
    teacher: nn.Module | np.ndarray | None,
    penalty: Any,
    seed: int,
) -> str:
    digest = hashlib.sha256(
        json.dumps(
            [
                settings.model_dump(),
                distill.model_dump() if distill else None,
                seed,
                str(task.fingerprint),
                type(penalty).__name__,
                getattr(penalty, "description", None),
            ],
            sort_keys=True,
        ).encode()
    )
    if distill is None:
        teacher = None
    if isinstance(teacher, np.ndarray):
        digest.update(np.ascontiguousarray(teacher).tobytes())
        teacher = None
    for network in (model, teacher):
        for name, value in (network.state_dict() if network is not None else {}).items():
            digest.update(name.encode())
            digest.update(
                value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                if value.numel()
                else b""
            )
    return digest.hexdigest()
