# SPDX-License-Identifier: Apache-2.0
"""Distillation: the two published losses, and a teacher whose logits are cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgepress.models.tasks.kinds.kind import Kind
from edgepress.models.tasks.kinds.table import kind_of

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Distill


def distillation_loss(
    hard: Tensor, student: Tensor, teacher: Tensor, settings: Distill, kind: Kind | None = None
) -> Tensor:
    """The hard loss and the teacher's together.

    Form "2022" (Schmid et al., CP-JKU submission to DCASE 2022): hard + weight * KL, no T^2 factor, published with
    weight 50. Form "2023" (the same authors, 2023): (1 - weight) * hard + weight * T^2 * KL, published with weight 0.98
    and T = 2.

    Args:
        hard: the scalar loss with the labels.
        student, teacher: outputs [N, ...].
        settings: form, temperature, weight.
        kind: of the task, which says how far a student is from its teacher (KL of classes, squared error of numbers,
            ...); None is classification.
    """
    kind = kind or kind_of("classification")
    soft = kind.follow(student.float(), teacher.float(), settings.temperature)
    if settings.form == "2022":
        return hard + settings.weight * soft
    scale = settings.temperature**2 if kind.tempered else 1.0
    return (1 - settings.weight) * hard + settings.weight * scale * soft


def mixed_outputs(outputs: Tensor, partner: Tensor, share: Tensor, kind: Kind) -> Tensor:
    """Cached outputs [N, ...] of a mixed-up input: of classes `mixed_logits`, else their mean by share."""
    if kind.name == "classification":
        return mixed_logits(outputs, partner, share)
    share = share.view(-1, *(1,) * (outputs.dim() - 1))
    return share * outputs + (1 - share) * partner


def mixed_logits(logits: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Cached logits of a mixed-up input: the logarithm of the mixed probabilities.

    Args:
        logits: [N, K] of each clip.
        partner: [N, K] of the clip that was mixed in.
        share: [N] share of the first.
    """
    share = share.view(-1, 1)
    mixed = share * logits.softmax(1) + (1 - share) * partner.softmax(1)
    return mixed.clamp_min(1e-12).log()


def teacher_of(network: torch.nn.Module) -> torch.nn.Module:
    """The network in evaluation mode with its weights at rest."""
    network = network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network
