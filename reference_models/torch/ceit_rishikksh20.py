"""CeiT as rishikksh20/CeiT-pytorch has it: another model than the official one, with its own names.

It follows the paper (Yuan et al., https://arxiv.org/abs/2103.11816) from its text only.
Against the official code (`ceit`):

- the stem has 32 channels, a bias, padding 4 and a pooling without padding;
- patches are unfolded (row, column, channel, the channel fastest) and go through a Linear;
- `to_qkv` has no bias, LayerNorm's eps is 1e-5;
- LeFF is Linear, BN, GELU, depthwise convolution without bias, BN, GELU, Linear, BN, GELU (a third
  GELU), and neither norm nor residual touches the class token;
- class tokens are collected between attention and LeFF, so the last block's LeFF
  and its norm have no effect;
- a fresh model starts as ViT does (the original: normal positions, PyTorch's own Linears);
- LCA, which one of the two variants lacks, has other sizes, no layer positions and no last norm.

Names are indices into Sequentials and nested wrappers (`fn.fn`), so those are here too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import (
    DropPath,
    attention,
    drop_path_rates,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    to_map,
    to_tokens,
    trunc_normal,
)


class Swap(nn.Module):
    """Swap tokens and channels: (B, N, C) <-> (B, C, N)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute([0, 2, 1])


class Unfold(nn.Module):
    """Cut a map into flat patches: (B, C, H, W) -> (B, H/P * W/P, P * P * C)."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, x: Tensor) -> Tensor:
        p, c = self.patch_size, x.shape[1]
        h, w = x.shape[2] // p, x.shape[3] // p
        x = x.reshape([-1, c, h, p, w, p]).permute([0, 2, 4, 3, 5, 1])  # B, h, w, P, P, C
        return x.reshape([-1, h * w, p * p * c])


class PreNorm(nn.Module):
    """A layer after its LayerNorm."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class Residual(nn.Module):
    """A layer and the way around it."""

    def __init__(self, fn: nn.Module, drop_path_rate: float) -> None:
        super().__init__()
        self.fn = fn
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.fn(x))


class Attention(nn.Module):
    """Multi-head self-attention; with `last_only`, only the last token is a query."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        drop_rate: float,
        last_only: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = head_dim**-0.5
        self.last_only = last_only
        self.to_qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(num_heads * head_dim, dim), nn.Dropout(drop_rate))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(t, self.num_heads) for t in self.to_qkv(x).chunk(3, -1))
        if self.last_only:
            q = q[:, :, -1:]  # B, heads, 1, head_dim
        return self.to_out(merge_heads(attention(q, k, v, scale=self.scale)))


class LeFF(nn.Module):
    """Locally-enhanced feed-forward layer of a square of patch tokens, (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, hidden_dim: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.up_proj = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            Swap(),
            nn.BatchNorm1d(hidden_dim),
            nn.GELU(),
            Swap(),
        )
        self.depth_conv = nn.Sequential(
            nn.Conv2d(
                hidden_dim, hidden_dim, kernel_size=3, padding=1, groups=hidden_dim, bias=False
            ),
            nn.BatchNorm2d(hidden_dim),
            nn.GELU(),
        )
        self.down_proj = nn.Sequential(
            nn.Linear(hidden_dim, dim),
            Swap(),
            nn.BatchNorm1d(dim),
            nn.GELU(),
            Swap(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth_conv(to_map(self.up_proj(x), self.side, self.side))
        return self.down_proj(to_tokens(x))


class FeedForward(nn.Module):
    """MLP of LCA."""

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(drop_rate),
            nn.Linear(hidden_dim, dim),
            nn.Dropout(drop_rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerLeFF(nn.Module):
    """The blocks: (B, 1 + N, C) -> the same, and the class tokens of all blocks (B, depth, C)."""

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        head_dim: int,
        mlp_ratio: int,
        side: int,
        drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for rate in drop_path_rates(drop_path_rate, depth):
            attn = PreNorm(dim, Attention(dim, num_heads, head_dim, drop_rate))
            leff = PreNorm(dim, LeFF(dim, dim * mlp_ratio, side))
            self.layers.append(nn.ModuleList([Residual(attn, rate), Residual(leff, rate)]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        collected = []
        for attn, leff in self.layers:
            x = attn(x)
            collected.append(x[:, :1])
            x = torch.cat([x[:, :1], leff(x[:, 1:])], 1)
        return x, torch.cat(collected, 1)


class LCA(nn.Module):
    """Layer-wise class attention: (B, depth, C) -> (B, 1, C)."""

    def __init__(
        self, dim: int, num_heads: int, head_dim: int, hidden_dim: int, drop_rate: float
    ) -> None:
        super().__init__()
        attn = PreNorm(dim, Attention(dim, num_heads, head_dim, drop_rate, last_only=True))
        ff = PreNorm(dim, FeedForward(dim, hidden_dim, drop_rate))
        self.layers = nn.ModuleList([nn.ModuleList([attn, ff])])

    def forward(self, x: Tensor) -> Tensor:
        for attn, ff in self.layers:
            x = attn(x) + x[:, -1:]
            x = x + ff(x)
        return x


class CeiT(nn.Module):
    """rishikksh20's CeiT: (B, 3, image_size, image_size) -> (B, num_classes) logits."""

    def __init__(
        self,
        *,
        image_size: int = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem_channels: int = 32,
        patch_size: int = 4,
        dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        head_dim: int = 64,
        mlp_ratio: int = 4,
        with_lca: bool = False,
        lca_num_heads: int = 4,
        lca_head_dim: int = 48,
        lca_hidden_dim: int = 384,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        side = image_size // (4 * patch_size)  # the stem halves twice
        self.pos_embedding = nn.Parameter(torch.zeros([1, side**2 + 1, dim]))
        self.cls_token = nn.Parameter(torch.zeros([1, 1, dim]))
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, stem_channels, kernel_size=7, stride=2, padding=4),
            nn.BatchNorm2d(stem_channels),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.to_patch_embedding = nn.Sequential(
            Unfold(patch_size), nn.Linear(stem_channels * patch_size**2, dim)
        )
        self.dropout = nn.Dropout(drop_rate)
        self.transformer = TransformerLeFF(
            dim, depth, num_heads, head_dim, mlp_ratio, side, drop_rate, drop_path_rate
        )
        self.with_lca = with_lca
        if with_lca:
            self.LCA = LCA(dim, lca_num_heads, lca_head_dim, lca_hidden_dim, drop_rate)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))
        self.apply(init_linear)
        trunc_normal(self.pos_embedding)
        trunc_normal(self.cls_token)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return all tokens, or the one that LCA leaves: (B, 3, H, W) -> (B, 1 + N or 1, C).

        The last norm belongs to the head.
        """
        x = self.to_patch_embedding(self.conv(x))  # B, N, C
        x = torch.cat([self.cls_token.expand_as(x[:, :1]), x], 1)
        x, cls_tokens = self.transformer(self.dropout(x + self.pos_embedding))
        return self.LCA(cls_tokens) if self.with_lca else x

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the class token: (B, 1 + N or 1, C) -> (B, num_classes)."""
        return self.mlp_head(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer of the head by a freshly initialised one."""
        self.mlp_head[1] = new_classifier(self.mlp_head[1], num_classes)
