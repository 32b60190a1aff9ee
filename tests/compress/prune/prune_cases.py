"""Small networks, one per coupling that pruning must understand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Case:
    """A network and what is expected of it.

    Attributes:
        inputs: shapes without the batch.
        widths: parameters that must get smaller along their first axis when half of every group goes.
        kind: "modules" where the edited copy must do; "graph" where the forward has sizes written into it.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    widths: tuple[str, ...] = ()
    kind: str = "modules"


class Lambda(nn.Module):
    """Layers by name, and a forward given as a function of them."""

    def __init__(self, forward: Callable[..., object], **layers: object):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, *inputs: torch.Tensor) -> object:
        return self._forward(self, *inputs)


def cb(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout), nn.ReLU()
    )


def pooled(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


IMAGE = ((3, 8, 8),)
CASES: list[Case] = []


def case(
    name: str, inputs: tuple[tuple[int, ...], ...] = IMAGE, widths: tuple[str, ...] = (), kind: str = "modules"
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CASES.append(Case(name, build, inputs, widths, kind))
        return build

    return register


@case("plain", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(lambda m, x: m.fc(pooled(m.b(m.a(x)))), a=cb(3, 16), b=cb(16, 24), fc=nn.Linear(24, 5))


@case("residual add with projection", widths=("a.0.weight", "b.0.weight", "s.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.a(x)) + m.s(x))),
        a=cb(3, 16),
        b=cb(16, 24),
        s=nn.Conv2d(3, 24, 1),
        fc=nn.Linear(24, 5),
    )


@case("zero-padded shortcut", widths=("a.0.weight", "b.0.weight"), kind="graph")
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(F.relu(F.pad((y := m.a(x))[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + m.b(y)))),
        a=cb(3, 8),
        b=cb(8, 16, stride=2),
        fc=nn.Linear(16, 5),
    )


@case("zeros concatenated as shortcut", widths=("a.0.weight", "b.0.weight"), kind="graph")
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        zeros = torch.zeros(y.shape[0], 8, y.shape[2], y.shape[3])
        return m.fc(pooled(F.relu(torch.cat([y, zeros], 1) + m.b(y))))

    return Lambda(forward, a=cb(3, 8), b=cb(8, 16), fc=nn.Linear(16, 5))


@case("nested concat", widths=("a.0.weight", "b.0.weight", "c.0.weight", "d.0.weight"))
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a = m.a(x)
        ab = torch.cat([a, m.b(a)], 1)
        return m.fc(pooled(m.d(torch.cat([ab, m.c(ab)], 1))))

    return Lambda(forward, a=cb(3, 8), b=cb(8, 12), c=cb(20, 8), d=cb(28, 16), fc=nn.Linear(16, 5))


@case("same tensor concatenated twice", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(torch.cat([y := m.a(x), y], 1)))), a=cb(3, 8), b=cb(16, 12), fc=nn.Linear(12, 5)
    )


@case("concat then add", widths=("a.0.weight", "b.0.weight", "c.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(torch.cat([m.a(x), m.b(x)], 1) + m.c(x))),
        a=cb(3, 8),
        b=cb(3, 8),
        c=cb(3, 16),
        fc=nn.Linear(16, 5),
    )


@case("chunk", widths=("a.0.weight", "b.0.weight", "c.0.weight"), kind="")
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        p, q = m.a(x).chunk(2, 1)
        return m.fc(pooled(torch.cat([m.b(p), m.c(q)], 1)))

    return Lambda(forward, a=cb(3, 16), b=cb(8, 8), c=cb(8, 8), fc=nn.Linear(16, 5))


@case("split", widths=("a.0.weight", "b.0.weight", "c.0.weight"), kind="graph")
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        p, q = torch.split(m.a(x), [6, 10], 1)
        return m.fc(pooled(m.b(p) + m.c(q)))

    return Lambda(forward, a=cb(3, 16), b=cb(6, 8), c=cb(10, 8), fc=nn.Linear(8, 5))


@case("slice", widths=("a.0.weight", "b.0.weight"), kind="graph")
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.fc(torch.cat([pooled(m.b(y[:, :16])), pooled(y[:, 8:])], 1))

    return Lambda(forward, a=cb(3, 24), b=cb(16, 8), fc=nn.Linear(24, 5))


@case("depthwise", widths=("a.0.weight", "d.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.d(m.a(x))))),
        a=cb(3, 16),
        d=cb(16, 16, groups=16),
        b=cb(16, 12, 1),
        fc=nn.Linear(12, 5),
    )


@case("depthwise with multiplier 2", widths=("a.0.weight", "d.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.d(m.a(x))))),
        a=cb(3, 16),
        d=cb(16, 32, groups=16),
        b=cb(32, 12, 1),
        fc=nn.Linear(12, 5),
    )


@case("MobileNetV2 block", widths=("a.0.weight", "e.0.weight", "d.0.weight", "p.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled((y := m.a(x)) + m.p(m.d(m.e(y))))),
        a=cb(3, 16),
        e=cb(16, 48, 1),
        d=cb(48, 48, groups=48),
        p=nn.Sequential(nn.Conv2d(48, 16, 1, bias=False), nn.BatchNorm2d(16)),
        fc=nn.Linear(16, 5),
    )


@case("grouped convolution", widths=("a.0.weight", "g.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.g(m.a(x))))),
        a=cb(3, 16),
        g=cb(16, 32, groups=4),
        b=cb(32, 12, 1),
        fc=nn.Linear(12, 5),
    )


@case("many small groups", widths=("a.0.weight", "g.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.g(m.a(x))))),
        a=cb(3, 16),
        g=cb(16, 16, groups=8),
        b=cb(16, 12, 1),
        fc=nn.Linear(12, 5),
    )


@case("grouped with residual", widths=("a.0.weight", "g.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled((y := m.a(x)) + m.g(y))), a=cb(3, 16), g=cb(16, 16, groups=2), fc=nn.Linear(16, 5)
    )


@case("channel shuffle", widths=("a.0.weight", "g.0.weight", "b.0.weight"), kind="")
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        n, c, h, w = y.shape
        y = y.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.fc(pooled(m.b(m.g(y))))

    return Lambda(forward, a=cb(3, 16, groups=1), g=cb(16, 16, groups=4), b=cb(16, 12, 1), fc=nn.Linear(12, 5))


@case("channel shuffle module", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.s(m.a(x))))),
        a=cb(3, 16),
        s=nn.ChannelShuffle(2),
        b=cb(16, 12),
        fc=nn.Linear(12, 5),
    )


@case("pixel shuffle", widths=("a.0.weight", "b.0.weight", "c.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.c(F.pixel_unshuffle(m.b(F.pixel_shuffle(m.a(x), 2)), 2)))),
        a=cb(3, 32),
        b=cb(8, 8),
        c=cb(32, 12),
        fc=nn.Linear(12, 5),
    )


@case("flatten to linear", widths=("a.0.weight", "f.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(F.relu(m.f(torch.flatten(F.max_pool2d(m.a(x), 4), 1)))),
        a=cb(3, 16),
        f=nn.Linear(64, 20),
        fc=nn.Linear(20, 5),
    )


@case("linear, view, transposed convolution", inputs=((10,),), widths=("f.weight",), kind="")
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.f(x).view(x.shape[0], -1, 4, 4)
        return m.c(F.relu(m.t(F.relu(m.u(y)))))

    return Lambda(
        forward,
        f=nn.Linear(10, 16 * 16),
        u=nn.ConvTranspose2d(16, 12, 2, 2),
        t=nn.ConvTranspose2d(12, 8, 2, 2),
        c=nn.Conv2d(8, 3, 3, padding=1),
    )


@case("frequency folded into channels", inputs=((1, 16, 12),), widths=("a.0.weight", "f.weight"), kind="")
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)  # [B, C, F, T]
        y = y.permute(0, 3, 1, 2).flatten(2)
        return m.fc(F.relu(m.f(y)).mean(1))

    return Lambda(forward, a=cb(1, 8), f=nn.Linear(128, 20), fc=nn.Linear(20, 5))


@case("squeeze and excite, convolutions", widths=("a.0.weight", "r.weight", "e.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled((y := m.a(x)) * torch.sigmoid(m.e(F.relu(m.r(F.adaptive_avg_pool2d(y, 1))))))),
        a=cb(3, 16),
        r=nn.Conv2d(16, 4, 1),
        e=nn.Conv2d(4, 16, 1),
        fc=nn.Linear(16, 5),
    )


@case("squeeze and excite, linear", widths=("a.0.weight", "r.weight", "e.weight"))
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.fc(pooled(y * torch.sigmoid(m.e(F.relu(m.r(pooled(y)))))[:, :, None, None]))

    return Lambda(forward, a=cb(3, 16), r=nn.Linear(16, 4), e=nn.Linear(4, 16), fc=nn.Linear(16, 5))


@case("one-channel gate", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b((y := m.a(x)) * torch.sigmoid(m.g(y))))),
        a=cb(3, 16),
        g=nn.Conv2d(16, 1, 1),
        b=cb(16, 12),
        fc=nn.Linear(12, 5),
    )
