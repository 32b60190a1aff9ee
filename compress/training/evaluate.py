# SPDX-License-Identifier: Apache-2.0
"""How well a network tells the clips of a split apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgepress.compress.training.batches import batches

if TYPE_CHECKING:
    from edgepress.models.tasks import Task


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
    """Accuracy, log loss and their breakdown of a network on one split (edgepress.models.tasks.metrics.evaluate)."""
    return evaluate_logits(logits_of(model, task.features(split)), task, split)


def evaluate_logits(logits: np.ndarray, task: Task, split: str) -> dict[str, Any]:
    """The same from logits [N, K] of every clip of the split."""
    from edgepress.models.tasks.metrics import evaluate

    found = task.split(split)
    return evaluate(
        logits, np.asarray(found.labels), found.devices, task.classes, found.identifiers, task.unseen_devices
    )
