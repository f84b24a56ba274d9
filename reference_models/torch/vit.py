"""Vision Transformer (ViT), arXiv 2010.11929; google-research/vision_transformer, named as in timm.

Patches become tokens, a class token goes first, learned positions are added to all of them;
blocks are pre-norm; the head reads the class token after the last norm.

- LayerNorm's eps is 1e-6; Hugging Face's configurations carry 1e-12, for which there is `norm_eps`.
- `pre_logits` is the Linear and tanh between the class token and the head that Google's files
  of pre-training (ImageNet-21k) have and those of fine-tuning have not.
- `qkv` is one Linear whose rows are q, then k, then v, each of them head by head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import (
    DropPath,
    Mlp,
    PatchEmbed,
    attention,
    drop_path_rates,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    trunc_normal,
)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).chunk(3, -1)  # B, N, C each
        q, k, v = (split_heads(t, self.num_heads) for t in qkv)  # B, heads, N, C / heads
        x = merge_heads(attention(q, k, v, scale=self.scale))
        return self.drop(self.proj(x))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        drop_rate: float,
        drop_path_rate: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, norm_eps)
        self.attn = Attention(dim, num_heads, drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, norm_eps)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PreLogits(nn.Module):
    """The hidden layer of the pre-training head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


class VisionTransformer(nn.Module):
    """ViT: (B, in_channels, image_size, image_size) -> (B, num_classes)."""

    def __init__(
        self,
        *,
        image_size: int = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        pre_logits: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        patch_embed = PatchEmbed(image_size, patch_size, in_channels, dim)
        self.cls_token = nn.Parameter(torch.zeros([1, 1, dim]))
        self.pos_embed = nn.Parameter(torch.zeros([1, 1 + patch_embed.num_patches, dim]))
        self.patch_embed = patch_embed
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(
            [Block(dim, num_heads, mlp_ratio, drop_rate, rate, norm_eps) for rate in rates]
        )
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.pre_logits = PreLogits(dim) if pre_logits else nn.Identity()
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_linear)
        trunc_normal(self.cls_token)
        trunc_normal(self.pos_embed)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return all tokens after the last norm: (B, C, H, W) -> (B, 1 + N, dim)."""
        x = self.patch_embed(x)  # B, N, C
        cls_token = self.cls_token.expand([x.shape[0], -1, -1])
        x = torch.cat([cls_token, x], dim=1)  # B, 1 + N, C
        x = self.pos_drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the class token: (B, 1 + N, dim) -> (B, num_classes)."""
        return self.head(self.pre_logits(x[:, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)
