# SPDX-License-Identifier: Apache-2.0
"""What a network's outputs on a split are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgepress.compress.training.batches import batches
from edgepress.models.tasks.kinds.table import kind_of

if TYPE_CHECKING:
    from edgepress.models.tasks import Task
    from edgepress.models.tasks.kinds.evaluation import Evaluation


def logits_of(model: nn.Module, features: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Logits of every row, float32, on the CPU.

    Args:
        model: used in evaluation mode; left in the mode that it was in.
        features: [N, *input_shape] float32, memory-mapped or not.

    Returns:
        [N, K] float32.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return np.concatenate(
                [model(inputs).float().cpu().numpy() for inputs, _ in batches((features,), batch_size)]
            )
    finally:
        model.train(was_training)


def evaluate_model(model: nn.Module, task: Task, split: str) -> dict[str, Any]:
    """Figures of a network on one split (models/tasks/kinds/evaluation.py)."""
    wanted = kind_of(task.kind).threshold_split
    normal = _evaluated(model, task, wanted).rows if wanted and wanted != split and task.has(wanted) else None
    return _evaluated(model, task, split).result(normal)


def _evaluated(model: nn.Module, task: Task, split: str) -> Evaluation:
    clips, kind = task.split(split), kind_of(task.kind)
    found = task.evaluation(clips)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for inputs, rows in batches((task.features(split),), 256):
                made = model(inputs)
                arrays = [part.float().cpu().numpy() for part in (made if isinstance(made, (tuple, list)) else (made,))]
                found.add(kind.outputs_of(arrays), clips.labels[rows.numpy()], inputs.numpy())
    finally:
        model.train(was_training)
    return found


def evaluate_logits(logits: np.ndarray, task: Task, split: str) -> dict[str, Any]:
    """The same from outputs [N, ...] of every clip of the split."""
    clips = task.split(split)
    found = task.evaluation(clips)
    features = task.features(split)
    for start in range(0, len(clips), 256):
        part = slice(start, start + 256)
        found.add(logits[part], clips.labels[part], np.asarray(features[part]))
    return found.result()
