# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training: the fake-quantized network trains like any other, its ranges with it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from edgepress.compress.quantize.fake import AVERAGED, FROZEN, LEARNED, ActivationQuantizer
from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.trace import quiet
from edgepress.compress.quantize.model import Quantized
from edgepress.models.errors import UsageError

#: Rate of the ranges over that of the weights: Adam moves either by about the rate, and a range is some ten times as
#: wide as a weight.
RANGE_RATE = 10.0


def prepare_qat(quantized: Quantized, ranges: str = LEARNED) -> Quantized:
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
    for node in prepared.model.graph.nodes:
        # What the tracer computed from several tensors has no place in a checkpoint, unless it is a layer's own.
        if (
            node.op == "get_attr"
            and str(node.target).startswith("folded_")
            and not any(str(user.target).startswith("weight_quantizers.") for user in node.users)
        ):
            fetch(prepared.model, str(node.target)).requires_grad_(False)
    prepared.model.train()
    return prepared


def parameter_groups(model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """What an optimiser trains: everything at its own settings, learned ranges without decay at `RANGE_RATE`.

    Args:
        model: any network; one without learned ranges gives one group.
        learning_rate: of the weights.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ends = {
        id(end)
        for module in model.modules()
        if isinstance(module, ActivationQuantizer)
        for end in (module.low, module.high)
    }
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained.values() if id(p) not in ends]},
        {
            "params": [p for p in trained.values() if id(p) in ends],
            "weight_decay": 0.0,
            "lr": RANGE_RATE * learning_rate,
        },
    ]
    return [group for group in groups if group["params"]]


class RangeSchedule:
    """Lets the ranges move for a share of all steps and holds them from then on (see `training.shaping.Shaping`).

    Held ranges are put back behind every step, so that neither an optimiser's momentum moves them nor several devices
    disagree about which parameters have gradients.

    Args:
        freeze_from: share of all steps from which ranges stand still, 0 to 1.
    """

    def __init__(self, freeze_from: float):
        self.description: dict[str, float] = {"freeze_from": freeze_from}
        self._freeze_from, self._step, self._freeze_at = freeze_from, 0, 0
        self._quantizers: dict[str, ActivationQuantizer] = {}
        self._held: dict[str, torch.Tensor] = {}

    def start(self, model: nn.Module, steps: int) -> None:
        self._quantizers = {name: m for name, m in model.named_modules() if isinstance(m, ActivationQuantizer)}
        self._freeze_at = round(self._freeze_from * steps)
        self._hold()

    def penalty(self) -> None:
        return None

    def after_step(self) -> None:
        self._step += 1
        with torch.no_grad():
            for name, ends in self._held.items():
                self._quantizers[name].low.copy_(ends[0])
                self._quantizers[name].high.copy_(ends[1])
        self._hold()

    def figures(self) -> dict[str, float]:
        return {"ranges_held": float(bool(self._held))}

    def finished(self) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "held": dict(self._held)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step, self._held = int(state["step"]), dict(state["held"])
        for name in self._held:
            self._quantizers[name].mode = FROZEN

    def _hold(self) -> None:
        if self._held or self._step < self._freeze_at:
            return
        for name, quantizer in self._quantizers.items():
            quantizer.mode = FROZEN  # its parameters keep their gradients, for the reason above
            self._held[name] = torch.stack([quantizer.low.detach(), quantizer.high.detach()]).clone()
