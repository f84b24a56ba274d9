"""Swin Transformer, arXiv 2103.14030; microsoft/Swin-Transformer.

Self-attention within windows of the token map, shifted by half a window in every second block,
with a learned bias for each offset between two tokens; between stages 2×2 tokens are merged.

- `relative_position_index` and `attn_mask` are constants, registered as buffers as in the
  official code: they are in the state dict though they are no weights.
- Where a stage's map is not larger than the window, the window is the map and nothing is shifted,
  except with `shift_every_stage`, as in PaddleClas.
- All LayerNorms have eps 1e-5. The four neighbours that a merge joins come column by column:
  top left, bottom left, top right, bottom right.
- Pictures are square, their size is fixed when the model is made; each larger map must be a
  multiple of the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import (
    DropPath,
    Mlp,
    drop_path_rates,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    to_tokens,
    trunc_normal,
)

MASKED = -100.0  # added to the score of two tokens that were not neighbours before the shift


def relative_position_index(window: int) -> Tensor:
    """Return the row in the bias table for each pair of a window's tokens: (N, N), int64."""
    y = torch.arange(window).repeat_interleave(window)  # N = window²
    x = torch.arange(window).tile([window])
    dy = y.unsqueeze(1) - y.unsqueeze(0) + window - 1
    dx = x.unsqueeze(1) - x.unsqueeze(0) + window - 1
    return dy * (2 * window - 1) + dx


def shift_mask(size: int, window: int, shift: int) -> Tensor:
    """Return what is added to the scores within each window of a shifted map: (windows, N, N)."""
    rows = torch.arange(size)
    strips = (rows >= size - window).to(torch.int64) + (rows >= size - shift).to(torch.int64)
    regions = strips.unsqueeze(1) * 3 + strips.unsqueeze(0)  # size, size
    windows = to_windows(regions.reshape([1, size, size, 1]), window).squeeze(-1)  # windows, N
    differ = windows.unsqueeze(1) != windows.unsqueeze(2)
    return torch.zeros(differ.shape).masked_fill(differ, MASKED)


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut a map into windows: (B, H, W, C) -> (B * windows, N, C)."""
    _, h, w, c = x.shape
    x = x.reshape([-1, h // window, window, w // window, window, c])
    return x.permute([0, 1, 3, 2, 4, 5]).reshape([-1, window * window, c])


def from_windows(x: Tensor, window: int, size: int) -> Tensor:
    """Put windows together again: (B * windows, N, C) -> (B, size, size, C)."""
    side = size // window
    x = x.reshape([-1, side, side, window, window, x.shape[-1]])
    return x.permute([0, 1, 3, 2, 4, 5]).reshape([-1, size, size, x.shape[-1]])


class WindowAttention(nn.Module):
    """Multi-head self-attention within a window, with a bias by relative position."""

    def __init__(self, dim: int, window: int, num_heads: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        entries = (2 * window - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros([entries, num_heads]))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop_rate)
        trunc_normal(self.relative_position_bias_table)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n = x.shape[1]
        qkv = self.qkv(x).chunk(3, -1)  # B * windows, N, C each
        q, k, v = (split_heads(t, self.num_heads) for t in qkv)  # B * windows, heads, N, C / heads
        scores = (q * self.scale) @ k.permute([0, 1, 3, 2]) + self.relative_position_bias()
        if mask is not None:  # windows, N, N
            scores = scores.reshape([-1, mask.shape[0], self.num_heads, n, n])
            scores = (scores + mask.unsqueeze(1)).reshape([-1, self.num_heads, n, n])
        x = merge_heads(F.softmax(scores, -1) @ v)
        return self.drop(self.proj(x))

    def relative_position_bias(self) -> Tensor:
        """Return the bias of each head for each pair of tokens: (heads, N, N)."""
        n = self.relative_position_index.shape[0]
        index = self.relative_position_index.reshape([-1])
        bias = self.relative_position_bias_table[index]
        return bias.reshape([n, n, self.num_heads]).permute([2, 0, 1])


class SwinBlock(nn.Module):
    """Attention within (shifted) windows, then an MLP, both pre-norm; tokens (B, size², C)."""

    def __init__(
        self,
        dim: int,
        size: int,
        num_heads: int,
        window: int,
        shift: int,
        mlp_ratio: int,
        drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.size = size
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, num_heads, drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop_rate)
        masked = shift and size > window
        self.register_buffer("attn_mask", shift_mask(size, window, shift) if masked else None)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Attend within the windows of the (shifted) map."""
        _, n, c = x.shape
        x = x.reshape([-1, self.size, self.size, c])
        if self.shift:
            x = torch.roll(x, [-self.shift, -self.shift], [1, 2])
        mask = self.attn_mask
        if self.shift and mask is None:  # shifted within one window, whose mask is not in files
            mask = shift_mask(self.size, self.window, self.shift).to(x)
        windows = self.attn(to_windows(x, self.window), mask)
        x = from_windows(windows, self.window, self.size)
        if self.shift:
            x = torch.roll(x, [self.shift, self.shift], [1, 2])
        return x.reshape([-1, n, c])


