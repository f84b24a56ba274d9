"""CaiT, Class-Attention in Image Transformers (Touvron et al., https://arxiv.org/abs/2103.17239).

Only patches go through the blocks; a class token joins at the end, and two class-attention
blocks, in which only that token asks and only that token changes, gather the image into it.

Official code, and the origin of every name: facebookresearch/deit, cait_models.py.

- LayerScale: each branch is multiplied, channel by channel, by `gamma_1` or `gamma_2`, which start
  at 1e-5 or 1e-6 in the published depths: a fresh model is nearly the identity.
- Talking heads: `proj_l` mixes the heads' scores before the softmax, `proj_w` the weights after it.
- `pos_embed` has one position a patch and none for the class token.
- The softmax makes `proj_l.bias` and the class attention's `k.bias` of no effect on the output.
- Every block has the same drop-path rate; the class-attention blocks drop nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import (
    DropPath,
    Mlp,
    PatchEmbed,
    attention,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    trunc_normal,
)


class TalkingHeadAttention(nn.Module):
    """Self-attention whose heads are mixed before and after the softmax."""

    def __init__(self, dim: int, num_heads: int, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_l = nn.Linear(num_heads, num_heads)
        self.proj_w = nn.Linear(num_heads, num_heads)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, -1))
        scores = q * self.scale @ k.permute([0, 1, 3, 2])  # B, heads, N, N
        scores = self.proj_l(scores.permute([0, 2, 3, 1]))  # B, N, N, heads
        weights = self.proj_w(F.softmax(scores, 2))
        x = merge_heads(weights.permute([0, 3, 1, 2]) @ v)  # B, N, C
        return self.proj_drop(self.proj(x))


class ClassAttention(nn.Module):
    """Attention of the class token, the first, to all tokens: (B, 1 + N, C) -> (B, 1, C)."""

    def __init__(self, dim: int, num_heads: int, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        q = split_heads(self.q(x[:, :1]), self.num_heads)  # B, heads, 1, C / heads
        k = split_heads(self.k(x), self.num_heads)
        v = split_heads(self.v(x), self.num_heads)
        x = merge_heads(attention(q, k, v, scale=self.scale))
        return self.proj_drop(self.proj(x))


class Block(nn.Module):
    """Block of the patch tokens: (B, N, C) -> (B, N, C)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        layer_scale_init: float,
        drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = TalkingHeadAttention(dim, num_heads, drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop_rate)
        self.gamma_1 = nn.Parameter(torch.full([dim], layer_scale_init))
        self.gamma_2 = nn.Parameter(torch.full([dim], layer_scale_init))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))


class ClassBlock(nn.Module):
    """Block of the class token: (B, 1, C) and the patches (B, N, C) -> (B, 1, C)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, layer_scale_init: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = ClassAttention(dim, num_heads, 0.0)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, dim * mlp_ratio)
        self.gamma_1 = nn.Parameter(torch.full([dim], layer_scale_init))
        self.gamma_2 = nn.Parameter(torch.full([dim], layer_scale_init))

    def forward(self, token: Tensor, x: Tensor) -> Tensor:
        token = token + self.gamma_1 * self.attn(self.norm1(torch.cat([token, x], 1)))
        return token + self.gamma_2 * self.mlp(self.norm2(token))


class CaiT(nn.Module):
    """CaiT: (B, 3, image_size, image_size) -> (B, num_classes) logits.

    `layer_scale_init` defaults to what the paper gives a model of this depth.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 16,
        dim: int = 192,
        depth: int = 24,
        class_depth: int = 2,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        layer_scale_init: float | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        scale = layer_scale(depth) if layer_scale_init is None else layer_scale_init
        patch_embed = PatchEmbed(image_size, patch_size, in_channels, dim)
        self.cls_token = nn.Parameter(torch.zeros([1, 1, dim]))
        self.pos_embed = nn.Parameter(torch.zeros([1, patch_embed.num_patches, dim]))
        self.patch_embed = patch_embed
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(
            [
                Block(dim, num_heads, mlp_ratio, scale, drop_rate, drop_path_rate)
                for _ in range(depth)
            ]
        )
        self.blocks_token_only = nn.ModuleList(
            [ClassBlock(dim, num_heads, mlp_ratio, scale) for _ in range(class_depth)]
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_linear)
        trunc_normal(self.cls_token)
        trunc_normal(self.pos_embed)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return all tokens after the last norm: (B, 3, H, W) -> (B, 1 + N, C)."""
        x = self.pos_drop(self.patch_embed(x) + self.pos_embed)  # B, N, C
        for block in self.blocks:
            x = block(x)
        token = self.cls_token.expand_as(x[:, :1])  # B, 1, C
        for block in self.blocks_token_only:
            token = block(token, x)
        return self.norm(torch.cat([token, x], 1))

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the class token: (B, 1 + N, C) -> (B, num_classes)."""
        return self.head(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)


def layer_scale(depth: int) -> float:
    """Return the paper's first value of LayerScale for a depth (section 4.1)."""
    if depth <= 18:
        return 0.1
    return 1e-5 if depth <= 24 else 1e-6
