"""Shunted Transformer (Ren et al., CVPR 2022, https://arxiv.org/abs/2111.15193).

A four-stage pyramid without class token or position embedding.  Where keys and values are
reduced (stages 1 to 3), half of the heads attend to tokens merged `sr` x `sr`, the other half
to tokens merged `sr/2` x `sr/2`: one layer sees objects of two sizes.

Official code, and the origin of every name: OliverRensu/Shunted-Transformer.
Where that code and the paper differ, the code is followed, since the checkpoints are its own:
the residual around the MLP's depthwise convolution is inside the activation, and the
depthwise convolution of v joins v before attention, except in stage 4 (sr = 1), where it joins
the output.  LayerNorm eps is 1e-6 in blocks and after stages, 1e-5 in attention and embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import (
    DropPath,
    attention,
    drop_path_rates,
    init_conv,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    to_map,
    to_tokens,
)


class DWConv(nn.Module):
    """3x3 depthwise convolution of a token map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return to_tokens(self.dwconv(to_map(x, height, width)))  # B, N, C


class Mlp(nn.Module):
    """Detail-specific feed-forward layer: the hidden tokens are convolved before the GELU."""

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = DWConv(hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = self.fc1(x)  # B, N, hidden
        x = self.drop(F.gelu(x + self.dwconv(x, height, width)))
        return self.drop(self.fc2(x))


class ShuntedAttention(nn.Module):
    """Attention whose two halves of the heads see keys and values at two scales."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)
        half, fine = dim // 2, sr_ratio // 2
        self.sr1 = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.sr2 = nn.Conv2d(dim, dim, kernel_size=fine, stride=fine)
        self.norm2 = nn.LayerNorm(dim)
        self.kv1 = nn.Linear(dim, dim)  # k and v of half the heads
        self.kv2 = nn.Linear(dim, dim)
        self.local_conv1 = nn.Conv2d(half, half, kernel_size=3, padding=1, groups=half)
        self.local_conv2 = nn.Conv2d(half, half, kernel_size=3, padding=1, groups=half)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        q1, q2 = split_heads(self.q(x), self.num_heads).chunk(2, 1)  # B, heads/2, N, head_dim
        grid = to_map(x, height, width)
        x1 = self.attend(q1, self.sr1(grid), self.norm1, self.kv1, self.local_conv1)
        x2 = self.attend(q2, self.sr2(grid), self.norm2, self.kv2, self.local_conv2)
        x = merge_heads(torch.cat([x1, x2], 1))  # heads of the coarse scale first
        return self.proj_drop(self.proj(x))

    def attend(
        self, q: Tensor, grid: Tensor, norm: nn.Module, kv: nn.Module, local_conv: nn.Module
    ) -> Tensor:
        """Attend to one scale: q (B, heads/2, N, head_dim), grid (B, C, h, w) -> as q."""
        height, width = grid.shape[2], grid.shape[3]
        k, v = kv(F.gelu(norm(to_tokens(grid)))).chunk(2, -1)  # B, h*w, C/2
        v = v + to_tokens(local_conv(to_map(v, height, width)))
        k, v = (split_heads(t, self.num_heads // 2) for t in (k, v))
        return attention(q, k, v, scale=self.scale)


class Attention(nn.Module):
    """Plain attention of the last stage, with the convolved v added to the output."""

    def __init__(self, dim: int, num_heads: int, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)
        self.kv = nn.Linear(dim, 2 * dim)
        self.local_conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        k, v = self.kv(x).chunk(2, -1)  # B, N, C
        local = to_tokens(self.local_conv(to_map(v, height, width)))
        q, k, v = (split_heads(t, self.num_heads) for t in (self.q(x), k, v))
        x = merge_heads(attention(q, k, v, scale=self.scale)) + local
        return self.proj_drop(self.proj(x))


class Block(nn.Module):
    """Pre-norm attention and MLP, each with its residual."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        sr_ratio: int,
        drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        if sr_ratio > 1:
            self.attn = ShuntedAttention(dim, num_heads, sr_ratio, drop_rate)
        else:
            self.attn = Attention(dim, num_heads, drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop_rate)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


class Stem(nn.Module):
    """First embedding, in two halvings: (B, 3, H, W) -> (B, H/4 * W/4, dim), H/4, W/4."""

    def __init__(self, in_channels: int, dim: int, num_conv: int) -> None:
        super().__init__()
        layers = [
            nn.Conv2d(in_channels, dim, kernel_size=7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
        ]
        for _ in range(num_conv):
            layers += [
                nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(dim),
                nn.ReLU(),
            ]
        layers += [nn.Conv2d(dim, dim, kernel_size=2, stride=2)]
        self.conv = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.conv(x)  # B, dim, H/4, W/4
        return self.norm(to_tokens(x)), x.shape[2], x.shape[3]


class OverlapPatchEmbed(nn.Module):
    """Embedding of a later stage: (B, C, H, W) -> (B, H/2 * W/2, dim), H/2, W/2."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)  # B, dim, H/2, W/2
        return self.norm(to_tokens(x)), x.shape[2], x.shape[3]


class ShuntedTransformer(nn.Module):
    """Shunted Transformer: (B, 3, H, W) -> (B, num_classes) logits; H and W multiples of 32.

    `image_size` changes no tensor: it says at which size the model was trained.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 4, 12, 1),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        num_conv: int = 1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.depths = tuple(depths)
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        for s, (dim, depth) in enumerate(zip(embed_dims, depths, strict=True)):
            if s == 0:
                embed = Stem(in_channels, dim, num_conv)
            else:
                embed = OverlapPatchEmbed(embed_dims[s - 1], dim)
            blocks = [
                Block(dim, num_heads[s], mlp_ratios[s], sr_ratios[s], drop_rate, next(rates))
                for _ in range(depth)
            ]
            setattr(self, f"patch_embed{s + 1}", embed)
            setattr(self, f"block{s + 1}", nn.ModuleList(blocks))
            setattr(self, f"norm{s + 1}", nn.LayerNorm(dim, eps=1e-6))
        self.head = nn.Linear(embed_dims[-1], num_classes)
        self.apply(init_linear)
        self.apply(init_conv)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's tokens after its norm: (B, 3, H, W) -> (B, N, dim)."""
        for s in range(1, len(self.depths) + 1):
            x, height, width = getattr(self, f"patch_embed{s}")(x)
            for block in getattr(self, f"block{s}"):
                x = block(x, height, width)
            x = getattr(self, f"norm{s}")(x)
            if s < len(self.depths):
                x = to_map(x, height, width)
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the tokens' mean: (B, N, dim) -> (B, num_classes)."""
        return self.head(x.mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)
