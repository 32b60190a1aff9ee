# SPDX-License-Identifier: Apache-2.0
"""Teachers on disk: one checkpoint, or an ensemble of them, as a network or as logits cached once per clip.

An ensemble is a directory with `ensemble.json`: the fitted generalised mean, its members as relative paths with the
digests of what they were, and what was measured. Nothing of it is copied, so that eight PaSST take their space once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgepress.compress.teach.ensemble import GeneralizedMean
from edgepress.compress.training.batches import batches
from edgepress.models.atomic import new_directory, write_json
from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_quantization, read_spec
from edgepress.models.checkpoints.digests import identity, tensors_digest
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import read_json
from edgepress.models.tasks import Task, load_task
from edgepress.models.tasks.cache import cache_directory, cached_array, digest
from edgepress.models.tasks.sources.load import front_end_for

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Distill
    from edgepress.models.checkpoints.spec import ModelSpec

ENSEMBLE = "ensemble.json"
KIND = "edgepress ensemble"
SCHEMA = 1


@dataclass(frozen=True)
class Outputs:
    """What a network says about the clips of one split.

    Attributes:
        logits: float32 [N, K].
        latents: float32 [N, D], before the head; D = 0 for a network that gives none.
    """

    logits: np.ndarray
    latents: np.ndarray


class EnsembleNetwork(nn.Module):
    """Several networks on the same input, joined: [B, *input] -> log-probabilities [B, K]."""

    def __init__(self, members: Sequence[nn.Module], mean: GeneralizedMean):
        super().__init__()
        self.members: nn.ModuleList = nn.ModuleList(members)
        self.mean: GeneralizedMean = mean

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(torch.stack([member(x).float() for member in self.members]))


@dataclass(frozen=True, eq=False)
class Teacher:
    """One network or an ensemble, as it lies on disk.

    Attributes:
        path: the checkpoint's or the ensemble's directory.
        members: the checkpoints, one or more.
        mean: how the members become one; None for a single network.
        identity: digest of what it is, wherever it lies.
        trust: members may name code outside edgepress.
    """

    path: Path
    members: tuple[Path, ...]
    mean: GeneralizedMean | None
    identity: str
    trust: bool = False

    def network(self) -> nn.Module:
        """The teacher as a network in evaluation mode, on the CPU."""
        networks = [load_checkpoint(member, trust=self.trust)[0] for member in self.members]
        return networks[0] if self.mean is None else EnsembleNetwork(networks, self.mean).eval()

    def logits(self, task: Task, source: str | None, split: str, device: str = "cpu") -> np.ndarray:
        """Logits [N, K] (log-probabilities for an ensemble) of every clip of a split, each member run once per clip.

        Args:
            task: the student's; a member with another front end gets the same clips through its own.
            source: of the task, to open it with another front end.
            split: train, validation or test.
            device: where the members run.

        Raises:
            UsageError: a member knows other classes, or has another front end and the task no source.
        """
        found = []
        for member in self.members:
            model, spec = load_checkpoint(member, trust=self.trust)
            found.append(cached_outputs(model, spec, task_for(spec, member, task, source), split, device).logits)
        if self.mean is None:
            return found[0]
        return self.mean(torch.from_numpy(np.stack(found))).numpy()

    def guide(self, task: Task, source: str | None, distill: Distill, device: str = "cpu") -> nn.Module | np.ndarray:
        """What `training.train.train` takes as its teacher: a network for "online", logits for "cached".

        Raises:
            UsageError: the teacher runs online on the student's inputs, but takes others.
        """
        if distill.logits == "cached":
            return self.logits(task, source, "train", device)
        for member in self.members:
            spec = read_spec(member)
            _check_classes(spec, member, task)
            if spec.input_shapes != (tuple(task.input_shape),) or not _same_front_end(spec, task):
                raise UsageError(
                    f"{member} takes inputs of shape {spec.input_shapes} of its own front end, the "
                    f'student {tuple(task.input_shape)}: distil with logits = "cached" (--logits '
                    "cached), for which the teacher is run on its own features"
                )
        return self.network()


def open_teacher(path: str | Path, *, trust: bool = False) -> Teacher:
    """A checkpoint or an ensemble as a teacher.

    Raises:
        UsageError: neither is there, it is damaged or quantized, or a member has changed since the ensemble was fitted.
    """
    path = Path(path)
    if not (path / ENSEMBLE).is_file():
        if read_quantization(path) is not None:
            raise UsageError(f"{path} is quantized; the float checkpoint that it came from is the better teacher")
        return Teacher(path, (path,), None, identity(path), trust)
    found = read_ensemble(path)
    members = []
    for member in found["members"]:
        place = path / member["path"]
        if not (place / "model.json").is_file():
            raise UsageError(
                f"{path} was made of {member['path']}, which is not there any more; make the ensemble "
                "again with `compress ensemble`"
            )
        if identity(place) != member["identity"]:
            raise UsageError(
                f"{place} has changed since {path} was fitted; make the ensemble again with `compress ensemble`"
            )
        members.append(place)
    mean = GeneralizedMean.from_json(found["mean"])
    if len(mean.weights) != len(members):
        raise UsageError(f"{path / ENSEMBLE} has {len(mean.weights)} weights for {len(members)} members")
    parts = digest([member["identity"] for member in found["members"]], found["mean"])
    return Teacher(path, tuple(members), mean, parts, trust)


def save_ensemble(path: Path, members: Sequence[Path], mean: GeneralizedMean, metrics: dict[str, Any]) -> Path:
    """Write an ensemble's directory, whole or not at all.

    Raises:
        UsageError: it exists, or cannot be written.
    """
    listed = [
        {"path": os.path.relpath(member.resolve(), path.resolve()), "identity": identity(member)} for member in members
    ]
    with new_directory(path) as folder:
        write_json(
            folder / ENSEMBLE,
            {"schema": SCHEMA, "kind": KIND, "members": listed, "mean": mean.to_json(), "metrics": metrics},
        )
    return path


def read_ensemble(path: Path) -> dict[str, Any]:
    """The JSON object in an ensemble's directory: members, mean, metrics.

    Raises:
        UsageError: damaged, or of another schema.
    """
    file = path / ENSEMBLE
    with suppress(UsageError, KeyError, TypeError):
        found = read_json(file)
        members = [member[key] for member in found["members"] for key in ("path", "identity")]
        if (found["kind"], found["schema"]) == (KIND, SCHEMA) and members and all(isinstance(m, str) for m in members):
            return found
    raise UsageError(f"{file} is damaged, or of another edgepress; make it again with `compress ensemble`")


def cached_outputs(model: nn.Module, spec: ModelSpec, task: Task, split: str, device: str = "cpu") -> Outputs:
    """Logits and latents of every clip of a split, computed once and found again by network and data.

    Args:
        model: in evaluation mode; back on the CPU afterwards.
        spec: of the model; with its tensors it makes the key.
        task: whose features of the split are read.
        split: train, validation or test.
        device: where the network runs.
    """
    clips = len(task.split(split))
    features = task.features(split)
    both = _both(model)
    with torch.inference_mode():
        logits, latent = both(torch.from_numpy(np.array(features[:1])))
    classes, width = logits.shape[1], latent.shape[1]
    key = digest(
        tensors_digest(model), spec.factory, spec.arguments, spec.plan, task.fingerprint, spec.front_end, split
    )

    def fill(array: np.ndarray) -> None:
        model.to(device)
        try:
            with torch.inference_mode():
                for inputs, rows in batches((features,), 128):
                    logits, latent = both(inputs.to(device))
                    array[rows.numpy()] = torch.cat((logits.float(), latent.float()), 1).cpu().numpy()
        finally:
            model.to("cpu")

    found = cached_array(cache_directory(), "outputs", key, (clips, classes + width), "float32", fill)
    return Outputs(np.array(found[:, :classes]), np.array(found[:, classes:]))


def task_for(spec: ModelSpec, path: Path, task: Task, source: str | None) -> Task:
    """The clips of a task through the front end of a teacher.

    Raises:
        UsageError: other classes, another front end without a source, or clips that do not correspond.
    """
    _check_classes(spec, path, task)
    if _same_front_end(spec, task):
        return task
    if source is None:
        raise UsageError(f"{path} has another front end than the task, which names no source to read again")
    return load_task(source, front_end=front_end_for(source, spec.front_end), trust=True)


def _both(model: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """x -> logits [B, K], latent [B, D or 0]."""
    with_latent = getattr(model, "forward_with_latent", None)
    if callable(with_latent):
        return cast("Callable[[Tensor], tuple[Tensor, Tensor]]", with_latent)

    def without_latent(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x)
        return logits, logits[:, :0]

    return without_latent


def _same_front_end(spec: ModelSpec, task: Task) -> bool:
    return spec.front_end == (task.front_end.to_json() if task.front_end is not None else None)


def _check_classes(spec: ModelSpec, path: Path, task: Task) -> None:
    if spec.classes and tuple(spec.classes) != tuple(task.classes):
        raise UsageError(
            f"the teacher {path} knows the classes {', '.join(spec.classes)}, but the task {task.name} "
            f"has {', '.join(task.classes)}; train it on this task first (`compress teach`)"
        )
