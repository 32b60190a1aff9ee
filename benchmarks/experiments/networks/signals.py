# SPDX-License-Identifier: Apache-2.0
"""Networks over one axis, written from their papers: raw audio, ECG of twelve leads, worn sensors; [N, leads, time]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class M5(nn.Module):
    """M5 on raw waveforms (Dai et al., ICASSP 2017, table 1)."""

    def __init__(self, classes: int = 10, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for outputs, kernel, stride in ((width, 80, 4), (width, 3, 1), (2 * width, 3, 1), (2 * width, 3, 1)):
            padding = 38 if kernel == 80 else 1
            layers += [nn.Conv1d(inputs, outputs, kernel, stride, padding), nn.BatchNorm1d(outputs), nn.ReLU()]
            layers.append(nn.MaxPool1d(4))
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.avg_pool1d(y := self.layers(x), y.shape[-1]).flatten(1))


class CausalBlock(nn.Module):
    """Two dilated convolutions with weight norm that see the past only, beside a skip connection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int):
        super().__init__()
        self.cut = (kernel - 1) * dilation
        self.first = weight_norm(nn.Conv1d(inputs, outputs, kernel, padding=self.cut, dilation=dilation))
        self.second = weight_norm(nn.Conv1d(outputs, outputs, kernel, padding=self.cut, dilation=dilation))
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(torch.relu(self.first(x)[:, :, : -self.cut]))
        y = self.dropout(torch.relu(self.second(y)[:, :, : -self.cut]))
        return torch.relu(y + self.skip(x))


class TCN(nn.Module):
    """Temporal convolutional network (Bai et al. 2018, arXiv 1803.01271), read at the last step."""

    def __init__(self, leads: int = 6, classes: int = 10, width: int = 25, levels: int = 4):
        super().__init__()
        self.blocks = nn.Sequential(*(CausalBlock(leads if i == 0 else width, width, 7, 2**i) for i in range(levels)))
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(x)[:, :, -1])


