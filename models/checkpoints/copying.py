# SPDX-License-Identifier: Apache-2.0
"""Deep copies of networks of any make."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def copied(model: nn.Module) -> nn.Module:
    """A deep copy that trains as the original does, whatever computed tensors the modules hold.

    Raises:
        UsageError: the module holds something that cannot be copied.
    """
    import torch

    # Caches of earlier forwards are non-leaf tensors, which deepcopy refuses: the copy holds them detached.
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever a module's own __deepcopy__ or __getstate__ raises
        raise UsageError(f"{type(model).__name__} cannot be copied: {type(error).__name__}: {error}") from error
