# SPDX-License-Identifier: Apache-2.0
"""Modules that stand where a pruned network has lost a whole residual branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgepress.models.errors import UsageError

KINDS = ("nothing", "identity", "constant")


class Nothing(nn.Module):
    """[B, C, ...] -> [B, 0, ...]: what passes through the rest of a branch that is gone."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :0]


class Constant(nn.Module):
    """Anything -> [1, C, 1, ...], a trained value per channel to be added to a stream of C channels."""

    def __init__(self, value: Tensor):
        super().__init__()
        self.value: nn.Parameter = nn.Parameter(value)

    def forward(self, x: Tensor) -> Tensor:
        return self.value


def replace_branches(model: nn.Module, replaced: Mapping[str, Mapping[str, Any]]) -> None:
    """Put these modules in the place of a branch's, in place; its constants are those of the weights at hand.

    Args:
        model: with the widths of its streams cut already.
        replaced: module path -> {"kind": one of `KINDS`, "norm": of a constant, the batch normalisation behind it}.

    Raises:
        UsageError: the plan is damaged, or for another network.
    """
    modules = dict(model.named_modules())
    made: dict[str, nn.Module] = {}
    for path, entry in replaced.items():
        norm = modules.get(entry.get("norm") or path)
        if path not in modules or norm is None:
            raise UsageError(f"the plan replaces module {path!r}, which the model does not have as it should")
        kind = entry["kind"]
        made[path] = (
            Nothing() if kind == "nothing" else nn.Identity() if kind == "identity" else _constant(modules[path], norm)
        )
    for path, module in made.items():
        parent, _, name = path.rpartition(".")
        setattr(modules[parent], name, module.train(model.training))


def check_replaced(replaced: Any) -> None:
    """Check the form of a plan's branches.

    Raises:
        UsageError: what is wrong with it.
    """
    good = isinstance(replaced, Mapping) and all(
        isinstance(entry, Mapping) and entry.get("kind") in KINDS and isinstance(entry.get("norm", ""), str)
        for entry in replaced.values()
    )
    if not good:
        raise UsageError("the plan is damaged: branches must map module paths to their replacements")


def _constant(layer: nn.Module, norm: nn.Module) -> Constant:
    """What a layer gives without any input channels, behind its normalisation."""
    if not isinstance(layer, nn.modules.conv._ConvNd):
        raise UsageError(f"the plan makes a constant of a {type(layer).__name__}; it was made for another network")
    value = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().clone()
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
        assert norm.running_var is not None
        value = (value - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
        if norm.affine:
            value = value * norm.weight.detach() + norm.bias.detach()
    rank = len(layer.kernel_size)
    return Constant(value.reshape(1, -1, *[1] * rank).clone())
