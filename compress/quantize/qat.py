"""Quantization-aware training: the fake-quantized network trains like any other, its ranges with it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from compress.quantize.fake import AVERAGED, FROZEN, LEARNED
from compress.quantize.fold import quiet
from compress.quantize.model import Quantized
from models.errors import UsageError


def prepare_qat(quantized: Quantized, ranges: str = "learned") -> Quantized:
    """A copy that is ready to train: start from post-training ranges, train with any optimiser, then `freeze_ranges`.

    Batch norm is folded the way the exporter folds it, so there is nothing to freeze but the ranges. In evaluation mode
    nothing moves, whatever was chosen. Weight decay should leave the ranges alone: `parameter_groups` parts them.

    Args:
        quantized: from `quantize_model` or `restore_quantized`; untouched.
        ranges: "learned" (gradients, LSQ+), "averaged" (moving average of each batch's extremes) or "frozen".

    Raises:
        UsageError: unknown kind of ranges.
    """
    if ranges not in (LEARNED, AVERAGED, FROZEN):
        raise UsageError(f"ranges = {ranges!r} is unknown; known are {LEARNED!r}, {AVERAGED!r}, {FROZEN!r}")
    with quiet():
        prepared = replace(quantized, model=copy.deepcopy(quantized.model))
    prepared.set_range_mode(ranges)
    prepared.model.train()
    return prepared


def parameter_groups(quantized: Quantized, weight_decay: float, range_lr_factor: float = 1.0,
                     lr: float | None = None) -> list[dict[str, Any]]:
    """Parameters for an optimiser: weights with decay; biases and ranges without it.

    Args:
        quantized: from `prepare_qat`.
        weight_decay: of the weights.
        range_lr_factor: learning rate of the ranges over that of the weights; needs `lr`.
        lr: learning rate of the weights; None leaves all rates to the optimiser.
    """
    ends = {id(p) for name, p in quantized.model.named_parameters() if name.startswith("activation_quantizers.")}
    trained = [p for p in quantized.model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) not in ends and p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in ends and p.ndim <= 1], "weight_decay": 0.0},
        {"params": [p for p in trained if id(p) in ends], "weight_decay": 0.0}]
    if lr is not None:
        for group in groups:
            group["lr"] = lr
        groups[2]["lr"] = lr * range_lr_factor
    return [group for group in groups if group["params"]]
