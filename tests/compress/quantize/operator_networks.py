"""Small networks around one operator each, as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Network(nn.Module):
    """A forward as a function, with the parts that it uses."""

    def __init__(self, forward: Callable[..., Any] | None, **parts: nn.Module | nn.Parameter):
        super().__init__()
        self.written = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: torch.Tensor) -> Any:
        assert self.written is not None
        return self.written(self, *inputs)


#: What is tried: (the parts, the value of the first layer) -> a result, and how to make the parts.
Case = tuple[Callable[[Any, torch.Tensor], torch.Tensor], dict[str, Callable[[], Any]]]


def case(change: Callable[[Any, torch.Tensor], torch.Tensor], **parts: Callable[[], Any]) -> Case:
    """An operator with the modules that it needs."""
    return change, parts


class Together(nn.Module):
    """Many operators on the value of one layer; a result by name for each."""

    def __init__(self, first: nn.Module, cases: dict[str, Case]):
        super().__init__()
        self.first = first
        self.changes = {name: change for name, (change, _) in cases.items()}
        self.parts = nn.ModuleDict(
            {
                name: Network(None, **{part: make() for part, make in parts.items()})
                for name, (_, parts) in cases.items()
            }
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.first(x)
        return {name: change(self.parts[name], y) for name, change in self.changes.items()}


def _in_place(s: Any, y: torch.Tensor) -> torch.Tensor:
    z = torch.cat([y, y], 1)[:, :12]
    z += y[:, :1]
    return z


def _assigned(s: Any, y: torch.Tensor) -> torch.Tensor:
    z = y.clone()
    z[:, 2:5] = y[:, :3] * 0.5
    z[:, 6] = y[:, 0]
    return z


def _every_second(s: Any, y: torch.Tensor) -> torch.Tensor:
    z = y.clone()
    z[:, ::2] += y[:, 1::2]
    return z


def _heads(s: Any, x: torch.Tensor) -> torch.Tensor:
    n, t, _ = x.shape
    q, k, v = s.qkv(x).reshape(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(n, t, 16)


def _scaled(s: Any, x: torch.Tensor) -> torch.Tensor:
    n, t, _ = x.shape
    q, k, v = s.qkv(x).reshape(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 16)


def _masked(s: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = s.qkv(x).chunk(3, -1)
    hidden = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True) + F.scaled_dot_product_attention(
        v, q, k, attn_mask=hidden
    )


def _one(function: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    return case(lambda s, y: function(y))


ACTIVATIONS: dict[str, Case] = {
    name: case(lambda s, y: s.act(y), act=make)
    for name, make in {
        "celu": lambda: nn.CELU(0.7),
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "gelu_tanh": lambda: nn.GELU("tanh"),
        "hardshrink": nn.Hardshrink,
        "hardsigmoid": nn.Hardsigmoid,
        "hardswish": nn.Hardswish,
        "hardtanh": lambda: nn.Hardtanh(-0.4, 0.3),
        "leaky_relu": nn.LeakyReLU,
        "mish": nn.Mish,
        "prelu": nn.PReLU,
        "prelu_per_channel": lambda: nn.PReLU(8),
        "selu": nn.SELU,
        "sigmoid": nn.Sigmoid,
        "silu": nn.SiLU,
        "softplus": nn.Softplus,
        "softsign": nn.Softsign,
        "softshrink": nn.Softshrink,
        "tanh": nn.Tanh,
        "tanhshrink": nn.Tanhshrink,
        "logsigmoid": nn.LogSigmoid,
        "threshold": lambda: nn.Threshold(0.1, 0.2),
    }.items()
}
FUNCTIONS: dict[str, Case] = {
    "clamp_between_numbers_of_two_kinds": case(lambda s, y: y.clamp(-0.5, 1)),
    "rrelu": case(lambda s, y: F.rrelu(y)),
    "abs": _one(torch.abs),
    "clamp": _one(lambda y: y.clamp(-0.3, 0.5)),
    "clamp_01": _one(lambda y: y.clamp(0, 1)),
    "clamp_above_0": _one(lambda y: y.clamp(0.1, 0.5)),
    "clamp_tensors": _one(lambda y: torch.clamp(y, y.mean((2, 3), True) - 0.2, y.mean((2, 3), True) + 0.3)),
    "divided": _one(lambda y: y / (1 + y.abs())),
    "divided_by_number": _one(lambda y: torch.relu(y) / 3),
    "erf": _one(torch.erf),
    "exp": _one(torch.exp),
    "log1p": _one(lambda y: torch.log1p(y.abs())),
    "power_2": _one(lambda y: torch.relu(y) ** 2),
    "power_3": _one(lambda y: y**3),
    "power_half": _one(lambda y: (torch.relu(y) + 0.01) ** 0.5),
    "remainder": _one(lambda y: torch.remainder(y, 0.7)),
    "fmod": _one(lambda y: torch.fmod(y, 0.7)),
    "rsqrt": _one(lambda y: torch.rsqrt(y * y + 0.5)),
    "sin": _one(torch.sin),
    "sqrt": _one(lambda y: torch.sqrt(torch.relu(y) + 0.01)),
    "square": _one(torch.square),
    "subtracted": _one(lambda y: 1 - torch.sigmoid(y)),
    "where": _one(lambda y: torch.where(y > 0.1, y, y * 0.5)),
    "minimum_maximum": _one(lambda y: torch.maximum(y, torch.minimum(y * 2, y * 0.3))),
    "squeeze_excite": case(
        lambda s, y: y * F.hardsigmoid(s.gate(y.mean((2, 3), keepdim=True))), gate=lambda: nn.Conv2d(8, 8, 1)
    ),
    "slice_in_place": case(_in_place),
    "slice_assigned": case(_assigned),
    "every_second_in_place": case(_every_second),
}
REDUCTIONS: dict[str, Case] = {
    "amax": _one(lambda y: y * y.amax((2, 3), keepdim=True)),
    "amin": _one(lambda y: y * y.amin((2, 3), keepdim=True)),
    "cumsum": _one(lambda y: y.cumsum(3)),
    "log_softmax": _one(lambda y: F.log_softmax(y, 1)),
    "mean_channels": _one(lambda y: y * y.mean(1, keepdim=True)),
    "softmax_positions": _one(lambda y: F.softmax(y.flatten(2), -1).reshape(y.shape)),
    "cosine": _one(lambda y: y * F.cosine_similarity(y, y.flip(3), 1).unsqueeze(1)),
    "one_hot": _one(lambda y: y + F.one_hot(y.argmax(1), 8).permute(0, 3, 1, 2)),
    "norm_inf": _one(lambda y: y / (0.1 + torch.linalg.vector_norm(y, float("inf"), 1, keepdim=True))),
    "norm_l1": _one(lambda y: F.normalize(y, p=1.0, dim=1)),
    "softmax_columns": _one(lambda y: y * F.softmax(y, 3)),
    "softmin_columns": _one(lambda y: y * F.softmin(y, -1)),
    "sum": _one(lambda y: y + 0.1 * y.sum((2, 3), keepdim=True)),
    "avg_pool_ceil": _one(lambda y: F.avg_pool2d(y, 3, 2, ceil_mode=True)),
    "avg_pool_ceil_padded": _one(lambda y: F.avg_pool2d(y, 3, 2, 1, ceil_mode=True)),
    "avg_pool_divisor": _one(lambda y: F.avg_pool2d(y, 2, divisor_override=3)),
    "avg_pool_padded": _one(lambda y: F.avg_pool2d(y, 3, 2, 1)),
    "avg_pool_uncounted": _one(lambda y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False)),
    "avg_pool_uncounted_same": _one(lambda y: F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)),
    "adaptive_max_pool_3": _one(lambda y: F.adaptive_max_pool2d(y, 3)),
    "adaptive_max_pool_5": _one(lambda y: F.adaptive_max_pool2d(y, (5, 1))),
    "adaptive_avg_pool_3": _one(lambda y: F.adaptive_avg_pool2d(y, 3)),
    "adaptive_avg_pool_5": _one(lambda y: F.adaptive_avg_pool2d(y, 5)),
}
SHAPES: dict[str, Case] = {
    "patches": _one(lambda y: y.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 1, 4, 5, 2, 3).flatten(1, 3)),
    "neighbours": _one(lambda y: F.unfold(F.pad(y, (1, 1, 1, 1)), 3).unflatten(2, (12, 12))[:, ::5]),
    "unfold_and_fold": _one(lambda y: F.fold(0.5 * F.unfold(y, 3, stride=3), (12, 12), 3, stride=3)),
    "expanded_channel": case(lambda s, y: y * y[:, :1].expand(-1, 8, -1, -1)),
    "expanded_row": case(lambda s, y: torch.maximum(y, y[:, :, :1].expand_as(y))),
    "expanded_as_gate": case(lambda s, y: y * y.mean((2, 3), keepdim=True).expand_as(y)),
    "expanded_beside": case(
        lambda s, y: torch.cat([y[:, :4], y.mean((2, 3), keepdim=True)[:, :4].expand(-1, -1, 12, 12)], 1)
    ),
    "repeated_channels": case(lambda s, y: y[:, :4].repeat(1, 2, 1, 1)),
    "repeated_in_space": case(lambda s, y: y.repeat(1, 1, 2, 3)),
    "tiled_channels": case(lambda s, y: torch.tile(y[:, :3], (1, 2, 1, 1))),
    "picked_channels": case(lambda s, y: y[:, [7, 0, 3, -2]]),
    "picked_rows": case(lambda s, y: y[:, :, [-1, 0, 5]]),
    "interleaved_channels": case(lambda s, y: y[:, :4].repeat_interleave(2, 1)),
    "interleaved_columns": case(lambda s, y: y.repeat_interleave(2, 3)),
    "nearest_exact_whole": case(lambda s, y: F.interpolate(y, scale_factor=2, mode="nearest-exact")),
    "nearest_exact": case(lambda s, y: F.interpolate(y, scale_factor=1.5, mode="nearest-exact")),
    "nearest_exact_size": case(lambda s, y: F.interpolate(y, size=(17, 7), mode="nearest-exact")),
    "max_pool_dilated": case(lambda s, y: F.max_pool2d(y, 2, 1, dilation=3)),
    "max_pool_dilated_strides": case(lambda s, y: F.max_pool2d(y, (3, 2), (2, 3), dilation=(2, 1))),
    "max_pool_dilated_borders": case(lambda s, y: F.max_pool2d(y, 3, 2, 1, dilation=(2, 3))),
    "max_pool_dilated_overhang": case(lambda s, y: F.max_pool2d(y, (2, 4), 2, (1, 2), 3, ceil_mode=True)),
    "max_pool_of_volumes": case(lambda s, y: F.max_pool3d(y.unflatten(1, (2, 4)), (2, 3, 2), padding=1).flatten(1, 2)),
    "avg_pool_of_volumes": case(lambda s, y: F.avg_pool3d(y.unflatten(1, (2, 4)), 2, 1).flatten(1, 2)),
    "gated_halves": case(lambda s, y: F.glu(y, 1)),
    "gated_columns": case(lambda s, y: F.glu(y)),
    "pad_reflect": _one(lambda y: F.pad(y, (1, 2, 2, 1), mode="reflect")),
    "pad_replicate": _one(lambda y: F.pad(y, (1, 2, 2, 1), mode="replicate")),
    "pad_circular": _one(lambda y: F.pad(y, (1, 2, 2, 1), mode="circular")),
    "pixel_shuffle": _one(lambda y: F.pixel_shuffle(y, 2)),
    "roll": _one(lambda y: y.roll((2, 1), (2, 3))),
    "upsample_bicubic": _one(lambda y: F.interpolate(y, scale_factor=2, mode="bicubic")),
    "upsample_bilinear": _one(lambda y: F.interpolate(y, scale_factor=2, mode="bilinear")),
    "upsample_corners": _one(lambda y: F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)),
    "upsample_nearest": _one(lambda y: F.interpolate(y, scale_factor=2)),
    "upsample_nearest_part": _one(lambda y: F.interpolate(y, scale_factor=1.5)),
    "upsample_nearest_size": _one(lambda y: F.interpolate(y, size=(17, 24))),
    "conv_transpose_relu6": case(lambda s, y: F.relu6(s.up(y)), up=lambda: nn.ConvTranspose2d(8, 6, 3, 2, 1, 1)),
    "conv_transpose": case(lambda s, y: torch.relu(s.up(y)), up=lambda: nn.ConvTranspose2d(8, 6, 3, 2, 1, 1)),
    "conv_transpose_extra": case(lambda s, y: s.up(y), up=lambda: nn.ConvTranspose2d(8, 6, 2, 3, 0, 2)),
    "conv_transpose_groups": case(lambda s, y: s.up(y), up=lambda: nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2)),
    "conv_transpose_dilated": case(lambda s, y: s.up(y), up=lambda: nn.ConvTranspose2d(8, 6, 3, 1, 1, dilation=2)),
}
NORMS: dict[str, Case] = {
    "group_norm": case(lambda s, y: s.norm(y), norm=lambda: nn.GroupNorm(2, 8)),
    "group_norm_1": case(lambda s, y: s.norm(y), norm=lambda: nn.GroupNorm(1, 8)),
    "instance_norm": case(lambda s, y: s.norm(y), norm=lambda: nn.InstanceNorm2d(8, affine=True)),
    "deviation": case(lambda s, y: y + y.std((2, 3), keepdim=True)),
}
PRODUCTS: dict[str, Case] = {
    "bilinear": case(lambda s, y: s.form(y[..., :4], y[..., 4:9]), form=lambda: nn.Bilinear(4, 5, 3)),
    "bilinear_without_bias": case(
        lambda s, y: s.form(y[..., :4], y[..., 4:9]), form=lambda: nn.Bilinear(4, 5, 3, bias=False)
    ),
    **{
        f"masked_{name}": case(lambda s, y, hide=hide: (hide(y @ y.transpose(1, 2) / 16)).softmax(-1) @ y)
        for name, hide in {
            "by_infinity": lambda y: y.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf),
            "by_a_number": lambda y: y.masked_fill(torch.tril(torch.ones(6, 6)) == 0, -1e9),
            "by_the_least": lambda y: torch.where(torch.tril(torch.ones(6, 6)).bool(), y, torch.finfo(y.dtype).min),
            "turned": lambda y: torch.where(torch.ones(6, 6).triu(1).bool(), -1e4, y),
            "by_a_sum": lambda y: torch.full((6, 6), -torch.inf).triu(1) + y,
            "behind_heads": lambda y: (y.unflatten(0, (-1, 1)) - 100 * torch.ones(6, 6).triu(1)).flatten(0, 1),
        }.items()
    },
    "attention": case(_heads, qkv=lambda: nn.Linear(16, 48)),
    "masked_attention": case(_masked, qkv=lambda: nn.Linear(16, 48)),
    "scaled_attention": case(_scaled, qkv=lambda: nn.Linear(16, 48)),
    "bmm": case(lambda s, y: torch.bmm(torch.bmm(y, y.transpose(1, 2)), y)),
    "einsum": case(lambda s, y: torch.einsum("nij,njk->nik", torch.einsum("nij,nkj->nik", y, y), y)),
    "einsum_with_weights": case(
        lambda s, y: torch.einsum("nij,kj->nki", y, s.w), w=lambda: nn.Parameter(torch.randn(5, 16))
    ),
    "einsum_over_two": case(
        lambda s, y: torch.einsum("nij,ijk->nk", y, s.w), w=lambda: nn.Parameter(torch.randn(6, 16, 5))
    ),
    "einsum_of_places": case(
        lambda s, y: torch.einsum("nij,ikj->nik", y, s.w), w=lambda: nn.Parameter(torch.randn(6, 4, 16))
    ),
    "einsum_weights_first": case(
        lambda s, y: torch.einsum("kj,nij->nik", s.w, y), w=lambda: nn.Parameter(torch.randn(5, 16))
    ),
    "samples_in_copies": case(lambda s, y: y.repeat_interleave(2, 0).unflatten(0, (-1, 2)).mean(1) * 0.5),
    "matmul_constant": case(lambda s, y: y @ s.matrix, matrix=lambda: nn.Parameter(torch.randn(16, 8))),
    "one_head": case(
        lambda s, y: s.att(y, y, y, need_weights=False)[0], att=lambda: nn.MultiheadAttention(16, 1, batch_first=True)
    ),
    "multihead": case(
        lambda s, y: s.att(y, y, y, need_weights=False)[0], att=lambda: nn.MultiheadAttention(16, 4, batch_first=True)
    ),
}
SIGNALS: dict[str, Case] = {
    "avg_pool1d": case(lambda s, y: F.avg_pool1d(y, 3, 2, 1)),
    "avg_pool1d_ceil": case(lambda s, y: F.avg_pool1d(y, 3, 2, ceil_mode=True)),
    "pad_reflect1d": case(lambda s, y: F.pad(y, (3, 2), mode="reflect")),
    "adaptive_max_pool1d": case(lambda s, y: F.adaptive_max_pool1d(y, 3)),
    "max_pool1d": case(lambda s, y: F.max_pool1d(y, 3, 2)),
    "upsample_linear1d": case(lambda s, y: F.interpolate(y, scale_factor=2, mode="linear")),
    "upsample_linear1d_ends": case(lambda s, y: F.interpolate(y, size=19, mode="linear", align_corners=True)),
    "conv_transpose1d": case(lambda s, y: s.up(y), up=lambda: nn.ConvTranspose1d(8, 6, 4, 2, 1)),
    "conv_transpose1d_extra": case(lambda s, y: s.up(y), up=lambda: nn.ConvTranspose1d(8, 6, 3, 2, 1, 1)),
    "group_norm_1d": case(lambda s, y: s.norm(y), norm=lambda: nn.GroupNorm(4, 8)),
}
ROWS: dict[str, Case] = {
    "attention_of_one": case(lambda s, y: (z := y[:, :1], (z @ z.transpose(-2, -1)).softmax(-1) @ z)[1]),
    # What no point has yet comes in: far outside the range of y, which it must not be cut to.
    "class_token": case(
        lambda s, y: torch.cat([s.token.expand(len(y), -1, -1), y], 1),
        token=lambda: nn.Parameter(5 + torch.randn(1, 1, 16)),
    ),
    "constant_padding": case(lambda s, y: F.pad(y, (0, 2, 1, 1), value=7.5)),
    "logsumexp": case(lambda s, y: torch.logsumexp(y, -1)),
    "log_softmax_rows": case(lambda s, y: F.log_softmax(y, -1)),
    "layer_norm": case(lambda s, y: s.norm(y), norm=lambda: nn.LayerNorm(16)),
    "rms_norm": case(lambda s, y: s.norm(y), norm=lambda: nn.RMSNorm(16)),
    "layer_norm_gelu": case(
        lambda s, y: s.down(F.gelu(s.up(s.norm(y)))),
        norm=lambda: nn.LayerNorm(16),
        up=lambda: nn.Linear(16, 32),
        down=lambda: nn.Linear(32, 16),
    ),
    "normalized": case(lambda s, y: F.normalize(y, dim=-1)),
}


def _cells(s: Any, y: torch.Tensor) -> torch.Tensor:
    state = y.new_zeros(len(y), 8)
    for step in y.unbind(1):
        state = s.cell(step, state)
    return state


def _lstm_cells(s: Any, y: torch.Tensor) -> torch.Tensor:
    state = (s.start.expand(len(y), -1), y.new_zeros(len(y), 8))
    for step in y.unbind(1):
        state = s.cell(step, state)
    return torch.cat(state, 1)


RECURRENT: dict[str, Case] = {
    "gru_cell": case(_cells, cell=lambda: nn.GRUCell(16, 8)),
    "gru_cell_without_bias": case(_cells, cell=lambda: nn.GRUCell(16, 8, bias=False)),
    "rnn_cell": case(_cells, cell=lambda: nn.RNNCell(16, 8)),
    "rnn_cell_relu": case(_cells, cell=lambda: nn.RNNCell(16, 8, nonlinearity="relu")),
    "lstm_cell": case(_lstm_cells, cell=lambda: nn.LSTMCell(16, 8), start=lambda: nn.Parameter(torch.randn(1, 8))),
    "gru_last": case(lambda s, y: s.rnn(y)[0][:, -1], rnn=lambda: nn.GRU(16, 8, batch_first=True)),
    "gru_all": case(lambda s, y: s.rnn(y)[0], rnn=lambda: nn.GRU(16, 8, 2, batch_first=True)),
    "gru_both_ways": case(
        lambda s, y: s.rnn(y)[0].mean(1), rnn=lambda: nn.GRU(16, 8, batch_first=True, bidirectional=True)
    ),
    "lstm_last": case(lambda s, y: s.rnn(y)[0][:, -1], rnn=lambda: nn.LSTM(16, 8, batch_first=True)),
    "lstm_state": case(lambda s, y: s.rnn(y)[1][0][-1], rnn=lambda: nn.LSTM(16, 8, 2, batch_first=True)),
    "rnn": case(lambda s, y: s.rnn(y)[0], rnn=lambda: nn.RNN(16, 8, batch_first=True)),
}
#: Group -> (its operators, the layer before them, the shape of the input).
GROUPS: dict[str, tuple[dict[str, Case], Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        name: (cases, lambda: nn.Conv2d(3, 8, 3, padding=1), (1, 3, 12, 12))
        for name, cases in {
            "activations": ACTIVATIONS,
            "functions": FUNCTIONS,
            "reductions": REDUCTIONS,
            "shapes": SHAPES,
            "norms": NORMS,
        }.items()
    },
    "signals": (SIGNALS, lambda: nn.Conv1d(4, 8, 3, padding=1), (1, 4, 16)),
    **{
        name: (cases, lambda: nn.Linear(16, 16), (1, 6, 16))
        for name, cases in {"rows": ROWS, "products": PRODUCTS, "recurrent": RECURRENT}.items()
    },
}


def together(group: str, *names: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of a group, or of some of its operators, and the shape of its input."""
    cases, first, shape = GROUPS[group]
    return Together(first(), {name: cases[name] for name in names or cases}).eval(), shape
