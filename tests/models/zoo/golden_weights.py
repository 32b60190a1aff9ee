"""The weights that the golden logits were made with: a function of the parameter names only."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def read_golden(shared: Path, name: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Configuration and {key: shape} of a published network."""
    description = json.loads((shared / "data/golden" / f"{name}.json").read_text())
    return description["config"], description["state_dict"]


def arrays(shared: Path) -> dict[str, torch.Tensor]:
    """The golden features and logits."""
    with np.load(shared / "data/golden/golden.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def fill(model: nn.Module) -> nn.Module:
    """Give every floating tensor the values that the golden logits were made with, by its name."""
    state = model.state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        draws = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(value.shape))
        z = torch.from_numpy(np.asarray(draws, np.float32))
        if name.endswith("running_var"):
            z = 1 + 0.1 * z.abs()
        elif name.endswith("running_mean"):
            z = 0.1 * z
        elif value.ndim > 1:
            z = z / math.sqrt(value[0].numel())
        elif name.endswith("weight"):
            z = 1 + 0.1 * z
        else:
            z = 0.1 * z
        state[name] = z.reshape(value.shape)
    model.load_state_dict(state)
    return model.eval()


def shapes(model: nn.Module) -> dict[str, list[int]]:
    """{key: shape} of a network's state dict."""
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def count(model: nn.Module, *input_shape: int) -> tuple[int, int]:
    """Core MACs (products of convolutions and dense layers) and parameters after folding BatchNorm.

    Independent of the project's own counting: hooks on the modules, and a bias for every layer that has one or is
    followed by a BatchNorm, which is every layer of these networks.
    """
    macs = params = 0

    def hook(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal macs, params
        positions = math.prod(output.shape[2:])
        macs += layer.weight.numel() * positions
        params += layer.weight.numel() + output.shape[1]

    handles = [
        layer.register_forward_hook(hook) for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *input_shape))
    for handle in handles:
        handle.remove()
    return macs, params
