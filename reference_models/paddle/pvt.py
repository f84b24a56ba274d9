"""Pyramid Vision Transformer (PVT), arXiv 2102.12122; whai362/PVT.

Four stages of tokens; patches do not overlap, keys and values are read from a smaller map, and
each stage adds its own position embeddings. A class token joins at the last stage.

- LayerNorm's eps is 1e-6 in the blocks and after the last stage, but 1e-5 (the default) in the
  patch embeddings and after the spatial reduction, for which there is `inner_norm_eps`:
  transformers has 1e-6 there too.
- There is one norm, after the last stage: the stages before it end without one.
- On maps of another size than the model was made for, the positions are resized bilinearly.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from .layers import (
    DropPath,
    Mlp,
    count_patches,
    drop_path_rates,
    init_linear,
    new_classifier,
    to_map,
    to_tokens,
    trunc_normal,
)
from .pvtv2 import Attention


class PatchEmbed(nn.Layer):
    """Patches as a convolution, then LayerNorm: (B, in, H, W) -> tokens (B, h * w, dim), h, w."""

    def __init__(self, in_channels: int, dim: int, patch_size: int, norm_eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2D(in_channels, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim, norm_eps)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        return self.norm(to_tokens(x)), x.shape[2], x.shape[3]


class Block(nn.Layer):
    """Pre-norm block: spatial reduction attention, then an MLP."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        sr_ratio: int,
        drop_rate: float,
        drop_path_rate: float,
        inner_norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, 1e-6)
        self.attn = Attention(dim, num_heads, sr_ratio, False, drop_rate, inner_norm_eps)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, 1e-6)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop_rate)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PyramidVisionTransformer(nn.Layer):
    """PVT: (B, in_channels, H, W) -> (B, num_classes); H and W are multiples of 32.

    The position embeddings are those of maps of `image_size`.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        inner_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.stages = len(depths)
        self.free_size = False  # set: resized whatever the size, for a graph of any size
        self.sides = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        for s, dim in enumerate(embed_dims):
            tokens = count_patches(image_size, 2 ** (s + 2)) + int(s == self.stages - 1)
            setattr(self, f"pos_embed{s + 1}", self.create_parameter([1, tokens, dim]))
            done = sum(depths[:s])
            blocks = [
                Block(
                    dim=dim,
                    num_heads=num_heads[s],
                    mlp_ratio=mlp_ratios[s],
                    sr_ratio=sr_ratios[s],
                    drop_rate=drop_rate,
                    drop_path_rate=rate,
                    inner_norm_eps=inner_norm_eps,
                )
                for rate in rates[done : done + depths[s]]
            ]
            before, patch_size = (embed_dims[s - 1], 2) if s else (in_channels, 4)
            patch_embed = PatchEmbed(before, dim, patch_size, inner_norm_eps)
            setattr(self, f"patch_embed{s + 1}", patch_embed)
            setattr(self, f"block{s + 1}", nn.LayerList(blocks))
        self.cls_token = self.create_parameter([1, 1, embed_dims[-1]])
        self.norm = nn.LayerNorm(embed_dims[-1], 1e-6)
        self.head = nn.Linear(embed_dims[-1], num_classes)
        self.apply(init_linear)
        for s in range(1, self.stages + 1):
            trunc_normal(getattr(self, f"pos_embed{s}"))
        trunc_normal(self.cls_token)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's tokens after the norm: (B, C, H, W) -> (B, 1 + N, dim)."""
        for s in range(1, self.stages):
            x, height, width = getattr(self, f"patch_embed{s}")(x)
            table = getattr(self, f"pos_embed{s}")
            x = self.pos_drop(x + self.positions(table, s, height, width))
            for block in getattr(self, f"block{s}"):
                x = block(x, height, width)
            x = to_map(x, height, width)
        x, height, width = getattr(self, f"patch_embed{self.stages}")(x)
        table = getattr(self, f"pos_embed{self.stages}")  # the class token's position first
        first, rest = table[:, :1], table[:, 1:]
        positions = paddle.concat([first, self.positions(rest, self.stages, height, width)], 1)
        cls_token = self.cls_token.expand([x.shape[0], -1, -1])
        x = self.pos_drop(paddle.concat([cls_token, x], 1) + positions)
        for block in getattr(self, f"block{self.stages}"):
            x = block(x, height, width)
        return self.norm(x)

    def positions(self, table: Tensor, stage: int, height: int, width: int) -> Tensor:
        """Return a stage's positions for a map: (1, N, C) -> (1, height * width, C)."""
        rows, columns = (side // 2 ** (stage + 1) for side in self.sides)
        if not self.free_size and (height, width) == (rows, columns):
            return table
        grid = to_map(table, rows, columns)
        return to_tokens(F.interpolate(grid, [height, width], mode="bilinear"))

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the class token: (B, 1 + N, dim) -> (B, num_classes)."""
        return self.head(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)