class PatchMerging(nn.Module):
    """Join 2×2 tokens into one of twice the width: (B, H * W, C) -> (B, H/2 * W/2, 2C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(dim * 4, dim * 2, bias=False)
        self.norm = nn.LayerNorm(dim * 4)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        rows, columns, c = height // 2, width // 2, x.shape[-1]
        x = x.reshape([-1, rows, 2, columns, 2, c]).permute([0, 1, 3, 4, 2, 5])
        return self.reduction(self.norm(x.reshape([-1, rows * columns, 4 * c])))


class SwinStage(nn.Module):
    """Blocks, every second one shifted, and the merge into the next stage."""

    def __init__(
        self,
        dim: int,
        size: int,
        num_heads: int,
        window: int,
        mlp_ratio: int,
        drop_rate: float,
        rates: Sequence[float],
        downsample: bool,
        shift_every_stage: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        shift = window // 2 if size > window or shift_every_stage else 0
        window = min(window, size)
        shift %= window
        if size % window:
            raise ValueError(f"a token map of {size}×{size} has no whole windows of {window}")
        self.blocks = nn.ModuleList(
            [
                SwinBlock(dim, size, num_heads, window, shift * (i % 2), mlp_ratio, drop_rate, rate)
                for i, rate in enumerate(rates)
            ]
        )
        self.downsample = PatchMerging(dim) if downsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        is_last = isinstance(self.downsample, nn.Identity)
        return x if is_last else self.downsample(x, self.size, self.size)


class PatchEmbed(nn.Module):
    """Patches as a convolution, then LayerNorm: (B, C, H, W) -> (B, H/P * W/P, dim)."""

    def __init__(self, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)  # B, dim, H/P, W/P
        return self.norm(to_tokens(x))


class SwinTransformer(nn.Module):
    """Swin: (B, in_channels, image_size, image_size) -> (B, num_classes)."""

    def __init__(
        self,
        *,
        image_size: int = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: int = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        shift_every_stage: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        stages = []
        for s, depth in enumerate(depths):
            done = sum(depths[:s])
            stages.append(
                SwinStage(
                    dim=embed_dim * 2**s,
                    size=image_size // patch_size // 2**s,
                    num_heads=num_heads[s],
                    window=window_size,
                    mlp_ratio=mlp_ratio,
                    drop_rate=drop_rate,
                    rates=rates[done : done + depth],
                    downsample=s < len(depths) - 1,
                    shift_every_stage=shift_every_stage,
                )
            )
        self.layers = nn.ModuleList(stages)
        dim = embed_dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's tokens after the last norm: (B, C, H, W) -> (B, N, dim)."""
        x = self.pos_drop(self.patch_embed(x))  # B, N, C
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the tokens' mean: (B, N, dim) -> (B, num_classes)."""
        return self.head(x.mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)
