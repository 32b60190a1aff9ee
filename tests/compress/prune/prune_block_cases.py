"""More small networks: normalisations, sharing, sequences, attention, and whole blocks as published."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.compress.prune.prune_cases import CASES, Case, Lambda, case, cb, pooled

__all__ = ["CASES", "Case"]


@case("GroupNorm", widths=("a.weight", "n.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.n(m.a(x)))))),
        a=nn.Conv2d(3, 16, 3),
        n=nn.GroupNorm(4, 16),
        b=cb(16, 12),
        fc=nn.Linear(12, 5),
    )


@case("GroupNorm of many groups", widths=("a.weight", "n.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(F.relu(m.n(m.a(x))))),
        a=nn.Conv2d(3, 16, 3),
        n=nn.GroupNorm(8, 16),
        fc=nn.Linear(16, 5),
    )


class SubSpectralNorm(nn.Module):
    """Batch normalisation of (channel, sub-band) pairs (Chang et al., ICASSP 2021)."""

    def __init__(self, channels: int, bands: int):
        super().__init__()
        self.bands, self.norm = bands, nn.BatchNorm2d(channels * bands)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, f, t = x.shape
        return self.norm(x.view(n, c * self.bands, f // self.bands, t)).view(n, c, f, t)


@case("sub-spectral normalisation", widths=("a.weight", "n.norm.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.n(m.a(x)))))),
        a=nn.Conv2d(3, 16, 3, padding=1),
        n=SubSpectralNorm(16, 4),
        b=cb(16, 12),
        fc=nn.Linear(12, 5),
    )


class ResidualNorm(nn.Module):
    """Frequency-wise instance normalisation, added to a scaled identity (Kim et al., DCASE 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 3), keepdim=True)
        variance = x.var((1, 3), keepdim=True)
        return self.scale * x + (x - mean) / torch.sqrt(variance + 1e-5)


@case("frequency-wise residual normalisation", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.n(m.a(x))))), a=cb(3, 16), n=ResidualNorm(), b=cb(16, 12), fc=nn.Linear(12, 5)
    )


class ResponseNorm(nn.Module):
    """Global response normalisation (ConvNeXt V2), with parameters per channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.randn(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
        return self.gamma * (x * (size / (size.mean(1, keepdim=True) + 1e-6))) + self.beta + x


@case("global response normalisation", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.n(m.a(x))))), a=cb(3, 16), n=ResponseNorm(16), b=cb(16, 12), fc=nn.Linear(12, 5)
    )


@case("layer scale", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled((y := m.a(x)) + m.s * m.b(y))),
        a=cb(3, 16),
        b=cb(16, 16),
        s=nn.Parameter(1e-5 * torch.ones(16, 1, 1)),
        fc=nn.Linear(16, 5),
    )


@case("PReLU per channel", widths=("a.weight", "p.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.p(m.a(x))))),
        a=nn.Conv2d(3, 16, 3),
        p=nn.PReLU(16),
        b=cb(16, 12),
        fc=nn.Linear(12, 5),
    )


@case("shared module used twice", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(lambda m, x: m.fc(pooled(m.b(m.b(m.a(x))))), a=cb(3, 16), b=cb(16, 16), fc=nn.Linear(16, 5))


@case("tied parameters", widths=("a.0.weight", "b.weight"))
def _() -> nn.Module:
    model = Lambda(
        lambda m, x: m.fc(pooled(F.relu(m.c(F.relu(m.b(m.a(x))))))),
        a=cb(3, 16),
        b=nn.Conv2d(16, 16, 3),
        c=nn.Conv2d(16, 16, 3),
        fc=nn.Linear(16, 5),
    )
    model.c.weight = model.b.weight
    return model


@case("siamese inputs", inputs=((3, 8, 8), (3, 8, 8)), widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x, y: m.fc(torch.cat([pooled(m.b(m.a(x))), pooled(m.b(m.a(y)))], 1)),
        a=cb(3, 16),
        b=cb(16, 12),
        fc=nn.Linear(24, 5),
    )


@case("functional weights", widths=("a.0.weight", "w"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(F.relu(F.conv2d(m.a(x), m.w, m.v, padding=1)))),
        a=cb(3, 16),
        w=nn.Parameter(0.1 * torch.randn(12, 16, 3, 3)),
        v=nn.Parameter(torch.randn(12)),
        fc=nn.Linear(12, 5),
    )


@case("weight_norm", widths=("a.0.weight", "b.parametrizations.weight.original1"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(F.relu(m.b(m.a(x))))),
        a=cb(3, 16),
        b=nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 12, 3)),
        fc=nn.Linear(12, 5),
    )


@case("LSTM", inputs=((6, 10),), widths=("a.weight", "l.weight_ih_l0", "l.weight_hh_l1"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(m.l(F.relu(m.a(x)))[0][:, -1]),
        a=nn.Linear(10, 16),
        l=nn.LSTM(16, 12, 2, batch_first=True),
        fc=nn.Linear(12, 5),
    )


@case("bidirectional LSTM", inputs=((6, 10),), widths=("a.weight", "l.weight_ih_l0", "l.weight_hh_l0_reverse"), kind="")
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(m.l(F.relu(m.a(x)))[0].mean(1)),
        a=nn.Linear(10, 16),
        l=nn.LSTM(16, 12, batch_first=True, bidirectional=True),
        fc=nn.Linear(24, 5),
    )


@case("GRU", inputs=((6, 10),), widths=("a.weight", "l.weight_ih_l0"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(m.l(F.relu(m.a(x)))[1][-1]),
        a=nn.Linear(10, 16),
        l=nn.GRU(16, 12, batch_first=True),
        fc=nn.Linear(12, 5),
    )


def _cells(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    state = None
    for step in x.unbind(1):
        state = m.c(F.relu(m.a(step)), state)
    return m.fc(state if isinstance(state, torch.Tensor) else torch.cat(state, 1))


for _name, _cell, _read in (("GRU", nn.GRUCell, 12), ("LSTM", nn.LSTMCell, 24), ("RNN", nn.RNNCell, 12)):

    @case(f"steps of a {_name} cell", inputs=((4, 10),), widths=("a.weight", "c.weight_ih", "c.weight_hh", "c.bias_hh"))
    def _(cell: type[nn.Module] = _cell, read: int = _read) -> nn.Module:
        return Lambda(_cells, a=nn.Linear(10, 16), c=cell(16, 12), fc=nn.Linear(read, 5))


@case("MultiheadAttention", inputs=((6, 10),), widths=("a.weight", "m.in_proj_weight"), kind="modules")
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.fc((y + m.m(y, y, y, need_weights=False)[0]).mean(1))

    return Lambda(forward, a=nn.Linear(10, 16), m=nn.MultiheadAttention(16, 2, batch_first=True), fc=nn.Linear(16, 5))


class Attention(nn.Module):
    """Attention as timm writes it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.scale = self.head_width**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, -1))


