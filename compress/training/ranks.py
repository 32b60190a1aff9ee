# SPDX-License-Identifier: Apache-2.0
"""One training on several processes that gives what one process gives: statistics and draws of the whole batch.

Gradients are averaged by DistributedDataParallel. What it leaves to each process, and what would make the result depend
on their number, is here: the statistics of batch normalisation (torch's own SyncBatchNorm refuses the CPU), and the
draws of dropout. A process (rank) of R holds the rows rank, rank + R, ... of each batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgepress.models.errors import RuntimeFailure


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of the gradients of all ranks."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _total(value: Tensor) -> Tensor:
    return _Sum.apply(value)  # type: ignore[return-value]


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation whose mean and variance are those of all ranks together."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        dimensions = [0, *range(2, x.dim())]
        shape = [1, -1, *(1,) * (x.dim() - 2)]
        count = torch.tensor(float(x.numel() // x.shape[1]), device=x.device)
        dist.all_reduce(count)
        # Two passes, as in the local kernel: the mean of squares minus the square of the mean loses digits.
        mean = _total(x.sum(dimensions)) / count
        centred = x - mean.view(shape)
        variance = _total((centred**2).sum(dimensions)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked += 1
                step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean), step)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), step)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        y = centred * scale.view(shape)
        return (y + self.bias.view(shape) if self.affine else y).to(input.dtype)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Over [B, C] or [B, C, L]."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Over [B, C, H, W]."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Over [B, C, D, H, W]."""


class Dropout(nn.Dropout):
    """Dropout that draws for the whole batch, equally on every rank, and keeps the own rows."""

    batch: int

    def forward(self, input: Tensor) -> Tensor:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        if not self.training or not self.p or len(range(rank, self.batch, ranks)) != len(input):
            return super().forward(input)
        form = (
            torch.channels_last
            if input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        drawn = torch.empty((self.batch, *input.shape[1:]), dtype=input.dtype, device=input.device, memory_format=form)
        return input * drawn.bernoulli_(1 - self.p)[rank::ranks].div_(1 - self.p)


_SHARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.Dropout: Dropout,
}


def share_over_ranks(model: nn.Module, batch: int) -> None:
    """Let the modules of a model see the whole batch of `batch` clips; in place, on every rank, before training.

    The classes of the modules change and nothing else, so that parameters, their names and the optimizer's hold on them
    stay. Dropout called as a function, and modules derived from torch's, keep to the rows of their rank.
    """
    for module in model.modules():
        shared = _SHARED.get(type(module))
        if shared is not None:
            module.__class__ = shared
        if isinstance(module, Dropout):
            module.batch = batch


def check_agreement(state: Iterable[tuple[str, Any]], what: str) -> None:
    """Make sure that every rank holds the same tensors and numbers.

    Raises:
        RuntimeFailure: they differ, on every rank alike.
    """
    digest = hashlib.sha256()
    for name, value in state:
        digest.update(name.encode())
        digest.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            if isinstance(value, Tensor) and value.numel()
            else repr(value).encode()
        )
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, digest.hexdigest())
    if len(set(found)) > 1:
        raise RuntimeFailure(
            f"{what} differ between the {len(found)} processes of this training; use machines of one "
            "kind with equal versions, or one device"
        )


def flat(state: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The leaves of nested dictionaries with their paths."""
    if isinstance(state, dict):
        for name, value in state.items():
            yield from flat(value, f"{prefix}{name}.")
    else:
        yield prefix, state