class InceptionModule(nn.Module):
    """Three kernel sizes behind a bottleneck, and a pool, side by side."""

    def __init__(self, inputs: int, filters: int):
        super().__init__()
        self.bottleneck = nn.Conv1d(inputs, filters, 1, bias=False)
        self.branches = nn.ModuleList(nn.Conv1d(filters, filters, k, padding=k // 2, bias=False) for k in (39, 19, 9))
        self.pooled = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(inputs, filters, 1, bias=False))
        self.norm = nn.BatchNorm1d(4 * filters)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        return torch.relu(self.norm(torch.cat([*(branch(narrow) for branch in self.branches), self.pooled(x)], 1)))


class InceptionTime(nn.Module):
    """InceptionTime (Ismail Fawaz et al. 2020) for ECG: a skip connection after every third module."""

    def __init__(self, leads: int = 12, classes: int = 5, filters: int = 16, depth: int = 6):
        super().__init__()
        self.modules_ = nn.ModuleList(InceptionModule(leads if i == 0 else 4 * filters, filters) for i in range(depth))
        self.skips = nn.ModuleList(
            nn.Sequential(nn.Conv1d(leads if i == 0 else 4 * filters, 4 * filters, 1), nn.BatchNorm1d(4 * filters))
            for i in range(depth // 3)
        )
        self.out = nn.Linear(4 * filters, classes)

    def forward(self, x: Tensor) -> Tensor:
        kept = x
        for index, module in enumerate(self.modules_):
            x = module(x)
            if index % 3 == 2:
                x = torch.relu(x + self.skips[index // 3](kept))
                kept = x
        return self.out(x.mean(-1))


class ResidualBlock1d(nn.Module):
    """Two convolutions beside a skip connection that averages and widens, as in XResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int = 5):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            nn.Conv1d(outputs, outputs, kernel, 1, kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
        )
        shortcut: list[nn.Module] = [nn.AvgPool1d(2, ceil_mode=True)] if stride == 2 else []
        if inputs != outputs:
            shortcut += [nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


class XResNet1d(nn.Module):
    """xresnet1d18 for PTB-XL (Strodthoff et al. 2020) at half width: both means and maxima feed the head."""

    def __init__(self, leads: int = 12, classes: int = 5, width: int = 32):
        super().__init__()
        stem: list[nn.Module] = []
        for inputs, outputs, stride in ((leads, width, 2), (width, width, 1), (width, width, 1)):
            stem += [nn.Conv1d(inputs, outputs, 5, stride, 2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        stem.append(nn.MaxPool1d(3, 2, 1))
        blocks: list[nn.Module] = []
        inputs = width
        for outputs, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)):
            blocks.append(ResidualBlock1d(inputs, outputs, stride))
            inputs = outputs
        self.layers = nn.Sequential(*stem, *blocks)
        self.head = nn.Sequential(
            nn.BatchNorm1d(2 * inputs),
            nn.Dropout(0.25),
            nn.Linear(2 * inputs, 64),
            nn.ReLU(),
            nn.BatchNorm1d(64),
            nn.Linear(64, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        pools = [F.adaptive_avg_pool1d(x, 1), F.adaptive_max_pool1d(x, 1)]
        return self.head(torch.cat(pools, 1).flatten(1))


class RibeiroBlock(nn.Module):
    """A residual block of two running values: the sum before its norm, and after."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int = 17):
        super().__init__()
        self.first = nn.Conv1d(inputs, outputs, kernel, 1, kernel // 2, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.second = nn.Conv1d(outputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.skip = nn.Sequential(nn.MaxPool1d(stride, stride), nn.Conv1d(inputs, outputs, 1, bias=False))
        self.after = nn.Sequential(nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.2))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self.second(torch.relu(self.norm(self.first(x)))) + self.skip(y)
        return self.after(x), x


class RibeiroECG(nn.Module):
    """The residual network of Ribeiro et al. (Nature Communications 2020) for ECG of twelve leads, narrower."""

    def __init__(self, leads: int = 12, classes: int = 6, samples: int = 512):
        super().__init__()
        widths = (16, 32, 48, 64, 80)
        self.stem = nn.Sequential(
            nn.Conv1d(leads, widths[0], 17, 1, 8, bias=False), nn.BatchNorm1d(widths[0]), nn.ReLU()
        )
        self.blocks = nn.ModuleList(RibeiroBlock(i, o, 4) for i, o in pairwise(widths))
        self.out = nn.Linear(widths[-1] * (samples // 4 ** (len(widths) - 1)), classes)

    def forward(self, x: Tensor) -> Tensor:
        y = x = self.stem(x)
        for block in self.blocks:
            x, y = block(x, y)
        return torch.sigmoid(self.out(x.reshape(x.shape[0], -1)))


class DeepConvLSTM(nn.Module):
    """DeepConvLSTM for worn sensors (Ordóñez and Roggen 2016), narrower."""

    def __init__(self, channels: int = 9, classes: int = 6, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(4):
            layers += [nn.Conv2d(1 if index == 0 else width, width, (5, 1)), nn.ReLU()]
        self.conv = nn.Sequential(*layers)
        self.lstm = nn.LSTM(width * channels, 48, 2, batch_first=True, dropout=0.5)
        self.out = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, time, channels]
        x = self.conv(x).permute(0, 2, 1, 3).flatten(2)
        return self.out(self.lstm(x)[0][:, -1])


class TasBlock(nn.Module):
    """A separable dilated convolution between PReLUs and global norms."""

    def __init__(self, width: int, hidden: int, dilation: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(width, hidden, 1),
            nn.PReLU(),
            nn.GroupNorm(1, hidden),
            nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden),
            nn.PReLU(),
            nn.GroupNorm(1, hidden),
        )
        self.residual, self.skip = nn.Conv1d(hidden, width, 1), nn.Conv1d(hidden, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layers(x)
        return x + self.residual(y), self.skip(y)


class ConvTasNet(nn.Module):
    """Conv-TasNet (Luo and Mesgarani 2019), small: two sources from one waveform by masks."""

    def __init__(self, filters: int = 64, width: int = 32, blocks: int = 4, sources: int = 2):
        super().__init__()
        self.sources = sources
        self.encoder = nn.Conv1d(1, filters, 16, 8)
        self.bottleneck = nn.Sequential(nn.GroupNorm(1, filters), nn.Conv1d(filters, width, 1))
        self.blocks = nn.ModuleList(TasBlock(width, 2 * width, 2**i) for i in range(blocks))
        self.masks = nn.Sequential(nn.PReLU(), nn.Conv1d(width, sources * filters, 1), nn.Sigmoid())
        self.decoder = nn.ConvTranspose1d(filters, 1, 16, 8)

    def forward(self, x: Tensor) -> Tensor:
        encoded = torch.relu(self.encoder(x))
        y, total = self.bottleneck(encoded), None
        for block in self.blocks:
            y, skip = block(y)
            total = skip if total is None else total + skip
        masks = self.masks(total).chunk(self.sources, 1)
        return torch.cat([self.decoder(encoded * mask) for mask in masks], 1)


class WaveUNet(nn.Module):
    """Wave-U-Net (Stoller et al., ISMIR 2018), small: every second sample is kept going down, interpolated going up."""

    def __init__(self, width: int = 12, levels: int = 4):
        super().__init__()
        widths = [width * (i + 1) for i in range(levels)]
        self.down = nn.ModuleList(nn.Conv1d(i, o, 15, padding=7) for i, o in zip([1, *widths], widths, strict=False))
        self.middle = nn.Conv1d(widths[-1], widths[-1] + width, 15, padding=7)
        self.up = nn.ModuleList(nn.Conv1d(2 * w + width, w, 5, padding=2) for w in reversed(widths))
        self.out = nn.Conv1d(widths[0] + 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        given, kept = x, []
        for layer in self.down:
            x = F.leaky_relu(layer(x), 0.2)
            kept.append(x)
            x = x[:, :, ::2]
        x = F.leaky_relu(self.middle(x), 0.2)
        for layer in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="linear")
            x = F.leaky_relu(layer(torch.cat([x, kept.pop()], 1)), 0.2)
        return torch.tanh(self.out(torch.cat([x, given], 1)))
