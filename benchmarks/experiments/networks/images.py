# SPDX-License-Identifier: Apache-2.0
"""Networks over images, tokens and positions that no library here offers in this size, written from their papers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tutorial(nn.Module):
    """The network of PyTorch's CIFAR-10 tutorial."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def vgg11(classes: int = 10, width: int = 32) -> nn.Module:
    """VGG-11 (Simonyan and Zisserman 2015) with batch norm, as people cut it for CIFAR; at half width."""
    layers: list[nn.Module] = []
    inputs = 3
    for step in (1, "pool", 2, "pool", 4, 4, "pool", 8, 8, "pool", 8, 8, "pool"):
        if isinstance(step, str):
            layers.append(nn.MaxPool2d(2, 2))
            continue
        outputs = step * width
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, classes))


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, norm and SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


class C3(nn.Module):
    """The cross-stage block of YOLOv5 with one bottleneck."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool = True):
        super().__init__()
        half = outputs // 2
        self.a, self.b, self.out = conv(inputs, half, 1), conv(inputs, half, 1), conv(2 * half, outputs, 1)
        self.inner, self.shortcut = nn.Sequential(conv(half, half, 1), conv(half, half, 3)), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y + self.inner(y) if self.shortcut else self.inner(y)
        return self.out(torch.cat([y, self.b(x)], 1))


class SPPF(nn.Module):
    """Three pools in a row, side by side."""

    def __init__(self, width: int):
        super().__init__()
        self.narrow, self.out, self.pool = conv(width, width // 2, 1), conv(2 * width, width, 1), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        a = self.pool(x)
        b = self.pool(a)
        return self.out(torch.cat([x, a, b, self.pool(b)], 1))


class YOLO(nn.Module):
    """YOLOv5n (Jocher 2020) at two scales with its decoding: [N, boxes, 5 + classes] in pixels and probabilities."""

    anchors: Tensor

    def __init__(self, classes: int = 3, width: int = 16, size: int = 96):
        super().__init__()
        w = width
        self.stem = nn.Sequential(conv(3, w, 3, 2), conv(w, 2 * w, 3, 2), C3(2 * w, 2 * w), conv(2 * w, 4 * w, 3, 2))
        self.fine = C3(4 * w, 4 * w)
        self.coarse = nn.Sequential(conv(4 * w, 8 * w, 3, 2), C3(8 * w, 8 * w), SPPF(8 * w), conv(8 * w, 4 * w, 1))
        self.up, self.merge = nn.Upsample(scale_factor=2), C3(8 * w, 4 * w, shortcut=False)
        self.down, self.last = conv(4 * w, 4 * w, 3, 2), C3(8 * w, 8 * w, shortcut=False)
        self.fields, self.strides = 5 + classes, (8, 16)
        self.heads = nn.ModuleList(nn.Conv2d(c, 3 * self.fields, 1) for c in (4 * w, 8 * w))
        anchors = torch.tensor([[10.0, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]]).view(2, 1, 3, 1, 1, 2)
        self.register_buffer("anchors", anchors)
        for index, stride in enumerate(self.strides):
            n = size // stride
            y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
            self.register_buffer(f"grid_{index}", torch.stack([x, y], -1).float().view(1, 1, n, n, 2) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        merged = self.merge(torch.cat([self.up(coarse), fine], 1))
        found = []
        for index, value in enumerate((merged, self.last(torch.cat([self.down(merged), coarse], 1)))):
            n, _, h, w = value.shape
            y = self.heads[index](value).view(n, 3, self.fields, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            centre = (y[..., 0:2] * 2 + getattr(self, f"grid_{index}")) * self.strides[index]
            extent = (y[..., 2:4] * 2) ** 2 * self.anchors[index]
            found.append(torch.cat([centre, extent, y[..., 4:]], -1).reshape(n, -1, self.fields))
        return torch.cat(found, 1)


class CenterNet(nn.Module):
    """Objects as points (Zhou et al. 2019): a small ResNet, transposed convolutions, three heads."""

    def __init__(self, classes: int = 3, width: int = 16):
        super().__init__()
        steps: list[nn.Module] = []
        inputs = 3
        for outputs in (width, 2 * width, 4 * width, 8 * width):
            steps += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        for outputs in (4 * width, 2 * width):
            steps += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.body = nn.Sequential(*steps)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, outputs, 1))
            for outputs in (classes, 2, 2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.body(x)
        heat, size, offset = (head(x) for head in self.heads)
        return torch.sigmoid(heat), size, offset


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with norms, three levels."""

    def __init__(self, inputs: int = 1, classes: int = 2, width: int = 16):
        super().__init__()

        def twice(a: int, b: int) -> nn.Module:
            layers: list[nn.Module] = []
            for c in (a, b):
                layers += [nn.Conv2d(c, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
            return nn.Sequential(*layers)

        widths = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(twice(a, b) for a, b in zip((inputs, *widths), widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[-2::-1])
        self.merge = nn.ModuleList(twice(2 * w, w) for w in widths[-2::-1])
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else F.max_pool2d(x, 2))
            kept.append(x)
        kept.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([kept.pop(), up(x)], 1))
        return self.out(x)


class SSDLiteHeads(nn.Module):
    """Backbone and heads of torchvision's SSDLite: class logits, box offsets; anchors and suppression stay outside."""

    def __init__(self, detector: Any):
        super().__init__()
        self.backbone: Any = detector.backbone
        self.head: Any = detector.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(list(self.backbone(x).values()))
        return found["cls_logits"], found["bbox_regression"]


class MLPMixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al. 2021), small."""

    def __init__(self, classes: int = 10, size: int = 32, patch: int = 4, width: int = 64, layers: int = 3):
        super().__init__()
        tokens = (size // patch) ** 2

        def mlp(inputs: int, hidden: int) -> nn.Module:
            return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, inputs))

        self.embed = nn.Conv2d(3, width, patch, patch)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.across = nn.ModuleList(mlp(tokens, tokens // 2) for _ in range(layers))
        self.within = nn.ModuleList(mlp(width, 2 * width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for index, (across, within) in enumerate(zip(self.across, self.within, strict=True)):
            x = x + across(self.norms[2 * index](x).transpose(1, 2)).transpose(1, 2)
            x = x + within(self.norms[2 * index + 1](x))
        return self.head(self.norm(x).mean(1))


class CCT(nn.Module):
    """Compact convolutional transformer, CCT-2/3x2 (Hassani et al. 2021): tokens by convolutions, a weighted mean."""

    def __init__(self, classes: int = 10, width: int = 64, layers: int = 2):
        super().__init__()
        self.tokens = nn.Sequential(
            *(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
            *(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, 64, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.pool, self.out = nn.LayerNorm(width), nn.Linear(width, 1), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.encoder(self.tokens(x).flatten(2).transpose(1, 2) + self.position))
        weights = self.pool(x).softmax(1).transpose(1, 2)
        return self.out(torch.matmul(weights, x).squeeze(1))


class TokenTransformer(nn.Module):
    """A small BERT (Turc et al. 2019, BERT-tiny at half width): integer tokens in, the class of the sentence out."""

    def __init__(self, words: int = 500, length: int = 24, width: int = 64, layers: int = 2, classes: int = 4):
        super().__init__()
        self.words, self.position = nn.Embedding(words, width), nn.Parameter(0.02 * torch.randn(1, length, width))
        layer = nn.TransformerEncoderLayer(width, 2, 4 * width, 0.1, "gelu", batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.pool, self.out = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.encoder(self.norm(self.words(tokens) + self.position))
        return self.out(torch.tanh(self.pool(x[:, 0])))


def small_swin(classes: int = 10) -> nn.Module:
    """torchvision's Swin transformer (Liu et al. 2021), small: three stages, windows of 4."""
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([4, 4], 32, [2, 2, 2], [2, 4, 8], [4, 4], num_classes=classes)


def small_vit(classes: int = 10) -> nn.Module:
    """torchvision's vision transformer (Dosovitskiy et al. 2021), small."""
    from torchvision.models.vision_transformer import VisionTransformer

    model = VisionTransformer(32, 4, 4, 4, 64, 128, num_classes=classes)
    nn.init.normal_(model.heads.head.weight, std=0.02)
    return model


def ssdlite() -> nn.Module:
    """Heads of ssdlite320_mobilenet_v3_large."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    return SSDLiteHeads(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5))
