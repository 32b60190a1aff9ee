# SPDX-License-Identifier: Apache-2.0
"""The dense auto-encoder for anomaly detection in machine sounds, in the shape of the MLPerf Tiny reference."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from edgepress.models.zoo.arguments import whole_number


class AutoEncoder(nn.Module):
    """Features [B, n_inputs] -> their reconstruction [B, n_inputs]; built by `autoencoder`."""

    def __init__(self, n_inputs: int, hidden: int, latent: int, n_layers: int):
        super().__init__()
        self.encoder = _dense([n_inputs, *[hidden] * n_layers, latent])
        self.decoder = nn.Sequential(*_dense([latent, *[hidden] * n_layers]), nn.Linear(hidden, n_inputs))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The code in the middle: [B, latent]."""
        return self.encoder(x)

    def forward_with_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction [B, n_inputs] and code [B, latent] of one pass."""
        latent = self.encoder(x)
        return self.decoder(latent), latent


def autoencoder(n_inputs: int = 640, hidden: int = 128, latent: int = 8, n_layers: int = 4) -> AutoEncoder:
    """Build a dense auto-encoder.

    Args:
        n_inputs: numbers in the input vector.
        hidden: width of the layers before and after the code.
        latent: width of the code.
        n_layers: layers of width `hidden` on each side.

    Raises:
        UsageError: an argument is out of its range.
    """
    return AutoEncoder(
        whole_number("n_inputs", n_inputs, 1, 65_536),
        whole_number("hidden", hidden),
        whole_number("latent", latent),
        whole_number("n_layers", n_layers, 1, 64),
    )


def _dense(widths: list[int]) -> nn.Sequential:
    # The bias of the reference's dense layers cancels in the BatchNorm that follows, and comes back when it is folded.
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
    return nn.Sequential(*layers)
