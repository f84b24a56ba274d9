"""PVTv2 (improved Pyramid Vision Transformer), arXiv 2106.13797; whai362/PVT.

Four stages of tokens; patches overlap, keys and values are read from a smaller map, and a
depthwise convolution in the MLP takes the place of position embeddings.

- LayerNorm's eps is 1e-6 in the blocks and after the stages, but 1e-5 (the default) in the
  patch embeddings and after the spatial reduction, for which there is `inner_norm_eps`:
  transformers and PaddleViT have 1e-6 there too.
- `linear` (the `li` variants): keys and values come from a map pooled to 7×7, at every stage, by
  a 1×1 convolution, LayerNorm and GELU; the MLP has a ReLU before its depthwise convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

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

POOLED = 7  # side of the map that linear attention reads keys and values from


class DepthwiseConv(nn.Module):
    """3×3 depthwise convolution of tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return to_tokens(self.dwconv(to_map(x, height, width)))


class ConvMlp(nn.Module):
    """MLP with a depthwise convolution before its GELU."""

    def __init__(self, dim: int, hidden_dim: int, linear: bool, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.relu = nn.ReLU() if linear else nn.Identity()
        self.dwconv = DepthwiseConv(hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = self.dwconv(self.relu(self.fc1(x)), height, width)
        x = self.drop(self.act(x))
        return self.drop(self.fc2(x))


class Attention(nn.Module):
    """Self-attention whose keys and values come from a spatially reduced map."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int,
        linear: bool,
        drop_rate: float,
        inner_norm_eps: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.linear = linear
        self.reduced = linear or sr_ratio > 1
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, dim * 2)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop_rate)
        if self.reduced:
            side = 1 if linear else sr_ratio
            self.pool = nn.AdaptiveAvgPool2d(POOLED) if linear else nn.Identity()
            self.sr = nn.Conv2d(dim, dim, side, stride=side)
            self.norm = nn.LayerNorm(dim, inner_norm_eps)
            self.act = nn.GELU() if linear else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        q = split_heads(self.q(x), self.num_heads)  # B, heads, N, C / heads
        if self.reduced:
            x = to_tokens(self.sr(self.pool(to_map(x, height, width))))
            x = self.act(self.norm(x))  # B, M, C
        k, v = (split_heads(t, self.num_heads) for t in self.kv(x).chunk(2, -1))
        x = merge_heads(attention(q, k, v, scale=self.scale))
        return self.drop(self.proj(x))


class Block(nn.Module):
    """Pre-norm block: spatial reduction attention, then the MLP with its convolution."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        sr_ratio: int,
        linear: bool,
        drop_rate: float,
        drop_path_rate: float,
        inner_norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, 1e-6)
        self.attn = Attention(dim, num_heads, sr_ratio, linear, drop_rate, inner_norm_eps)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, 1e-6)
        self.mlp = ConvMlp(dim, dim * mlp_ratio, linear, drop_rate)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


class OverlapPatchEmbed(nn.Module):
    """Overlapping patches: (B, in, H, W) -> tokens (B, h * w, dim), h, w."""

    def __init__(
        self, in_channels: int, dim: int, kernel: int, stride: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim, norm_eps)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        return self.norm(to_tokens(x)), x.shape[2], x.shape[3]


class PyramidVisionTransformerV2(nn.Module):
    """PVTv2: (B, in_channels, image_size, image_size) -> (B, num_classes)."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,  # no tensor depends on it: multiples of 32
        num_classes: int = 1000,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        linear: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        inner_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.stages = len(depths)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        for s, dim in enumerate(embed_dims):
            before, kernel, stride = (embed_dims[s - 1], 3, 2) if s else (in_channels, 7, 4)
            patch_embed = OverlapPatchEmbed(before, dim, kernel, stride, inner_norm_eps)
            done = sum(depths[:s])
            blocks = [
                Block(
                    dim=dim,
                    num_heads=num_heads[s],
                    mlp_ratio=mlp_ratios[s],
                    sr_ratio=sr_ratios[s],
                    linear=linear,
                    drop_rate=drop_rate,
                    drop_path_rate=rate,
                    inner_norm_eps=inner_norm_eps,
                )
                for rate in rates[done : done + depths[s]]
            ]
            setattr(self, f"patch_embed{s + 1}", patch_embed)
            setattr(self, f"block{s + 1}", nn.ModuleList(blocks))
            setattr(self, f"norm{s + 1}", nn.LayerNorm(dim, 1e-6))
        self.head = nn.Linear(embed_dims[-1], num_classes)
        self.apply(init_linear)
        self.apply(init_conv)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's tokens after its norm: (B, C, H, W) -> (B, N, dim)."""
        for s in range(1, self.stages + 1):
            x, height, width = getattr(self, f"patch_embed{s}")(x)
            for block in getattr(self, f"block{s}"):
                x = block(x, height, width)
            x = getattr(self, f"norm{s}")(x)
            if s < self.stages:
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
