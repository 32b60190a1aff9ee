"""Quantization-aware training: ranges move, then stand still; a resumed training is the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from edgepress.compress.pipeline.data import calibration_batches
from edgepress.compress.quantize import prepare_qat, quantization_json, quantize_model, restore_quantized, unfold
from edgepress.compress.quantize.fake import ActivationQuantizer, inverse_root
from edgepress.compress.quantize.qat import RANGE_RATE, RangeSchedule, parameter_groups
from edgepress.compress.recipes.recipe import Distill, QuantizeSettings
from edgepress.compress.training.machine import Machine
from edgepress.compress.training.train import train
from edgepress.models.checkpoints.registry import build, zoo
from edgepress.models.zoo.cp_mobile import GRN
from tests.compress.train_cases import small_net, small_task


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory):
    task = small_task(tmp_path_factory.mktemp("task"))
    torch.manual_seed(0)
    net = small_net().eval()
    quantized = quantize_model(net, torch.zeros(1, 1, 12, 8), calibration_batches(task, 64))
    return task, net, quantized


def _ends(model: torch.nn.Module) -> list[float]:
    return [
        float(end.detach())
        for module in model.modules()
        if isinstance(module, ActivationQuantizer)
        for end in (module.low, module.high)
    ]


def test_ranges_are_held_from_their_share_of_the_steps_on(started) -> None:
    _, _, quantized = started
    prepared = prepare_qat(quantized)
    schedule = RangeSchedule(0.5)
    schedule.start(prepared.model, 8)
    optimizer = torch.optim.Adam(parameter_groups(prepared.model, 1e-3), 1e-3, weight_decay=1e-2)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, RANGE_RATE * 1e-3]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-2, 0]
    seen = [_ends(prepared.model)]
    x = torch.randn(16, 1, 12, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(8):
        optimizer.zero_grad()
        prepared.model(x).square().mean().backward()
        optimizer.step()
        schedule.after_step()
        seen.append(_ends(prepared.model))
    moved = [a != b for a, b in pairwise(seen)]
    assert moved == [True] * 4 + [False] * 4
    assert schedule.figures() == {"ranges_held": 1.0}


def test_response_norms_train_although_a_channel_is_silent() -> None:
    """Its mean square is the integer 0, where 1 / sqrt has no gradient."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, bias=False), GRN())
    with torch.no_grad():
        net[0].weight[2] = 0
        net[1].gamma.fill_(0.5)
    x = torch.randn(16, 1, 12, 8)
    prepared = prepare_qat(quantize_model(net.eval(), x[:1], [x], bias_correction=False))
    prepared.model(x).square().mean().backward()
    gradients = {name: p.grad for name, p in prepared.model.named_parameters() if p.grad is not None}
    assert any("rsqrt" in name for name in gradients)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    targets = {str(node.target) for node in prepared.float_module().graph.nodes}
    assert "aten.rsqrt.default" in targets  # what exporters see


def test_1_by_sqrt_has_its_gradient_except_at_0() -> None:
    x = torch.tensor([0.0, 0.25, 4.0], requires_grad=True)
    inverse_root(x)[1:].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, -4, -0.0625]  # -1/2 x^(-3/2)


def test_a_resumed_training_ends_with_the_same_ranges_and_weights(started, tmp_path: Path) -> None:
    task, net, quantized = started
    settings = QuantizeSettings().train.model_copy(update={"epochs": 3, "batch_size": 32, "learning_rate": 1e-3})
    options = {"teacher": net, "distill": Distill(), "machine": Machine(accelerator="cpu", progress=False)}

    class Stopped(RangeSchedule):
        """Interrupts the training in its second epoch, as Ctrl-C does."""

        def after_step(self) -> None:
            super().after_step()
            if self._step == 4:
                raise KeyboardInterrupt

    Stopped.__name__ = "RangeSchedule"
    whole = train(prepare_qat(quantized).model, task, settings, penalty=RangeSchedule(0.6), **options)
    with pytest.raises(KeyboardInterrupt):
        train(prepare_qat(quantized).model, task, settings, penalty=Stopped(0.6), run=tmp_path, **options)
    again = train(prepare_qat(quantized).model, task, settings, penalty=RangeSchedule(0.6), run=tmp_path, **options)
    assert _ends(whole.model) != _ends(quantized.model)
    assert _ends(again.model) == _ends(whole.model)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    assert [record["ranges_held"] for record in again.history] == [0.0, 1.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(zoo()) - {"passt"}))  # the 85 M teacher is of passt_tiny's kind
def test_every_network_of_the_zoo_trains_under_its_rounding(name: str) -> None:
    """From post-training ranges, one step, held ranges, and a checkpoint that gives the same outputs to the bit."""
    torch.manual_seed(0)
    net = build(name).eval()
    x = torch.randn(4, *zoo()[name].input_shapes[0])
    quantized = quantize_model(net, x[:1], [x], bias_correction=False)
    prepared = prepare_qat(quantized)
    optimizer = torch.optim.Adam(parameter_groups(prepared.model, 1e-4), 1e-4)
    before = _ends(prepared.model)
    prepared.model(x).square().mean().backward()
    optimizer.step()
    assert _ends(prepared.model) != before
    prepared.freeze_ranges()
    prepared.model.eval()
    again = restore_quantized(unfold(prepared, net), x[:1], quantization_json(prepared))
    with torch.no_grad():
        y = prepared.model(x)
        assert torch.isfinite(y).all()
        assert torch.equal(again.model(x), y)
