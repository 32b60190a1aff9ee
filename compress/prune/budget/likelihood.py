# SPDX-License-Identifier: Apache-2.0
"""The loss of the importances that need no labels: how likely a network finds what it draws from its own outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import nn

from edgepress.compress.prune.coupling.channels import ChannelGraph
from edgepress.models.errors import UsageError

#: The labels that "fisher" draws are those of a network this much less sure of itself: a trained one hardly errs.
TEMPERATURE = 2.0


def drawn_likelihood(graph: ChannelGraph, seed: int) -> Callable[[nn.Module, Any], torch.Tensor]:
    """The loss of "fisher": (network, batch) -> mean over samples of -log p(y), y drawn from the network's own p.

    p is the softmax over axis 1 of every output, at `TEMPERATURE`; several outputs, and positions of an output that has
    more axes, add up. An output with one value per sample or position is a logit of two classes.

    Raises:
        UsageError: when called: no output is a floating-point tensor.
    """
    count = sum(node.kind == "input" for node in graph.graph.nodes)
    generator = torch.Generator().manual_seed(seed)

    def loss(network: nn.Module, batch: Any) -> torch.Tensor:
        inputs = (batch,) if isinstance(batch, torch.Tensor) else tuple(batch)[:count]
        leaves = [leaf for leaf in pytree.tree_leaves(network(*inputs)) if isinstance(leaf, torch.Tensor)]
        logits = [leaf for leaf in leaves if leaf.is_floating_point() and leaf.ndim]
        if not logits:
            raise UsageError("fisher needs a network with an output of class scores: a floating-point tensor")
        total = torch.zeros(())
        for output in logits:
            rows = output.unsqueeze(1) if output.ndim == 1 else output
            rows = rows.movedim(1, -1).flatten(0, -2) / TEMPERATURE
            if rows.shape[1] == 1:
                rows = torch.cat([rows, torch.zeros_like(rows)], 1)
            drawn = torch.multinomial(rows.detach().softmax(1), 1, generator=generator)[:, 0]
            total = total + F.cross_entropy(rows, drawn, reduction="sum") / len(output)
        return total

    return loss