@case("hand-written attention", inputs=((6, 10),), widths=("a.weight", "t.qkv.weight", "t.proj.weight"), kind="modules")
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc((y := m.a(x)).mean(1) + m.t(y).mean(1)),
        a=nn.Linear(10, 16),
        t=Attention(16, 2),
        fc=nn.Linear(16, 5),
    )


@case("queries times keys", inputs=((6, 10),), widths=("q.weight", "k.weight", "v.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(((m.q(x) @ m.k(x).transpose(1, 2) * 0.25).softmax(-1) @ m.v(x)).mean(1)),
        q=nn.Linear(10, 16),
        k=nn.Linear(10, 16),
        v=nn.Linear(10, 12),
        fc=nn.Linear(12, 5),
    )


@case("scaled_dot_product_attention", inputs=((6, 10),), widths=("q.weight", "k.weight", "v.weight"), kind="modules")
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x)).mean(1)),
        q=nn.Linear(10, 16),
        k=nn.Linear(10, 16),
        v=nn.Linear(10, 12),
        fc=nn.Linear(12, 5),
    )


@case("dilated Conv1d with residual", inputs=((4, 32),), widths=("a.weight", "b.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(((y := F.relu(m.a(x))) + torch.tanh(m.b(y))).mean(2)),
        a=nn.Conv1d(4, 16, 3),
        b=nn.Conv1d(16, 16, 3, padding=4, dilation=4),
        fc=nn.Linear(16, 5),
    )


@case("several outputs", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: {"class": m.fc(pooled(y := m.b(m.a(x)))), "mask": [m.head(y)]},
        a=cb(3, 16),
        b=cb(16, 12),
        fc=nn.Linear(12, 5),
        head=nn.Conv2d(12, 2, 1),
    )


@case("one-channel convolution in the middle", widths=("a.0.weight", "c.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.c(m.b(m.a(x))))), a=cb(3, 16), b=cb(16, 1), c=cb(1, 12), fc=nn.Linear(12, 5)
    )


@case("maxout", widths=("a.weight", "b.0.weight"))
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        p, q = torch.split(y, y.shape[1] // 2, 1)
        return m.fc(pooled(m.b(torch.max(p, q))))

    return Lambda(forward, a=nn.Conv2d(3, 24, 3), b=cb(12, 12), fc=nn.Linear(12, 5))


@case("maxout by view", widths=("a.weight", "b.0.weight"))
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.fc(pooled(m.b(y.view(y.shape[0], -1, 2, *y.shape[2:]).amax(2))))

    return Lambda(forward, a=nn.Conv2d(3, 24, 3), b=cb(12, 12), fc=nn.Linear(12, 5))


@case("GLU", widths=("a.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(F.glu(m.a(x), 1)))), a=nn.Conv2d(3, 24, 3), b=cb(12, 12), fc=nn.Linear(12, 5)
    )


@case("U-Net skip with upsampling", widths=("a.0.weight", "b.0.weight", "u.weight", "c.0.weight"))
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a = m.a(x)
        up = m.u(m.b(F.max_pool2d(a, 2)))
        more = F.interpolate(m.b(F.max_pool2d(a, 2)), scale_factor=2, mode="bilinear")
        return m.o(m.c(torch.cat([a, up, more], 1)))

    return Lambda(
        forward, a=cb(3, 8), b=cb(8, 16), u=nn.ConvTranspose2d(16, 8, 2, 2), c=cb(32, 12), o=nn.Conv2d(12, 2, 1)
    )


@case("frozen network", widths=("a.0.weight", "b.0.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.a(x)))), a=cb(3, 16), b=cb(16, 24), fc=nn.Linear(24, 5)
    ).requires_grad_(False)


@case("Conv3d", inputs=((2, 4, 6, 6),), widths=("a.weight", "n.weight", "b.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(F.relu(m.b(F.relu(m.n(m.a(x))))).mean((2, 3, 4))),
        a=nn.Conv3d(2, 8, 3, padding=1),
        n=nn.BatchNorm3d(8),
        b=nn.Conv3d(8, 12, 3),
        fc=nn.Linear(12, 5),
    )


@case("transposed convolutions", inputs=((3, 6, 6),), widths=("a.0.weight",))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.o(F.relu(m.g(F.relu(m.d(F.relu(m.t(m.a(x)))))))),
        a=cb(3, 12),
        t=nn.ConvTranspose2d(12, 16, 3, 2),
        d=nn.ConvTranspose2d(16, 16, 3, groups=16),
        g=nn.ConvTranspose2d(16, 24, 3, groups=2),
        o=nn.Conv2d(24, 2, 1),
    )


class ConvNeXtBlock(nn.Module):
    """Channels last inside, as the published block."""

    def __init__(self, width: int):
        super().__init__()
        self.dw, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


@case("LayerNorm in a ConvNeXt block", widths=("a.weight", "b.dw.weight", "b.norm.weight", "b.up.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.a(x)))), a=nn.Conv2d(3, 16, 3), b=ConvNeXtBlock(16), fc=nn.Linear(16, 5)
    )


@case("RMSNorm", inputs=((6, 10),), widths=("a.weight", "n.weight", "b.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(F.relu(m.b(m.n(m.a(x)))).mean(1)),
        a=nn.Linear(10, 16),
        n=nn.RMSNorm(16),
        b=nn.Linear(16, 12),
        fc=nn.Linear(12, 5),
    )


class HandRMSNorm(nn.Module):
    """RMSNorm written with elementary operators."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


@case("hand-written RMSNorm", inputs=((6, 10),), widths=("a.weight", "n.weight", "b.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(F.relu(m.b(m.n(m.a(x)))).mean(1)),
        a=nn.Linear(10, 16),
        n=HandRMSNorm(16),
        b=nn.Linear(16, 12),
        fc=nn.Linear(12, 5),
    )


@case("InstanceNorm", widths=("a.weight", "n.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(pooled(F.relu(m.n(m.a(x))))),
        a=nn.Conv2d(3, 16, 3),
        n=nn.InstanceNorm2d(16, affine=True),
        fc=nn.Linear(16, 5),
    )


@case("einsum", inputs=((6, 10),), widths=("a.weight", "w"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(torch.einsum("btc,dc->btd", F.relu(m.a(x)), m.w).mean(1)),
        a=nn.Linear(10, 16),
        w=nn.Parameter(torch.randn(12, 16)),
        fc=nn.Linear(12, 5),
    )


@case("in-place operators", widths=("a.weight", "b.weight"))
def _() -> nn.Module:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(m.a(x), inplace=True)
        z = m.b(y)
        z += y
        z.mul_(0.5).relu_()
        return m.fc(pooled(z))

    return Lambda(forward, a=nn.Conv2d(3, 16, 3, padding=1), b=nn.Conv2d(16, 16, 3, padding=1), fc=nn.Linear(16, 5))


@case("dropout between layers", widths=("a.0.weight", "f.weight"))
def _() -> nn.Module:
    return Lambda(
        lambda m, x: m.fc(m.d(F.relu(m.f(m.d2(pooled(m.a(x))))))),
        a=cb(3, 16),
        f=nn.Linear(16, 24),
        d=nn.Dropout(0.3),
        d2=nn.Dropout(0.1),
        fc=nn.Linear(24, 5),
    )


class TimmBlock(nn.Module):
    """A vision transformer block with a class token and positions, as timm writes it."""

    def __init__(self, width: int, tokens: int):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, tokens + 1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, 2)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


@case("timm-style transformer", widths=("patch.weight", "attn.qkv.weight", "mlp.0.weight"), kind="modules")
def _() -> nn.Module:
    return TimmBlock(16, 4)
