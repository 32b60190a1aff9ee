# SPDX-License-Identifier: Apache-2.0
"""Networks for keyword spotting, written from their papers: spectrograms [N, 1, bands, frames], [N, bands, frames]."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SubSpectralNorm(nn.Module):
    """Batch norm of each of `bands` parts of the frequency axis by itself (Chang et al., ICASSP 2021)."""

    def __init__(self, channels: int, bands: int = 5):
        super().__init__()
        self.bands = bands
        self.norm = nn.BatchNorm2d(channels * bands)

    def forward(self, x: Tensor) -> Tensor:
        n, c, f, t = x.shape
        return self.norm(x.view(n, c * self.bands, f // self.bands, t)).view(n, c, f, t)


class BroadcastedBlock(nn.Module):
    """Frequency features in two dimensions, temporal ones in one and broadcast over frequency."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int):
        super().__init__()
        self.same = inputs == outputs
        self.widen = (
            nn.Identity()
            if self.same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        )
        self.frequency = nn.Sequential(
            nn.Conv2d(outputs, outputs, (3, 1), (stride, 1), (1, 0), groups=outputs, bias=False),
            SubSpectralNorm(outputs),
        )
        self.temporal = nn.Sequential(
            nn.Conv2d(outputs, outputs, (1, 3), 1, (0, dilation), (1, dilation), groups=outputs, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.Dropout2d(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.frequency(self.widen(x))
        z = self.temporal(y.mean(2, keepdim=True))
        return torch.relu(x + y + z if self.same else y + z)


class BCResNet(nn.Module):
    """BC-ResNet-1 (Kim et al., Interspeech 2021, table 1) for 40 bands."""

    def __init__(self, classes: int = 12, scale: float = 1):
        super().__init__()
        widths = [int(scale * c) for c in (16, 8, 12, 16, 20, 32)]
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 5, (2, 1), 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for stage, (width, count, stride) in enumerate(zip(widths[1:5], (2, 2, 4, 4), (1, 2, 2, 1), strict=True)):
            for index in range(count):
                blocks.append(BroadcastedBlock(inputs, width, stride if index == 0 else 1, 2**stage))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Conv2d(inputs, inputs, 5, padding=(0, 2), groups=inputs, bias=False),
            nn.Conv2d(inputs, widths[5], 1, bias=False),
            nn.BatchNorm2d(widths[5]),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Conv2d(widths[5], classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x))).flatten(1)


class MatchboxBlock(nn.Module):
    """Separable convolutions over time with a residual connection of one layer."""

    def __init__(self, inputs: int, outputs: int, kernel: int, repeats: int):
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(repeats):
            own = inputs if index == 0 else outputs
            layers += [
                nn.Conv1d(own, own, kernel, padding=kernel // 2, groups=own, bias=False),
                nn.Conv1d(own, outputs, 1, bias=False),
                nn.BatchNorm1d(outputs),
            ]
            if index < repeats - 1:
                layers += [nn.ReLU(), nn.Dropout(0.1)]
        self.layers = nn.Sequential(*layers)
        self.skip = nn.Sequential(nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs))
        self.end = nn.Sequential(nn.ReLU(), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.layers(x) + self.skip(x))


class MatchboxNet(nn.Module):
    """MatchboxNet-3x1x64 (Majumdar and Ginsburg, Interspeech 2020, table 1) on 64 MFCCs."""

    def __init__(self, classes: int = 12, repeats: int = 1, width: int = 64):
        super().__init__()

        def separable(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Module:
            padding = dilation * (kernel - 1) // 2
            return nn.Sequential(
                nn.Conv1d(inputs, inputs, kernel, stride, padding, dilation, inputs, bias=False),
                nn.Conv1d(inputs, outputs, 1, bias=False),
                nn.BatchNorm1d(outputs),
                nn.ReLU(),
            )

        self.layers = nn.Sequential(
            separable(64, 128, 11, stride=2),
            MatchboxBlock(128, width, 13, repeats),
            MatchboxBlock(width, width, 15, repeats),
            MatchboxBlock(width, width, 17, repeats),
            separable(width, 128, 29, dilation=2),
            separable(128, 128, 1),
            nn.Conv1d(128, classes, 1),
            nn.AdaptiveAvgPool1d(1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(-1)


class SpottingGRU(nn.Module):
    """The GRU of Hello Edge (Zhang et al. 2017, arXiv 1711.07128): [N, frames, 10 MFCCs], read at the last step."""

    def __init__(self, classes: int = 12, width: int = 154):
        super().__init__()
        self.gru = nn.GRU(10, width, batch_first=True)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0][:, -1])


class SpottingCRNN(nn.Module):
    """The CRNN of Hello Edge: a convolution, two GRUs over time, a dense layer."""

    def __init__(self, classes: int = 12, width: int = 60):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 48, (10, 4), (2, 2), (4, 1)), nn.BatchNorm2d(48), nn.ReLU())
        self.gru = nn.GRU(48 * 5, width, 2, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(width, 84), nn.ReLU(), nn.Linear(84, classes))

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, frames, 10]
        x = self.conv(x).transpose(1, 2).flatten(2)
        return self.dense(self.gru(x)[0].mean(1))


class TemporalBlock(nn.Module):
    """Two convolutions over time beside a skip connection."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(inputs, outputs, 9, 2, 4, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            nn.Conv1d(outputs, outputs, 9, 1, 4, bias=False),
            nn.BatchNorm1d(outputs),
        )
        self.skip = nn.Sequential(nn.Conv1d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.skip(x))


class TCResNet8(nn.Module):
    """TC-ResNet8 (Choi et al., Interspeech 2019): frequencies are channels."""

    def __init__(self, classes: int = 12):
        super().__init__()
        self.stem = nn.Conv1d(40, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*(TemporalBlock(i, o) for i, o in ((16, 24), (24, 32), (32, 48))))
        self.head = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class KeywordTransformer(nn.Module):
    """KWT-1 (Berg et al., Interspeech 2021) of fewer layers: a token for each frame, norms behind the sums."""

    def __init__(self, classes: int = 12, frames: int = 49, width: int = 64, layers: int = 3):
        super().__init__()
        self.embed = nn.Linear(40, width)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, frames + 1, width))
        layer = nn.TransformerEncoderLayer(width, 1, 4 * width, 0.1, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:  # [N, frames, 40]
        x = self.embed(x)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.encoder(x)[:, 0])
