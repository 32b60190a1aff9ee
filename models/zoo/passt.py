# SPDX-License-Identifier: Apache-2.0
"""PaSST, the audio spectrogram transformer with patchout (Koutini et al., Interspeech 2022, arXiv 2110.05069).

Parameter names and shapes are those of kkoutini/PaSST, so that its weights and those of cpjku_dcase23 load
(`zoo.published.load_published`). `forward` gives logits only; `forward_with_latent` gives the features as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgepress.models.errors import UsageError
from edgepress.models.zoo.arguments import MAX_CLASSES, number, whole_number, whole_numbers


class PatchEmbedding(nn.Module):
    """Overlapping patches by one convolution: [B, C, F, T] -> [B, E, rows, columns]."""

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int, stride: tuple[int, int]):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Attention(nn.Module):
    """Multi-head self-attention, [B, N, E] -> [B, N, E]."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        # Kept as a number of its own: removing channels from the heads must not change it.
        self.scale = (embed_dim // num_heads) ** -0.5
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two dense layers around a GELU, [B, N, E] -> [B, N, E]."""

    def __init__(self, embed_dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block, [B, N, E] -> [B, N, E]."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = Attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = Mlp(embed_dim, mlp_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PaSST(nn.Module):
    """Log-mel [B, in_channels, F, T] -> logits [B, n_classes]; built by `passt` and `passt_tiny`."""

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        grid: tuple[int, int],
        patch_size: int,
        stride: tuple[int, int],
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_hidden: int,
        s_patchout_f: int,
        s_patchout_t: int,
        u_patchout: int,
    ):
        super().__init__()
        self.s_patchout_f, self.s_patchout_t, self.u_patchout = s_patchout_f, s_patchout_t, u_patchout
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, embed_dim))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, grid[0], 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, 1, grid[1]))
        self.patch_embed = PatchEmbedding(in_channels, embed_dim, patch_size, stride)
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, mlp_hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, n_classes))
        # In the published files, read by nothing: frozen, so that an optimiser and several GPUs do not wait for it.
        self.head_dist = nn.Linear(embed_dim, n_classes).requires_grad_(False)
        for parameter in (
            self.cls_token,
            self.dist_token,
            self.new_pos_embed,
            self.freq_new_pos_embed,
            self.time_new_pos_embed,
        ):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def forward_with_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, n_classes] and latent [B, embed_dim] of one pass."""
        latent = self.forward_features(x)
        return self.head(latent), latent

    def forward_features(self, x: Tensor) -> Tensor:
        """The latent before the head, the mean of the class and the distillation token: [B, embed_dim].

        Raises:
            UsageError: the input has more patches than there are positions.
        """
        patches = self._with_positions(self.patch_embed(x))
        if self.training:
            patches = self._structured_patchout(patches)
        sequence = patches.flatten(2).transpose(1, 2)
        if self.training and self.u_patchout:
            sequence = sequence[:, _kept(sequence.shape[1], self.u_patchout, sequence.device)]
        tokens = torch.cat((self.cls_token, self.dist_token), 1) + self.new_pos_embed
        sequence = torch.cat((tokens.expand(sequence.shape[0], -1, -1), sequence), 1)
        sequence = self.norm(self.blocks(sequence))
        return (sequence[:, 0] + sequence[:, 1]) / 2

    def _with_positions(self, patches: Tensor) -> Tensor:
        """[B, E, rows, columns] plus the embeddings of frequency and of time.

        A clip shorter than the time embedding takes a random window of it in training (one for the batch), else the
        first part, as published.
        """
        rows, columns = patches.shape[2:]
        positions = self.time_new_pos_embed.shape[3]
        if rows != self.freq_new_pos_embed.shape[2] or columns > positions:
            raise UsageError(
                f"the input makes {rows} x {columns} patches, but the network has positions for "
                f"{self.freq_new_pos_embed.shape[2]} x {positions}: "
                "build it with the input_size of the task"
            )
        start = int(torch.randint(positions - columns + 1, ())) if self.training and columns < positions else 0
        return patches + self.time_new_pos_embed[..., start : start + columns] + self.freq_new_pos_embed

    def _structured_patchout(self, patches: Tensor) -> Tensor:
        """Drop whole random rows and columns of the grid, the same for the batch (section 2.2 of the paper)."""
        if self.s_patchout_t:
            patches = patches[..., _kept(patches.shape[3], self.s_patchout_t, patches.device)]
        if self.s_patchout_f:
            patches = patches[:, :, _kept(patches.shape[2], self.s_patchout_f, patches.device)]
        return patches


def passt(
    n_classes: int = 10,
    in_channels: int = 1,
    input_size: Sequence[int] = (128, 100),
    patch_size: int = 16,
    stride: int | Sequence[int] = 10,
    embed_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_ratio: float = 4.0,
    s_patchout_f: int | None = None,
    s_patchout_t: int = 0,
    u_patchout: int = 0,
    time_positions: int | None = None,
) -> PaSST:
    """Build a PaSST; the defaults are PaSST-S on one second of audio.

    Args:
        n_classes: number of logits.
        in_channels: channels of the input, 1 for mono audio.
        input_size: mel bands and frames.
        patch_size: side of a patch, in bands and frames.
        stride: distance of patches; one number, or frequency and time.
        embed_dim: width of every token.
        depth: number of transformer blocks.
        num_heads: attention heads; must divide embed_dim.
        mlp_ratio: width inside the dense layers over embed_dim.
        s_patchout_f: rows of patches dropped in training; None: half of them, 6 of 12 as in the published fine-tuning.
        s_patchout_t: columns of patches dropped in training.
        u_patchout: single patches dropped in training, after the rows and columns.
        time_positions: length of the time embedding; 99 keeps all of the 10 s weights. None: what input_size needs.

    Raises:
        UsageError: an argument is out of its range, or patchout leaves nothing.
    """
    size = whole_numbers("input_size", input_size, 2, 1, 65_536)
    patch = whole_number("patch_size", patch_size, 1, 1024)
    strides = whole_numbers("stride", (stride, stride) if isinstance(stride, (int, float)) else stride, 2, 1, 1024)
    if min(size) < patch:
        raise UsageError(f"patch_size = {patch} must not be larger than the input ({size[0]} x {size[1]})")
    rows, columns = ((n - patch) // s + 1 for n, s in zip(size, strides, strict=True))
    # Published weights count one position per stride, which can be one more than there are patches.
    positions = (
        max(columns, size[1] // strides[1])
        if time_positions is None
        else whole_number("time_positions", time_positions, columns, 65_536)
    )
    width, heads = whole_number("embed_dim", embed_dim), whole_number("num_heads", num_heads, 1, 256)
    if width % heads:
        raise UsageError(f"num_heads = {heads} must divide embed_dim = {width}")
    drop_f = rows // 2 if s_patchout_f is None else whole_number("s_patchout_f", s_patchout_f, 0, rows - 1)
    drop_t = whole_number("s_patchout_t", s_patchout_t, 0, columns - 1)
    left = (rows - drop_f) * (columns - drop_t)
    return PaSST(
        whole_number("in_channels", in_channels),
        whole_number("n_classes", n_classes, 1, MAX_CLASSES),
        (rows, positions),
        patch,
        (strides[0], strides[1]),
        width,
        whole_number("depth", depth, 1, 128),
        heads,
        max(1, int(width * number("mlp_ratio", mlp_ratio, 0.125, 16))),
        drop_f,
        drop_t,
        whole_number("u_patchout", u_patchout, 0, left - 1),
    )


def passt_tiny(
    n_classes: int = 10,
    in_channels: int = 1,
    input_size: Sequence[int] = (128, 100),
    patch_size: int = 16,
    stride: int | Sequence[int] = 10,
    embed_dim: int = 128,
    depth: int = 4,
    num_heads: int = 4,
    mlp_ratio: float = 4.0,
    s_patchout_f: int | None = None,
    s_patchout_t: int = 0,
    u_patchout: int = 0,
    time_positions: int | None = None,
) -> PaSST:
    """`passt` with 4 blocks of width 128: 0.8 M parameters, a step on a CPU costs what a small CP-ResNet's does."""
    return passt(
        n_classes,
        in_channels,
        input_size,
        patch_size,
        stride,
        embed_dim,
        depth,
        num_heads,
        mlp_ratio,
        s_patchout_f,
        s_patchout_t,
        u_patchout,
        time_positions,
    )


def _kept(length: int, dropped: int, device: torch.device) -> Tensor:
    """Indices that stay, sorted; drawn on the CPU so that a seed gives the same ones on every device."""
    return torch.randperm(length)[: length - dropped].sort().values.to(device)
