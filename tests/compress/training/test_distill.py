"""The published distillation losses, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from edgepress.compress.recipes.recipe import Distill
from edgepress.compress.training.distill import distillation_loss, mixed_logits
from edgepress.models.tasks.kinds.classification import softened_divergence as mean_divergence

STUDENT = torch.tensor([[0.0, 0.0]])
TEACHER = torch.tensor([[math.log(3.0), 0.0]])
#: KL((3/4, 1/4) || (1/2, 1/2)) = 0.75 ln 1.5 + 0.25 ln 0.5
DIVERGENCE = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def test_the_mean_runs_over_batch_and_classes():
    assert float(mean_divergence(STUDENT, TEACHER, 1.0)) == pytest.approx(DIVERGENCE / 2)
    assert float(mean_divergence(STUDENT.repeat(3, 1), TEACHER.repeat(3, 1), 1.0)) == pytest.approx(DIVERGENCE / 2)


def test_form_2022_adds_the_weighted_mean():
    loss = distillation_loss(torch.tensor(2.0), STUDENT, TEACHER, Distill(form="2022", weight=50, temperature=1))
    assert float(loss) == pytest.approx(2 + 50 * DIVERGENCE / 2)


def test_form_2023_shares_and_scales_with_the_squared_temperature():
    loss = distillation_loss(torch.tensor(2.0), 2 * STUDENT, 2 * TEACHER, Distill(weight=0.98, temperature=2))
    assert float(loss) == pytest.approx(0.02 * 2 + 0.98 * 4 * DIVERGENCE / 2)


def test_a_mixed_input_has_the_mixed_probabilities():
    mixed = mixed_logits(TEACHER, STUDENT, torch.tensor([0.6])).softmax(1)
    assert mixed[0].tolist() == pytest.approx([0.6 * 0.75 + 0.4 * 0.5, 0.6 * 0.25 + 0.4 * 0.5])


def test_form_2023_refuses_a_weight_above_one():
    with pytest.raises(ValueError, match="at most 1"):
        Distill(form="2023", weight=50)
