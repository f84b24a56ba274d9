"""DeiT III, arXiv 2204.07118; facebookresearch/deit, models_v2.py.

ViT with LayerScale on both branches of each block, and no position for the class token: the
positions are added to the patches before it joins them, as in CaiT and unlike in DeiT.

- mmpretrain's block applies its first norm before both branches and never its second, for which
  there is `norm1_twice`.
- LayerNorm's eps is 1e-6. The official code starts LayerScale at 1e-4.
- The block is form (d) of figure 1 in CaiT's paper (arXiv 2103.17239) with plain attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import (
    DropPath,
    Mlp,
    PatchEmbed,
    drop_path_rates,
    init_linear,
    new_classifier,
    trunc_normal,
)
from .vit import Attention


class Block(nn.Module):
    """Pre-norm transformer block, each branch scaled channel by channel."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        layer_scale_init: float,
        drop_rate: float,
        drop_path_rate: float,
        norm1_twice: bool = False,
    ) -> None:
        super().__init__()
        self.norm1_twice = norm1_twice
        self.norm1 = nn.LayerNorm(dim, 1e-6)
        self.attn = Attention(dim, num_heads, drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, 1e-6)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop_rate)
        self.gamma_1 = nn.Parameter(torch.full([dim], layer_scale_init))
        self.gamma_2 = nn.Parameter(torch.full([dim], layer_scale_init))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        norm2 = self.norm1 if self.norm1_twice else self.norm2
        return x + self.drop_path(self.gamma_2 * self.mlp(norm2(x)))


class DeiT3(nn.Module):
    """DeiT III: (B, in_channels, image_size, image_size) -> (B, num_classes)."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        layer_scale_init: float = 1e-4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm1_twice: bool = False,
    ) -> None:
        super().__init__()
        patch_embed = PatchEmbed(image_size, patch_size, in_channels, dim)
        self.cls_token = nn.Parameter(torch.zeros([1, 1, dim]))
        self.pos_embed = nn.Parameter(torch.zeros([1, patch_embed.num_patches, dim]))
        self.patch_embed = patch_embed
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(
            [
                Block(dim, num_heads, mlp_ratio, layer_scale_init, drop_rate, rate, norm1_twice)
                for rate in rates
            ]
        )
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_linear)
        trunc_normal(self.cls_token)
        trunc_normal(self.pos_embed)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return all tokens after the last norm: (B, C, H, W) -> (B, 1 + N, dim)."""
        x = self.pos_drop(self.patch_embed(x) + self.pos_embed)  # B, N, C
        cls_token = self.cls_token.expand([x.shape[0], -1, -1])
        x = torch.cat([cls_token, x], dim=1)  # B, 1 + N, C
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the class token: (B, 1 + N, dim) -> (B, num_classes)."""
        return self.head(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)
