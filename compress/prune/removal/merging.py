# SPDX-License-Identifier: Apache-2.0
"""Networks without the parallel branches that only training needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepress.compress.prune.removal.proof import output_gap
from edgepress.models.checkpoints.reparameterize import offers_reparameterization, reparameterized
from edgepress.models.cost.graph import as_inputs
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Largest relative difference of outputs that merging may make.
_TOLERANCE = 1e-3


def merged_branches(
    model: nn.Module, example_inputs: tuple[torch.Tensor, ...] | torch.Tensor
) -> tuple[nn.Module | None, tuple[str, ...]]:
    """A copy with merged branches, where modules offer that and have not done it; and a note on it, or on why not."""
    if not offers_reparameterization(model):
        return None, ()
    try:
        merged = reparameterized(model)
        gap = output_gap(model, merged, as_inputs(example_inputs))
    except (UsageError, RuntimeError) as error:
        return None, (f"the network keeps its parallel branches: {error}",)
    if len(list(merged.parameters())) >= len(list(model.parameters())):
        return None, ()
    if gap > _TOLERANCE:
        return None, (f"the network keeps its parallel branches: merging them changes outputs by {gap:.2g}",)
    return merged, ("the parallel branches of training were merged first: what is deployed is counted and pruned",)
