"""DeiT, arXiv 2012.12877; facebookresearch/deit, with and without the distillation token.

The blocks are ViT's. A distilled model has tokens [class, distillation, patches], positions for
all of them and a second head, `head_dist`, on the distillation token. It returns the logits of
both heads while training and their mean in evaluation; with `class_head_only`, as transformers'
DeiTForImageClassification, the logits of the class token.
LayerNorm's eps is 1e-6; Hugging Face's configurations carry 1e-12, for which there is `norm_eps`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import PatchEmbed, drop_path_rates, init_linear, new_classifier, trunc_normal
from .vit import Block


class DeiT(nn.Module):
    """DeiT: (B, in_channels, image_size, image_size) -> (B, num_classes).

    Distilled and in training: -> two such tensors, of the class and of the distillation token.
    """

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
        distilled: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        class_head_only: bool = False,
    ) -> None:
        super().__init__()
        self.distilled = distilled
        self.class_head_only = class_head_only
        tokens = 2 if distilled else 1
        patch_embed = PatchEmbed(image_size, patch_size, in_channels, dim)
        self.cls_token = nn.Parameter(torch.zeros([1, 1, dim]))
        self.pos_embed = nn.Parameter(torch.zeros([1, tokens + patch_embed.num_patches, dim]))
        if distilled:
            self.dist_token = nn.Parameter(torch.zeros([1, 1, dim]))
        self.patch_embed = patch_embed
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(
            [Block(dim, num_heads, mlp_ratio, drop_rate, rate, norm_eps) for rate in rates]
        )
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.head = nn.Linear(dim, num_classes)
        if distilled:
            self.head_dist = nn.Linear(dim, num_classes)
        self.apply(init_linear)
        trunc_normal(self.cls_token)
        trunc_normal(self.pos_embed)
        if distilled:
            trunc_normal(self.dist_token)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return all tokens after the last norm: (B, C, H, W) -> (B, 1 or 2 + N, dim)."""
        x = self.patch_embed(x)  # B, N, C
        tokens = [self.cls_token.expand([x.shape[0], -1, -1])]
        if self.distilled:
            tokens.append(self.dist_token.expand([x.shape[0], -1, -1]))
        x = torch.cat([*tokens, x], dim=1)  # B, 1 or 2 + N, C
        x = self.pos_drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_head(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits of the class and the distillation token, as the model does."""
        logits = self.head(x[:, 0])
        if not self.distilled or self.class_head_only:
            return logits
        logits_dist = self.head_dist(x[:, 1])
        return (logits, logits_dist) if self.training else (logits + logits_dist) / 2

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head, or both, by freshly initialised ones for another number of classes."""
        self.head = new_classifier(self.head, num_classes)
        if self.distilled:
            self.head_dist = new_classifier(self.head_dist, num_classes)
