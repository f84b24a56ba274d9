"""ViT and Swin as ConvNets with dynamic convolutions, arXiv 2309.10713; no code is published.

The paper reads self-attention as static convolution, dynamic 1×1 convolution (kernel bank: the
keys k), activation, dynamic 1×1 convolution (kernel bank: the values v), static convolution, and
makes two studies of it. Here they are as attentions that take the place of those in ViT (of
DeiT-T's sizes) and in Swin-T; p is a relative position embedding per head.

    relu, layernorm   o_i = Σ_j a(q_i · k_j / √d + p_ij) v_j, where a is ReLU or LayerNorm over j
    softmax           the same with softmax, to compare with
    relumean          the same with ReLU over the number of keys; not of this paper but of a
                      neighbour, arXiv 2309.08586
    depthwise         o_i = q_i ⊙ mean_j(k_j) + Σ_j p_ij k_j; there are no values

Each is there without relative positions too (`relative=False`: p is 0). softmax with them is Swin
itself, and without them ViT itself. The paper's tables were not at hand: which further rows its
study of activations has is not known here.

The paper leaves open, and chosen here:

- p is Swin's table of one entry per offset and head. ViT's class token has no place on the map:
  as in BEiT, three more rows are for class to patch, patch to class and class to itself. ViT
  keeps its absolute positions too.
- The scores keep the factor 1/√d; ReLU's are not divided by the number of keys.
- LayerNorm over the keys is the module, with a scale and a shift for each key, the same for all
  heads: the keys are the channels of what the first dynamic convolution returns. Its eps is
  1e-6, ViT's (Swin's own norms keep 1e-5).
- The heads of the depth-wise attention matter only to p: head h of p acts on channels h of k.
- Where a shifted window of Swin joins tokens that were not neighbours, there is no softmax to
  silence one for the other: its term is left out of the sums, of the mean of the keys and of the
  number of keys (but not of LayerNorm's mean and variance). Softmax has Swin's mask.
- A static convolution with a bias before (`qkv` or `qk`) and after (`proj`), as in ViT and Swin.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import init_linear, merge_heads, split_heads, trunc_normal
from .swin import SwinTransformer, relative_position_index
from .vit import VisionTransformer

ACTIVATIONS = ("relu", "layernorm", "softmax", "relumean")


def class_position_index(side: int) -> Tensor:
    """Return `relative_position_index` of a class token and side² patches: (1 + N, 1 + N)."""
    inner = relative_position_index(side)  # N, N
    rows = (2 * side - 1) ** 2
    to_patch = torch.full([1, side * side], rows, dtype=torch.int64)
    to_class = torch.full([side * side, 1], rows + 1, dtype=torch.int64)
    itself = torch.full([1, 1], rows + 2, dtype=torch.int64)
    first = torch.cat([itself, to_patch], dim=1)
    return torch.cat([first, torch.cat([to_class, inner], dim=1)], dim=0)


class Attention(nn.Module):
    """What both studies share: the relative position embedding of side² tokens, if any."""

    def __init__(
        self, num_heads: int, side: int, class_token: bool, relative: bool, drop_rate: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative = relative
        if relative:
            entries = (2 * side - 1) ** 2 + 3 * class_token
            index = class_position_index(side) if class_token else relative_position_index(side)
            self.relative_position_bias_table = nn.Parameter(torch.zeros([entries, num_heads]))
            self.register_buffer("relative_position_index", index)
            trunc_normal(self.relative_position_bias_table)
        self.drop = nn.Dropout(drop_rate)

    def positions(self) -> Tensor:
        """Return p: (heads, N, N)."""
        n = self.relative_position_index.shape[0]
        index = self.relative_position_index.reshape([-1])
        p = self.relative_position_bias_table[index]
        return p.reshape([n, n, self.num_heads]).permute([2, 0, 1])


class DynamicAttention(Attention):
    """The first study: other activations in place of softmax."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        side: int,
        class_token: bool,
        relative: bool,
        drop_rate: float,
        activation: str,
    ) -> None:
        super().__init__(num_heads, side, class_token, relative, drop_rate)
        self.activation = activation
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        keys = side * side + class_token
        self.act = nn.Softmax(-1) if activation == "softmax" else nn.ReLU()
        if activation == "layernorm":
            self.act = nn.LayerNorm(keys, 1e-6)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        n = x.shape[1]
        q, k, v = (split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, -1))
        scores = (q * self.scale) @ k.permute([0, 1, 3, 2])  # B, heads, N, N
        if self.relative:
            scores = scores + self.positions()
        if mask is None:
            weights = self.weights(scores)
        else:
            scores = scores.reshape([-1, mask.shape[0], self.num_heads, n, n])
            weights = self.masked_weights(scores, mask).reshape([-1, self.num_heads, n, n])
        return self.drop(self.proj(merge_heads(weights @ v)))

    def weights(self, scores: Tensor) -> Tensor:
        """Return the weight of each key: as `scores`, (…, N, N)."""
        weights = self.act(scores)
        return weights / weights.shape[-1] if self.activation == "relumean" else weights

    def masked_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the weights within shifted windows: as `scores`, (B, windows, heads, N, N)."""
        if self.activation == "softmax":
            return self.act(scores + mask.unsqueeze(1))
        near = neighbours(mask)  # windows, 1, N, N
        weights = self.act(scores) * near
        return weights / near.sum(-1).unsqueeze(-1) if self.activation == "relumean" else weights


class DepthwiseAttention(Attention):
    """The second study: kernels are averaged, not weighed, and applied channel by channel."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        side: int,
        class_token: bool,
        relative: bool,
        drop_rate: float,
    ) -> None:
        super().__init__(num_heads, side, class_token, relative, drop_rate)
        self.qk = nn.Linear(dim, dim * 2)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k = (split_heads(t, self.num_heads) for t in self.qk(x).chunk(2, -1))
        if mask is None:
            x = q * k.mean(2).unsqueeze(2)  # B, heads, N, C / heads
            x = x + self.positions() @ k if self.relative else x
        else:
            near = neighbours(mask)  # windows, 1, N, N
            k = k.reshape([-1, mask.shape[0], *q.shape[1:]])  # B, windows, heads, N, C / heads
            x = q * (near / near.sum(-1).unsqueeze(-1) @ k).reshape([-1, *q.shape[1:]])
            if self.relative:
                x = x + (self.positions() * near @ k).reshape([-1, *q.shape[1:]])
        return self.drop(self.proj(merge_heads(x)))


