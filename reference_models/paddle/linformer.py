"""ViT with Linformer's attention, arXiv 2006.04768: keys and values of N tokens become k of them.

    softmax(q (E keys)ᵀ / √d) (F values), E and F: k × N, over all tokens, the class token included

The paper is about text and no ViT with it is published. Here its attention takes the place of
ViT's, in a ViT of timm's layout and names; within the attention the names are those of
lucidrains/linformer.

- `to_q`, `to_k` and `to_v` have no bias, `to_out` has one.
- E and F are `proj_k` and `proj_v`, bare parameters (N, k), one pair for all heads of a layer.
- `share_kv`: one projection for keys and values, and F is E.
- `one_kv_head`: all heads share one head of keys and values.
- `per_head`: each head has its own E and F (heads, N, k), and these have a bias (heads, k), as in
  tatp22/linformer-pytorch without sharing, where each is a Linear.
- The number of tokens is fixed by E and F: another image size needs other ones.
"""

from __future__ import annotations

from paddle import Tensor, nn

from .layers import attention, init_linear, merge_heads, split_heads, trunc_normal
from .vit import VisionTransformer


class LinearAttention(nn.Layer):
    """Attention to `num_keys` mixtures of the tokens: (B, tokens, C) -> (B, tokens, C)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        tokens: int,
        num_keys: int,
        drop_rate: float,
        share_kv: bool,
        one_kv_head: bool,
        per_head: bool,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.kv_heads = 1 if one_kv_head else num_heads
        kv_dim = dim // num_heads * self.kv_heads
        heads = [self.kv_heads] if per_head else []
        self.proj_k = self.create_parameter([*heads, tokens, num_keys])
        self.bias_k = self.create_parameter([*heads, num_keys], is_bias=True) if per_head else None
        self.to_q = nn.Linear(dim, dim, bias_attr=False)
        self.to_k = nn.Linear(dim, kv_dim, bias_attr=False)
        if not share_kv:
            self.proj_v = self.create_parameter([*heads, tokens, num_keys])
            self.bias_v = (
                self.create_parameter([*heads, num_keys], is_bias=True) if per_head else None
            )
            self.to_v = nn.Linear(dim, kv_dim, bias_attr=False)
            trunc_normal(self.proj_v, std=num_keys**-0.5)
        self.share_kv = share_kv
        self.to_out = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop_rate)
        trunc_normal(self.proj_k, std=num_keys**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        q = split_heads(self.to_q(x), self.num_heads)  # B, heads, N, C / heads
        k = self.mixed(self.to_k(x), self.proj_k, self.bias_k)
        v = k if self.share_kv else self.mixed(self.to_v(x), self.proj_v, self.bias_v)
        return self.drop(self.to_out(merge_heads(attention(q, k, v, scale=self.scale))))

    def mixed(self, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        """Mix the tokens of keys or values: (B, N, C) -> (B, heads, num_keys, C / heads)."""
        x = split_heads(x, self.kv_heads).transpose([0, 1, 3, 2]) @ weights
        if bias is not None:
            x = x + bias.unsqueeze(1)  # kv_heads, 1, num_keys
        return x.transpose([0, 1, 3, 2]).expand([-1, self.num_heads, -1, -1])


class LinformerViT(VisionTransformer):
    """ViT with Linformer's attention; other arguments as of `VisionTransformer`."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 16,
        dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: int = 4,
        num_keys: int = 64,
        share_kv: bool = False,
        one_kv_head: bool = False,
        per_head: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            image_size=image_size,
            num_classes=num_classes,
            in_channels=in_channels,
            patch_size=patch_size,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        tokens = self.pos_embed.shape[1]
        for block in self.blocks:
            block.attn = LinearAttention(
                dim, num_heads, tokens, num_keys, drop_rate, share_kv, one_kv_head, per_head
            )
        self.blocks.apply(init_linear)
