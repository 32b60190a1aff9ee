"""Operators written as others which have integer kernels; applied while tracing."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


#: ATen operator -> the same function in other operators, for torch.export's run_decompositions.
DECOMPOSITIONS: dict[Any, Any] = {
    aten.silu.default: _silu,
}