def neighbours(mask: Tensor) -> Tensor:
    """Return 1 where Swin's mask lets a token see another, else 0: (windows, 1, N, N)."""
    return (mask == 0).to(mask.dtype).unsqueeze(1)


def make_attention(
    attention: str,
    dim: int,
    num_heads: int,
    side: int,
    class_token: bool,
    drop_rate: float,
    relative: bool = True,
) -> Attention:
    """Return the attention of a study: `depthwise` or one of `ACTIVATIONS`."""
    if attention == "depthwise":
        return DepthwiseAttention(dim, num_heads, side, class_token, relative, drop_rate)
    if attention in ACTIVATIONS:
        return DynamicAttention(dim, num_heads, side, class_token, relative, drop_rate, attention)
    raise ValueError(f"attention {attention!r} is none of {', '.join(ACTIVATIONS)}, depthwise")


class InterpretViT(VisionTransformer):
    """ViT with the attention of a study; arguments as of `VisionTransformer`."""

    def __init__(
        self,
        *,
        attention: str,
        relative: bool = True,
        image_size: int = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 16,
        dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: int = 4,
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
        side = image_size // patch_size
        for block in self.blocks:
            block.attn = make_attention(attention, dim, num_heads, side, True, drop_rate, relative)
        self.blocks.apply(init_linear)


class InterpretSwin(SwinTransformer):
    """Swin with the attention of a study; arguments as of `SwinTransformer`."""

    def __init__(
        self,
        *,
        attention: str,
        relative: bool = True,
        image_size: int = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: int = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            image_size=image_size,
            num_classes=num_classes,
            in_channels=in_channels,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        for s, stage in enumerate(self.layers):
            for block in stage.blocks:
                block.attn = make_attention(
                    attention,
                    embed_dim * 2**s,
                    num_heads[s],
                    block.window,
                    False,
                    drop_rate,
                    relative,
                )
        self.layers.apply(init_linear)
