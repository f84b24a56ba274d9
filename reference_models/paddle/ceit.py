"""CeiT, Convolution-enhanced image Transformer (Yuan et al., https://arxiv.org/abs/2103.11816).

A convolutional stem makes the patches (I2T), the feed-forward layer convolves the patch tokens
(LeFF), and a last block attends over the class tokens of all layers (LCA).

Official code, and the origin of every name: coeusguo/ceit.

- In a state dict `norm2` comes before `norm1`, though it is applied after it.
- LeFF leaves the class token as it gets it; the residual then adds norm2(class token) to it.
- LCA's fused `qkv` serves all class tokens, but only the last one is asked for and goes on.
- The last block's `leff` has no effect: only class tokens leave that block.
- `pos_layer_embed`, one position a layer, is added to the collected class tokens.

What the paper's ablation varies are settings: the kernel and stride of I2T's convolution, with or
without its norm and pooling; the kernel of LeFF, with or without its norms; LCA or the last block's
class token. Convolutions are padded to keep a map of H / stride.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from .layers import (
    DropPath,
    Mlp,
    attention,
    count_patches,
    drop_path_rates,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    to_map,
    to_tokens,
    trunc_normal,
)


class Image2Tokens(nn.Layer):
    """Convolution and pooling of the stem: (B, 3, H, W) -> (B, out, H/4, W/4)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, norm: bool, pool: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size=kernel,
            stride=stride,
            padding=kernel // 2,
            bias_attr=False,
        )
        self.bn = nn.BatchNorm2D(out_channels) if norm else nn.Identity()
        self.maxpool = nn.MaxPool2D(kernel_size=3, stride=2, padding=1) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool(self.bn(self.conv(x)))


class HybridEmbed(nn.Layer):
    """Patches of the stem's map: (B, 3, H, W) -> (B, dim, H / (4 P), W / (4 P))."""

    def __init__(self, backbone: Image2Tokens, patch_size: int, dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        channels = backbone.conv.weight.shape[0]
        self.proj = nn.Conv2D(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.backbone(x))


class Attention(nn.Layer):
    """Multi-head self-attention; with `last_only`, only the last token is a query."""

    def __init__(self, dim: int, num_heads: int, drop_rate: float, last_only: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.last_only = last_only
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, -1))
        if self.last_only:
            q = q[:, :, -1:]  # B, heads, 1, C / heads
        x = merge_heads(attention(q, k, v, scale=self.scale))
        return self.proj_drop(self.proj(x))


class LeFF(nn.Layer):
    """Locally-enhanced feed-forward layer of the patch tokens; the first token passes through."""

    def __init__(self, dim: int, hidden_dim: int, kernel: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(dim, hidden_dim, kernel_size=1)
        self.conv2 = nn.Conv2D(
            hidden_dim, hidden_dim, kernel_size=kernel, padding=kernel // 2, groups=hidden_dim
        )
        self.conv3 = nn.Conv2D(hidden_dim, dim, kernel_size=1)
        self.bn1 = nn.BatchNorm2D(hidden_dim) if norm else nn.Identity()
        self.bn2 = nn.BatchNorm2D(hidden_dim) if norm else nn.Identity()
        self.bn3 = nn.BatchNorm2D(dim) if norm else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        grid = to_map(x[:, 1:], height, width)  # B, C, h, w
        grid = F.gelu(self.bn1(self.conv1(grid)))
        grid = F.gelu(self.bn2(self.conv2(grid)))
        grid = self.bn3(self.conv3(grid))
        return paddle.concat([x[:, :1], to_tokens(grid)], 1)


class Block(nn.Layer):
    """Pre-norm attention and LeFF: (B, 1 + N, C) -> (B, 1 + N, C)."""

    def __init__(
        self, dim: int, num_heads: int, leff: LeFF, drop_rate: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, epsilon=1e-6)
        self.norm1 = nn.LayerNorm(dim, epsilon=1e-6)
        self.attn = Attention(dim, num_heads, drop_rate)
        self.leff = leff

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.leff(self.norm2(x), height, width))


class LayerwiseClassAttention(nn.Layer):
    """Block over the class tokens of all layers: (B, depth, C) -> (B, 1, C)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, drop_rate: float) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim, epsilon=1e-6)
        self.norm1 = nn.LayerNorm(dim, epsilon=1e-6)
        self.attn = Attention(dim, num_heads, drop_rate, last_only=True)
        self.feedforward = Mlp(dim, dim * mlp_ratio, drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, -1:] + self.attn(self.norm1(x))
        return x + self.feedforward(self.norm2(x))


class CeiT(nn.Layer):
    """CeiT: (B, 3, image_size, image_size) -> (B, num_classes) logits."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem_channels: int = 64,
        patch_size: int = 4,
        dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: int = 4,
        stem_kernel: int = 7,
        stem_stride: int = 2,
        stem_norm: bool = True,
        stem_pool: bool = True,
        leff_kernel: int = 3,
        leff_norm: bool = True,
        lca: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        stride = stem_stride * (2 if stem_pool else 1)  # the official stem halves twice
        num_patches = count_patches(image_size, stride * patch_size)
        self.cls_token = self.create_parameter([1, 1, dim])
        self.pos_embed = self.create_parameter([1, num_patches + 1, dim])
        self.pos_layer_embed = self.create_parameter([1, depth, dim], is_bias=True) if lca else None
        stem = Image2Tokens(
            in_channels, stem_channels, stem_kernel, stem_stride, stem_norm, stem_pool
        )
        self.i2t = HybridEmbed(stem, patch_size, dim)
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.LayerList(
            [
                Block(
                    dim,
                    num_heads,
                    LeFF(dim, dim * mlp_ratio, leff_kernel, leff_norm),
                    drop_rate,
                    rate,
                )
                for rate in drop_path_rates(drop_path_rate, depth)
            ]
        )
        self.lca = LayerwiseClassAttention(dim, num_heads, mlp_ratio, drop_rate) if lca else None
        self.norm = nn.LayerNorm(dim, epsilon=1e-6)
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_linear)
        trunc_normal(self.cls_token)
        trunc_normal(self.pos_embed)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return what LCA leaves, one token, after the last norm: (B, 3, H, W) -> (B, 1, C).

        Without LCA these are all tokens of the last block, (B, 1 + N, C), the class token first.
        """
        grid = self.i2t(x)  # B, C, h, w
        x = to_tokens(grid)  # B, N, C
        x = paddle.concat([self.cls_token.expand_as(x[:, :1]), x], 1)
        x = self.pos_drop(x + self.pos_embed)
        collected = []
        for block in self.blocks:
            x = block(x, grid.shape[2], grid.shape[3])
            collected.append(x[:, :1])
        if self.lca is not None:
            x = self.lca(paddle.concat(collected, 1) + self.pos_layer_embed)  # B, 1, C
        return self.norm(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the class token: (B, 1, C) -> (B, num_classes)."""
        return self.head(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)
