# SPDX-License-Identifier: Apache-2.0
"""Distillation: the two published losses, and a teacher whose logits are cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from edgepress.compress.recipes.recipe import Distill


def mean_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of the softened distributions, averaged over batch AND classes.

    Args:
        student: logits [N, K].
        teacher: logits [N, K].
        temperature: T > 0; both logits are divided by it.

    Returns:
        A scalar, in nats. PyTorch's `batchmean` of the same is K times larger.
    """
    # Not kl_div(reduction="mean"), whose meaning PyTorch announces to change to `batchmean`.
    return F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="none",
        log_target=True,
    ).mean()


def distillation_loss(hard: Tensor, student: Tensor, teacher: Tensor, settings: Distill) -> Tensor:
    """The hard loss and the teacher's together.

    Form "2022" (Schmid et al., CP-JKU submission to DCASE 2022): hard + weight * KL, no T^2 factor, published with
    weight 50. Form "2023" (the same authors, 2023): (1 - weight) * hard + weight * T^2 * KL, published with weight 0.98
    and T = 2.

    Args:
        hard: the scalar cross entropy with the labels.
        student, teacher: logits [N, K].
        settings: form, temperature, weight.
    """
    soft = mean_divergence(student.float(), teacher.float(), settings.temperature)
    if settings.form == "2022":
        return hard + settings.weight * soft
    return (1 - settings.weight) * hard + settings.weight * settings.temperature**2 * soft


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
