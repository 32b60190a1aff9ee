# SPDX-License-Identifier: Apache-2.0
"""One network of the experiment with plausible random weights, its inputs, and what its parts share."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.benchmarks.experiments.networks.catalogue import Network

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgepress.compress.quantize.model import Quantized

#: Batches and samples each: what normalisation sees, what calibration sees, and on how many samples files are compared.
SETTLED, CALIBRATED, COMPARED = (3, 8), (4, 8), 16


class Subject:
    """A network on its way through the parts; what two parts need is made once.

    Args:
        network: of the catalogue.
        folder: for its files.
    """

    def __init__(self, network: Network, folder: Path):
        self.network = network
        self.folder = folder
        self._refusal: Exception | None = None

    @cached_property
    def model(self) -> nn.Module:
        """In evaluation mode; seed 0, norms settled in a few passes of training mode."""
        import torch

        torch.manual_seed(0)
        return settled(self.network.build(), [self.inputs(SETTLED[1], seed) for seed in range(SETTLED[0])])

    @cached_property
    def example(self) -> tuple[torch.Tensor, ...]:
        return self.inputs(1, 100)

    @cached_property
    def calibration(self) -> list[tuple[torch.Tensor, ...]]:
        return [self.inputs(CALIBRATED[1], 200 + index) for index in range(CALIBRATED[0])]

    @cached_property
    def compared(self) -> tuple[torch.Tensor, ...]:
        return self.inputs(COMPARED, 300)

    @cached_property
    def expected(self) -> list[np.ndarray]:
        """What the float network gives for `compared`, every output."""
        import torch

        with torch.no_grad():
            return [y.numpy() for y in self.outputs_of(self.model, self.compared)]

    @cached_property
    def quantized(self) -> Quantized:
        """Default settings; a refusal is given again to every part that needs it."""
        from edgepress.compress.quantize.model import quantize_model

        if self._refusal is not None:
            raise self._refusal
        try:
            return quantize_model(self.model, self.example, self.calibration)
        except Exception as error:
            self._refusal = error
            raise

    def inputs(self, batch: int, seed: int) -> tuple[torch.Tensor, ...]:
        """Smooth noise of mean 0 and deviation 1 with some white noise in it; or tokens."""
        import torch
        from torch.nn import functional as F

        generator = torch.Generator().manual_seed(seed)
        made = []
        for shape in self.network.shapes:
            if self.network.tokens:
                made.append(torch.randint(self.network.tokens, (batch, *shape[1:]), generator=generator))
                continue
            white = torch.randn((batch, *shape[1:]), generator=generator)
            if len(shape) > 2:
                coarse = [max(2, size // 8) for size in shape[2:]]
                kind = {1: "linear", 2: "bilinear"}[len(coarse)]
                low = torch.randn((batch, shape[1], *coarse), generator=generator)
                white = 0.3 * white + F.interpolate(low, tuple(shape[2:]), mode=kind, align_corners=False)
            made.append((white - white.mean()) / white.std())
        return tuple(made)

    @staticmethod
    def outputs_of(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """Every output in the order of torch's trees; None is none."""
        from torch.utils._pytree import tree_leaves

        return [y for y in tree_leaves(model(*inputs)) if y is not None]


def leaves(model: nn.Module) -> nn.Module:
    """The network with a tuple of tensors for outputs: other converters take no dictionaries."""
    from torch import nn

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, *inputs: Any) -> Any:
            found = Subject.outputs_of(self.inner, inputs)
            return found[0] if len(found) == 1 else tuple(found)

    return Flat().eval()


def settled(model: nn.Module, batches: list[tuple[torch.Tensor, ...]]) -> nn.Module:
    """A network whose norms are as after some training: their scales spread, their statistics those of its inputs.

    Fresh norms have scales of 1 or 0 throughout and biases of 0: with zeros whole branches would be dead, and a table
    of such networks would say little about trained ones. Scales of residual layers that begin at 1e-6 become 0.3.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            flat = parameter.flatten()
            if len(flat) < 2 or bool((flat != flat[0]).any()):
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif sum(size > 1 for size in parameter.shape) == 1:
                small = 0 < abs(float(flat[0])) < 0.5
                parameter.copy_((0.3 if small else 1.0) * (1 + 0.2 * noise))
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all passes
        model.train()
        for batch in batches:
            model(*batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model.eval()
